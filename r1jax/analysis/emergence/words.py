"""Reflective words in a reply: three published sets, in which third, and in what context.

A word is not yet a deed: "but" opens many a sentence, and "wait" may stand for nothing. So beside
the ten words of DeepSeek-R1 there is a stricter set, and a word counts as *in context* only where
something was derived before it and something is derived after it.
"""

import re
from typing import NamedTuple

from r1jax.analysis.reflection import REFLECTIVE_TERMS, TERM_PATTERN

# Without the two that are conjunctions first, which dominate counts over ordinary prose.
STRICT_TERMS = tuple(term for term in REFLECTIVE_TERMS if term not in ("but", "however"))

# Phrases of "There May Not be Aha Moment" (oat-zero, analysis/eval_self_reflect.py at 2c1661b),
# checked by hand there; "wait" was left out since it need not mean reflection.
PHRASES = (
    "recheck",
    "rethink",
    "reevaluate",
    "re-evaluate",
    "reevaluation",
    "re-examine",
    "reexamine",
    "try again",
    "check again",
    "think again",
    "go over the steps",
)
PHRASE_PATTERN = re.compile(rf"\b({'|'.join(map(re.escape, PHRASES))})\b", re.IGNORECASE)

# Characters behind a word in which a derivation has to begin, and what one looks like.
REACH = 200
_DERIVES = re.compile(r"[0-9a-zA-Z)}]\s*(?:=|≈|\\approx)|\\boxed|\\frac|[0-9]\s*[-+*/×x]\s*[0-9]")


class Term(NamedTuple):
    """A reflective word or phrase: characters [start, end) of the reply, and itself, lower case."""

    start: int
    end: int
    word: str


def terms_of(text: str) -> list[Term]:
    """The ten words where they stand, in order."""
    return [Term(*m.span(), m[1].lower()) for m in TERM_PATTERN.finditer(text)]


def phrases_of(text: str) -> list[Term]:
    return [Term(*m.span(), m[1].lower()) for m in PHRASE_PATTERN.finditer(text)]


def strict_of(text: str) -> list[Term]:
    """The stricter detector: the words that are no conjunctions, and the phrases, in order; a word
    inside a phrase ("check again") is not counted twice."""
    phrases = phrases_of(text)
    words = [
        term
        for term in terms_of(text)
        if term.word in STRICT_TERMS
        and not any(phrase.start <= term.start < phrase.end for phrase in phrases)
    ]
    return sorted([*phrases, *words])


def in_context(text: str, terms: list[Term]) -> list[Term]:
    """Those of `terms` before which something was derived, and within REACH characters after which
    something is: an equation, a calculation, a box."""
    first = _DERIVES.search(text)
    if first is None:
        return []
    return [
        term
        for term in terms
        if first.end() <= term.start and _DERIVES.search(text, term.end, term.end + REACH)
    ]


def by_third(text: str, terms: list[Term]) -> tuple[int, int, int]:
    """How many of `terms` begin in the first, the middle and the last third of the characters."""
    thirds = [0, 0, 0]
    for term in terms:
        thirds[min(3 * term.start // max(len(text), 1), 2)] += 1
    return thirds[0], thirds[1], thirds[2]
