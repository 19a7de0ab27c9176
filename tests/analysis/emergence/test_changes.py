import math

import numpy as np
import pytest

from r1jax.analysis.emergence import changes
from r1jax.analysis.emergence.changes import find_change, likelihoods


def beta_binomial(k, n, p, rho):
    """By the gamma function, without the binomial coefficient."""
    a, b = p * (1 / rho - 1), (1 - p) * (1 / rho - 1)
    beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.lgamma(a + k) + math.lgamma(b + n - k) - math.lgamma(a + b + n) - beta


def test_likelihoods_are_those_of_the_beta_binomial_and_of_the_binomial():
    for place in (5, 35, 60):
        p = changes._SHARES[place]
        for k in (0, 3, 20):
            expected = beta_binomial(k, 20, p, 0.04)
            assert likelihoods(20, 0.04)[k, place] == pytest.approx(expected)
            expected = k * math.log(p) + (20 - k) * math.log(1 - p)
            assert likelihoods(20, 0.0)[k, place] == pytest.approx(expected)


def test_a_planted_rise_is_found_where_it_is():
    rng = np.random.default_rng(0)
    steps = np.arange(0, 80, 2)
    share = np.where(steps < 30, 0.02, 0.2)
    found = find_change(steps, rng.binomial(256, share), np.full(40, 256), permutations=199)
    assert found.low <= 30 <= found.high and found.step == 30
    assert found.p == 1 / 200
    assert found.before == pytest.approx(0.02, abs=0.01)
    assert found.after == pytest.approx(0.2, abs=0.02)


def test_an_early_rise_is_found_though_few_steps_lie_before_it():
    k = np.array([3, 4, 3, 90, 250, *[255] * 45])
    found = find_change(np.arange(50), k, np.full(50, 256))
    assert found.step in (3, 4) and found.p < 0.05


def test_neither_a_fall_nor_a_short_or_flat_series_has_a_rise():
    n = np.full(20, 100)
    assert find_change(np.arange(20), np.where(np.arange(20) < 9, 90, 0), n) is None
    assert find_change(np.arange(5), np.arange(5), n[:5]) is None
    assert find_change(np.arange(20), np.zeros(20), n) is None


def test_steps_that_scatter_more_than_a_binomial_are_no_change():
    """Shares that differ between steps, and stay: by a binomial's ratio nearly all are changes."""
    rng, hits = np.random.default_rng(3), 0
    for trial in range(40):
        k = rng.binomial(256, rng.beta(1.5, 30, size=30))
        found = find_change(np.arange(30), k, np.full(30, 256), permutations=99, seed=trial)
        hits += found is not None and found.p < 0.05
    assert hits <= 5


def test_blocks_are_permutations_that_keep_neighbours():
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = changes._in_blocks(27, 3, rng)
        assert sorted(order) == list(range(27))
        assert sum((order[1:] - order[:-1]) % 27 == 1) >= 18
