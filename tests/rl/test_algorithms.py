"""Advantages, ratios and weights of every variant against float64 NumPy.

P questions  G replies a question  B rows  T tokens
"""

import numpy as np
import pytest

from r1jax.rl.algorithms import ALGORITHMS

STANDARDIZED = ("grpo", "dapo", "gspo")
REWARD_PG = np.float32([[1, 0, 0, 1], [2, 0.1, 1.1, 0.3], [0, 0, 0, 0.5]])
# A whole row, a reply between a prompt and padding, a single token, and no reply at all.
MASK_BT = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
DIFFERENCE_BT = np.float32(np.random.default_rng(0).normal(size=MASK_BT.shape) * 0.3)


@pytest.mark.parametrize("name", STANDARDIZED)
def test_advantage_is_divided_by_the_standard_deviation(name):
    got = np.asarray(ALGORITHMS[name].advantages(REWARD_PG))
    for reward_G, advantage_G in zip(np.float64(REWARD_PG), got, strict=True):
        mean = sum(reward_G) / 4
        std = (sum((r - mean) ** 2 for r in reward_G) / 4) ** 0.5
        np.testing.assert_allclose(advantage_G, (reward_G - mean) / std, rtol=1e-5)
    np.testing.assert_allclose(got[0], [1, -1, -1, 1])  # mean 1/2, deviation 1/2
    np.testing.assert_allclose(got.std(axis=1), 1, rtol=1e-5)


def test_dr_grpo_does_not_divide():
    got = ALGORITHMS["dr_grpo"].advantages(REWARD_PG)
    np.testing.assert_allclose(got[0], [0.5, -0.5, -0.5, 0.5])
    np.testing.assert_allclose(got, REWARD_PG - np.float64(REWARD_PG).mean(1, keepdims=True), 1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("group", [1, 3, 7, 16])
def test_equal_rewards_have_exactly_no_advantage(name, group):
    """Also where their mean is rounded: a residue of 1e-9 is all that Adam needs to take a step."""
    reward_P = np.float32([0, 1, 0.1, 0.7, -1 / 3, 1e6])
    got = ALGORITHMS[name].advantages(np.tile(reward_P[:, None], group))
    np.testing.assert_array_equal(got, np.zeros((6, group)))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_ratio_is_of_each_token(name):
    got = np.asarray(ALGORITHMS[name].ratios(DIFFERENCE_BT, MASK_BT))
    np.testing.assert_allclose(got[MASK_BT], np.exp(np.float64(DIFFERENCE_BT[MASK_BT])), rtol=1e-6)


def test_gspo_ratio_is_the_geometric_mean_of_the_reply():
    got = np.asarray(ALGORITHMS["gspo"].ratios(DIFFERENCE_BT, MASK_BT))
    for row, difference, mask in zip(got, np.float64(DIFFERENCE_BT), MASK_BT, strict=True):
        mean = np.exp(difference[mask]).prod() ** (1 / max(1, mask.sum()))
        np.testing.assert_allclose(row, np.full(5, mean), rtol=1e-6)


WEIGHTS = {  # of one token of the first, second and third row, of 5, 2 and 1 tokens
    "grpo": (1 / 20, 1 / 8, 1 / 4),  # 1 / (|o| B)
    "gspo": (1 / 20, 1 / 8, 1 / 4),
    "dapo": (1 / 8, 1 / 8, 1 / 8),  # 1 / sum |o|
    "dr_grpo": (1 / 20, 1 / 20, 1 / 20),  # 1 / (B T)
}
SUMS = {"grpo": 3 / 4, "gspo": 3 / 4, "dapo": 1.0, "dr_grpo": 8 / 20}  # 3 of 4 rows have a reply


@pytest.mark.parametrize("name", ALGORITHMS)
def test_weight_of_a_token(name):
    got = np.asarray(ALGORITHMS[name].weights(MASK_BT))
    want = np.array([*WEIGHTS[name], 0])[:, None] * MASK_BT
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(got.sum(), SUMS[name], rtol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_replies_at_all_weigh_nothing(name):
    np.testing.assert_array_equal(ALGORITHMS[name].weights(np.zeros((2, 3), bool)), 0.0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masked_tokens_have_no_influence_on_ratios(name):
    algorithm = ALGORITHMS[name]
    garbage = np.where(MASK_BT, DIFFERENCE_BT, np.nan)
    clean, dirty = (algorithm.ratios(d, MASK_BT) for d in (DIFFERENCE_BT, garbage))
    np.testing.assert_array_equal(clean, dirty)
    assert np.isfinite(dirty).all()
