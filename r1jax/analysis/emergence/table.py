"""All replies of a run as columns: what each says (words) and does (structure).

Legend of the suffixes: N replies, W terms, 3 thirds of a reply.
"""

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from r1jax.analysis.emergence.logs import Reply
from r1jax.analysis.emergence.structure import (
    Structure,
    countdown_structure,
    extracted_structure,
    plain_value,
    question_of,
)
from r1jax.analysis.emergence.words import by_third, in_context, strict_of, terms_of
from r1jax.analysis.reflection import REFLECTIVE_TERMS

Detector = Literal["word", "strict", "context", "event"]
DETECTORS: tuple[Detector, ...] = get_args(Detector)
_PIECE = re.compile(r"\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class Table:
    """correct, truncated, first_right, chain_right: 1, 0, or -1 where it is not known. tokens are
    words and marks where the log has none (`counted`). found: reflective by each detector.
    changes_N4: transitions T->T, F->T, T->F, F->F between neighbouring candidates.
    verdicts_N4: right of right, right of wrong (e+), wrong of right (e-), wrong of wrong.
    place: of the first candidate's end, as a share of the reply, -1 without one.
    """

    step: np.ndarray
    question: np.ndarray
    split: np.ndarray
    level: np.ndarray
    correct: np.ndarray
    truncated: np.ndarray
    tokens: np.ndarray
    terms_NW: np.ndarray
    strict: np.ndarray
    thirds_N3: np.ndarray
    found: dict[Detector, np.ndarray]
    attempts: np.ndarray
    first_right: np.ndarray
    chain_right: np.ndarray
    place: np.ndarray
    changes_N4: np.ndarray
    verdicts_N4: np.ndarray
    questions: tuple[str, ...]
    exact: bool
    counted: bool

    def __len__(self) -> int:
        return len(self.step)

    def where(self, mask: np.ndarray) -> "Table":
        """The replies of a mask."""

        def pick(value):
            if isinstance(value, np.ndarray):
                return value[mask]
            return {k: v[mask] for k, v in value.items()} if isinstance(value, dict) else value

        fields = dataclasses.fields(self)
        return dataclasses.replace(self, **{f.name: pick(getattr(self, f.name)) for f in fields})


def structures(replies: Sequence[Reply]) -> list[Structure]:
    """Of every reply, by the grammar if all prompts are countdown's, else by extraction.

    By extraction, what is right is known from the log's references, and from the answers of other
    replies to the same question that were graded right.
    """
    asked = [question_of(reply.prompt) for reply in replies]
    if asked and all(asked):
        return [
            countdown_structure(reply.text, *question, reply.correct)
            for reply, question in zip(replies, asked, strict=True)
            if question
        ]
    known: dict[str, set[str]] = defaultdict(set)
    for reply in replies:
        known[reply.question].update(map(plain_value, reply.references))
        if reply.correct:
            own = extracted_structure(reply.text, True)
            known[reply.question].update(c.value for c in own.candidates[-1:])
    return [extracted_structure(r.text, r.correct, known[r.question]) for r in replies]


def make_table(replies: Sequence[Reply]) -> Table:
    """Raises ValueError without replies."""
    if not replies:
        raise ValueError("a table needs replies")
    read = structures(replies)
    questions = tuple(dict.fromkeys(r.question for r in replies))
    number = {q: i for i, q in enumerate(questions)}
    words = [terms_of(r.text) for r in replies]
    strict = [strict_of(r.text) for r in replies]
    counted = any(r.tokens < 1 for r in replies)
    exact = all(s.exact for s in read)
    column = {term: i for i, term in enumerate(REFLECTIVE_TERMS)}
    terms_NW = np.zeros((len(replies), len(REFLECTIVE_TERMS)), int)
    for row, found in enumerate(words):
        for term in found:
            terms_NW[row, column[term.word]] += 1
    event = np.array([s.reflects for s in read])
    context = [in_context(r.text, s) for r, s in zip(replies, strict, strict=True)]
    return Table(
        step=np.array([r.step for r in replies]),
        question=np.array([number[r.question] for r in replies]),
        split=np.array([r.split for r in replies]),
        level=np.array(_levels(replies)),
        correct=np.array([_code(r.correct) for r in replies]),
        truncated=np.array([_code(r.truncated) for r in replies]),
        tokens=np.array([_pieces(r.text) if counted else r.tokens for r in replies]),
        terms_NW=terms_NW,
        strict=np.array([len(s) for s in strict]),
        thirds_N3=np.array([by_third(r.text, w) for r, w in zip(replies, words, strict=True)]),
        found={
            "word": terms_NW.sum(1) > 0,
            "strict": np.array([bool(s) for s in strict]),
            "context": np.array([bool(c) for c in context]),
            "event": event,
        },
        attempts=np.array([len(s.attempts) for s in read]),
        first_right=np.array([_code(s.candidates[0].right) if s.candidates else -1 for s in read]),
        chain_right=np.array([_code(s.chain_right) for s in read]),
        place=np.array(
            [
                s.candidates[0].end / max(len(r.text), 1) if s.candidates else -1.0
                for r, s in zip(replies, read, strict=True)
            ]
        ),
        changes_N4=np.array([_changes(s) for s in read]),
        verdicts_N4=np.array([_verdicts(s) for s in read]),
        questions=questions,
        exact=exact,
        counted=counted,
    )


def _code(value: bool | None) -> int:
    return -1 if value is None else int(value)


def _pieces(text: str) -> int:
    return max(len(_PIECE.findall(text)), 1)


def _changes(structure: Structure) -> list[int]:
    """T->T, F->T, T->F, F->F between neighbouring attempts whose grades are known; the answer,
    where a grammar tells it apart, only repeats the last one."""
    counts = [0, 0, 0, 0]
    grades = [c.right for c in structure.attempts]
    for before, after in itertools.pairwise(grades):
        if before is not None and after is not None:
            counts[{(1, 1): 0, (0, 1): 1, (1, 0): 2, (0, 0): 3}[int(before), int(after)]] += 1
    return counts


def _verdicts(structure: Structure) -> list[int]:
    """right of right, right of wrong, wrong of right, wrong of wrong."""
    counts = [0, 0, 0, 0]
    for v in structure.verdicts:
        if v.says is not None and v.holds is not None:
            counts[2 * (not v.says) + (not v.holds)] += 1
    return counts


def _levels(replies: Sequence[Reply]) -> list[str]:
    """Difficulty as the log gives it; else, of countdown, how many numbers there are where that
    differs; else, of questions with at least four graded replies, thirds by their mean accuracy
    over the run ("" where nothing tells)."""
    if any(r.level for r in replies):
        return [r.level for r in replies]
    asked = [question_of(r.prompt) for r in replies]
    sizes = [f"{len(q[0])} numbers" if q else "" for q in asked]
    if len(set(sizes)) > 1:
        return sizes
    grades: dict[str, list[bool]] = defaultdict(list)
    for r in replies:
        if r.correct is not None:
            grades[r.question].append(r.correct)
    means = {q: float(np.mean(g)) for q, g in grades.items() if len(g) >= 4}
    if len(set(means.values())) < 3:
        return [""] * len(replies)
    low, high = np.quantile(list(means.values()), [1 / 3, 2 / 3])

    def third(question: str) -> str:
        if question not in means:
            return ""
        mean = means[question]
        return "easy" if mean > high else "hard" if mean <= low else "middle"

    return [third(r.question) for r in replies]
