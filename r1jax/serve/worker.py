"""The engine in a thread of its own, and what the event loop says to it.

Requests wait here in the order they came, at most `most` beyond those that the engine has slots
for. A burst takes about PACE, whatever the model: so text comes smoothly, and whoever comes or
leaves is heard within one. What is drawn is told on the loop's thread, so that no reader, however
slow, is waited for.
"""

import asyncio
import collections
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from r1jax.sampling.engine import BURST, Engine, Event, Request
from r1jax.sampling.requests import Tops
from r1jax.sampling.slots import WINDOW

PACE = 0.04  # seconds
MOST_FAILURES = 3  # of the engine in a row, and it is given up

Told = Callable[[Event | Exception], None]


class Full(Exception):
    """No more requests are taken for now."""


class Ticket:
    """A request that is on its way."""

    def __init__(self, request: Request, seed: int, told: Told):
        self.request, self.seed, self.told = request, seed, told
        self.id = 0  # the engine's
        self.begun = False  # whether it has drawn something


class Worker:
    """All methods but the thread's own are called on the loop's thread."""

    def __init__(self, engine: Engine, most: int):
        self.engine, self.most = engine, most
        self.slots = engine.cfg.slots
        self.alive = False
        self._inbox: collections.deque[tuple[str, Any]] = collections.deque()
        self._changed = threading.Condition()
        self._live: set[Ticket] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.alive = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """After what is on its way has been drawn or cancelled."""
        self._say("stop", None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    @property
    def running(self) -> int:
        return sum(t.begun for t in self._live)

    @property
    def waiting(self) -> int:
        return len(self._live) - self.running

    def room_for(self, n: int) -> bool:
        """Whether so many more would be taken."""
        return len(self._live) + n <= self.slots + self.most

    def submit(self, requests: Sequence[tuple[Request, int, Told]]) -> list[Ticket]:
        """All of them, or none: raises Full. Each is told what it draws, the last event with a
        finish; or of an error, and then no more."""
        if not self.room_for(len(requests)):
            raise Full
        tickets = [Ticket(*one) for one in requests]
        self._live.update(tickets)
        self._say("submit", tickets)
        return tickets

    def cancel(self, ticket: Ticket) -> None:
        """Its slot is free within one burst. Nothing happens if it has finished."""
        if ticket in self._live:
            self._live.discard(ticket)
            self._say("cancel", ticket)

    async def score(self, texts: Sequence[Sequence[int]]) -> list[Tops]:
        """As `Engine.score`, between two bursts."""
        assert self._loop is not None
        result: asyncio.Future[list[Tops]] = self._loop.create_future()
        self._say("score", (texts, result))
        return await result

    def _say(self, what: str, value: Any) -> None:
        with self._changed:
            self._inbox.append((what, value))
            self._changed.notify()

    # In the thread.

    def _run(self) -> None:
        tickets: dict[int, Ticket] = {}
        failures, a_step = 0, 0.0
        while True:
            with self._changed:
                while not self._inbox and not self.engine.busy:
                    self._changed.wait()
                said = list(self._inbox)
                self._inbox.clear()
            new = False
            for what, value in said:
                if what == "stop":
                    self._tell(lambda: setattr(self, "alive", False))
                    return
                try:
                    new |= self._take(what, value, tickets)
                except Exception as error:  # told to whom it concerns
                    self._failed(what, value, error)
            if not self.engine.busy:
                continue
            # Who comes to an idle engine sees a first token at once, and others soon.
            steps = min(WINDOW, max(1, int(PACE / a_step))) if a_step else BURST
            if new:
                steps = 1 if len(tickets) == 1 else min(steps, BURST)
            started, before = time.perf_counter(), self.engine.stats.decode_steps
            try:
                events = self.engine.step(steps)
            except Exception as error:  # all that ran is lost, and the engine begins anew
                logging.getLogger(__name__).exception("the engine failed")
                failures += 1
                lost, tickets = list(tickets.values()), {}
                self.engine.clear()
                self._tell(functools.partial(self._lost, lost, error))
                if failures >= MOST_FAILURES:
                    self._tell(lambda: setattr(self, "alive", False))
                    return
                continue
            failures = 0
            made = self.engine.stats.decode_steps - before
            if not new and made:
                a_step = (time.perf_counter() - started) / made
            told = [(tickets[e.id], e) for e in events]
            for event in events:
                if event.finish:
                    del tickets[event.id]
            self._tell(functools.partial(self._deliver, told))

    def _take(self, what: str, value: Any, tickets: dict[int, Ticket]) -> bool:
        if what == "submit":
            for ticket in value:
                request = ticket.request
                ticket.id = self.engine.submit(request)
                tickets[ticket.id] = ticket
            return True
        if what == "cancel":
            tickets.pop(value.id, None)
            self.engine.cancel(value.id)
        elif what == "score":
            texts, result = value
            found = self.engine.score(texts)
            self._tell(lambda: result.done() or result.set_result(found))
        return False

    def _failed(self, what: str, value: Any, error: Exception) -> None:
        if what == "score":
            result = value[1]
            self._tell(lambda: result.done() or result.set_exception(error))
        elif what == "submit":
            self._tell(lambda: self._lost(value, error))

    def _tell(self, what: Callable[[], Any]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(what)

    # On the loop again.

    def _deliver(self, told: Sequence[tuple[Ticket, Event]]) -> None:
        for ticket, event in told:
            if ticket not in self._live:
                continue  # it has left
            ticket.begun = True
            if event.finish:
                self._live.discard(ticket)
            ticket.told(event)

    def _lost(self, tickets: Sequence[Ticket], error: Exception) -> None:
        for ticket in tickets:
            if ticket in self._live:
                self._live.discard(ticket)
                ticket.told(error)
