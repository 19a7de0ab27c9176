from types import SimpleNamespace

import pytest

from r1jax.config import InputError
from r1jax.rl.loop import check_graders


def samples(*outcomes):
    """An outcome of None is a reply without an answer."""
    return [
        SimpleNamespace(
            grade=SimpleNamespace(
                outcome=outcome or "unparseable",
                answer=outcome and "1 + 1",
                detail=f"why {outcome}",
            )
        )
        for outcome in outcomes
    ]


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (["failed"] * 4, "4 of 4 replies have an answer.: why failed"),
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
