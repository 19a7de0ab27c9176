"""Replies of a model on this machine, or this pod: all questions at once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol as Interface

import jax
from jax.sharding import Mesh

from r1jax.architecture import ModelConfig
from r1jax.checks import InputError
from r1jax.config import ConversationName, DraftsName, SamplingConfig
from r1jax.data.chat import split_thinking
from r1jax.data.conversation import Form
from r1jax.evaluation.protocol import Protocol, prompt
from r1jax.evaluation.replies import Reply
from r1jax.models import OnDisk
from r1jax.sampling.engine import Completion, Request
from r1jax.sampling.lanes import Lanes
from r1jax.sampling.requests import drafts_line
from r1jax.sampling.sizes import sized


@dataclasses.dataclass(frozen=True)
class Ask:
    """text: what the user says. question, sample: where its randomness comes from."""

    text: str
    question: int
    sample: int


OnReply = Callable[[int, Reply], None]  # the index of what was asked


class Replier(Interface):
    """What replies: a model here, or a server."""

    @property
    def name(self) -> str: ...

    @property
    def form(self) -> Form: ...

    def refused(self, text: str) -> str:
        """Why this text cannot be asked, in few words; "" if it can."""

    def prompt(self, text: str) -> str:
        """What the model reads, as far as it is known here."""

    def draw(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        """Asks all, and tells each reply as soon as it is there."""


class Local:
    """A model by its weights.

    A reply ends where the context does. At least half of it, or the protocol's max_tokens, is the
    reply's: a prompt that leaves less is too long.
    """

    def __init__(
        self,
        source: OnDisk,
        protocol: Protocol,
        mesh: Mesh,
        conversation: ConversationName = "auto",
        model: ModelConfig | None = None,
        slots: int = 0,
        say: Callable[[str], None] = print,
        drafts: DraftsName = "none",
        draft_tokens: int = SamplingConfig.draft_tokens,
    ):
        """model: how the source's is run; None: as it is stored. slots: replies decoded side by
        side; 0: as `sized` says."""
        self.source, self.protocol, self.mesh, self._slots, self._say = (
            source, protocol, mesh, slots, say
        )  # fmt: skip
        self._drafts, self._draft_tokens = drafts, draft_tokens
        self.conversation = source.conversation(conversation, "r1_zero")
        self.model = model or source.config
        self.name = source.base
        self.form = self.conversation.form
        self.prompt("")  # a system prompt that it does not take

    def prompt(self, text: str) -> str:
        return prompt(text, self.conversation, self.protocol)

    def _ids(self, text: str) -> list[int]:
        return self.conversation.tokenizer.encode_prompt(self.prompt(text))

    @property
    def _room(self) -> int:
        """Tokens that a prompt may have."""
        context = self.model.context
        return context - min(self.protocol.max_tokens, context // 2)

    def refused(self, text: str) -> str:
        try:
            return "leave no room for a reply" if len(self._ids(text)) > self._room else ""
        except InputError:  # a tokenizer of words, or a text that holds the template's own tokens
            return "cannot be put into the model's tokens"

    def draw(self, asks: Sequence[Ask], on_reply: OnReply) -> None:
        prompts = {text: self._ids(text) for text in dict.fromkeys(ask.text for ask in asks)}
        longest, shortest = max(map(len, prompts.values())), min(map(len, prompts.values()))
        p, tokenizer, context = self.protocol, self.conversation.tokenizer, self.model.context
        if context - longest < p.max_tokens:
            self._say(
                f"replies end where the model's context of {context:,} tokens does: the longest "
                f"prompt leaves {context - longest:,}"
            )
        # Each has its own budget, which no other question changes; so the longest prompt and the
        # longest reply together may be more than the context, which is no more than checked.
        budget = min(p.max_tokens, context - shortest)
        wanted = SamplingConfig(
            p.temperature,
            p.top_k,
            p.top_p,
            max_tokens=budget,
            drafts=self._drafts,
            draft_tokens=self._draft_tokens,
        )
        model = dataclasses.replace(self.model, context=max(context, longest + budget))
        sampling = sized(wanted, longest, len(asks), model.context)
        if 0 < self._slots < len(asks):
            refill = max(1, self._slots // 4)
            slots = -(-self._slots // refill) * refill
            sampling = dataclasses.replace(sampling, slots=slots, refill=refill)

        def done(i: int, completion: Completion) -> None:
            ids = completion.tokens.tolist()
            text = self.conversation.reply(self.prompt(asks[i].text), ids)
            thought = split_thinking(text).thinking
            thinking = min(len(tokenizer.encode(thought)), len(ids)) if thought else 0
            finish = "length" if completion.truncated else "stop"
            on_reply(i, Reply(text, len(ids), thinking, finish))

        engine = Lanes(model, sampling, self.mesh, sorted(tokenizer.end_ids))
        requests = [
            Request(ids, ask.question, ask.sample, max_tokens=min(budget, context - len(ids)))
            for ask in asks
            for ids in [prompts[ask.text]]
        ]
        weights = self.source.weights(self.model, self.mesh)
        _, used = engine.generate(weights, requests, jax.random.key(p.seed), on_done=done)
        if used.drafts:
            self._say(f"drafts: {drafts_line(used)}")
