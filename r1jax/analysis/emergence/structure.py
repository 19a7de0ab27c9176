"""What a reply does, read off its structure and not off its words.

Where the task has a grammar (countdown), exactly: attempts `9 + 5 = 14 - 4 = 10`, verdicts
`check 10 = 8 wrong`, the answer. Elsewhere by extraction: boxes, "the answer is", answer tags, and
equations at the end of a line are candidate answers, and a word of the stricter set behind one is
a verdict of unknown kind.

The *event* that counts as reflection is a verdict after a candidate, or a second attempt.
"""

import dataclasses
import operator
import re
from collections import Counter
from collections.abc import Collection, Sequence

from r1jax.analysis.emergence.words import in_context, strict_of
from r1jax.data.boxed import BOX, bare, closing_brace
from r1jax.rewards.countdown import check_countdown
from r1jax.rewards.rational import rational

_OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "x": operator.mul,
    "*": operator.mul,
    "×": operator.mul,
}
_ATTEMPT = re.compile(r"(?<!\S)-?\d+(?:\s+[-+x*×]\s*-?\d+\s+=\s+-?\d+)+(?!\S)")
_STEP = re.compile(r"([-+x*×])\s*(-?\d+)\s+=\s+(-?\d+)")
_VERDICT = re.compile(r"\bcheck\s+(-?\d+)\s+=\s+(-?\d+)\s+(right|wrong)\b")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_QUESTION = re.compile(r"\b(?:use|puzzle)\s+((?:\d+\s+){2,})to\s+make\s+(-?\d+)\b")

_SAID = re.compile(
    r"\b(?:final\s+)?(?:answer|result)\s*(?:is|:|=|would be|must be)\s*:?\s*"
    r"(\$?[-−]?[^\s,;.$]+(?:\.\d+)?\$?)",
    re.IGNORECASE,
)
_LINE_END = re.compile(r"=\s*(\$?[-−]?\d[\d,]*(?:\.\d+)?(?:/\d+)?)\s*\$*[.,;]?\s*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An answer that a reply comes to: characters [start, end), its value, whether it is right
    (None: not to be told)."""

    start: int
    end: int
    value: str
    right: bool | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a reply says of a candidate: that it is right, or not (None: it doubts, no more).
    `holds`: whether the candidate is what was asked for (None: not to be told)."""

    start: int
    end: int
    says: bool | None
    holds: bool | None


@dataclasses.dataclass(frozen=True)
class Structure:
    """candidates: in order, the answer last where there is one (`answered`). slips: steps of
    attempts whose arithmetic is wrong. exact: read by a grammar."""

    candidates: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]
    answered: bool
    slips: int
    exact: bool

    @property
    def attempts(self) -> tuple[Candidate, ...]:
        """The candidates without the answer, where the grammar tells them apart."""
        return self.candidates[:-1] if self.answered and self.exact else self.candidates

    @property
    def reflects(self) -> bool:
        """A verdict after a candidate, or a second attempt."""
        if not self.candidates:
            return False
        first = self.candidates[0]
        return len(self.attempts) > 1 or any(v.start >= first.end for v in self.verdicts)

    @property
    def chain_right(self) -> bool | None:
        """The answer is among the attempts, no step slipped and no verdict is false; None where the
        grammar does not tell."""
        if not self.exact:
            return None
        verdicts = all(v.says == v.holds for v in self.verdicts)
        return self.slips == 0 and verdicts and any(c.right for c in self.attempts)


def question_of(prompt: str) -> tuple[tuple[int, ...], int] | None:
    """(numbers, target) that a countdown prompt gives; None if it is no such prompt."""
    found = _QUESTION.search(prompt)
    return (tuple(map(int, found[1].split())), int(found[2])) if found else None


def countdown_structure(
    text: str, numbers: Sequence[int], target: int, correct: bool | None = None
) -> Structure:
    """Of a reply to a countdown problem, exactly. `correct`: as it was graded; read off the text
    where that is not known.

    An attempt is right if every step is, its numbers are those given and it comes to the target.
    """
    thoughts = text.split("</think>")[0]
    candidates, slips = [], 0
    for found in _ATTEMPT.finditer(thoughts):
        first = re.match(r"-?\d+", found[0])
        assert first is not None
        running, used, good = int(first[0]), [int(first[0])], True
        for sign, right, total in _STEP.findall(found[0]):
            used.append(int(right))
            good &= _OPERATIONS[sign](running, int(right)) == int(total)
            slips += _OPERATIONS[sign](running, int(right)) != int(total)
            running = int(total)
        solved = good and running == target and Counter(used) == Counter(numbers)
        candidates.append(Candidate(*found.span(), str(running), solved))
    verdicts = []
    for found in _VERDICT.finditer(thoughts):
        before = [c for c in candidates if c.end <= found.start()]
        holds = before[-1].right if before else int(found[1]) == target
        verdicts.append(Verdict(*found.span(), found[3] == "right", holds))
    answer = _last(_ANSWER, text)
    if answer is not None:
        said = answer[1].replace(" x ", " * ").strip()
        right = check_countdown(said, numbers, target) is True if correct is None else correct
        candidates.append(Candidate(*answer.span(), said, right))
    return Structure(tuple(candidates), tuple(verdicts), answer is not None, slips, exact=True)


def extracted_structure(
    text: str, correct: bool | None = None, references: Collection[str] = ()
) -> Structure:
    """Of any other reply, by extraction.

    The last candidate is the answer, graded as `correct`; another one that equals it shares its
    grade. Of the rest, one is right if it is among `references` (values that are known to be right,
    as `plain_value` writes them), and wrong if some are known, or the answer is right.
    """
    found = _extracted(text)
    answer = found[-1].value if found else ""
    known = set(references) | ({answer} if correct else set())

    def grade(value: str) -> bool | None:
        if value == answer and correct is not None:
            return correct
        return value in known if known else None

    candidates = tuple(dataclasses.replace(c, right=grade(c.value)) for c in found)
    verdicts = tuple(
        Verdict(term.start, term.end, None, None)
        for term in in_context(text, strict_of(text))
        if candidates and term.start >= candidates[0].end
    )
    return Structure(candidates, verdicts, bool(candidates), 0, exact=False)


def _extracted(text: str) -> list[Candidate]:
    """Candidate answers in order, their values in plain writing; one that repeats the last is part
    of it (`... = 12`, `so the answer is 12`)."""
    spans = [(m.start(1), m.end(1), m[1]) for m in _ANSWER.finditer(text)]
    for box in BOX.finditer(text):
        end = closing_brace(text, box.end()) if box[1] else box.end()
        if end is not None:
            value = text[box.end() : end] if box[1] else bare(box[2])
            spans.append((box.start(), end + bool(box[1]), value))  # the brace is of the box
    for pattern in (_SAID, _LINE_END):
        spans += [(*m.span(1), m[1]) for m in pattern.finditer(text)]
    merged: list[Candidate] = []
    for start, end, value in sorted(spans):
        value = plain_value(value)
        if not value or (merged and start < merged[-1].end):
            continue
        if merged and merged[-1].value == value and not strict_of(text[merged[-1].end : start]):
            merged[-1] = Candidate(merged[-1].start, end, value, None)
        else:
            merged.append(Candidate(start, end, value, None))
    return merged


def plain_value(value: str) -> str:
    r"""A value as it can be compared: numbers as fractions in lowest terms, the rest without `$`,
    boxes and blanks."""
    inner = value.strip()
    if box := BOX.search(inner):
        end = closing_brace(inner, box.end()) if box[1] else None
        inner = inner[box.end() : end] if end is not None else inner[box.end() :]
    inner = inner.strip().strip("$").strip().rstrip(".")
    read = rational(inner)
    return str(read) if read is not None else re.sub(r"\s+", "", inner)


def _last(pattern: re.Pattern, text: str) -> re.Match | None:
    return next(iter(list(pattern.finditer(text))[-1:]), None)
