"""Jobs over worker processes: who does what, who has died, and how it ends.

A worker is a process of its own session, so that Ctrl-C reaches the sweep alone, which then tells
all of them to save what they have.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from r1jax.run import STOPS
from r1jax.sweeps.jobs import Job, look, next_job

LOOK = 1.0  # seconds between looks at the jobs' folders
ENDING = 60.0  # seconds that an idle worker has to end


def worker_environment(one_core: bool) -> dict[str, str]:
    """one_core: several workers share the host's CPU, so each computes with one thread."""
    if not one_core:
        return dict(os.environ)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    # The size of XLA's pools of threads.
    return os.environ | {"XLA_FLAGS": flags, "NPROC": "1", "PJRT_NPROC": "1"}


def run_jobs(
    jobs: Sequence[Job],
    command: Sequence[str],
    workers: int,
    environment: Mapping[str, str],
    changed: Callable[[Job | None], None],
) -> signal.Signals | None:
    """Does all jobs that can be done by `workers` processes that run `command`.

    changed: is called with each job that begins or ends, and with None every LOOK seconds. Returns
    the signal that ended it early, after all had saved what they did; a second one ends them at
    once.
    """
    pool = _Pool(command, environment, changed)
    with pool.listening():
        while True:
            while not pool.stopped and pool.can_take(workers) and (job := next_job(jobs)):
                pool.give(job)
            if not pool.busy:
                return pool.stopped
            pool.wait()


@dataclasses.dataclass
class _Worker:
    process: subprocess.Popen
    orders: IO[str]
    errors: IO[str]
    job: Job | None = None

    def last_words(self) -> str:
        """ ": ...", the last line that it said outside of a job; "" if there is none."""
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return f": {lines[-1].strip()[:300]}" if lines else ""


class _Pool:
    """The workers that are alive. stopped: the first signal that came."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        changed: Callable[[Job | None], None],
    ):
        self._command, self._environment, self._changed = command, environment, changed
        self._alive: list[_Worker] = []
        self._told: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        self.stopped: signal.Signals | None = None

    @property
    def busy(self) -> bool:
        return any(worker.job for worker in self._alive)

    def can_take(self, workers: int) -> bool:
        """Whether one is idle, or may be started."""
        return len(self._alive) < workers or any(w.job is None for w in self._alive)

    def give(self, job: Job) -> None:
        idle = next((w for w in self._alive if w.job is None), None)
        worker = idle or self._start()
        worker.job = job
        for one in (job, *job.riders):
            one.state, one.error = "running", ""
            self._changed(one)
        with contextlib.suppress(OSError):  # it has died: its end is told
            worker.orders.write(json.dumps(job.order | {"folder": str(job.folder)}) + "\n")
            worker.orders.flush()
        if self.stopped:  # meanwhile
            worker.process.terminate()

    def wait(self) -> None:
        """For a worker's answer or end, LOOK seconds at most."""
        try:
            worker, line = self._told.get(timeout=LOOK)
        except queue.Empty:
            for worker in self._alive:
                for one in (worker.job, *worker.job.riders) if worker.job else ():
                    look(one)
            return self._changed(None)
        job, worker.job = worker.job, None
        how = "" if line is not None else self._ended(worker)
        if job is None:
            return
        answer = json.loads(line) if line is not None else {}
        for one in (job, *job.riders):
            mine = answer.get("members", {}).get(str(one.folder), answer)
            if mine:
                one.state, one.error = mine["state"], mine.get("error", "")
            elif self.stopped:
                one.state = "stopped"
            else:
                one.state, one.error = "failed", f"its process was ended by {how}"
            look(one)
            self._changed(one)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hears signals; at the end of it all workers end."""
        before = {number: signal.signal(number, self._hear) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._end()

    def _start(self) -> _Worker:
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  as long as the worker
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=self._environment, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        worker, answers = _Worker(process, process.stdin, errors), process.stdout

        def listen() -> None:
            for line in answers:
                self._told.put((worker, line))
            self._told.put((worker, None))

        threading.Thread(target=listen, daemon=True).start()
        self._alive.append(worker)
        return worker

    def _ended(self, worker: _Worker) -> str:
        """What ended its process."""
        self._alive.remove(worker)
        code = worker.process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return how + worker.last_words()

    def _hear(self, number: int, _frame) -> None:
        again = self.stopped is not None
        self.stopped = self.stopped or signal.Signals(number)
        saving = "ending at once" if again else "saving what runs; once more to end at once"
        os.write(2, f"\n{saving}\n".encode())
        for worker in self._alive:
            worker.process.send_signal(signal.SIGKILL if again else signal.SIGTERM)

    def _end(self) -> None:
        """The end of their input ends them; one that does not end is killed."""
        for worker in self._alive:
            with contextlib.suppress(OSError):
                worker.orders.close()
        until = time.monotonic() + ENDING
        for worker in self._alive:
            try:
                worker.process.wait(timeout=max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
