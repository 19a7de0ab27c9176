import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from r1jax.analysis.emergence.coverage import (
    Solved,
    crossing,
    pass_at_k,
    pass_curve,
    support_sets,
    token_matched,
)
from r1jax.analysis.emergence.rules import Thresholds, coverage


@pytest.mark.parametrize("n, c", [(6, 0), (6, 1), (6, 3), (6, 6), (5, 2)])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_one(n, c):
    right = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(right, k))
        expected = sum(map(any, subsets)) / len(subsets)
        assert pass_at_k(n, c, k) == pytest.approx(expected)


def test_pass_at_k_of_many_replies_does_not_overflow_and_k_is_checked():
    assert pass_at_k(1024, 1, 256) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="pass@8 needs at least 8 replies"):
        pass_at_k(np.array([16, 4]), np.array([1, 1]), 8)


def solved(n, c, chain=None, tokens=10.0):
    names = tuple(map(str, range(len(c))))
    chain = None if chain is None else np.array(chain)
    return Solved(names, np.full(len(c), n), np.array(c), chain, tokens)


def test_the_curve_is_the_mean_over_questions_and_a_chain_asks_for_more():
    one = solved(4, [0, 1, 4], chain=[0, 0, 4])
    curve = pass_curve(one)
    assert list(curve) == [1, 2, 4]
    assert [curve[k].value for k in curve] == pytest.approx([5 / 12, 0.5, 2 / 3])
    assert [e.value for e in pass_curve(one, chain=True).values()] == pytest.approx([1 / 3] * 3)
    assert pass_curve(solved(4, [1]), chain=True) == {}


def test_models_are_compared_at_equal_tokens_and_where_they_cross():
    base, trained = solved(8, [1, 1, 1, 1]), solved(8, [8, 8, 0, 0], tokens=40.0)
    assert crossing(pass_curve(base), pass_curve(trained)) == 4  # .5 against .5
    assert crossing(pass_curve(trained), pass_curve(base)) is None
    assert token_matched(base, trained) == {1: (4, 0.5, 0.5), 2: (8, 1.0, 0.5)}


@pytest.mark.parametrize(
    "n, base, trained, verdict",
    [
        (1, [1, 0, 1, 0, 1, 0], [0, 1, 1, 0, 1, 0], "undecided"),  # NSCR 0, from -1 to 1
        (64, [9] * 12, [64] * 3 + [0] * 9, "sharpened"),
        (64, [0] * 9 + [9] * 3, [9] * 12, "expanded"),
    ],
)
def test_a_verdict_of_coverage_asks_for_an_interval_on_its_side(n, base, trained, verdict):
    sets = support_sets(solved(n, base), solved(n, trained))
    run = SimpleNamespace(name="x", coverage=SimpleNamespace(sets=sets))
    assert coverage(run, Thresholds()).verdict == verdict


def test_questions_are_preserved_lost_gained_or_out_of_reach():
    found = support_sets(solved(4, [4, 1, 0, 0, 2]), solved(4, [4, 0, 3, 0, 1]))
    assert (found.preserved, found.shrunk, found.expanded, found.out) == (2, 1, 1, 1)
    assert found.srr.value == pytest.approx(2 / 3) and found.ndr.value == pytest.approx(1 / 3)
    assert found.nscr.value == 0 and found.replies == 4
    assert found.nscr.low < 0 < found.nscr.high


def test_only_shared_questions_count():
    other = Solved(("1", "9"), np.array([4, 4]), np.array([4, 4]), None, 1.0)
    found = support_sets(solved(4, [1, 0]), other)
    assert (found.preserved, found.expanded) == (0, 1)
    nothing = support_sets(solved(4, [1]), Solved(("9",), np.array([4]), np.array([4]), None, 1.0))
    assert nothing.replies == 0 and nothing.nscr.value is None
