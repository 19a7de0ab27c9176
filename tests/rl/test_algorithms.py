"""Advantages, ratios and weights of every variant against float64 NumPy.

P questions  G replies a question  B rows  T tokens
"""

from typing import get_args

import chex
import numpy as np
import pytest

from r1jax.config import AlgorithmName, InputError, RLConfig
from r1jax.rl.algorithms import ALGORITHMS, SPREAD, Settings, settings

STANDARDIZED = ("grpo", "dapo", "gspo")
REWARD_PG = np.float32([[1, 0, 0, 1], [2, 0.1, 1.1, 0.3], [0, 0, 0, 0.5]])
ALL_GRADED = np.ones(REWARD_PG.shape, bool)
BUDGET = 8  # tokens: more than the rows of MASK_BT have
# A whole row, a reply between a prompt and padding, a single token, and no reply at all.
MASK_BT = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
DIFFERENCE_BT = np.float32(np.random.default_rng(0).normal(size=MASK_BT.shape) * 0.3)


@pytest.mark.parametrize("name", STANDARDIZED)
def test_advantage_is_divided_by_the_standard_deviation(name):
    got = np.asarray(ALGORITHMS[name].advantages(REWARD_PG, ALL_GRADED))
    for reward_G, advantage_G in zip(np.float64(REWARD_PG), got, strict=True):
        mean = sum(reward_G) / 4
        std = (sum((r - mean) ** 2 for r in reward_G) / 4) ** 0.5
        np.testing.assert_allclose(advantage_G, (reward_G - mean) / std, rtol=1e-5)
    np.testing.assert_allclose(got[0], [1, -1, -1, 1])  # mean 1/2, deviation 1/2
    np.testing.assert_allclose(got.std(axis=1), 1, rtol=1e-5)


def test_dr_grpo_does_not_divide():
    got = ALGORITHMS["dr_grpo"].advantages(REWARD_PG, ALL_GRADED)
    np.testing.assert_allclose(got[0], [0.5, -0.5, -0.5, 0.5])
    np.testing.assert_allclose(got, REWARD_PG - np.float64(REWARD_PG).mean(1, keepdims=True), 1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("group", [1, 3, 7, 16])
def test_equal_rewards_have_exactly_no_advantage(name, group):
    """Also where their mean is rounded: a residue of 1e-9 is all that Adam needs to take a step."""
    reward_P = np.float32([0, 1, 0.1, 0.7, -1 / 3, 1e6])
    reward_PG = np.tile(reward_P[:, None], group)
    got = ALGORITHMS[name].advantages(reward_PG, np.ones_like(reward_PG, bool))
    np.testing.assert_array_equal(got, np.zeros((6, group)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_spread_of_rounding_size_is_none_and_a_small_one_is_one(name):
    reward_PG = np.float32([[0.1 + 0.2, 0.3, 0.3], [0, 0, 1e-7], [0, 0, 1e-4]])
    got_PG = np.asarray(ALGORITHMS[name].advantages(reward_PG, np.ones_like(reward_PG, bool)))
    np.testing.assert_array_equal(np.any(got_PG != 0, axis=1), reward_PG.std(axis=1) > SPREAD)
    assert got_PG[2].any() and not got_PG[:2].any()


@pytest.mark.parametrize("junk", [0.0, -7.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_ungraded_reply_is_in_no_mean_and_no_deviation(name, junk):
    """The others' advantages are those of a group that never had it."""
    graded_PG = np.array([[0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    reward_PG = np.tile(np.float32([1, 0, 0.5, 2]), (4, 1))
    advantages = ALGORITHMS[name].advantages
    got_PG = np.asarray(advantages(np.where(graded_PG, reward_PG, np.float32(junk)), graded_PG))
    for got_G, reward_G, graded_G in zip(got_PG, reward_PG, graded_PG, strict=True):
        rest = reward_G[None, graded_G]
        if rest.size > 1:
            want_G = np.asarray(advantages(rest, np.ones_like(rest, bool)))[0]
            np.testing.assert_allclose(got_G[graded_G], want_G, rtol=1e-6)
            assert want_G.any()
        else:
            assert not got_G.any()
        np.testing.assert_array_equal(got_G[~graded_G], 0.0)


def test_an_algorithm_trains_with_what_its_paper_did_unless_told_otherwise():
    want = {
        "grpo": (0.2, 0.2, 1e-3),
        "dr_grpo": (0.2, 0.2, 0.0),
        "dapo": (0.2, 0.28, 0.0),
        "gspo": (3e-4, 4e-4, 0.0),
    }
    assert {name: settings(RLConfig(algorithm=name)) for name in ALGORITHMS} == want
    assert set(ALGORITHMS) == set(get_args(AlgorithmName))
    told = RLConfig(algorithm="gspo", clip_low=0.0, kl_coef=0.5)
    assert settings(told) == Settings(clip_low=0.0, clip_high=4e-4, kl_coef=0.5)


def test_a_group_of_one_is_refused():
    with pytest.raises(InputError, match=r"RLConfig.group=1: .* no signal$"):
        RLConfig(group=1)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_ratio_is_of_each_token(name):
    got = np.exp(ALGORITHMS[name].log_ratios(DIFFERENCE_BT, MASK_BT))
    np.testing.assert_allclose(got[MASK_BT], np.exp(np.float64(DIFFERENCE_BT[MASK_BT])), rtol=1e-6)


def test_gspo_ratio_is_the_geometric_mean_of_the_reply():
    got = np.exp(ALGORITHMS["gspo"].log_ratios(DIFFERENCE_BT, MASK_BT))
    for row, difference, mask in zip(got, np.float64(DIFFERENCE_BT), MASK_BT, strict=True):
        mean = np.exp(difference[mask]).prod() ** (1 / max(1, mask.sum()))
        np.testing.assert_allclose(row, np.full(5, mean), rtol=1e-6)


# Of one token of the first, second and third row, of 5, 2 and 1 tokens; B = 3 rows have a reply.
WEIGHTS = {
    "grpo": (1 / 15, 1 / 6, 1 / 3),  # 1 / (|o| B)
    "gspo": (1 / 15, 1 / 6, 1 / 3),
    "dapo": (1 / 8, 1 / 8, 1 / 8),  # 1 / sum |o|
    "dr_grpo": (1 / 24, 1 / 24, 1 / 24),  # 1 / (B budget)
}
SUMS = {"grpo": 1.0, "gspo": 1.0, "dapo": 1.0, "dr_grpo": 8 / 24}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_weight_of_a_token(name):
    got = np.asarray(ALGORITHMS[name].weights(MASK_BT, BUDGET))
    want = np.array([*WEIGHTS[name], 0])[:, None] * MASK_BT
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(got.sum(), SUMS[name], rtol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_replies_at_all_weigh_nothing(name):
    chex.assert_trees_all_equal(
        np.asarray(ALGORITHMS[name].weights(np.zeros((2, 3), bool), BUDGET)), np.zeros((2, 3))
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_weights_do_not_change_with_padding_and_empty_rows(name):
    weights = ALGORITHMS[name].weights
    got = np.asarray(weights(np.pad(MASK_BT, ((0, 2), (3, 4))), BUDGET))
    np.testing.assert_array_equal(got[:-2, 3:-4], weights(MASK_BT, BUDGET))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masked_tokens_have_no_influence_on_ratios(name):
    algorithm = ALGORITHMS[name]
    garbage = np.where(MASK_BT, DIFFERENCE_BT, np.nan)
    clean, dirty = (algorithm.log_ratios(d, MASK_BT) for d in (DIFFERENCE_BT, garbage))
    np.testing.assert_array_equal(clean, dirty)
    assert np.isfinite(dirty).all()
