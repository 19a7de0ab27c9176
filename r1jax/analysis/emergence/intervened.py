"""What became of replies under each condition: the lists of intervention.json, and a table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.analysis.emergence import logs
from r1jax.analysis.emergence.causes import NONE, SHARES, read_causes
from r1jax.analysis.emergence.intervals import Estimate
from r1jax.analysis.emergence.interventions import Reply
from r1jax.analysis.emergence.table import make_table
from r1jax.checks import check
from r1jax.data.conversation import Conversation
from r1jax.data.problems import Problem
from r1jax.rewards.grading import Grade

Grading = Callable[[Sequence[Problem], Sequence[str], Sequence[bool]], list[Grade]]
COLUMNS = ("conditions", "tokens", *SHARES)


@dataclasses.dataclass
class Outcomes:
    """By condition, a value of each question: means over its replies. accuracy is NaN where every
    grader of a question failed."""

    problems: Sequence[Problem]
    conversation: Conversation
    grade: Grading
    columns: dict[str, dict[str, np.ndarray]] = dataclasses.field(
        default_factory=lambda: {name: {} for name in COLUMNS}
    )
    failed: int = 0

    def add(self, name: str, replies: Sequence[Reply]) -> None:
        """As many of each question, question by question."""
        samples = len(replies) // len(self.problems)
        asked = [problem for problem in self.problems for _ in range(samples)]
        prompts = [self.conversation.prompt(problem.prompt) for problem in asked]
        texts = [
            self.conversation.reply(prompt, reply.tokens)
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        grades = self.grade(asked, texts, [reply.truncated for reply in replies])
        self.failed += sum(not grade.graded for grade in grades)
        rows = [
            logs.Reply(
                step=0,
                question=problem.id,
                prompt=prompt,
                text=text,
                correct=grade.outcome == "correct" if grade.graded else None,
                tokens=len(reply.tokens),
                truncated=reply.truncated,
            )
            for problem, prompt, text, grade, reply in zip(
                asked, prompts, texts, grades, replies, strict=True
            )
        ]
        table = make_table(rows)
        correct = np.where(table.correct < 0, np.nan, table.correct)
        found = {
            "conditions": correct,
            "tokens": table.tokens,
            "reflects": table.found["event" if table.exact else "strict"],
            "truncated": table.truncated == 1,
            "touched": np.array([reply.touched for reply in replies]),
        }
        for column, values in found.items():
            by_question = np.asarray(values, float).reshape(len(self.problems), samples)
            known = np.isfinite(by_question)
            sums, n = np.where(known, by_question, 0).sum(1), known.sum(1)
            self.columns[column][name] = np.where(n > 0, sums / np.maximum(n, 1), np.nan)

    def object(self, **about: Any) -> dict[str, Any]:
        """Of intervention.json: questions that were graded under every condition. Raises
        InputError if these are fewer than two."""
        accuracy = self.columns["conditions"]
        graded = np.isfinite(np.stack(list(accuracy.values()))).all(0)
        check(
            graded.sum() > 1,
            f"{graded.sum()} of {len(graded)} questions have a graded reply under every condition; "
            f"at least two are needed ({self.failed:,} graders failed)",
        )
        kept = [problem.id for problem, good in zip(self.problems, graded, strict=True) if good]
        columns = {
            column: {name: np.round(values[graded], 6).tolist() for name, values in by.items()}
            for column, by in self.columns.items()
        }
        return {**about, "questions": kept, **columns}


WIDTHS = (16, 22, 26, 26, 8, 9, 8, 9)
HEADS = (
    "condition", "accuracy", "against none, points", "its control, points",
    "tokens", "reflect", "cut", "touched",
)  # fmt: skip


def head() -> str:
    return _row(HEADS)


def line(name: str, raw: Mapping[str, Any], where: str) -> str:
    """A condition's row of the table."""
    causes = read_causes(raw, where)
    assert causes is not None
    effect = causes.effects[name]
    low, value, high = (100 * (v or 0.0) for v in _three(effect.accuracy))
    mean = {column: float(np.mean(raw[column][name])) for column in COLUMNS[1:]}
    return _row(
        (
            name,
            f"{value:.1f}% ({low:.1f} to {high:.1f})",
            "" if name == NONE else _points(effect.difference),
            _points(causes.beyond[name]) if name in causes.beyond else "",
            f"{mean['tokens']:.1f}",
            *(f"{mean[share]:.1%}" for share in SHARES),
        )
    )


def _row(cells: Sequence[str]) -> str:
    first, *rest = zip(cells, WIDTHS, strict=True)
    return first[0].ljust(first[1]) + "".join(cell.rjust(width) for cell, width in rest)


def _points(effect: Estimate) -> str:
    low, value, high = (100 * (v or 0.0) for v in _three(effect))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _three(e: Estimate) -> tuple[float | None, float | None, float | None]:
    return e.low, e.value, e.high
