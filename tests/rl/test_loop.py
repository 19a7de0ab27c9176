from types import SimpleNamespace

import numpy as np
import pytest

from r1jax.checks import InputError
from r1jax.data.countdown import problems
from r1jax.rewards.grading import Grade
from r1jax.rl.failures import Failures, check_graders
from r1jax.rl.loop import _to_show
from r1jax.rl.rollout import Sample
from r1jax.sampling.requests import Completion


def samples(*outcomes):
    """An outcome of None is a reply without an answer; "broken", one at which a reward failed."""
    return [
        SimpleNamespace(
            graded=outcome not in ("failed", "broken"),
            grade=SimpleNamespace(
                outcome={None: "unparseable", "broken": "failed"}.get(outcome, outcome),
                answer=None if outcome in (None, "broken") else "1 + 1",
                detail=f"why\n{outcome}",
            ),
        )
        for outcome in outcomes
    ]


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (["failed"] * 4, r"4 of 4 replies have an answer.: why\sfailed"),
        (["broken"] * 3 + ["failed"], r"1 of 4 replies have an answer.: why\sbroken"),
        (["broken"] * 3 + [None], None),
        ([None, None, "failed", "failed"], "2 of 4 replies"),
        ([None, None, None, "failed"], None),  # too few to blame the grader
        (["failed"] * 3 + ["incorrect"], None),
        (["failed"] * 3 + ["unparseable"], None),
        ([None] * 4, None),
    ],
)
def test_a_step_that_no_grader_graded_stops_the_run(outcomes, message):
    if message is None:
        return check_graders(samples(*outcomes), 7)
    with pytest.raises(InputError, match=f"step 7: every reply's grader failed .{message}"):
        check_graders(samples(*outcomes), 7)


def test_replies_that_cannot_be_graded_are_told_first_and_at_the_end():
    said: list[str] = []
    failures = Failures(said.append)
    failures.sum_up()
    for step, outcomes in enumerate([["correct"] * 2, ["correct", "broken"], ["failed"] * 2]):
        failures.add(samples(*outcomes), step)
    first = "warning: step 1: 1 of 2 replies could not be graded and are left out: why broken"
    assert said == [first]
    failures.sum_up()
    assert said[1].startswith("warning: 3 replies in 2 steps could not be graded")


def test_a_problem_that_was_asked_twice_in_a_step_is_shown():
    """With fewer problems than questions, two replies may differ in their tokens alone."""

    def sample(length: int, outcome: str) -> Sample:
        tokens = np.arange(length, dtype=np.int32)
        drawn = Completion(tokens, np.zeros(length, np.float32), False)
        grade = Grade(outcome, {}, 0.0, "", 0.0, None, "", 0.0)
        return Sample(problems(4)[0], 0, [1, 2], drawn, grade, {"wait": 1}, str)

    some = [sample(n, "incorrect") for n in (9, 9, 11, 4, 4)]
    aha = sample(11, "correct")
    assert _to_show([*some, aha])[-1] is aha
    assert _to_show([aha, *some]).count(aha) == 1
