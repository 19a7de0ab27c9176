"""Training problems that share words with an evaluation set are dropped.

The rule is DeepSeek's (DeepSeekMath, arXiv 2402.03300, section 2.1; DeepSeek-R1's data is held to
the same 10-grams): a text that has any 10 words in a row of an evaluation text is dropped. An
evaluation text of 3 to 9 words must be contained whole; one of fewer words says too little, and
is not looked for.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from r1jax.data.problems import Problem
from r1jax.data.program_sources import PHRASES

GRAM = 10  # words
SHORTEST = 3

# Chinese, Japanese and Korean have no blanks between words: each character is one.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_PHRASE = re.compile("|".join(map(re.escape, PHRASES)))


class Match(NamedTuple):
    """Why a problem was dropped."""

    problem: Problem
    evaluation: str  # the id of a problem that shares the words
    words: str


class Grams:
    """What is looked for: the 10-grams of evaluation problems, and those that are shorter."""

    def __init__(self, evaluation: Sequence[Problem]):
        self._found: dict[str, list[str]] = {}  # a gram -> the ids of the problems that have it
        sizes = set()
        self.too_short: list[Problem] = []
        for problem in evaluation:
            pieces = split_words(problem.prompt)
            size = min(GRAM, max(map(len, pieces), default=0))
            if size < SHORTEST:
                self.too_short.append(problem)
                continue
            sizes.add(size)
            for gram in _grams(pieces, size):
                names = self._found.setdefault(gram, [])
                if problem.id not in names[-1:]:
                    names.append(problem.id)
        self._sizes = sorted(sizes, reverse=True)

    def match(self, problem: Problem) -> Match | None:
        pieces = split_words(problem.prompt)
        for size in self._sizes:
            for gram in _grams(pieces, size):
                if gram in self._found:
                    return Match(problem, self._found[gram][0], gram)
        return None

    def shared_with(self, problem: Problem) -> set[str]:
        """The ids of all evaluation problems that share words with this one."""
        pieces = split_words(problem.prompt)
        every = (gram for size in self._sizes for gram in _grams(pieces, size))
        return {name for gram in every for name in self._found.get(gram, ())}


def decontaminate(problems: Sequence[Problem], grams: Grams) -> tuple[list[Problem], list[Match]]:
    """(those that share nothing with the evaluation problems, the others), in order."""
    matches = [(problem, grams.match(problem)) for problem in problems]
    kept = [problem for problem, match in matches if match is None]
    return kept, [match for _, match in matches if match is not None]


def split_words(text: str) -> list[list[str]]:
    """The words of a text, without case, marks or width, in pieces between the phrases that our
    readers add (which every problem of a kind has in common)."""
    pieces = _PHRASE.split(text)
    return [_WORD.findall(unicodedata.normalize("NFKC", piece).casefold()) for piece in pieces]


def _grams(pieces: Sequence[Sequence[str]], size: int) -> Iterator[str]:
    for words in pieces:
        for i in range(len(words) - size + 1):
            yield " ".join(words[i : i + size])
