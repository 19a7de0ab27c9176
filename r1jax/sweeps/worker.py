"""A process that does one job of a sweep after another, so that what it compiled serves them all.

It reads a line of JSON for a job and writes one for what became of it. The end of its input ends
it, in the middle of a job with a checkpoint: so it does not outlive a sweep that was killed.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from r1jax.checks import InputError
from r1jax.files import write_whole
from r1jax.lock import locked
from r1jax.run import Stopped

Order = dict[str, Any]
LOG = "log.txt"


Answer = dict[str, Any]


def serve(
    do: Callable[[Order], dict[str, Answer] | None], one_line: Callable[[Exception], str | None]
) -> None:
    """Does what it is told until nothing more is. do: a job, and of one that is several members'
    what became of each, by folder; one_line: what is said of bad input,
    None for a bug, whose traceback is then in the job's log."""
    answers = os.fdopen(os.dup(1), "w")
    orders: queue.Queue[Order | None] = queue.Queue()
    busy = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(json.loads(line))
        orders.put(None)
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    while (order := orders.get()) is not None:
        busy.set()
        answer: Answer = {"state": "finished"}
        with _to_log(Path(order["folder"]) / LOG):
            try:
                if members := do(order):
                    answer["members"] = members
            except Exception as error:
                answer = answer_of(error, one_line)
        busy.clear()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def answer_of(error: Exception | None, one_line: Callable[[Exception], str | None]) -> Answer:
    """What is said of a run that ended so; None: it is finished. A bug's traceback is printed."""
    if error is None:
        return {"state": "finished"}
    if isinstance(error, Stopped):
        return {"state": "stopped", "error": error.where}
    traceback.print_exception(error)
    said = one_line(error) or f"{type(error).__name__}: {error}"
    return {"state": "failed", "error": said.splitlines()[0][:300]}


@contextlib.contextmanager
def _to_log(path: Path) -> Iterator[None]:
    """What is printed meanwhile, by whatever library, goes to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    with path.open("a") as file:
        before = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in enumerate(before, start=1):
                os.dup2(old, number)
                os.close(old)


def write_note(folder: Path, note: dict[str, Any]) -> None:
    """member.json, which says what a run is in its sweep."""
    write_whole(folder / "member.json", json.dumps(note, indent=2) + "\n")


@contextlib.contextmanager
def locked_in_turn(folder: Path, seconds: float) -> Iterator[None]:
    """As `locked`, after whoever holds it; raises its InputError after that time."""
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(folder))
                break
            except InputError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
        yield
