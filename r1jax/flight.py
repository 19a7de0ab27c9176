"""A flight record: where every thread of a process stands, its last step and its memory, written
when a step takes far longer than others did, on SIGUSR1, and where a run goes wrong.

    kill -USR1 PID        # of any process of a run: flight_*.txt in its folder

It is written by a thread of its own, since what hangs is mostly the main one, in C++ and so deaf
to Python's signal handlers.
"""

import contextlib
import datetime
import faulthandler
import os
import resource
import select
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from r1jax import peers, processes

TIMES, FLOOR = 10, 60.0  # a step is late after so many medians, but not before so many seconds
FIRST = 4  # times hang_minutes that the first step may take, which compiles
KEPT = 100  # steps that the median is of
PACKAGE = Path(__file__).parents[1]


class Watchdog:
    """A context manager: a thread that watches the steps of a run. `folder`: for its records.
    hang_minutes: a late step that takes so long ends the process, exit code peers.LOST_PEER; 0:
    never."""

    def __init__(self, folder: Path, hang_minutes: float):
        self._folder, self._limit = folder, 60 * hang_minutes
        self._step = -1
        self._began: float | None = None
        self._took: list[float] = []
        self._warned = False
        self._main = threading.main_thread().ident
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGUSR1, lambda *_: None)
            self._woken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        else:
            self._before = None
        self._thread.start()
        if others := peers.current():
            self._told = others.where, others.at_end
            others.where, others.at_end = self.where, self._at_end
        return self

    def _at_end(self, line: str) -> None:
        self.record(line, "end")

    def __exit__(self, *_) -> None:
        if others := peers.current():
            others.where, others.at_end = self._told
        if self._before is not None:
            signal.set_wakeup_fd(self._woken)
            signal.signal(signal.SIGUSR1, self._before)
        os.write(self._write, b"\0")  # no signal's number: it ends
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def begins(self, step: int) -> None:
        self._step, self._began, self._warned = step, time.monotonic(), False

    def ends(self, counts: bool) -> None:
        """counts: whether its time is like others'; the first step compiles."""
        if self._began is not None and counts:
            self._took = [*self._took, time.monotonic() - self._began][-KEPT:]
        self._began = None

    def where(self) -> str:
        """For the others: the step, and the line of this package that the main thread is in."""
        frame = sys._current_frames().get(self._main or 0)
        while frame is not None and not frame.f_code.co_filename.startswith(str(PACKAGE)):
            frame = frame.f_back
        step = "before its first step" if self._step < 0 else f"in step {self._step}"
        if frame is None:
            return step
        name = Path(frame.f_code.co_filename).relative_to(PACKAGE)
        return f"{step}, {name}:{frame.f_lineno}"

    def record(self, why: str, name: str, told: Mapping[str, str] | None = None) -> Path:
        """Writes FOLDER/flight_NAME_step_N.txt, and returns where. One of the same name goes. told:
        what else is known, by name."""
        path = self._folder / f"flight_{name}_step_{max(self._step, 0)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        since = f", for {time.monotonic() - self._began:.1f} s" if self._began is not None else ""
        with path.open("w") as file:
            file.write(
                f"{why}\n\ntime      {now}\n"
                f"process   {processes.index()} of {processes.count()}, pid {os.getpid()} on "
                f"{socket.gethostname()}\n"
                f"at        {self.where()}{since}\n"
                f"steps     {_seconds(self._took)}\n"
                f"memory    {_memory()}\n"
            )
            file.writelines(f"{name:9} {value}\n" for name, value in (told or {}).items())
            file.write("\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
            file.flush()
            for device in jax.local_devices():  # last: it may wait for what hangs
                if stats := device.memory_stats():
                    file.write(f"\n{device}: {stats}")
        return path

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._read], [], [], 1.0)
            heard = os.read(self._read, 64) if ready else b""
            if 0 in heard:
                return
            with contextlib.suppress(OSError):  # a full disk is said by what has to be written
                if signal.SIGUSR1 in heard:
                    self._said(self.record("asked for by SIGUSR1", "asked"))
                self._check()

    def _check(self) -> None:
        began = self._began
        if began is None:
            return
        took = time.monotonic() - began
        usual = statistics.median(self._took) if self._took else None
        limit = FIRST * self._limit if usual is None else max(self._limit, TIMES * usual)
        ends = self._limit > 0 and took > limit
        if not ends and (usual is None or took < max(TIMES * usual, FLOOR)):
            return
        median = f", the median is {usual:.1f} s" if usual is not None else ""
        line = f"step {self._step} has taken {took:.0f} s{median}"
        if not self._warned:
            self._warned = True
            self._said(self.record(line, "late"), f"warning: {line}; ")
        if ends:
            self._end(f"{line}: it hangs")

    def _end(self, line: str) -> None:
        others = peers.current()
        places = f"; {others.places()}" if others else ""
        line = f"{line}{places}; see {self._folder}/flight_late_step_{self._step}.txt"
        os.write(2, f"error: {line}\n".encode())
        if others:
            others.leave_failed(line, peers.LOST_PEER)
        os._exit(peers.LOST_PEER)

    def _said(self, path: Path, before: str = "") -> None:
        print(f"{before}flight record: {path}", file=sys.stderr, flush=True)


def _seconds(took: list[float]) -> str:
    if not took:
        return "none that counts"
    return f"{len(took)} counted, median {statistics.median(took):.2f} s, last {took[-1]:.2f} s"


def _memory() -> str:
    """Of this process, and the host."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = f"at most {peak / 2**30:.2f} GiB"
    with contextlib.suppress(OSError, IndexError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        now = pages * os.sysconf("SC_PAGE_SIZE")
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        told = f"{now / 2**30:.2f} GiB now, {told}; {free / 2**30:.1f} GiB free on the host"
    return told
