"""Whether the other processes of a pod are still there.

Where one dies, JAX's others wait in a collective for it, until its own heartbeat aborts them with a
C++ stack. Here each says every two seconds that it lives and where it is, through the store that
process 0 holds; process 0 says which one is no longer heard of, and all end with that line. So a
process that gives up says why, and the others end with it.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from r1jax import processes

BEAT, LOST = 2.0, 15.0  # seconds: between signs of life, and without one
GRACE = 4.0  # that a process has to end by itself, once it is known that all end
LONGEST_END = 1800.0  # that the others may take longer
LOST_PEER = 75  # exit code, EX_TEMPFAIL: the same command may do, with --resume=auto
ROOT = "r1jax/peers"


_signal_of_c = ctypes.CDLL(None).signal  # for any thread
_signal_of_c.restype, _signal_of_c.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)


@contextlib.contextmanager
def at_abort(act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` where C++ aborts this process, as JAX does with a stack for a last line. A
    handler in Python would wait for the main thread, which waits in C++."""
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _number: act())
    before = _signal_of_c(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        _signal_of_c(signal.SIGABRT, before)


class Verdict(NamedTuple):
    """Why all end: a line, and the exit code."""

    line: str
    code: int


class Peers:
    """A thread that gives signs of life and listens for the others'. `where()`: what they are told
    of this process, such as its step. `at_end(line)` is called before it ends the process."""

    def __init__(self, keys: Any, index: int, count: int):
        self._keys, self._index, self._count = keys, index, count
        self.where: Callable[[], str] = lambda: "starting"
        self.at_end: Callable[[str], None] = lambda line: None
        self._ending = threading.Event()  # the main thread has taken it into its hands
        self._stop = threading.Event()
        self._changed = [(-1, time.monotonic())] * count  # last beat of each, and when it came
        self._told: list[dict[str, Any]] = [{}] * count
        self._lost: set[int] = set()
        self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peers")
        self._thread.start()
        if index:
            threading.Thread(target=self._watch_first, daemon=True, name="process 0").start()
            self._aborts = at_abort(self._aborted)
            self._aborts.__enter__()  # until the process ends

    def _watch(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT if beat else 0):
            beat += 1
            with contextlib.suppress(RuntimeError):  # JAX's: process 0 does not answer
                self._say(beat)
                verdict = self.verdict() or (self._find_lost() if self._index == 0 else None)
                self._answered = time.monotonic()
                if verdict is not None:
                    self._end(verdict)

    def _watch_first(self) -> None:
        """A thread of its own: what is asked of a process that hangs may not return."""
        while not self._stop.wait(1):
            silent = time.monotonic() - self._answered
            if silent > LOST:
                self._first_is_lost(f"nothing heard for {silent:.0f} s")

    def _aborted(self) -> None:
        """Where process 0 is gone, JAX aborts the others at once."""
        if not self._stop.is_set() and not processes.first_answers(2):
            self._first_is_lost("its connection is closed")

    def _first_is_lost(self, why: str) -> None:
        self._lost.add(0)
        line = f"process 0, which holds the pod together, is lost: {why}"
        self._end(Verdict(line, LOST_PEER))

    def _say(self, beat: int) -> None:
        told = {"beat": beat, "host": socket.gethostname(), "where": self.where()}
        self._keys.key_value_set(f"{ROOT}/beat/{self._index}", json.dumps(told), True)

    def verdict(self) -> Verdict | None:
        """If it is known that all end."""
        try:
            return Verdict(*json.loads(self._keys.key_value_try_get(f"{ROOT}/end")))
        except RuntimeError as error:
            if "NOT_FOUND" in str(error):
                return None
            raise

    def tell(self, verdict: Verdict) -> None:
        """All are to end so; the first who says it is heard."""
        with contextlib.suppress(RuntimeError):  # said already, or no one is left to hear
            self._keys.key_value_set(f"{ROOT}/end", json.dumps(verdict))

    def _find_lost(self) -> Verdict | None:
        now, done = time.monotonic(), self._done()
        for key, text in self._keys.key_value_dir_get(f"{ROOT}/beat/"):
            index, told = int(key.rpartition("/")[2]), json.loads(text)
            if told["beat"] != self._changed[index][0]:
                self._changed[index], self._told[index] = (told["beat"], now), told
        for index, (_, since) in enumerate(self._changed):
            if index not in done and now - since > LOST:
                self._lost.add(index)
                told = self._told[index]
                on = f" on {told['host']}" if told else ""
                at = f"; it was {told['where']}" if told else "; it never was"
                line = f"process {index}{on} is lost: nothing heard for {now - since:.0f} s{at}"
                self.tell(Verdict(line, LOST_PEER))
                return self.verdict()
        return None

    def _done(self, stage: str = "done") -> set[int]:
        found = self._keys.key_value_dir_get(f"{ROOT}/{stage}/")
        return {int(key.rpartition("/")[2]) for key, _ in found}

    def _end(self, verdict: Verdict) -> None:
        if self._ending.wait(GRACE):
            return self._stop.set()
        with contextlib.suppress(Exception):
            self.at_end(verdict.line)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os.write(2, f"error: {verdict.line}\n".encode())
        if 0 not in self._lost:
            self._part(GRACE)
        os._exit(verdict.code)

    def _part(self, seconds: float) -> None:
        """Before an end without JAX's own: returns when the others know that all end, process 0
        when they are gone. Its store goes with it, and JAX aborts who still listens. A SIGTERM for
        the first that has ended (srun --kill-on-bad-exit) is not to hide the exit code."""
        _signal_of_c(signal.SIGTERM, 1)  # SIG_IGN
        with contextlib.suppress(RuntimeError):
            self._mark("done")
            self._await("done", seconds)
            self._mark("gone")
            if self._index == 0:
                self._await("gone", GRACE)
                time.sleep(0.5)

    def _mark(self, stage: str) -> None:
        self._keys.key_value_set(f"{ROOT}/{stage}/{self._index}", "", True)

    def _await(self, stage: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while len(self._done(stage) | self._lost) < self._count and time.monotonic() < until:
            time.sleep(0.1)

    # Of the main thread.

    def leave(self) -> None:
        """All that was to do is done. Returns when the others are done too: some draw a report."""
        with contextlib.suppress(RuntimeError):
            self._mark("done")
            self._await("done", LONGEST_END)
        self._stop.set()
        self._thread.join()

    def places(self) -> str:
        """Where each process said that it was."""
        found = {}
        with contextlib.suppress(RuntimeError):
            for key, text in self._keys.key_value_dir_get(f"{ROOT}/beat/"):
                found[int(key.rpartition("/")[2])] = json.loads(text)
        shown = sorted(found.items())[:8]
        return "; ".join(f"process {i} on {told['host']} is {told['where']}" for i, told in shown)

    def leave_failed(self, line: str, code: int) -> None:
        """Tells the others that this process ends, and why; returns when they have heard."""
        self._ending.set()
        self.give_up(line, code)
        self._part(LOST)

    def give_up(self, line: str, code: int) -> None:
        """All are to end, this process too, for what went wrong in it. Of any thread."""
        self.tell(Verdict(f"process {self._index} on {socket.gethostname()}: {line}", code))

    def await_verdict(self) -> None:
        """After a collective has failed: waits for as long as a lost process takes to be missed.
        If one is, this process ends here, with that line."""
        self._thread.join(LOST + 2 * BEAT + 2 * GRACE)


_peers: Peers | None = None


def current() -> Peers | None:
    """Of this process; None where it is alone."""
    return _peers


def watch() -> None:
    """Begins to watch the others, once all have come."""
    global _peers
    if processes.count() > 1:
        _peers = Peers(processes.store(), processes.index(), processes.count())
