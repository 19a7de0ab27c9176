"""Rewards for a batch of replies: every reply gets its own grade, by index.

Rewards are rules only, as in DeepSeek-R1-Zero (arXiv 2501.12948v1, section 2.2.2): accuracy, and
a strict format, weighted and summed. A grader that breaks is not a wrong answer: such replies
have the outcome "failed", to be counted apart, since a bug that looks like a bad policy would
otherwise train one.
"""

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pebble import ProcessExpired, ProcessPool

from r1jax.config import check
from r1jax.data.problems import Problem
from r1jax.rewards.countdown import check_countdown
from r1jax.rewards.format import extract_answer, last_boxed, parse_reply
from r1jax.rewards.math import compare_numbers, grade_math

Outcome = Literal["correct", "incorrect", "unparseable", "failed"]

COMPONENTS = ("accuracy", "format")
START_S = 60.0  # how long a worker may take to start


@dataclass(frozen=True)
class Grade:
    """One reply's grade: `components` are unweighted, in [0, 1]; `reward` is their weighted sum.

    outcome: of the accuracy check; `detail` says why where it is "failed".
    """

    outcome: Outcome
    components: dict[str, float]
    reward: float
    detail: str = ""

    @property
    def accuracy(self) -> float:
        return self.components["accuracy"]

    @property
    def format(self) -> float:
        return self.components["format"]


_Pair = tuple[Problem, str | None]  # a problem and the answer extracted from a reply


class _Verdict(NamedTuple):
    outcome: Outcome
    detail: str = ""
    retry: bool = False  # the worker died or was killed: the item may be innocent


_OUTCOMES: dict[bool | None, Outcome] = {True: "correct", False: "incorrect", None: "unparseable"}


class Grader:
    """Grades replies; a context manager, since it may hold worker processes.

    weights: of each of COMPONENTS in the reward; one left out counts 0.
    workers, timeout_s: processes for mathematical expressions, and the seconds that each
    expression may take before its worker is killed. They start at the first expression that needs
    one, by spawning: a script must guard its entry with `if __name__ == "__main__"`.

    Raises InputError for unknown weights or sizes that are not positive.
    """

    def __init__(self, weights: Mapping[str, float], workers: int = 1, timeout_s: float = 5.0):
        for name in weights:
            check(
                name in COMPONENTS,
                f"Grader.weights: unknown component {name!r}, must be one "
                f"of {', '.join(COMPONENTS)}",
            )
        check(bool(weights), "Grader.weights is empty")
        check(workers > 0, f"Grader.workers must be positive, got {workers}")
        check(timeout_s > 0, f"Grader.timeout_s must be positive, got {timeout_s}")
        self.weights = dict(weights)
        self.workers = workers
        self.timeout_s = timeout_s
        self._pool: ProcessPool | None = None

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes; a later `grade` starts new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def grade(self, problems: Sequence[Problem], replies: Sequence[str]) -> list[Grade]:
        """The grade of each reply to the problem of the same index.

        A reply is complete: it begins with the `<think>` even where the prompt forced it, and has
        no end-of-sequence token. Equal answers to equal problems are checked once.
        """
        if len(problems) != len(replies):
            raise ValueError(f"{len(problems)} problems but {len(replies)} replies")
        pairs = [(p, _answer(p, reply)) for p, reply in zip(problems, replies, strict=True)]
        verdicts: dict[_Pair, _Verdict] = {}
        slow: list[_Pair] = []
        for pair in dict.fromkeys(pairs):
            verdict = _quick_verdict(*pair)
            if verdict is None:
                slow.append(pair)
            else:
                verdicts[pair] = verdict
        verdicts |= zip(slow, self._slow_verdicts(slow), strict=True)
        return [
            self._grade(verdicts[pair], reply) for pair, reply in zip(pairs, replies, strict=True)
        ]

    def _grade(self, verdict: _Verdict, reply: str) -> Grade:
        components = {
            "accuracy": float(verdict.outcome == "correct"),
            "format": float(parse_reply(reply) is not None),
        }
        reward = sum(weight * components[name] for name, weight in self.weights.items())
        return Grade(verdict.outcome, components, reward, verdict.detail)

    def _slow_verdicts(self, pairs: Sequence[_Pair]) -> list[_Verdict]:
        verdicts = self._attempt(pairs)
        again = [i for i, verdict in enumerate(verdicts) if verdict.retry]
        retried = self._attempt([pairs[i] for i in again])
        for i, verdict in zip(again, retried, strict=True):
            verdicts[i] = verdict
        return verdicts

    def _attempt(self, pairs: Sequence[_Pair]) -> list[_Verdict]:
        """One try at each pair, in the workers."""
        if not pairs:
            return []
        if self._pool is None or not self._pool.active:
            self.close()
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPool(self.workers, initializer=_warm_up, context=spawn)
        pool = self._pool
        try:
            futures = [
                pool.schedule(grade_math, (answer, problem.answer), timeout=self.timeout_s)
                for problem, answer in pairs
            ]
        except RuntimeError:  # the pool broke meanwhile
            return [_Verdict("failed", "the grading workers died", retry=True)] * len(pairs)
        return [self._collect(pool, future) for future in futures]

    def _collect(self, pool: ProcessPool, future: Future) -> _Verdict:
        # Pebble gives up a whole pool when an idle worker is killed, and then may leave a future
        # for ever undone. Items start in order, so that the next one is due within two time-outs.
        deadline = time.monotonic() + START_S + 2 * self.timeout_s
        while not future.done():
            if not pool.active or time.monotonic() > deadline:
                pool.stop()
                return _Verdict("failed", "the grading workers died", retry=True)
            wait([future], timeout=0.2)
        try:
            return _Verdict(_OUTCOMES[future.result()])
        except TimeoutError:
            return _Verdict("failed", f"took over {self.timeout_s:g} s", retry=True)
        except (ProcessExpired, BrokenProcessPool) as error:
            return _Verdict("failed", f"the grading worker died: {error}", retry=True)
        except Exception as error:
            return _Verdict("failed", f"{type(error).__name__}: {error}")


def _warm_up() -> None:
    """Runs in each new worker, so that loading sympy and the parser costs no item its time."""
    grade_math("x + 1", "1 + x")


def _answer(problem: Problem, reply: str) -> str | None:
    answer = extract_answer(reply)
    if answer is not None and problem.kind == "math":
        return last_boxed(answer) or answer
    return answer


def _quick_verdict(problem: Problem, answer: str | None) -> _Verdict | None:
    """A verdict that takes microseconds; None for what a worker must look at."""
    if not answer:
        return _Verdict("unparseable")
    try:
        if problem.kind == "countdown":
            correct = check_countdown(answer, problem.numbers, int(problem.answer))
            return _Verdict(_OUTCOMES[correct])
        equal = compare_numbers(answer, problem.answer)
        return None if equal is None else _Verdict(_OUTCOMES[equal])
    except Exception as error:
        return _Verdict("failed", f"{type(error).__name__}: {error}")


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13), in [-1, 0].

    0 up to max_length - buffer tokens, falling linearly to -1 at max_length, -1 beyond.
    """
    check(0 < buffer <= max_length, f"buffer must be in 1..{max_length}, got {buffer}")
    return min(0.0, max(-1.0, (max_length - buffer - length) / buffer))
