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
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from r1jax.run import STOPS
from r1jax.sweeps.jobs import Job, look, next_job

LOOK = 1.0  # seconds between looks at the jobs' folders


@dataclasses.dataclass
class _Worker:
    process: subprocess.Popen
    orders: IO[str]
    job: Job | None = None


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
    environment: dict[str, str],
    changed: Callable[[Job | None], None],
) -> signal.Signals | None:
    """Does all jobs that can be done by `workers` processes that run `command`.

    changed: is called with each job that begins or ends, and with None every LOOK seconds. Returns
    the signal that ended it early, after all had saved what they did; a second one ends them at
    once.
    """
    told: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
    alive: list[_Worker] = []
    stopped: list[signal.Signals] = []

    def hear(number: int, _frame) -> None:
        again = bool(stopped)
        stopped.append(signal.Signals(number))
        saving = "ending at once" if again else "saving what runs; once more to end at once"
        os.write(2, f"\n{saving}\n".encode())
        for worker in alive:
            worker.process.send_signal(signal.SIGKILL if again else signal.SIGTERM)

    def start() -> _Worker:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        worker, answers = _Worker(process, process.stdin), process.stdout

        def listen() -> None:
            for line in answers:
                told.put((worker, line))
            told.put((worker, None))

        threading.Thread(target=listen, daemon=True).start()
        return worker

    def give(worker: _Worker, job: Job) -> None:
        worker.job, job.state, job.error = job, "running", ""
        changed(job)
        with contextlib.suppress(OSError):  # it has died: its end is told by `listen`
            worker.orders.write(json.dumps(job.order | {"folder": str(job.folder)}) + "\n")
            worker.orders.flush()

    def done(worker: _Worker, line: str | None) -> None:
        """line: its answer; None: the process has ended."""
        job, worker.job = worker.job, None
        if line is None:
            alive.remove(worker)
            code = worker.process.wait()
        if job is None:
            return
        if line is not None:
            answer = json.loads(line)
            job.state, job.error = answer["state"], answer.get("error", "")
        elif stopped:
            job.state = "stopped"
        else:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            job.state, job.error = "failed", f"its process was ended by {how}"
        look(job)
        changed(job)

    before = {number: signal.signal(number, hear) for number in STOPS}
    try:
        while True:
            while not stopped:
                idle = next((w for w in alive if w.job is None), None)
                if idle is None and len(alive) >= workers:
                    break
                job = next_job(jobs)
                if job is None:
                    break
                if idle is None:
                    alive.append(idle := start())
                give(idle, job)
            if not any(worker.job for worker in alive):
                break
            try:
                done(*told.get(timeout=LOOK))
            except queue.Empty:
                for worker in alive:
                    if worker.job is not None:
                        look(worker.job)
                changed(None)
        return stopped[0] if stopped else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _end(alive)


def _end(workers: Sequence[_Worker]) -> None:
    """The end of their input ends them; one that does not is killed."""
    for worker in workers:
        with contextlib.suppress(OSError):
            worker.orders.close()
    until = time.monotonic() + 60
    for worker in workers:
        try:
            worker.process.wait(timeout=max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
