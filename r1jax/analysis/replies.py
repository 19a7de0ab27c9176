"""Which of the logged replies a report shows: by rules, never by hand.

A row is a line of samples.jsonl. Rows of the split "tracked" are the greedy replies to the same few
held-out problems at every evaluation; a run that has none is read from its other held-out rows.
"""

from collections import defaultdict
from collections.abc import Sequence

from r1jax.metrics import Row, is_correct

TRACKED, HELD_OUT = "tracked", "heldout"


def before_during_after(samples: Sequence[Row], thoughts: bool = True) -> list[Row]:
    """Replies to one held-out problem at three moments, in order; [] if none was asked twice.

    Before is the first reply, after the last, during the first that solves it (with `thoughts`:
    the first that reflects, if one does before the last), preferably in words of its own.

    Of the problems, that one is shown whose story is most whole: wrong before, right after,
    something in between that differs from both, and reflection that comes in. Ties go to the one
    logged first.
    """
    by_problem: dict[str, list[Row]] = defaultdict(list)
    split = TRACKED if any(row["split"] == TRACKED for row in samples) else HELD_OUT
    for row in sorted(samples, key=lambda row: row["step"]):
        so_far = by_problem[row["problem_id"]]
        if row["split"] == split and not (so_far and so_far[-1]["step"] == row["step"]):
            so_far.append(row)
    stories = [_moments(rows, thoughts) for rows in by_problem.values() if len(rows) > 1]
    return max(stories, key=lambda story: _wholeness(story, thoughts), default=[])


def _moments(rows: list[Row], thoughts: bool) -> list[Row]:
    """The first, one in between where there is one, and the last."""
    before, *between, after = rows
    turns = [row for row in between if thoughts and row["reflective_terms"]]
    turns += [row for row in between if is_correct(row)]
    # Greedy replies often jump: one that is neither the old nor the new says more, where it exists.
    new = [row for row in turns if row["text"] not in (before["text"], after["text"])]
    during = (new or turns)[:1] or between[len(between) // 2 :][:1]
    return [before, *during, after]


def _wholeness(story: list[Row], thoughts: bool) -> tuple[bool, ...]:
    before, after = story[0], story[-1]
    return (
        not is_correct(before),
        is_correct(after),
        thoughts and not before["reflective_terms"] and bool(after["reflective_terms"]),
        len(story) == 3 and story[1]["text"] not in (before["text"], after["text"]),
        len(story) == 3 and thoughts and bool(story[1]["reflective_terms"]),
    )


def early_middle_late(samples: Sequence[Row]) -> list[Row]:
    """The first correct and the first incorrect reply of the first, middle and last step."""
    samples = [row for row in samples if row["split"] != TRACKED]
    steps = sorted({row["step"] for row in samples})
    chosen = []
    for step in dict.fromkeys(steps[i] for i in (0, len(steps) // 2, -1)) if steps else ():
        rows = [row for row in samples if row["step"] == step]
        for correct in (True, False):
            chosen += [row for row in rows if is_correct(row) == correct][:1]
    return chosen
