"""Replies to countdown problems of which it is known what is good about them.

For reward models that train in a minute, with nothing to download. Every reply makes some
attempts, finds the one right way among them, and says so. A good one stops there and answers with
it; a bad one thinks again, and answers with a later, wrong attempt:

    good  9 + 5 = 14 - 4 = 10 + 2 = 12 check 12 = 8 wrong wait 9 + 5 = 14 - 4 = 10 - 2 = 8
          check 8 = 8 right <answer> 9 + 5 - 4 - 2 </answer>
    bad   9 + 5 = 14 - 4 = 10 - 2 = 8 check 8 = 8 right wait 9 + 5 = 14 - 4 = 10 + 2 = 12
          check 12 = 8 wrong <answer> 9 + 5 - 4 + 2 </answer>

So both have the same words, as often; only their order tells.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from r1jax.data.countdown import attempt, split, total, ways
from r1jax.data.problems import Problem
from r1jax.reward_models.pairs import Labelled, Pair

ATTEMPTS = (2, 3, 4)
TIER = 4  # numbers of a problem
WAYS = ways(TIER)
T = TypeVar("T")


def preferences(
    count: int, longer: float, mistaken: float, heldout_share: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """(train, held out): `count` pairs, and a quarter as many about numbers never trained on.

    The attempts are in the summary; the thought before it is one attempt at random. Training pairs
    are as from poor judges: in a share `mistaken` the bad reply is the chosen one, and in a share
    `longer` the chosen one has more attempts than the other, in the rest fewer. Held-out pairs are
    as they should be: the good reply is always the chosen one, the longer one half of the time.
    """

    def reply(problem: Problem, good: bool, attempts: int, rng: np.random.Generator) -> str:
        thought = attempt(problem.numbers, WAYS[rng.integers(len(WAYS))])
        shown = " ".join(_attempts_and_answer(problem, good, attempts, rng))
        return f"<think> {thought} </think> {shown}"

    def judge(longer: float, mistaken: float) -> Callable[[Problem, np.random.Generator], Pair]:
        def pair(problem: Problem, rng: np.random.Generator) -> Pair:
            good = bool(rng.random() >= mistaken)
            few, many = sorted(rng.choice(ATTEMPTS, size=2, replace=False))
            chosen, rejected = (many, few) if rng.random() < longer else (few, many)
            return Pair(
                problem.prompt,
                reply(problem, good, chosen, rng),
                reply(problem, not good, rejected, rng),
            )

        return pair

    train, heldout = split(TIER, heldout_share)
    return (
        _drawn(train, count, (seed, 0), judge(longer, mistaken)),
        _drawn(heldout, _quarter(count), (seed, 1), judge(0.5, 0.0)),
    )


def labelled(count: int, heldout_share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """(train, held out): as `preferences`, replies with a label: half of them good, called safe.

    The attempts are in the thought, so that the whole reply has to be read.
    """

    def one(problem: Problem, rng: np.random.Generator) -> Labelled:
        safe = bool(rng.random() < 0.5)
        attempts, answer = _attempts_and_answer(problem, safe, int(rng.choice(ATTEMPTS)), rng)
        return Labelled(problem.prompt, f"<think> {attempts} </think> {answer}", safe)

    train, heldout = split(TIER, heldout_share)
    return _drawn(train, count, (seed, 2), one), _drawn(heldout, _quarter(count), (seed, 3), one)


def _quarter(count: int) -> int:
    return max(1, count // 4)


def _drawn(
    problems: list[Problem],
    count: int,
    seed: tuple[int, int],
    draw: Callable[[Problem, np.random.Generator], T],
) -> list[T]:
    rng = np.random.default_rng(seed)
    return [draw(problems[rng.integers(len(problems))], rng) for _ in range(count)]


def _attempts_and_answer(
    problem: Problem, good: bool, attempts: int, rng: np.random.Generator
) -> tuple[str, str]:
    target = int(problem.answer)
    solves = [total(problem.numbers, way) == target for way in WAYS]
    wrong = [way for way, ok in zip(WAYS, solves, strict=True) if not ok]
    tried = [wrong[i] for i in rng.choice(len(wrong), size=attempts - 1, replace=False)]
    tried.insert(len(tried) if good else rng.integers(len(tried)), WAYS[solves.index(True)])
    attempts_made = " wait ".join(
        f"{attempt(problem.numbers, way)} check {total(problem.numbers, way)} = {target} "
        f"{'right' if total(problem.numbers, way) == target else 'wrong'}"
        for way in tried
    )
    signed = (f"{sign} {n}" for sign, n in zip(tried[-1], problem.numbers[1:], strict=True))
    return attempts_made, f"<answer> {' '.join([str(problem.numbers[0]), *signed])} </answer>"
