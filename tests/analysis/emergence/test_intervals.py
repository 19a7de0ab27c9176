import itertools
import math

import numpy as np
import pytest

from r1jax.analysis.emergence import intervals
from r1jax.analysis.emergence.intervals import (
    cliffs_delta,
    holm,
    mean,
    permutation_test,
    rule_of_three,
    share,
    sign_test,
    wilson,
)


def test_zero_of_n_is_bounded_by_the_rule_of_three():
    assert rule_of_three(1048) == pytest.approx(0.0029, abs=1e-4)
    assert rule_of_three(16384) == pytest.approx(0.0002, abs=2e-5)
    found = share(np.zeros(1048), np.arange(1048) // 4)
    assert (found.value, found.low, found.n) == (0.0, 0.0, 1048)
    assert found.high == pytest.approx(3 / 1048, rel=0.01)
    assert (1 - rule_of_three(50)) ** 50 == pytest.approx(0.05)


def test_wilson_is_the_score_test_turned_round():
    k, n = 7, 40
    for end in wilson(k, n):  # at either end the score statistic is z
        z = (k / n - end) / math.sqrt(end * (1 - end) / n)
        assert abs(z) == pytest.approx(1.959964, rel=1e-5)


def test_an_interval_of_clusters_is_wider_than_one_of_replies():
    rng = np.random.default_rng(1)
    chance_Q = rng.beta(0.5, 0.5, size=60)
    hits = rng.random((60, 16)) < chance_Q[:, None]
    clustered = share(hits.ravel(), np.repeat(np.arange(60), 16))
    alone = share(hits.ravel(), np.arange(60 * 16))
    assert clustered.value == alone.value == pytest.approx(hits.mean())
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)
    # Of equal clusters, the interval is that of their means, and near the normal one.
    half = 1.96 * hits.mean(1).std() / math.sqrt(60)
    assert clustered.high - clustered.value == pytest.approx(half, rel=0.15)


def test_the_clustered_interval_covers_the_truth():
    rng, covered = np.random.default_rng(2), 0
    for trial in range(200):
        chance_Q = rng.beta(2, 6, size=50)
        hits = (rng.random((50, 8)) < chance_Q[:, None]).ravel()
        found = share(hits, np.repeat(np.arange(50), 8), seed=trial)
        covered += found.low <= 0.25 <= found.high
    assert 0.9 <= covered / 200 <= 0.99


def test_more_questions_than_are_kept_are_drawn_a_few_at_a_time(monkeypatch):
    sums_QM = np.random.default_rng(0).random((40, 2))
    whole = intervals.resampled(sums_QM, draws=500)
    monkeypatch.setattr(intervals, "_KEPT", 40 * 7)
    parts = intervals.resampled(sums_QM, draws=500)
    np.testing.assert_allclose(parts, whole)


def test_nothing_has_no_estimate():
    assert share(np.zeros(0), np.zeros(0)).value is None
    assert mean(np.zeros(0), np.zeros(0)).value is None


def brute_force_permutation(a, b):
    pooled = [*a, *b]
    observed = abs(np.mean(a) - np.mean(b))
    hits = total = 0
    for chosen in itertools.combinations(range(len(pooled)), len(a)):
        left = [pooled[i] for i in chosen]
        right = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        hits += abs(np.mean(left) - np.mean(right)) >= observed - 1e-9
        total += 1
    return hits / total


def test_the_permutation_test_is_exact():
    assert permutation_test([6, 7, 8, 9, 10], [1, 2, 3, 4, 5]) == pytest.approx(2 / 252)
    assert permutation_test([1, 1, 1], [0, 0, 0]) == pytest.approx(0.1)
    a, b = [3.0, 1.0, 4.0, 1.5], [5.0, 9.0, 2.0]
    assert permutation_test(a, b) == pytest.approx(brute_force_permutation(a, b))


def test_a_permutation_test_over_many_splits_is_near_the_exact_one(monkeypatch):
    a, b = [3.0, 1.0, 4.0, 1.5, 2.0], [5.0, 9.0, 2.0, 4.5, 3.0]
    monkeypatch.setattr(intervals, "EXACT", 251)
    assert permutation_test(a, b) == pytest.approx(brute_force_permutation(a, b), abs=0.06)


def test_cliffs_delta_and_the_sign_test():
    assert cliffs_delta([3, 4], [1, 2]) == 1 and cliffs_delta([1, 2], [2, 3]) == -0.75
    assert sign_test(5, 0) == 2 / 32 and sign_test(0, 0) == 1.0 and sign_test(3, 3) == 1.0
    heads = [sum(bits) for bits in itertools.product((0, 1), repeat=9)]
    assert sign_test(7, 2) == pytest.approx(sum(h >= 7 or h <= 2 for h in heads) / 512)


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []
