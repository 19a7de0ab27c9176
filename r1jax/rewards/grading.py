"""Grades for a batch of replies: every reply gets its own, by index.

Whether an answer is right is checked by a rule, as in DeepSeek-R1-Zero (arXiv 2501.12948v1,
section 2.2.2); the reward is a weighted sum of components (r1jax/rewards/components.py). A grader
that breaks is not a wrong answer: such replies have the outcome "failed", to be counted apart,
since a bug that looks like a bad policy would otherwise train one.

What takes microseconds is checked at once. What may take for ever runs in processes that are
killed on time: formulas and reasoning-gym's scorers in a pool of workers, programs in sandboxes
of their own (r1jax/rewards/code.py). Meanwhile the caller may go on.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from r1jax.config import check
from r1jax.data.problems import Kind, Problem
from r1jax.rewards import gym
from r1jax.rewards.choice import check_choice
from r1jax.rewards.code import CodeGrader, CodeVerdict, extract_program
from r1jax.rewards.components import COMPONENTS, Checked, Component, Outcome
from r1jax.rewards.countdown import check_countdown
from r1jax.rewards.format import final_answer
from r1jax.rewards.math import compare_numbers, grade_math
from r1jax.rewards.sandbox import Limits
from r1jax.rewards.words import share_of_words
from r1jax.rewards.workers import Job, WorkerDied, Workers

ALWAYS = ("accuracy", "format")  # components that every grade has, whatever their weight


@dataclass(frozen=True)
class Grade:
    """One reply's grade: `components` are unweighted; `reward` is their weighted sum.

    outcome: of the check of the answer; `detail` says why where it is "failed".
    seconds: that the check took; equal answers to a problem are checked once.
    answer, check: what was read from the reply, and what it was checked by.
    """

    outcome: Outcome
    components: dict[str, float]
    reward: float
    detail: str = ""
    seconds: float = 0.0
    answer: str | None = None
    check: str = ""

    @property
    def accuracy(self) -> float:
        return self.components["accuracy"]

    @property
    def format(self) -> float:
        return self.components["format"]


class Pending:
    """Grades that are being made."""

    def __init__(self, finish: Callable[[], list[Grade]]):
        self._finish = functools.cache(finish)

    def result(self) -> list[Grade]:
        """Waits; the grade of each reply, by index."""
        return self._finish()


_Item = tuple[Problem, str | None]  # a problem and the answer read from a reply


class _Verdict(NamedTuple):
    outcome: Outcome
    credit: float = 0.0
    detail: str = ""
    seconds: float = 0.0
    check: str = ""


_Check = Callable[[], _Verdict]  # waits, where it must
_Slow = Callable[[str, str], bool | float | None]  # answer, reference -> as `_verdict` reads it

# What may take for ever, by kind, and what it is called.
SLOW: dict[Kind, tuple[_Slow, str]] = {
    "math": (grade_math, "formulas"),
    "gym": (gym.score_gym, "reasoning-gym"),
}


class Grader:
    """Grades replies; a context manager, since it may hold worker processes.

    weights: of components in the reward, by name. One left out counts 0 and is not computed, but
        for ALWAYS; one of weight 0 is logged all the same.
    components: what the names mean.
    workers: processes for formulas and puzzles, started at the first that needs one, by spawning (a
        script must guard its entry with `if __name__ == "__main__"`); programs that run at once.
    timeout_s: seconds that the check of a formula or a puzzle may take before it is killed.
    limits, unsafe: of the sandboxes of programs; see CodeGrader.

    Raises InputError for unknown weights or sizes that are not positive.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        workers: int = 1,
        timeout_s: float = 5.0,
        components: Mapping[str, Component] = COMPONENTS,
        limits: Limits | None = None,
        unsafe: bool = False,
    ):
        for name in weights:
            check(
                name in components,
                f"Grader.weights: unknown component {name!r}, must be one "
                f"of {', '.join(components)}",
            )
        check(bool(weights), "Grader.weights is empty")
        check(workers > 0, f"Grader.workers must be positive, got {workers}")
        check(timeout_s > 0, f"Grader.timeout_s must be positive, got {timeout_s}")
        self.weights = dict(weights)
        self.components = {n: components[n] for n in dict.fromkeys((*ALWAYS, *weights))}
        self._workers = Workers(workers, timeout_s, _warm_up)
        self._sandboxes: CodeGrader | None = None
        self._new_sandboxes = functools.partial(CodeGrader, workers, limits, unsafe)

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes; a later `grade` starts new ones."""
        self._workers.close()
        if self._sandboxes is not None:
            self._sandboxes.close()
            self._sandboxes = None

    def require(self, problems: Sequence[Problem]) -> None:
        """Raises InputError if this host cannot grade such problems: better before any work.

        Starts what their grading needs, so that no batch waits for it.
        """
        if any(problem.tests is not None for problem in problems):
            self._start_sandboxes()
        if any(problem.kind == "gym" for problem in problems):
            gym.require()
        if any(problem.kind in SLOW for problem in problems):
            self._workers.submit(_warm_up)

    def grade(
        self,
        problems: Sequence[Problem],
        replies: Sequence[str],
        tokens: Sequence[int] | None = None,
    ) -> list[Grade]:
        """`submit`, and its result."""
        return self.submit(problems, replies, tokens).result()

    def submit(
        self,
        problems: Sequence[Problem],
        replies: Sequence[str],
        tokens: Sequence[int] | None = None,
    ) -> Pending:
        """Begins to grade each reply to the problem of the same index, and returns at once.

        A reply is complete: it begins with the `<think>` even where the prompt forced it, and has
        no end-of-sequence token. `tokens` are the lengths of the replies as they were drawn.
        Equal answers to equal problems are checked once. A check that fails, because its worker
        died, say, is tried once more, in a new one, and then reported as "failed".
        """
        for values in (replies, problems if tokens is None else tokens):
            if len(values) != len(problems):
                raise ValueError(f"{len(problems)} problems but {len(values)} replies")
        items = [(p, _answer(p, reply)) for p, reply in zip(problems, replies, strict=True)]
        begun = {item: self._begin(*item) for item in dict.fromkeys(items)}
        lengths = [None] * len(items) if tokens is None else tokens

        def finish() -> list[Grade]:
            verdicts = self._finish(begun)
            found = [verdicts[item] for item in items]
            batch = [
                Checked(problem, reply, verdict.outcome, verdict.credit, length)
                for problem, reply, verdict, length in zip(
                    problems, replies, found, lengths, strict=True
                )
            ]
            columns = [component(batch) for component in self.components.values()]
            rows = zip(*columns, strict=True)
            return [
                self._grade(verdict, answer, row)
                for verdict, (_, answer), row in zip(found, items, rows, strict=True)
            ]

        return Pending(finish)

    def _grade(self, verdict: _Verdict, answer: str | None, row: Sequence[float]) -> Grade:
        components = dict(zip(self.components, row, strict=True))
        reward = sum(weight * components[name] for name, weight in self.weights.items())
        outcome, _, detail, seconds, check = verdict
        return Grade(outcome, components, reward, detail, seconds, answer, check)

    def _begin(self, problem: Problem, answer: str | None) -> _Check:
        """Checks at once what takes microseconds, and asks for a check of what does not."""
        if answer is None:
            return lambda: _Verdict("unparseable")
        verdict = _quick_verdict(problem, answer)
        if verdict is not None:
            return lambda: verdict
        if problem.tests is not None:
            program = self._start_sandboxes().submit(problem.tests, answer)
            return functools.partial(_from_sandbox, program)
        if problem.kind == "gym":
            gym.require()
        function, name = SLOW[problem.kind]
        job = self._workers.submit(_timed, function, answer, problem.answer)
        return functools.partial(self._from_worker, job, name)

    def _start_sandboxes(self) -> CodeGrader:
        if self._sandboxes is None:
            self._sandboxes = self._new_sandboxes()
        return self._sandboxes

    def _finish(self, begun: Mapping[_Item, _Check]) -> dict[_Item, _Verdict]:
        verdicts = {item: check() for item, check in begun.items()}
        again = {item: self._begin(*item) for item, v in verdicts.items() if v.outcome == "failed"}
        return verdicts | {item: check() for item, check in again.items()}

    def _from_worker(self, job: Job, name: str) -> _Verdict:
        try:
            score, seconds = self._workers.result(job)
            return _verdict(score, name, seconds)
        except (TimeoutError, WorkerDied) as error:
            seconds = self._workers.timeout_s if isinstance(error, TimeoutError) else 0.0
            return _Verdict("failed", 0.0, str(error), seconds, name)
        except Exception as error:
            return _Verdict("failed", 0.0, _describe(error), check=name)


def _answer(problem: Problem, reply: str) -> str | None:
    answer = final_answer(reply, problem.kind)
    return extract_program(answer) if answer and problem.kind == "code" else answer


def _timed(function: _Slow, answer: str, reference: str) -> tuple[bool | float | None, float]:
    """Runs in a worker: what the function gives, and the seconds that it took."""
    started = time.perf_counter()
    return function(answer, reference), time.perf_counter() - started


def _warm_up() -> None:
    """Runs in each new worker, so that loading sympy and the parser costs no item its time."""
    grade_math("x + 1", "1 + x")


def _quick_verdict(problem: Problem, answer: str) -> _Verdict | None:
    """A verdict that takes microseconds; None for what must be checked elsewhere."""
    started = time.perf_counter()
    score: bool | float | None
    try:
        match problem.kind:
            case "countdown":
                name = "exact fractions"
                score = check_countdown(answer, problem.numbers, int(problem.answer))
            case "choice":
                name, score = "letter", check_choice(answer, problem.choices, problem.answer)
            case "words":
                name, score = "whole words", share_of_words(answer, problem.answer)
            case "math":
                name, score = "exact numbers", compare_numbers(answer, problem.answer)
                if score is None:
                    return None
            case "code" if problem.tests is None:
                raise ValueError("a program without tests")
            case _:
                return None
    except Exception as error:
        return _Verdict("failed", 0.0, _describe(error))
    return _verdict(score, name, time.perf_counter() - started)


def _verdict(score: bool | float | None, name: str, seconds: float) -> _Verdict:
    """None is an answer that cannot be read; only full marks are correct, less is credit."""
    if score is None:
        return _Verdict("unparseable", seconds=seconds, check=name)
    outcome: Outcome = "correct" if score >= 1 else "incorrect"
    return _Verdict(outcome, float(score), "", seconds, name)


def _from_sandbox(program: Future[CodeVerdict]) -> _Verdict:
    found = program.result()
    credit = float(found.outcome == "correct")
    return _Verdict(found.outcome, credit, found.detail, found.seconds, "tests")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
