"""cons@k: is the answer that most of k replies give the right one?

Replies vote by their answers; one that has none does not vote. Where several answers share the
first place, one of them is taken at random: of t tied ones, the right one among them, the value is
1/t. For k below the number of replies it is the mean over all subsets of k, exactly.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from r1jax.data.problems import Problem
from r1jax.rewards.choice import chosen_letter
from r1jax.rewards.grading import Grade
from r1jax.rewards.rational import number

RIGHT = "right"  # the class of all right answers, however they are written
VOTING = ("math", "choice", "countdown")  # kinds of problem whose answers can agree


@dataclasses.dataclass(frozen=True)
class Consensus:
    """value: of cons@k, in [0, 1]. ties: the share of subsets where the first place is shared."""

    value: float
    ties: float


def vote(problem: Problem, grade: Grade) -> Hashable:
    """What a reply votes for; None: it does not. Wrong answers are the same if they are the same
    number, option or text."""
    if grade.outcome == "correct":
        return RIGHT
    if grade.outcome != "incorrect" or grade.answer is None:
        return None
    if problem.kind == "choice":
        return chosen_letter(grade.answer, problem.choices)
    value = number(grade.answer) if problem.kind == "math" else None
    return "".join(grade.answer.split()).lower() if value is None else value


def consensus(votes: Sequence[Hashable], k: int) -> Consensus:
    """Over all subsets of k of one question's votes. Raises ValueError unless 0 < k <= votes."""
    if not 0 < k <= len(votes):
        raise ValueError(f"cons@{k} of {len(votes)} replies")
    counts = Counter(v for v in votes if v is not None)
    right, silent = counts.pop(RIGHT, 0), sum(v is None for v in votes)
    wrong = list(counts.values())
    total = math.comb(len(votes), k)
    value = ties = 0.0
    # By how many votes the first place has, and whether the right answer shares it.
    for most in range(1, k + 1):
        tables = _tables(wrong, most, k)
        for mine in range(min(right, most) + 1):
            for tied in range(tables.shape[1]):
                first = tied + (mine == most)
                if not first:
                    continue
                rest = k - mine  # among wrong answers and silent ones
                ways = sum(
                    int(tables[m, tied]) * math.comb(silent, rest - m) for m in range(rest + 1)
                )
                chance = math.comb(right, mine) * ways / total
                value += chance / first if mine == most else 0.0
                ties += chance if first > 1 else 0.0
    return Consensus(value, ties)


def _tables(wrong: Sequence[int], most: int, k: int) -> np.ndarray:
    """[m, t]: in how many ways m of the wrong votes can be chosen so that none of their answers has
    over `most`, and t have just as many. Python's integers: 64 over 32 is beyond a float's."""
    room = min(len(wrong), k // most)
    table = np.zeros((k + 1, room + 1), object)
    table[0, 0] = 1
    for count in wrong:
        after = np.zeros_like(table)
        for taken in range(min(count, most, k) + 1):
            ways, first = math.comb(count, taken), int(taken == most)
            moved = table[: k + 1 - taken, : room + 1 - first] * ways
            after[taken:, first:] += moved
        table = after
    return table
