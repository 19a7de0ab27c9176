"""The checks of an answer, by kind of problem: which there are, and what they come to."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from r1jax.data import gym
from r1jax.data.problems import Kind, Problem
from r1jax.rewards.asked import expected, is_copied
from r1jax.rewards.choice import check_choice
from r1jax.rewards.code import CodeVerdict, extract_program
from r1jax.rewards.components import Outcome
from r1jax.rewards.countdown import check_countdown
from r1jax.rewards.format import final_answer
from r1jax.rewards.instructions import share_followed
from r1jax.rewards.math import grade_math
from r1jax.rewards.own import Raised
from r1jax.rewards.rational import compare_numbers
from r1jax.rewards.words import share_of_words
from r1jax.rewards.workers import WorkerDied


class Verdict(NamedTuple):
    outcome: Outcome
    credit: float = 0.0
    detail: str = ""
    seconds: float = 0.0
    check: str = ""
    died: bool = False  # its process did: the answer may be innocent


Slow = Callable[[str, str], bool | float | None]  # answer, reference -> as `verdict_of` reads it

# What may take for ever, by kind, and what it is called.
SLOW: dict[Kind, tuple[Slow, str]] = {
    "math": (grade_math, "formulas"),
    "gym": (gym.score_gym, "reasoning-gym"),
    "instructions": (share_followed, "instructions"),
}


def answer_of(problem: Problem, reply: str) -> str | None:
    answer = final_answer(reply, problem.kind)
    return extract_program(answer) if answer and problem.kind == "code" else answer


def reference_of(problem: Problem) -> str:
    """What the slow check compares with."""
    return expected(problem.answer, problem.prompt) if problem.kind == "math" else problem.answer


def timed(function: Slow, answer: str, reference: str) -> tuple[bool | float | None, float]:
    """Runs in a worker: what the function gives, and the seconds that it took."""
    started = time.perf_counter()
    return function(answer, reference), time.perf_counter() - started


def quick_verdict(problem: Problem, answer: str) -> Verdict | None:
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
                    if not is_copied(answer, problem.prompt, problem.answer):
                        return None
                    name, score = "copied from the question", False
            case "code" if problem.tests is None:
                raise ValueError("a program without tests")
            case _:
                return None
    except Exception as error:
        return Verdict("failed", 0.0, describe(error))
    return verdict_of(score, name, time.perf_counter() - started)


def verdict_of(score: bool | float | None, name: str, seconds: float) -> Verdict:
    """None is an answer that cannot be read; only full marks are correct, less is credit."""
    if score is None:
        return Verdict("unparseable", seconds=seconds, check=name)
    outcome: Outcome = "correct" if score >= 1 else "incorrect"
    return Verdict(outcome, float(score), "", seconds, name)


def from_sandbox(program: Future[CodeVerdict]) -> Verdict:
    found = program.result()
    credit = float(found.outcome == "correct")
    return Verdict(found.outcome, credit, found.detail, found.seconds, "tests", found.died)


def describe(error: Exception) -> str:
    """In one line; what the workers and a user's function say of themselves needs no name."""
    told = isinstance(error, (TimeoutError, WorkerDied, Raised))
    name = "" if told else f"{type(error).__name__}: "
    return f"{name}{error}"
