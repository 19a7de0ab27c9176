"""Processes for what may run for ever or bring its process down: killed on time, then replaced."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import context, spawn
from typing import Any, NamedTuple
from unittest import mock

from pebble import ProcessExpired, ProcessPool

START_S = 60.0  # how long a worker may take to start


class WorkerDied(Exception):
    """The process that ran a job is gone; the job may be innocent."""


class Job(NamedTuple):
    future: Future
    pool: ProcessPool | None  # None: it could not be handed to one
    timeout_s: float


class _Process(context.SpawnProcess):
    """A spawned process that does not run the program of the one that starts it, as spawning does
    by itself: a script would begin again in each worker, and a command import all of JAX. What a
    job needs is imported, or comes by value."""

    _starting = threading.Lock()

    @staticmethod
    def _Popen(process):
        thread = threading.get_ident()
        with _Process._starting:
            prepare = spawn.get_preparation_data

            def without_main(name: str) -> dict[str, Any]:
                data = prepare(name)
                if threading.get_ident() == thread:  # processes of others start as ever
                    data.pop("init_main_from_path", None)
                    data.pop("init_main_from_name", None)
                return data

            with mock.patch.object(spawn, "get_preparation_data", without_main):
                return context.SpawnProcess._Popen(process)  # type: ignore[attr-defined]


class _Spawn(context.SpawnContext):
    Process = _Process


class Workers:
    """`count` spawned processes, each of which runs `warm_up` before its first job.

    They start at the first job, and know nothing of the program that asks.
    timeout_s: the seconds that a job may take before its process is killed, where the job does not
    say another.
    """

    def __init__(self, count: int, timeout_s: float, warm_up: Callable[[], object]):
        self.count, self.timeout_s, self.warm_up = count, timeout_s, warm_up
        self._pool: ProcessPool | None = None
        self._heard = 0.0  # when a job was last given or done
        self._longest_s = timeout_s

    def submit(self, function: Callable, *args: Any, timeout_s: float | None = None) -> Job:
        """Asks for function(*args), both of which must pickle, and returns at once."""
        limit = timeout_s or self.timeout_s
        self._longest_s = max(self._longest_s, limit)
        if self._pool is None or not self._pool.active:
            self.close()
            self._pool = ProcessPool(self.count, initializer=self.warm_up, context=_Spawn())
        try:
            future = self._pool.schedule(function, args, timeout=limit)
        except RuntimeError:  # the pool broke meanwhile
            return Job(Future(), None, limit)
        self._hear()
        future.add_done_callback(self._hear)
        return Job(future, self._pool, limit)

    def result(self, job: Job) -> Any:
        """Waits for what the function returns or raises. Raises TimeoutError if it took too long,
        and WorkerDied if its process was lost."""
        # Pebble gives up a whole pool when an idle worker is killed, and then may leave a future
        # for ever undone. A pool at work finishes a job at least every two time-outs.
        limit = START_S + 2 * self._longest_s
        while not job.future.done():
            if job.pool is None or not job.pool.active or time.monotonic() > self._heard + limit:
                if job.pool is not None:
                    job.pool.stop()
                raise WorkerDied("the workers died")
            wait([job.future], timeout=0.2)
        try:
            return job.future.result()
        except TimeoutError:
            raise TimeoutError(f"took over {job.timeout_s:g} s") from None
        except (ProcessExpired, BrokenProcessPool) as error:
            raise WorkerDied(f"the worker died: {error}") from error

    def close(self) -> None:
        """Ends the processes; a later `submit` starts new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def _hear(self, *_) -> None:
        self._heard = time.monotonic()
