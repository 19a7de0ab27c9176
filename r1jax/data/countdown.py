"""Countdown in miniature: its problems, and the corpus of traces a base model is made from.

A problem gives four numbers from 1 to 9, largest first, and a target: put + or - between them.
Of the eight ways exactly one is right, so a guess pays one time in eight, and a check is easy: it
is this asymmetry that makes reflection pay. Traces come in two styles:

    linear      9 + 5 = 14 - 4 = 10 + 2 = 12 </think> <answer> 9 + 5 - 4 + 2 </answer>
    reflective  9 + 5 = 14 - 4 = 10 + 2 = 12 check 12 = 8 wrong wait 9 + 5 = 14 - 4 = 10 - 2 = 8
                check 8 = 8 right </think> <answer> 9 + 5 - 4 - 2 </answer>

Both start from a random guess. A reflective trace goes on to the next way in a fixed order, so
that never repeating an attempt needs no more memory than the last one.
"""

import collections
import functools
import itertools

import numpy as np

from r1jax.config import CorpusConfig
from r1jax.data.problems import Problem
from r1jax.data.templates import countdown_question, opened

WAYS = tuple(itertools.product("+-", repeat=3))  # the signs between four numbers, in order
HIGHEST = 9
TAGS = ("<pad>", "<eos>", "<think>", "</think>", "<answer>", "</answer>")
WORDS = ("use", "puzzle", "to", "make", "+", "-", "=", "check", "right", "wrong", "wait")
VOCABULARY = (*TAGS, *WORDS, *(str(n) for n in range(-2 * HIGHEST, 4 * HIGHEST + 1)))


def total(numbers: tuple[int, ...], way: tuple[str, ...]) -> int:
    """What `numbers` come to with these signs between them."""
    rest = zip(way, numbers[1:], strict=True)
    return numbers[0] + sum(n if sign == "+" else -n for sign, n in rest)


@functools.cache
def problems() -> tuple[Problem, ...]:
    """Every (numbers, target >= 0) that exactly one way solves, in a fixed order."""
    found = []
    for numbers in itertools.combinations_with_replacement(range(HIGHEST, 0, -1), 4):
        ways_to = collections.Counter(total(numbers, way) for way in WAYS)
        for target in sorted(t for t, ways in ways_to.items() if t >= 0 and ways == 1):
            name = "-".join(map(str, numbers))
            found.append(
                Problem(
                    id=f"{name}={target}",
                    kind="countdown",
                    prompt=countdown_question(numbers, target),
                    answer=str(target),
                    numbers=numbers,
                    source="embedded",
                )
            )
    return tuple(found)


def split(heldout_share: float = 0.125) -> tuple[list[Problem], list[Problem]]:
    """(train, held out). Split by numbers, so that no held-out set of numbers was ever seen."""
    sets = sorted({p.numbers for p in problems()})
    chosen = np.random.default_rng(0).permutation(len(sets))[: round(heldout_share * len(sets))]
    heldout = {sets[i] for i in chosen}
    train = [p for p in problems() if p.numbers not in heldout]
    return train, [p for p in problems() if p.numbers in heldout]


def document(problem: Problem, corpus: CorpusConfig, rng: np.random.Generator) -> tuple[str, str]:
    """(prompt, reply) of one training document about `problem`, without the final <eos>."""
    practice = rng.random() < corpus.practice
    reflective = practice or rng.random() < corpus.reflective
    first_word = "puzzle" if practice else "use"
    prompt = opened(f"{first_word} {problem.prompt.removeprefix('use ')}")
    first = int(rng.integers(len(WAYS)))
    thoughts = []
    for i in range(len(WAYS)):
        way = WAYS[(first + i) % len(WAYS)]
        thoughts.append(attempt(problem.numbers, way))
        if not reflective:
            break
        result = total(problem.numbers, way)
        if result == int(problem.answer):
            thoughts.append(f"check {result} = {problem.answer} right")
            break
        if not practice and rng.random() > corpus.persistence:
            thoughts.append(f"check {result} = {problem.answer} wrong")
            break
        thoughts.append(f"check {result} = {problem.answer} wrong wait")
    signed = (f"{sign} {n}" for sign, n in zip(way, problem.numbers[1:], strict=True))
    answer = " ".join([str(problem.numbers[0]), *signed])
    return prompt, f"{' '.join(thoughts)} </think> <answer> {answer} </answer>"


def attempt(numbers: tuple[int, ...], way: tuple[str, ...]) -> str:
    """ "9 + 5 = 14 - 4 = 10 - 2 = 8": one way, with running totals."""
    words, running = [str(numbers[0])], numbers[0]
    for sign, n in zip(way, numbers[1:], strict=True):
        running += n if sign == "+" else -n
        words.append(f"{sign} {n} = {running}")
    return " ".join(words)
