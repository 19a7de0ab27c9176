import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.evaluation.questions import evenly
from r1jax.rl.evaluation import evaluation_steps


def test_dense_over_the_first_steps_then_wider_then_regular():
    steps = evaluation_steps(60, every=20, dense=4)
    assert sorted(steps) == [0, 1, 2, 3, 4, 8, 16, 20, 40, 60]


def test_without_dense_steps_it_is_every_so_many():
    assert sorted(evaluation_steps(11, every=5, dense=0)) == [0, 5, 10, 11]
    assert sorted(evaluation_steps(3, every=1, dense=0)) == [0, 1, 2, 3]
    assert sorted(evaluation_steps(2, every=5, dense=8)) == [0, 1, 2]


@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 40), st.integers(0, 50))
def test_ends_are_in_gaps_are_bounded_and_more_steps_keep_the_plan(total, every, dense, more):
    steps = sorted(evaluation_steps(total, every, dense))
    assert steps[0] == 0 and steps[-1] == total
    assert set(range(min(dense, total) + 1)) <= set(steps)
    assert max((b - a for a, b in itertools.pairwise(steps)), default=0) <= every
    assert set(range(0, total, every)) <= set(steps)
    assert set(steps[:-1]) <= evaluation_steps(total + more, every, dense)


@pytest.mark.parametrize("bad", [(-1, 5, 0), (10, 0, 0), (10, 5, -1)])
def test_impossible_plans_are_refused(bad):
    with pytest.raises(ValueError, match="every >= 1"):
        evaluation_steps(*bad)


def test_evenly_spaced_problems():
    assert evenly(262, 4) == [0, 65, 131, 196]
    assert evenly(3, 8) == [0, 1, 2] and evenly(0, 8) == []
