"""What a served reply may draw next: a thought within its budget, an answer within its grammar, and
no other script than the language's."""

import logging
from collections.abc import Sequence

import numpy as np

from r1jax.data.chat import CLOSE, OPEN, ThinkingSplitter, opens_thinking
from r1jax.data.conversation import Conversation
from r1jax.serve.grammar import Matcher, bits

FOREVER = 2**30


class Plan:
    """A `Guide`. budget: tokens of the thought, its tags included; where it ends, CLOSE is written
    for the model. matcher: of the answer. allowed: a bit a token, thought or answer. opens: the
    model is made to begin with a thought.

    It is asked in the midst of a step of all replies. So what goes wrong in it is kept as `failed`,
    ends this one, and is raised nowhere."""

    def __init__(
        self,
        conversation: Conversation,
        prompt: str,
        ids: Sequence[int],
        vocab: int,
        budget: int | None = None,
        matcher: Matcher | None = None,
        allowed: np.ndarray | None = None,
        opens: bool = False,
    ):
        tokenizer = conversation.tokenizer
        self._tokenizer, self._vocab = tokenizer, vocab
        self._matcher, self._allowed = matcher, allowed
        self._end = bits(tokenizer.end_ids, vocab)
        close = tokenizer.id_of(CLOSE)
        self.pauses: Sequence[int] = () if close is None or matcher is None else (close,)
        self._surely = close is not None  # one token ends the thought
        self._decoder = tokenizer.stream(skip_special_tokens=True)
        for token in ids:
            self._decoder.feed(token)
        self._decoder.flush()
        self._splitter = ThinkingSplitter(opens_thinking(prompt))
        self._opened = opens_thinking(prompt)
        spaced = conversation.form != "embedded"
        self._closing = tokenizer.encode(f"\n{CLOSE}\n\n" if spaced else CLOSE)
        self._forced = list(tokenizer.encode(f"{OPEN}\n")) if opens and not self._opened else []
        thinks = self._opened or bool(self._forced)
        self._left = budget if thinks else None
        self._answering = not thinks and matcher is not None
        self.closed_by_budget = False
        self.failed: Exception | None = None
        self._spend(0)

    def next(self) -> tuple[np.ndarray | None, int]:
        if self.failed is None:
            try:
                may, holds = self._next()
                assert may is None or may.shape == self._end.shape
                return may, holds
            except Exception as error:
                self._fails(error)
        return self._end, 1

    def feed(self, tokens: Sequence[int]) -> None:
        if self.failed is None:
            try:
                for token in tokens:
                    self._one(token)
            except Exception as error:
                self._fails(error)

    def _fails(self, error: Exception) -> None:
        logging.getLogger(__name__).error("a reply could not be guided: %r", error)
        self.failed = error

    def _next(self) -> tuple[np.ndarray | None, int]:
        if self._forced:
            return bits(self._forced[:1], self._vocab), 1
        if self._answering and self._matcher is not None:
            may = self._matcher.next()
            if self._allowed is not None and (may & self._allowed).any():
                may = may & self._allowed
            return may, 1
        holds = FOREVER if self._left is None else self._left
        if self._matcher is not None and not self._surely:
            holds = 1  # the thought may end at any token
        return self._allowed, holds

    def _one(self, token: int) -> None:
        if self._answering:
            if self._matcher is not None:
                self._matcher.feed([token])
            return
        forced = bool(self._forced)
        if forced:
            self._forced.pop(0)
        self._splitter.feed(self._decoder.feed(token))
        if self._splitter.answering and not self._forced:
            self._answering = self._matcher is not None
            self._left = None
        else:
            self._spend(0 if forced else 1)

    def _spend(self, count: int) -> None:
        if self._left is not None and not self._forced:
            self._left -= count
            if self._left <= 0:
                self._forced, self._left, self.closed_by_budget = list(self._closing), None, True
