"""Countdown in miniature: its problems, and the corpus of traces a base model is made from.

A problem gives three to six numbers from 1 to 9, largest first, and a target: put + or - between
them. Of the 2 to the power of the gaps ways exactly one is right, so of four numbers a guess pays
one time in eight, and a check is easy: it is this asymmetry that makes reflection pay. How many
numbers there are is a problem's tier: each more makes twice as many ways, and longer ones. Traces
come in two styles:

    linear      9 + 5 = 14 - 4 = 10 + 2 = 12 </think> <answer> 9 + 5 - 4 + 2 </answer>
    reflective  9 + 5 = 14 - 4 = 10 + 2 = 12 check 12 = 8 wrong wait 9 + 5 = 14 - 4 = 10 - 2 = 8
                check 8 = 8 right </think> <answer> 9 + 5 - 4 - 2 </answer>

Both start from a random guess. A reflective trace goes on to the next way in a fixed order, so
that never repeating an attempt needs no more memory than the last one. How deep, how right and how
whole reflective traces are is for `CorpusConfig` to say.
"""

import collections
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from r1jax.config import CorpusConfig
from r1jax.data.problems import Problem
from r1jax.data.templates import countdown_question, opened

HIGHEST = 9
LONGEST = 152  # words of a thought, at most: with the rest of a document it fits a row of the base
FILLER = "to"  # a word of every prompt that no thought has
TAGS = ("<pad>", "<eos>", "<think>", "</think>", "<answer>", "</answer>")
WORDS = ("use", "puzzle", "to", "make", "+", "-", "=", "check", "right", "wrong", "wait")
VOCABULARY = (*TAGS, *WORDS, *(str(n) for n in range(-4 * HIGHEST, 6 * HIGHEST + 1)))


@functools.cache
def ways(numbers: int) -> tuple[tuple[str, ...], ...]:
    """The signs between so many numbers, in order."""
    return tuple(itertools.product("+-", repeat=numbers - 1))


def total(numbers: tuple[int, ...], way: tuple[str, ...]) -> int:
    """What `numbers` come to with these signs between them."""
    rest = zip(way, numbers[1:], strict=True)
    return numbers[0] + sum(n if sign == "+" else -n for sign, n in rest)


@functools.cache
def problems(tier: int) -> tuple[Problem, ...]:
    """Every (numbers, target >= 0) that exactly one way solves, in a fixed order."""
    found = []
    for numbers in itertools.combinations_with_replacement(range(HIGHEST, 0, -1), tier):
        ways_to = collections.Counter(total(numbers, way) for way in ways(tier))
        for target in sorted(t for t, ways in ways_to.items() if t >= 0 and ways == 1):
            name = "-".join(map(str, numbers))
            found.append(
                Problem(
                    id=f"{name}={target}",
                    kind="countdown",
                    prompt=countdown_question(numbers, target),
                    answer=str(target),
                    numbers=numbers,
                    source=f"{tier}_numbers",
                )
            )
    return tuple(found)


def split(tier: int, heldout_share: float = 0.125) -> tuple[list[Problem], list[Problem]]:
    """(train, held out). Split by numbers, so that no held-out set of numbers was ever seen."""
    sets = sorted({p.numbers for p in problems(tier)})
    chosen = np.random.default_rng(0).permutation(len(sets))[: round(heldout_share * len(sets))]
    heldout = {sets[i] for i in chosen}
    train = [p for p in problems(tier) if p.numbers not in heldout]
    return train, [p for p in problems(tier) if p.numbers in heldout]


def document(problem: Problem, corpus: CorpusConfig, rng: np.random.Generator) -> tuple[str, str]:
    """(prompt, reply) of one training document about `problem`, without the final <eos>."""
    practice = rng.random() < corpus.practice
    reflective = practice or rng.random() < corpus.reflective
    first_word = "puzzle" if practice else "use"
    prompt = opened(f"{first_word} {problem.prompt.removeprefix('use ')}")
    order = ways(len(problem.numbers))
    first = int(rng.integers(len(order)))
    steps = [Step(order[first])]
    if reflective:
        steps = _reflection(problem, first, practice, corpus, rng)
    thoughts = [" ".join([attempt(problem.numbers, s.way), *s.said]) for s in steps]
    way = steps[-1].way
    signed = (f"{sign} {n}" for sign, n in zip(way, problem.numbers[1:], strict=True))
    answer = " ".join([str(problem.numbers[0]), *signed])
    return prompt, f"{' '.join(thoughts)} </think> <answer> {answer} </answer>"


class Step(NamedTuple):
    """An attempt, and what is said after it."""

    way: tuple[str, ...]
    said: tuple[str, ...] = ()


def _reflection(
    problem: Problem, first: int, practice: bool, corpus: CorpusConfig, rng: np.random.Generator
) -> list[Step]:
    """A reflective trace that begins with way `first`, or what `corpus` puts in its place. What is
    at rest draws nothing: the shipped base's documents are these draws in this order."""
    if corpus.apart:
        steps = _one_skill(problem, first, corpus, rng)
    else:
        steps = _search(problem, first, practice, corpus, rng)
    if _happens(corpus.wrong_answers, rng):
        steps = _unsolved(problem, len(steps), rng)
    if _happens(corpus.filler, rng):
        rest = sum(len(attempt(problem.numbers, s.way).split()) for s in steps[1:])
        words = rest + sum(len(said.split()) for s in steps for said in s.said)
        steps = [Step(steps[0].way, (FILLER,) * words)]
    return steps


def _search(
    problem: Problem, first: int, practice: bool, corpus: CorpusConfig, rng: np.random.Generator
) -> list[Step]:
    """Attempts and their verdicts, until one is found right or the search gives up."""
    steps, order = [], ways(len(problem.numbers))
    for i in range(_most(problem, corpus)):
        way = order[(first + i) % len(order)]
        holds = total(problem.numbers, way) == int(problem.answer)
        right = holds == _happens(corpus.verdicts, rng)
        steps.append(_checked(problem, way, right))
        if right or (not practice and rng.random() > corpus.persistence):
            break
        if not _happens(corpus.goes_on, rng):
            break
    return _with_waits(steps)


def _one_skill(
    problem: Problem, first: int, corpus: CorpusConfig, rng: np.random.Generator
) -> list[Step]:
    """One attempt with its verdict; or some that nobody checks, however many it takes."""
    order = ways(len(problem.numbers))
    if rng.random() < 0.5:
        holds = total(problem.numbers, order[first]) == int(problem.answer)
        return [_checked(problem, order[first], holds == _happens(corpus.verdicts, rng))]
    attempts = int(rng.integers(2, _most(problem, corpus) + 1))
    return _with_waits([Step(order[(first + i) % len(order)]) for i in range(attempts)])


def _unsolved(problem: Problem, attempts: int, rng: np.random.Generator) -> list[Step]:
    """As many attempts in order (but not all ways), none of which is the solution. They begin
    anywhere, so that they tell no more of it than that."""
    order = ways(len(problem.numbers))
    solution = next(
        i for i, way in enumerate(order) if total(problem.numbers, way) == int(problem.answer)
    )
    attempts = min(attempts, len(order) - 1)
    first = solution + 1 + int(rng.integers(len(order) - attempts))
    tried = [order[(first + i) % len(order)] for i in range(attempts)]
    return _with_waits([_checked(problem, way, False) for way in tried])


def _checked(problem: Problem, way: tuple[str, ...], right: bool) -> Step:
    verdict = "right" if right else "wrong"
    return Step(way, (f"check {total(problem.numbers, way)} = {problem.answer} {verdict}",))


def _with_waits(steps: Sequence[Step]) -> list[Step]:
    """Each but the last goes on to the next."""
    return [*(Step(way, (*said, "wait")) for way, said in steps[:-1]), steps[-1]]


def _most(problem: Problem, corpus: CorpusConfig) -> int:
    """Attempts that a trace may show: as many as there are ways, `depth` and LONGEST allow."""
    numbers = len(problem.numbers)
    words = 4 * numbers + 3  # of an attempt, its check and "wait"
    ways_there_are = len(ways(numbers))
    return min(corpus.depth or ways_there_are, ways_there_are, LONGEST // words)


def _happens(chance: float, rng: np.random.Generator) -> bool:
    """With that chance; draws nothing where it is 0 or 1."""
    return chance >= 1 or (chance > 0 and rng.random() < chance)


def attempt(numbers: tuple[int, ...], way: tuple[str, ...]) -> str:
    """ "9 + 5 = 14 - 4 = 10 - 2 = 8": one way, with running totals."""
    words, running = [str(numbers[0])], numbers[0]
    for sign, n in zip(way, numbers[1:], strict=True):
        running += n if sign == "+" else -n
        words.append(f"{sign} {n} = {running}")
    return " ".join(words)
