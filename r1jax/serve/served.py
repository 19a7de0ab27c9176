"""A model that is served: from what is asked to what the engine draws."""

import dataclasses
import datetime
import functools
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from r1jax.checks import InputError
from r1jax.config import SamplingConfig
from r1jax.data.chat import OPEN, Message, opens_thinking
from r1jax.data.conversation import Conversation
from r1jax.data.reading import Reading
from r1jax.sampling.engine import Engine, Request
from r1jax.serve import asks, grammar, scripts, tools
from r1jax.serve.advice import Advice, advised
from r1jax.serve.errors import bad
from r1jax.serve.guide import Plan


@dataclasses.dataclass(frozen=True)
class Limits:
    """queue: requests that wait beyond those that are drawn. body: bytes. deadline: seconds from a
    request's coming to its reply's end. stalled: seconds that a client may leave what is sent
    unread."""

    queue: int = 256
    body: int = 2**20
    deadline: float = 600.0
    stalled: float = 60.0


@dataclasses.dataclass(frozen=True)
class Manner:
    """How replies are told. reasoning: the fields that a thought is told in."""

    strict: bool = False  # as DeepSeek's API for R1 was
    advice: Advice = "none"
    reasoning: tuple[str, ...] = ("reasoning_content", "reasoning")
    language: str = ""  # of replies that ask for none
    log_prompts: bool = False
    key: str = ""  # that clients have to give


@dataclasses.dataclass
class Wanted:
    """A reply to be drawn, and how it is read."""

    request: Request
    reading: Reading
    plan: Plan | None
    prompt: str


class Served:
    def __init__(
        self,
        name: str,
        conversation: Conversation,
        engine: Engine,
        manner: Manner = Manner(),
    ):
        self.name, self.conversation, self.engine, self.manner = name, conversation, engine, manner
        self.tokenizer = conversation.tokenizer
        self.context = engine.positions
        self.created = int(time.time())
        if manner.language:
            scripts.check_language(manner.language)

    @property
    def defaults(self) -> SamplingConfig:
        return self.engine.cfg

    @property
    def turns(self) -> Literal["one", "many"]:
        """Whether it is asked one question at a time, having no chat template."""
        return "many" if self.conversation.template is not None else "one"

    def is_key(self, given: bytes) -> bool:
        """Compared in a time that says nothing about where they differ."""
        return hmac.compare_digest(given, self.manner.key.encode())

    def check_model(self, name: str | None) -> bool:
        return name is None or name == self.name or (self.manner.strict and name in _DEEPSEEK)

    def messages_prompt(self, messages: Sequence[Message], told: Sequence[asks.Tool] = ()) -> str:
        """The text that the model reads. Raises Refused."""
        form, template = self.conversation.form, self.conversation.template
        if template is not None:
            self._check_marks(messages)
            messages = advised(messages, self.manner.advice, datetime.date.today())
            own = bool(told) and template.takes_tools
            if told and not own:
                messages = tools.told(messages, told)
            try:
                return template.render(messages, tools=[t.whole for t in told] if own else None)
            except InputError as error:
                raise bad("messages", str(error)) from None
        if told:
            raise bad("tools", "this model has no chat template to be told of tools in")
        if len(messages) != 1 or messages[0]["role"] != "user":
            said = f"this model has no chat template ({form}): give one message of the user"
            raise bad("messages", said)
        try:
            return self.conversation.prompt(messages[0]["content"])
        except InputError as error:
            raise bad("messages", str(error)) from None

    def _check_marks(self, messages: Sequence[Message]) -> None:
        """No message may hold what begins or ends a turn."""
        for i, message in enumerate(messages):
            texts = [message.get("content"), message.get("reasoning_content")]
            for call in message.get("tool_calls") or ():
                texts += call["function"].values()
            found = next(
                (m for m in self._marks for t in texts if isinstance(t, str) and m in t), None
            )
            if found is not None:
                said = f"messages[{i}] holds {found}, which only the chat template may write"
                raise bad(f"messages[{i}].content", said)

    @functools.cached_property
    def _marks(self) -> frozenset[str]:
        """Tokens that a template writes between turns: all added ones but tags of thoughts."""
        names = (self.tokenizer.decode([i]) for i in self.tokenizer.added_ids)
        return frozenset(n for n in names if n.strip() and n not in ("<think>", "</think>"))

    def encode(self, prompt: str, param: str) -> list[int]:
        try:
            ids = self.tokenizer.encode_prompt(prompt)
        except InputError as error:
            raise bad(param, str(error)) from None
        if not ids:
            raise bad(param, f"{param} is empty, and the model's texts have no token to begin with")
        return ids

    def check_ids(self, ids: Sequence[int], param: str) -> list[int]:
        vocab = self.engine.model.vocab
        wrong = next((i for i in ids if not 0 <= i < vocab), None)
        if wrong is not None:
            raise bad(param, f"{param}: the model has no token {str(wrong)[:40]}")
        if not ids:
            raise bad(param, f"{param} is empty")
        return list(ids)

    def room(self, ids: Sequence[int], wanted: int | None, param: str) -> int:
        """max_tokens of a reply. Raises Refused with all the numbers where it does not fit."""
        left = self.context - len(ids)
        most = min(left, self.defaults.max_tokens)
        if wanted is None:
            wanted = max(1, most)
        if left < 1 or wanted > left:
            raise bad(
                param if left < 1 else "max_tokens",
                f"this model's context is {self.context} tokens; {len(ids)} of the prompt and "
                f"{wanted} of the reply are {len(ids) + wanted}",
                "context_length_exceeded",
            )
        if wanted > most:
            raise bad("max_tokens", f"max_tokens must be at most {most} here, got {wanted}")
        return wanted

    def chat(self, ask: asks.Chat) -> list[Wanted]:
        """What is drawn for a chat: its n replies."""
        prompt = self.messages_prompt(ask.messages, ask.tools if ask.calls != "none" else ())
        opens = self.manner.advice == "r1" and self._opens(prompt)
        ids = self.encode(prompt, "messages")
        max_tokens = self.room(ids, ask.drawing.max_tokens, "messages")
        rule, param = self._grammar(ask)
        budget = asks.budget(ask.drawing, max_tokens)
        opens = opens or (self._opens(prompt) and (rule is not None or budget is not None))
        allowed = self._language(ask.drawing)
        guided = rule is not None or budget is not None or opens or allowed is not None
        found = []
        for index in range(ask.drawing.n):
            matcher = None if rule is None else self.grammars.matcher(rule, param)
            plan = None
            if guided:
                plan = Plan(
                    self.conversation,
                    prompt,
                    ids,
                    self.engine.model.vocab,
                    budget,
                    matcher,
                    allowed,
                    opens,
                )
            reading = Reading(
                self.conversation, prompt, ids, max_tokens, ask.drawing.stop, apart=True
            )
            found.append(
                Wanted(
                    self._request(ids, index, ask.drawing, max_tokens, plan), reading, plan, prompt
                )
            )
        return found

    def text(self, ask: asks.Text) -> tuple[list[list[int]], list[Wanted]]:
        """(the prompts' tokens, what is drawn: n replies to each, in order)"""
        prompts = [
            self.encode(p, "prompt") if isinstance(p, str) else self.check_ids(p, "prompt")
            for p in ask.prompts
        ]
        found, d = [], ask.drawing
        for ids in prompts:
            if d.max_tokens == 0:
                self.room(ids, 1, "prompt")
                continue
            max_tokens = self.room(ids, d.max_tokens, "prompt")
            for index in range(d.n):
                allowed, plan = self._language(d), None
                if allowed is not None:
                    vocab = self.engine.model.vocab
                    plan = Plan(self.conversation, "", ids, vocab, allowed=allowed)
                reading = Reading(self.conversation, "", ids, max_tokens, d.stop, apart=False)
                found.append(
                    Wanted(self._request(ids, index, d, max_tokens, plan), reading, plan, "")
                )
        return prompts, found

    def _opens(self, prompt: str) -> bool:
        """Whether the model can be made to begin with a thought."""
        return self.tokenizer.id_of(OPEN) is not None and not opens_thinking(prompt)

    def _grammar(self, ask: asks.Chat) -> tuple[str | None, str]:
        """(the grammar of the answer, the field that asks for it)"""
        if ask.calls.startswith("=") or ask.calls == "required":
            named = [t for t in ask.tools if ask.calls in ("required", f"={t.name}")]
            parallel = ask.parallel and ask.calls == "required"
            return self.grammars.calls(named, parallel), "tools"
        if ask.schema is not None:
            return self.grammars.json(ask.schema), "response_format"
        return None, ""

    @functools.cached_property
    def grammars(self) -> grammar.Grammars:
        return grammar.load(self.tokenizer, self.engine.model.vocab, self.conversation.form)

    def _language(self, d: asks.Drawing) -> np.ndarray | None:
        code = d.language or self.manner.language
        if not code:
            return None
        if code not in self._allowed:
            try:
                vocab = self.engine.model.vocab
                self._allowed[code] = scripts.allowed(self.tokenizer, vocab, code)
            except InputError as error:
                raise bad("language", str(error)) from None
        return self._allowed[code]

    @functools.cached_property
    def _allowed(self) -> dict[str, np.ndarray]:
        return {}

    def _request(
        self, ids: list[int], index: int, d: asks.Drawing, max_tokens: int, plan: Plan | None
    ) -> Request:
        """Question 0, as `experiments.generate` numbers a lone prompt: the same seed draws the same
        reply there."""
        vocab = self.engine.model.vocab
        unknown = next((t for t in d.bias if t >= vocab), None)
        if unknown is not None:
            raise bad("logit_bias", f"logit_bias: the model has no token {unknown}")
        strict = self.manner.strict
        return Request(
            ids,
            0,
            index,
            seed=secrets.randbits(32) if d.seed is None else d.seed,
            temperature=None if strict else d.temperature,
            top_p=None if strict else d.top_p,
            top_k=None if d.top_k is None or strict else min(max(0, d.top_k), vocab),
            max_tokens=max_tokens,
            bias=d.bias,
            tops=d.tops is not None,
            guide=plan,
        )


_DEEPSEEK = ("deepseek-reasoner", "deepseek-r1")


def check_strict(values: Mapping[str, Any]) -> None:
    """What DeepSeek's API for R1 refused (guides/reasoning_model)."""
    for name in ("logprobs", "top_logprobs"):
        if values.get(name) is not None:
            raise bad(name, f"{name} is not supported by deepseek-reasoner")
    messages = values.get("messages")
    for i, message in enumerate(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("reasoning_content") is not None:
            name = f"messages[{i}].reasoning_content"
            raise bad(name, f"{name} must not be in the input: take it out of earlier turns")
