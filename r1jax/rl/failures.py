"""Graders that break in a run: said where some do, the end of the run where all do."""

from collections.abc import Callable, Sequence

from r1jax.checks import InputError
from r1jax.rl.rollout import Sample


class Failures:
    """Replies of the training that no grader could grade, which it leaves out. The first step that
    has some is said as it comes, and all together at the end."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._replies = self._steps = 0

    def add(self, samples: Sequence[Sample], step: int) -> None:
        failed = [s for s in samples if not s.graded]
        if not failed:
            return
        if not self._steps:
            why = " ".join(failed[0].grade.detail.split())
            self._say(
                f"warning: step {step}: {len(failed):,} of {len(samples):,} replies could not be "
                f"graded and are left out: {why}"
            )
        self._replies += len(failed)
        self._steps += 1

    def sum_up(self) -> None:
        if self._steps:
            self._say(
                f"warning: {self._replies:,} replies in {self._steps:,} steps could not be graded "
                "and were left out (outcome/failed in metrics.jsonl)"
            )


def check_graders(samples: Sequence[Sample], step: int) -> None:
    """Raises InputError if no reply could be graded, or no answer where at least every second reply
    has one: a step without rewards must not pass for one in which all was wrong."""
    grades = [s.grade for s in samples]
    answered = [grade for grade in grades if grade.answer is not None]
    asked = answered if 2 * len(answered) >= len(grades) else grades
    if all(grade.outcome == "failed" for grade in asked):
        raise InputError(
            f"step {step}: every reply's grader failed ({len(answered)} of {len(samples)} replies "
            f"have an answer): {asked[0].detail}"
        )
