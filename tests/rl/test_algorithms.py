"""Advantages, ratios and weights of every variant against float64 NumPy.

P questions  G replies a question  B rows  T tokens  N replies
"""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checks import InputError
from r1jax.config import AlgorithmName, RLConfig
from r1jax.rl.algorithms import ALGORITHMS, SPREAD, Settings, settings

STANDARDIZED = ("grpo", "dapo", "gspo", "cispo")
IN_GROUPS = sorted(set(ALGORITHMS) - {"reinforce++", "ppo"})
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


def test_rloo_takes_the_mean_of_the_others():
    got_PG = np.asarray(ALGORITHMS["rloo"].advantages(REWARD_PG, ALL_GRADED))
    for reward_G, got_G in zip(np.float64(REWARD_PG), got_PG, strict=True):
        want = [r - np.delete(reward_G, i).mean() for i, r in enumerate(reward_G)]
        np.testing.assert_allclose(got_G, want, rtol=1e-5)


def test_reinforce_pp_standardizes_over_the_whole_rollout():
    got_PG = np.asarray(ALGORITHMS["reinforce++"].advantages(REWARD_PG, ALL_GRADED))
    reward = np.float64(REWARD_PG)
    np.testing.assert_allclose(got_PG, (reward - reward.mean()) / reward.std(), 1e-5, 1e-6)
    solved_PG = np.float32([[1, 1], [0, 1]])  # a question that all solve says something here
    assert ALGORITHMS["reinforce++"].advantages(solved_PG, np.ones((2, 2), bool))[0].all()
    equal = np.full((2, 2), np.float32(0.7))
    assert not np.any(ALGORITHMS["reinforce++"].advantages(equal, np.ones((2, 2), bool)))


def test_ppo_leaves_rewards_to_the_critic():
    graded_PG = np.array([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    junk_PG = np.where(graded_PG, REWARD_PG, np.float32("nan"))
    got_PG = ALGORITHMS["ppo"].advantages(junk_PG, graded_PG)
    np.testing.assert_array_equal(got_PG, np.where(graded_PG, REWARD_PG, 0))


@pytest.mark.parametrize("name", IN_GROUPS)
@pytest.mark.parametrize("group", [1, 3, 7, 16])
def test_equal_rewards_have_exactly_no_advantage(name, group):
    """Also where their mean is rounded: a residue of 1e-9 is all that Adam needs to take a step."""
    reward_P = np.float32([0, 1, 0.1, 0.7, -1 / 3, 1e6])
    reward_PG = np.tile(reward_P[:, None], group)
    got = ALGORITHMS[name].advantages(reward_PG, np.ones_like(reward_PG, bool))
    np.testing.assert_array_equal(got, np.zeros((6, group)))


@pytest.mark.parametrize("name", IN_GROUPS)
def test_a_spread_of_rounding_size_is_none_and_a_small_one_is_one(name):
    reward_PG = np.float32([[0.1 + 0.2, 0.3, 0.3], [0, 0, 1e-7], [0, 0, 1e-4]])
    got_PG = np.asarray(ALGORITHMS[name].advantages(reward_PG, np.ones_like(reward_PG, bool)))
    np.testing.assert_array_equal(np.any(got_PG != 0, axis=1), reward_PG.std(axis=1) > SPREAD)
    assert got_PG[2].any() and not got_PG[:2].any()


@pytest.mark.parametrize("junk", [0.0, -7.0, np.nan, np.inf])
@pytest.mark.parametrize("name", IN_GROUPS)
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
        "rloo": (0.2, 0.2, 0.0),
        "reinforce++": (0.2, 0.2, 0.0),
        "cispo": (1.0, 4.0, 0.0),
        "ppo": (0.2, 0.2, 1e-3),
    }
    assert {name: settings(RLConfig(algorithm=name)) for name in ALGORITHMS} == want
    assert set(ALGORITHMS) == set(get_args(AlgorithmName))
    told = RLConfig(algorithm="gspo", clip_low=0.0, kl_coef=0.5)
    assert settings(told) == Settings(clip_low=0.0, clip_high=4e-4, kl_coef=0.5)


def test_a_group_of_one_is_refused():
    with pytest.raises(InputError, match=r"RLConfig.group=1: .* no signal$"):
        RLConfig(group=1)


# The third row of MASK_BT holds two replies where they are packed, the second begins at token 3.
SEGMENTS_BT = np.array([[1] * 5, [1, 1, 1, 2, 2], [0, 0, 0, 1, 1], [0] * 5])
PACKED_BT = MASK_BT | (np.array([[0], [1], [0], [0]], bool) & np.array([0, 0, 0, 0, 1], bool))


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"gspo"}))
def test_ratio_is_of_each_token(name):
    got = np.exp(ALGORITHMS[name].log_ratios(DIFFERENCE_BT, MASK_BT, SEGMENTS_BT))
    np.testing.assert_allclose(got[MASK_BT], np.exp(np.float64(DIFFERENCE_BT[MASK_BT])), rtol=1e-6)


def test_gspo_ratio_is_the_geometric_mean_of_the_reply():
    got = np.exp(ALGORITHMS["gspo"].log_ratios(DIFFERENCE_BT, PACKED_BT, SEGMENTS_BT))
    for b in range(len(got)):
        for segment in range(1, 3):
            mine = (SEGMENTS_BT[b] == segment) & PACKED_BT[b]
            difference = np.float64(DIFFERENCE_BT[b, mine])
            mean = np.exp(difference).prod() ** (1 / max(1, mine.sum()))
            np.testing.assert_allclose(got[b, mine], np.full(mine.sum(), mean), rtol=1e-6)


LENGTH_N = np.int32([5, 2, 1, 0])  # of an update's replies; a fourth is in another update
# What a token of each weighs: there are 3 replies of 8 tokens.
WEIGHTS = {
    "mean of replies": (1 / 15, 1 / 6, 1 / 3),  # 1 / (|o| N)
    "mean of tokens": (1 / 8, 1 / 8, 1 / 8),  # 1 / sum |o|
    "constant length": (1 / 24, 1 / 24, 1 / 24),  # 1 / (N budget)
}
WEIGHTING = {
    "grpo": "mean of replies",
    "gspo": "mean of replies",
    "dapo": "mean of tokens",
    "reinforce++": "mean of tokens",
    "cispo": "mean of tokens",
    "ppo": "mean of tokens",
    "dr_grpo": "constant length",
    "rloo": "constant length",
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_weight_of_a_token(name):
    got_N = np.asarray(ALGORITHMS[name].weights(LENGTH_N, BUDGET))
    np.testing.assert_allclose(got_N[:3], WEIGHTS[WEIGHTING[name]], rtol=1e-6)
    total = 8 / 24 if WEIGHTING[name] == "constant length" else 1.0
    np.testing.assert_allclose((got_N * LENGTH_N).sum(), total, rtol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_weights_of_no_replies_are_finite_and_replies_of_other_updates_do_not_count(name):
    weights = ALGORITHMS[name].weights
    assert np.isfinite(weights(np.zeros(3, np.int32), BUDGET)).all()
    more = np.concatenate([LENGTH_N, np.zeros(3, np.int32)])
    np.testing.assert_array_equal(weights(more, BUDGET)[:4], weights(LENGTH_N, BUDGET))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masked_tokens_have_no_influence_on_ratios(name):
    algorithm = ALGORITHMS[name]
    garbage = np.where(MASK_BT, DIFFERENCE_BT, np.nan)
    clean, dirty = (
        np.where(MASK_BT, algorithm.log_ratios(d, MASK_BT, SEGMENTS_BT), 0)
        for d in (DIFFERENCE_BT, garbage)
    )
    np.testing.assert_array_equal(clean, dirty)
    assert np.isfinite(dirty).all()


def test_surrogates_beyond_the_bounds():
    """At a ratio of 2: PPO's clip pays 1.2 for a good token, RLOO all of it, CISPO a weight of 1.2
    on log pi; and their gradients."""
    log_ratio, logp = jnp.log(jnp.float32(2.0)), jnp.float32(-0.5)
    for name, want, slope in (("grpo", 1.2, 0.0), ("rloo", 2.0, 2.0), ("cispo", -0.6, 1.2)):
        surrogate = ALGORITHMS[name].surrogate
        value, gradient = jax.value_and_grad(
            lambda x, f=surrogate: f(log_ratio + x, logp + x, 1.0, 0.2, 0.2)
        )(jnp.float32(0.0))
        assert (float(value), float(gradient)) == pytest.approx((want, slope), rel=1e-6), name
