"""pass@k, cons@k, errors and ratings against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.data.problems import Problem
from r1jax.evaluation.metrics import pass_at_1, pass_curve
from r1jax.evaluation.rating import log_likelihood, rate
from r1jax.evaluation.votes import RIGHT, consensus, vote
from r1jax.rewards.grading import Grade


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_pass_at_k_over_all_subsets(right_QN):
    n_Q, c_Q = [len(r) for r in right_QN], [sum(r) for r in right_QN]
    curve = pass_curve(n_Q, c_Q)
    assert list(curve) == [1, 2, 4, 5]
    for k, value in curve.items():
        each = [[any(s) for s in itertools.combinations(r, k)] for r in right_QN]
        np.testing.assert_allclose(value, np.mean([np.mean(e) for e in each]), atol=1e-12)


def test_no_replies_have_no_figures():
    assert pass_curve([], []) == {} and pass_at_1([], []) is None and pass_at_1([0], [0]) is None
    alone = pass_at_1([1], [1])
    assert (alone.value, alone.se_questions, alone.se_samples) == (1, None, None)


def test_an_interval_has_a_width_where_the_errors_have_none():
    """0 of 100 questions, 4 replies each, still allow 3 in 100; not 3 in 400."""
    none, every = pass_at_1([4] * 100, [0] * 100), pass_at_1([4] * 100, [4] * 100)
    assert none.se_questions == none.se_samples == none.low == 0 and 0.029 < none.high < 0.031
    assert every.high == 1 and 0.969 < every.low < 0.971
    some = pass_at_1([2] * 40, [2] * 10 + [0] * 30)
    assert (
        0.1 < some.low < 0.25 - 1.7 * some.se_questions < 0.25 + 1.9 * some.se_questions < some.high
    )


@pytest.mark.parametrize("chances", [(0.5,), (0.2, 0.9), (0.0, 0.4, 1.0)])
def test_the_error_over_samples_is_that_of_all_outcomes(chances):
    """Its square, in expectation over all outcomes, is the variance of pass@1 over them."""
    n, total = 3, 0.0
    values, squares, weights = [], [], []
    for outcome in itertools.product(*[list(itertools.product([0, 1], repeat=n))] * len(chances)):
        weight = np.prod(
            [p if hit else 1 - p for p, hits in zip(chances, outcome, strict=True) for hit in hits]
        )
        found = pass_at_1([n] * len(chances), [sum(hits) for hits in outcome])
        values.append(found.value)
        squares.append(found.se_samples**2)
        weights.append(weight)
        total += weight
    mean = np.dot(weights, values)
    np.testing.assert_allclose([total, mean], [1, np.mean(chances)])
    variance = np.dot(weights, (np.array(values) - mean) ** 2)
    np.testing.assert_allclose(np.dot(weights, squares), variance)


def test_the_error_over_questions_is_that_of_all_draws_of_questions():
    """Of every two questions of a population, drawn with replacement, one reply to each."""
    population = [0.1, 0.7, 0.9]
    values, squares, weights = [], [], []
    for pair in itertools.product(population, repeat=2):
        for hits in itertools.product([0, 1], repeat=2):
            found = pass_at_1([1, 1], hits)
            values.append(found.value)
            squares.append(found.se_questions**2)
            chance = [p if hit else 1 - p for p, hit in zip(pair, hits, strict=True)]
            weights.append(np.prod(chance) / len(population) ** 2)
    variance = np.dot(weights, (np.array(values) - np.dot(weights, values)) ** 2)
    np.testing.assert_allclose(np.dot(weights, squares), variance)


def majority(votes):
    """(value, tie) of one set of votes, by hand."""
    counts = {v: votes.count(v) for v in votes if v is not None}
    if not counts:
        return 0.0, 0.0
    first = [v for v, n in counts.items() if n == max(counts.values())]
    return (1 / len(first) if RIGHT in first else 0.0), float(len(first) > 1)


@given(st.lists(st.sampled_from([RIGHT, "7", "8", "9", None]), min_size=1, max_size=8), st.data())
@settings(max_examples=200)
def test_cons_at_k_over_all_subsets(votes, data):
    k = data.draw(st.integers(1, len(votes)))
    each = [majority(some) for some in itertools.combinations(votes, k)]
    found = consensus(votes, k)
    np.testing.assert_allclose([found.value, found.ties], np.mean(each, axis=0), atol=1e-12)


def test_cons_at_64_is_the_majority_of_all():
    votes = [RIGHT] * 20 + ["7"] * 19 + ["8"] * 15 + [None] * 10
    assert (consensus(votes, 64).value, consensus(votes, 64).ties) == (1, 0)
    assert 0.4 < consensus(votes, 32).value < 0.7
    with pytest.raises(ValueError, match="cons@65"):
        consensus(votes, 65)


def graded(answer, outcome="incorrect"):
    return Grade(outcome, {}, 0.0, answer=answer)


def test_what_a_reply_votes_for():
    """Right answers are one class however written; wrong ones by number, option or text."""
    math = Problem("m", "math", "", "1/2")
    assert vote(math, graded("0.5", "correct")) == vote(math, graded("1/2", "correct")) == RIGHT
    assert vote(math, graded("1,000")) == vote(math, graded("1000.0")) != vote(math, graded("10"))
    assert vote(math, graded("x + 1")) == vote(math, graded("x+1"))
    options = Problem("c", "choice", "", "A", choices=("Rome", "Paris", "Oslo"))
    assert vote(options, graded("(B) Paris")) == vote(options, graded("B")) == "B"
    for silent in (graded(None, "unparseable"), graded("3", "failed")):
        assert vote(math, silent) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_rating_against_a_grid(seed):
    rng = np.random.default_rng(seed)
    difficulty = rng.integers(8, 30, size=12) * 100.0
    share = rng.integers(0, 5, size=12) / 4
    share[0], share[1] = 1.0, 0.0
    found = rate(difficulty, share)
    grid = np.arange(-1000, 6000, 1.0)
    likely = np.array([log_likelihood(r, difficulty, share) for r in grid])
    inside = grid[likely >= likely.max() - 1.920729]
    assert abs(found.value - grid[likely.argmax()]) <= 1
    assert abs(found.low - inside[0]) <= 1.5 and abs(found.high - inside[-1]) <= 1.5
    assert found.problems == 12


def test_ratings_without_a_bound():
    """All solved has no upper end; one solved of two equal problems is their rating."""
    even = rate([1500.0, 1500.0], [1.0, 0.0])
    assert abs(even.value - 1500) < 0.02 and even.low < 1500 < even.high
    every, none = rate([1200.0, 1600.0], [1.0, 1.0]), rate([1200.0], [0.0])
    assert every.value is None and every.high is None and 900 < every.low < 1900
    assert none.value is None and none.low is None
    assert none.high == pytest.approx(
        1200 + 400 * np.log10((1 - np.exp(-1.9207)) / np.exp(-1.9207)), abs=0.1
    )
    assert rate([], []).problems == 0
