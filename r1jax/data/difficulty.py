"""Problems that a policy always or never solves teach it nothing: every advantage of such a group
is 0. Dropping them beforehand is DAPO's dynamic sampling (arXiv 2503.14476, section 3.2) for
problems that were sampled once and for all; `r1jax.rl.loop` does it as it draws.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.checks import check
from r1jax.data.problems import Problem
from r1jax.data.rows import field, read_jsonl

OUTCOMES = ("correct", "incorrect", "unparseable", "failed")


@dataclasses.dataclass(frozen=True)
class Tally:
    """Graded replies to one problem; those whose grader failed say nothing about it."""

    correct: int = 0
    graded: int = 0

    @property
    def rate(self) -> float:
        return self.correct / self.graded


@dataclasses.dataclass(frozen=True)
class Sorted:
    """Problems by how often they were solved, each in its order."""

    kept: list[Problem]  # `unknown` ones included
    never: list[Problem]
    always: list[Problem]
    unknown: list[Problem]  # too few graded replies to tell


def read_tallies(path: str | Path) -> dict[str, Tally]:
    """By problem id, of a file of `experiments.grade --out` or of a run's samples.jsonl.

    Raises InputError with file:line for a row without an id or an outcome.
    """

    def parse(row: dict[str, Any], line: int) -> tuple[str, str]:
        name = field(row, "problem_id" if "problem_id" in row else "id", str)
        outcome = field(row, "outcome", str)
        check(outcome in OUTCOMES, f'field "outcome" must be one of {", ".join(OUTCOMES)}')
        return name, outcome

    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, outcome in read_jsonl(path, parse):
        counts[name][0] += outcome == "correct"
        counts[name][1] += outcome != "failed"
    return {name: Tally(*count) for name, count in counts.items()}


def by_difficulty(
    problems: Sequence[Problem],
    tallies: Mapping[str, Tally],
    lowest: float = 0.0,
    highest: float = 1.0,
    min_samples: int = 4,
) -> Sorted:
    """Keeps problems whose share of correct replies lies between `lowest` and `highest`, both
    excluded, and those with fewer than `min_samples` graded replies, of which it cannot be told."""
    check(0 <= lowest < highest <= 1, f"0 <= lowest < highest <= 1, got {lowest:g}, {highest:g}")
    check(min_samples > 0, f"min_samples must be positive, got {min_samples}")
    found = Sorted([], [], [], [])
    for problem in problems:
        tally = tallies.get(problem.id, Tally())
        if tally.graded < min_samples:
            found.unknown.append(problem)
        elif tally.rate <= lowest:
            found.never.append(problem)
            continue
        elif tally.rate >= highest:
            found.always.append(problem)
            continue
        found.kept.append(problem)
    return found
