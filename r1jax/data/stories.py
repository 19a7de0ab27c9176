"""A task for a model that writes children's stories: the story must use three given words.

The model has seen neither instructions nor a chat format, so the prompt is in its own style: a
first sentence that names the words. Nothing says that they must come again; the reward does.
"""

import functools
import itertools

import numpy as np

from r1jax.data.problems import Problem

# Things that TinyStories (arXiv 2305.07759) is full of, none of which needs "an".
_NOUNS = """
    ball bear bed bird boat book box bug cake car cat cow dog doll door duck farmer fish flower frog
    garden hat horse house king kite lake mouse park pig plant rabbit rock room star sun toy train
    tree truck
"""
WORDS = tuple(_NOUNS.split())


@functools.cache
def problems() -> tuple[Problem, ...]:
    """Every three of WORDS, once, in a fixed order."""
    rng = np.random.default_rng(0)
    sets = list(itertools.combinations(WORDS, 3))
    found = []
    for i in rng.permutation(len(sets)):
        words = [sets[i][k] for k in rng.permutation(3)]
        a, b, c = words
        prompt = f"Once upon a time, there was a {a}, a {b} and a {c}."
        problem = Problem("-".join(words), "words", prompt, " ".join(words), source="stories")
        found.append(problem)
    return tuple(found)


def split(heldout_share: float = 0.125) -> tuple[list[Problem], list[Problem]]:
    """(train, held out). No three held-out words ever came together in training."""
    heldout = round(heldout_share * len(problems()))
    return list(problems()[heldout:]), list(problems()[:heldout])
