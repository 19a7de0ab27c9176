"""The reward of a program: does it pass its tests, which it never sees?

Accuracy of code as in DeepSeek-R1 (arXiv 2501.12948v1, section 2.2.2): the program is run
against test cases. Programs run in `r1jax.rewards.sandbox`. A program judged by calls or asserts
is one process and its tests are another, in a sandbox of their own; only plain data passes between
the two, so that nothing that a program does to its interpreter reaches the verdict.
"""

import json
import re
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from os import fdopen, pipe
from typing import Literal, NamedTuple, get_args

from r1jax.checks import check
from r1jax.data.problems import Tests
from r1jax.rewards.format import final_answer
from r1jax.rewards.inside.compare import same_output
from r1jax.rewards.inside.wire import ENDED, encode, frame
from r1jax.rewards.sandbox import Ending, Limits, Sandbox, converse

Outcome = Literal["correct", "incorrect", "failed"]

_FENCE = re.compile(r"[ \t]*(`{3,})[ \t]*([\w+-]*)[^`]*")
_PYTHON_LINE = re.compile(r"^(?:def|class|import|from|for|while|if|@|print *\(|\w+ *=)", re.M)


@dataclass(frozen=True)
class CodeVerdict:
    """outcome: "failed" if it was the grader that broke, not the program. seconds: wall time.
    died: the sandbox was killed, or did not start, so that another might do."""

    outcome: Outcome
    detail: str
    seconds: float
    died: bool = False


class _Judgement(NamedTuple):
    outcome: Outcome
    detail: str = ""
    died: bool = False


_KILLED = _Judgement("failed", "the sandbox was killed from outside", died=True)


class CodeGrader:
    """Runs programs against their tests; a context manager, since it holds threads and files.

    workers: programs that run at once. One that is judged by calls or asserts is two processes,
    each with the limits; so all of them take at most 2 x workers x (memory_mb + file_mb) MiB.
    unsafe: run programs even though the host cannot isolate them (and never isolate).

    Raises InputError where the host cannot isolate, unless unsafe.
    """

    def __init__(self, workers: int = 1, limits: Limits | None = None, unsafe: bool = False):
        check(workers > 0, f"CodeGrader.workers must be positive, got {workers}")
        self.limits = limits or Limits()
        self._sandbox = Sandbox(self.limits, unsafe)
        self._threads = ThreadPoolExecutor(workers, "code-grader")
        self._closed = threading.Event()

    def __enter__(self) -> "CodeGrader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the programs that run; those that have not started come back "failed"."""
        self._closed.set()
        self._threads.shutdown()
        self._sandbox.close()

    def submit(self, tests: Tests, program: str) -> "Future[CodeVerdict]":
        """The future never raises, and is there in time: a program on several inputs has wall_s
        for each and total_s for all; one that is tested by calls or asserts, wall_s for all.

        `tests.prelude` runs before the program, in its process; a program may also be its
        continuation. It runs before the tests, too, where they use a name that is in it. Where
        `tests.function` is empty, the names that `tests.code` uses are the program's unless they
        are those of built-in functions or of the standard library.
        """
        return self._threads.submit(self._grade, tests, program)

    def _grade(self, tests: Tests, program: str) -> CodeVerdict:
        start = time.monotonic()
        try:
            if self._closed.is_set():
                found = _Judgement("failed", "the grader was closed")
            elif tests.stdio:
                found = self._run_inputs(tests, program)
            else:
                found = self._run_tests(tests, program)
        except Exception as error:  # a bug here must not look like a bad policy
            found = _Judgement("failed", f"{type(error).__name__}: {error}")
        return CodeVerdict(found.outcome, found.detail, time.monotonic() - start, found.died)

    def _run_inputs(self, tests: Tests, program: str) -> _Judgement:
        job = frame(encode([tests.prelude, program], id))
        deadline = time.monotonic() + self.limits.total_s
        for number, (given, expected) in enumerate(tests.stdio, start=1):
            with self._sandbox.running("program", "stdio") as process:
                feed = job + given.encode("utf-8", "surrogateescape")
                # The byte of the start comes first.
                limit = self.limits.output_kb * 1024 + 1
                left = max(0.0, deadline - time.monotonic())
                ending = converse(process, feed, min(self.limits.wall_s, left), limit)
            errors = ending.stderr.decode(errors="replace").strip()
            if time.monotonic() > deadline:
                count = len(tests.stdio)
                return _Judgement("incorrect", f"input {number} of {count}: time limit of all")
            if not ending.stdout.startswith(b"R"):
                return _Judgement("failed", f"the sandbox did not start: {errors}", died=True)
            output = ending.stdout[1:].decode("utf-8", "surrogateescape")
            if not ending.cut and self._was_killed(ending.status):
                return _KILLED
            if ending.cut or ending.status:
                why = ending.cut or f"{_ended(ending.status)} {_last_line(errors)}"
                return _Judgement("incorrect", f"input {number}: {why}")
            if not same_output(output, expected):
                return _Judgement("incorrect", f"input {number}: wrong output")
        return _Judgement("correct")

    def _run_tests(self, tests: Tests, program: str) -> _Judgement:
        calls = [(json.loads(args), json.loads(expected)) for args, expected in tests.calls]
        if not (calls or tests.code):
            return _Judgement("failed", "there are no tests")
        job = {
            "prelude": tests.prelude,
            "program": program,
            "code": tests.code,
            "function": tests.function,
            "calls": calls,
        }
        with ExitStack() as stack:
            # Requests go from the tests to the program, answers come back.
            ends = [stack.enter_context(fdopen(fd, "rb")) for fd in (*pipe(), *pipe())]
            program_in, requests, answers, program_out = ends
            process = stack.enter_context(
                self._sandbox.running("program", "objects", stdin=program_in, stdout=program_out)
            )
            fds = (requests.fileno(), answers.fileno())
            judge = stack.enter_context(self._sandbox.running("tests", *map(str, fds), fds=fds))
            for end in ends:  # so that each side sees the other's end
                end.close()
            ending = converse(judge, frame(encode(job, id)), self.limits.wall_s, 2**16)
            judgement = _read_verdict(ending)
            if judgement.detail == ENDED:
                with suppress(subprocess.TimeoutExpired):  # it may only have closed its pipes
                    status = process.wait(1.0)
                    if self._was_killed(status):
                        return _KILLED
                    return judgement._replace(detail=f"the program {_ended(status)}")
            return judgement

    def _was_killed(self, status: int) -> bool:
        """Whether bubblewrap itself was, which no program inside it can do."""
        return status < 0 and not self._sandbox.unsafe


def _read_verdict(ending: Ending) -> _Judgement:
    started, verdict = ending.stdout[:1], ending.stdout[1:].decode("utf-8", "replace")
    outcome, line_break, detail = verdict.partition("\n")
    for known in get_args(Outcome):
        if line_break and outcome == known:
            return _Judgement(known, detail)
    errors = _last_line(ending.stderr.decode(errors="replace"))
    if not started:
        return _Judgement("failed", f"the sandbox did not start: {errors}", died=True)
    if ending.cut:
        return _Judgement("incorrect", ending.cut)
    if ending.status == 128 + signal.SIGSEGV:  # comparing what is nested too deep
        return _Judgement("incorrect", "the result crashed the interpreter of the tests")
    return _Judgement("failed", f"the tests ended with status {ending.status} {errors}", died=True)


def _ended(status: int) -> str:
    killed = " (killed: the CPU limit, or no memory)" if status == 128 + signal.SIGKILL else ""
    return f"ended with status {status}{killed}"


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][-200:]


def extract_program(reply: str) -> str | None:
    """The program that a reply gives; None if it gives none.

    In the reply's answer (`final_answer`: nothing that was merely thought of), the last of the
    blocks between ``` fences that are in Python, else of those in no stated language, else of all;
    a block that is closed goes before one that only the end of the text closes. An answer without
    fences is itself the program if a line of it begins as one of Python does.
    """
    text = final_answer(reply, "code") or ""
    blocks = list(_blocks(text))
    if not blocks:
        return text if _PYTHON_LINE.search(text) else None
    best = max(block[:2] for block in blocks)
    return [content for *rank, content in blocks if tuple(rank) == best][-1].rstrip() or None


def _blocks(text: str) -> Iterator[tuple[bool, int, str]]:
    """(closed, how surely it is Python, content) of each fenced block, in order."""
    lines = text.split("\n")
    fence, rank, start = "", 0, 0
    for number, line in enumerate(lines):
        mark = _FENCE.fullmatch(line.rstrip())
        if mark is None:
            continue
        if not fence:
            fence, start = mark[1], number + 1
            language = mark[2].lower()
            rank = 2 if language.startswith("py") else 1 if not language else 0
        elif len(mark[1]) >= len(fence) and not mark[2]:
            yield True, rank, textwrap.dedent("\n".join(lines[start:number]))
            fence = ""
    if fence:
        yield False, rank, textwrap.dedent("\n".join(lines[start:]))
