"""Grading on all processes of a run: each grades its own share.

Every process of a pod has every reply's tokens, but makes text of and grades its own share alone.
What they find is gathered once, so that all go on from the same grades, whatever a time-out or a
dead worker did to one of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from r1jax import processes
from r1jax.data.problems import Problem
from r1jax.rewards.grading import Grade, Grader

Note = TypeVar("Note")


def grade_shares(
    grader: Grader,
    problems: Sequence[Problem],
    text: Callable[[int], str],
    tokens: Sequence[int],
    truncated: Sequence[bool],
    note: Callable[[str], Note],
) -> Callable[[], list[tuple[Grade, Note]]]:
    """Begins to grade each reply to the problem of the same index, and returns at once; the result
    waits, and gives every reply's grade and what `note` (plain data) says of its text.

    text: of a reply, by its index, made where it is needed. Otherwise as `Grader.submit`. Every
    process must call this, and its result, in the same order.
    """
    mine = processes.share(range(len(problems)))
    texts = [text(i) for i in mine]
    pending = grader.submit(
        [problems[i] for i in mine], texts, [tokens[i] for i in mine], [truncated[i] for i in mine]
    )

    def found() -> list[dict[str, Any]]:
        return [
            {"grade": dataclasses.asdict(grade), "note": note(reply)}
            for grade, reply in zip(pending.result(), texts, strict=True)
        ]

    def finish() -> list[tuple[Grade, Note]]:
        gathered = processes.gather(found)
        grades = [Grade(**one["grade"]) for one in gathered]
        if grader.asks_together:
            replies = [text(i) for i in range(len(problems))]
            grades = grader.together(problems, replies, grades, truncated)
        return [(grade, one["note"]) for grade, one in zip(grades, gathered, strict=True)]

    return finish
