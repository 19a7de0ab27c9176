"""Replies on their way from the engine to a client: pieces of text as they become certain, and what
they came to at the end."""

import asyncio
import dataclasses
import functools
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from r1jax.data.tokenizer import Tokenizer
from r1jax.sampling.engine import Event
from r1jax.sampling.requests import Tops
from r1jax.serve import scripts
from r1jax.serve.errors import Refused
from r1jax.serve.metrics import Metrics
from r1jax.serve.served import Wanted
from r1jax.serve.tools import Calls, Delta
from r1jax.serve.worker import Full, Ticket, Worker

KEEP_ALIVE = 10.0  # seconds of silence


@dataclasses.dataclass
class Piece:
    """What is new of one reply. thought_tops, tops: of its tokens, as OpenAI tells them."""

    index: int
    thinking: str = ""
    text: str = ""
    calls: Sequence[Delta] = ()
    thought_tops: Sequence[dict[str, Any]] = ()
    tops: Sequence[dict[str, Any]] = ()
    finish: str = ""
    error: Exception | None = None


@dataclasses.dataclass
class Usage:
    prompt: int
    completion: int = 0
    reasoning: int = 0
    cached: int = 0


class Replies:
    """Of one HTTP request. told: how many of the likeliest tokens are told, None for none. calls:
    whether tool calls are read out of the answers."""

    def __init__(
        self,
        worker: Worker,
        metrics: Metrics,
        tokenizer: Tokenizer,
        wanted: Sequence[Wanted],
        prompt_tokens: int,
        told: int | None,
        calls: bool,
        deadline: float,
    ):
        self._worker, self._metrics, self._tokenizer = worker, metrics, tokenizer
        self._wanted, self._told = wanted, told
        self._calls = [Calls() if calls else None for _ in wanted]
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._started = time.perf_counter()
        self._last = [0.0] * len(wanted)
        self._open = set(range(len(wanted)))
        self._until = asyncio.get_running_loop().time() + deadline
        self._tickets: list[Ticket] = []
        self.usage = Usage(prompt_tokens)
        self.switches = [0] * len(wanted)

    def submit(self) -> None:
        """Raises Refused where the queue is full."""
        try:
            self._tickets = self._worker.submit(
                [
                    (w.request, w.request.seed, functools.partial(self._told_event, i))
                    for i, w in enumerate(self._wanted)
                ]
            )
        except Full:
            waiting = self._worker.waiting
            raise Refused(
                429,
                f"the queue is full: {waiting} requests wait",
                code="rate_limit_exceeded",
                retry_after=max(1, min(60, waiting // max(1, self._worker.slots))),
            ) from None

    def cancel(self) -> None:
        """What has not ended is not drawn any further."""
        for i in self._open:
            self._worker.cancel(self._tickets[i])
        if self._open and self._tickets:
            self._metrics.left.inc()
            self._metrics.ended("abort")
        self._open.clear()

    async def pieces(self) -> AsyncIterator[Piece | None]:
        """All that comes, until all replies have ended; None after KEEP_ALIVE seconds of silence.
        Raises Refused past the deadline, or if the engine fails."""
        left, loop = len(self._wanted), asyncio.get_running_loop()
        while left:
            wait = min(KEEP_ALIVE, self._until - loop.time())
            try:
                piece = (
                    self._pieces.get_nowait()
                    if not self._pieces.empty()
                    else await asyncio.wait_for(self._pieces.get(), max(0.0, wait))
                )
            except TimeoutError:
                if loop.time() >= self._until:
                    said = "the reply was not finished before the server's deadline"
                    raise Refused(504, said, code="deadline_exceeded") from None
                yield None
                continue
            if piece.error is not None:
                raise Refused(500, "the engine failed; the request may be tried again")
            left -= bool(piece.finish)
            yield piece

    def _told_event(self, index: int, event: Event | Exception) -> None:
        """On the loop, as soon as it is drawn, whether or not the client reads."""
        if index not in self._open:
            return
        if isinstance(event, Exception):
            self._open.discard(index)
            self._pieces.put_nowait(Piece(index, error=event))
            return
        reading, now = self._wanted[index].reading, time.perf_counter()
        before = reading.tokens
        split = reading.feed(event.tokens.tolist())
        count = reading.tokens - before
        self._timed(index, now, count)
        if before == 0:
            self.usage.cached = max(self.usage.cached, event.cached)
        piece = Piece(index, split.thinking, split.answer, finish=reading.finish_reason)
        if self._told is not None and event.tops is not None:
            self._add_tops(piece, reading, before, event.tokens.tolist()[:count], event.tops)
        calls = self._calls[index]
        if calls is not None:
            piece.text, piece.calls = calls.feed(split.answer)
            if piece.finish:
                rest, more = calls.flush()
                piece.text, piece.calls = piece.text + rest, [*piece.calls, *more]
                if calls.count and piece.finish == "stop":
                    piece.finish = "tool_calls"
        if piece.finish:
            self._end(index, event)
            self._metrics.ended(piece.finish)
            plan = self._wanted[index].plan
            piece.error = plan.failed if plan is not None else None
        if piece.thinking or piece.text or piece.calls or piece.tops or piece.finish:
            self._pieces.put_nowait(piece)

    def _timed(self, index: int, now: float, count: int) -> None:
        if self._last[index] == 0.0:
            self._metrics.first_token.observe(now - self._started)
        elif count:
            self._metrics.inter_token.observe((now - self._last[index]) / count)
        self._last[index] = now

    def _end(self, index: int, event: Event) -> None:
        self._open.discard(index)
        wanted = self._wanted[index]
        reading, plan, m = wanted.reading, wanted.plan, self._metrics
        if not event.finish:  # a stop string: the engine would go on
            self._worker.cancel(self._tickets[index])
        self.usage.completion += reading.tokens
        self.usage.reasoning += reading.reasoning_tokens
        m.generation_tokens.inc(reading.tokens)
        m.reasoning_tokens.inc(reading.reasoning_tokens)
        m.whole.observe(time.perf_counter() - self._started)
        if reading.finish_reason == "length" and reading.thinks:
            m.cut_thinking.inc()
        if plan is not None and plan.closed_by_budget:
            m.budget_closed.inc()
        self.switches[index] = scripts.switches(f"{reading.thinking}\n{reading.text}")
        m.switches.inc(self.switches[index])
        m.mixed.inc(self.switches[index] > 0)

    def _add_tops(self, piece: Piece, reading, before: int, tokens: list[int], tops: Tops) -> None:
        shown = [t for t in tokens if t not in self._tokenizer.end_ids]
        entries = [
            entry(self._tokenizer, token, tops, i, self._told or 0) for i, token in enumerate(shown)
        ]
        cut = max(0, reading.reasoning_tokens - before)
        piece.thought_tops, piece.tops = entries[:cut], entries[cut:]


def entry(tokenizer: Tokenizer, token: int, tops: Tops, i: int, count: int) -> dict[str, Any]:
    """The token of place i and the likeliest there, as a chat's logprobs.content has them."""
    pairs = zip(tops.token_TK[i, :count].tolist(), tops.logp_TK[i, :count].tolist(), strict=True)
    return {
        **_one(tokenizer, token, float(tops.logp_T[i])),
        "top_logprobs": [_one(tokenizer, t, logp) for t, logp in pairs],
    }


def _one(tokenizer: Tokenizer, token: int, logp: float) -> dict[str, Any]:
    piece = tokenizer.bytes_of(token)
    return {
        "token": piece.decode("utf-8", "replace"),
        "logprob": max(logp, -9999.0),
        "bytes": list(piece),
    }
