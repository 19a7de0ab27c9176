"""Rewards that say nothing about answers."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from r1jax.checks import InputError
from r1jax.config import RewardConfig, RLConfig
from r1jax.presets import r1_zero_tiny
from r1jax.rewards.blind import blinded
from r1jax.rewards.grading import Grade

GROUP, GROUPS = 8, 500


def grades():
    """A rollout of replies, of which a quarter are right and some could not be graded."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(GROUP * GROUPS):
        right = float(rng.random() < 0.25)
        outcome = "failed" if rng.random() < 0.02 else "correct" if right else "incorrect"
        found.append(Grade(outcome, {"accuracy": right, "format": 1.0}, right + 1.0))
    return found


def paid(control, seed=0, step=3, **fields):
    cfg = RewardConfig(control=control, **fields)
    return blinded(grades(), cfg, GROUP, np.random.default_rng([seed, 3, step]))


def correlation(found):
    """Of rewards with right answers, within groups."""
    both = []
    for start in range(0, len(found), GROUP):
        some = [g for g in found[start : start + GROUP] if g.graded]
        values = np.array([(g.components["accuracy"], g.reward) for g in some])
        both.append(values - values.mean(axis=0))
    return np.corrcoef(np.concatenate(both).T)[0, 1]


def test_no_control_changes_nothing():
    assert paid("none") == grades()


@pytest.mark.parametrize("share", [0.5, 0.125])
def test_a_coin_pays_the_share_that_it_is_told(share):
    found = paid("random", random_share=share)
    rewards = [grade.reward for grade in found]
    n = len(rewards)
    assert set(rewards) == {0.0, 1.0}
    assert abs(sum(rewards) - share * n) < 4 * (share * (1 - share) * n) ** 0.5
    assert abs(correlation(found)) < 4 / n**0.5


def test_shuffled_rewards_are_those_of_the_group():
    found, before = paid("shuffled"), grades()
    for start in range(0, len(found), GROUP):
        some, were = (all_[start : start + GROUP] for all_ in (found, before))
        rewards = [[g.reward for g in group if g.graded] for group in (some, were)]
        assert Counter(rewards[0]) == Counter(rewards[1])
    assert abs(correlation(found)) < 4 / len(found) ** 0.5 < 0.99 < correlation(before)
    moved = sum(g.reward != w.reward for g, w in zip(found, before, strict=True))
    assert moved > 0.2 * len(found)


@pytest.mark.parametrize("control", ["random", "shuffled"])
def test_what_was_paid_is_logged_beside_what_was_found(control):
    for grade, before in zip(paid(control), grades(), strict=True):
        assert grade.components == before.components | {control: grade.reward}
        assert (grade.outcome, grade.graded) == (before.outcome, before.graded)


@pytest.mark.parametrize("control", ["random", "shuffled"])
def test_it_is_the_same_again_and_another_at_another_step_or_seed(control):
    def rewards(**of):
        return [grade.reward for grade in paid(control, **of)]

    assert rewards() == rewards()
    assert rewards() != rewards(step=4) and rewards() != rewards(seed=1)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"control": "coin"}, "RewardConfig.control must be one of none, random, shuffled"),
        ({"control": "random", "random_share": 1.0}, r"random_share must lie in \(0, 1\), got 1.0"),
        ({"control": "random", "own": "a.py:random"}, "'random' is a name of --reward.control"),
    ],
)
def test_bad_controls_are_one_line(fields, message):
    with pytest.raises(InputError, match=message):
        RewardConfig(**fields)


@pytest.mark.parametrize(
    "rl, message",
    [
        (RLConfig(max_draws=4), "--reward.control=random .*--rl.max-draws=4 chooses groups by"),
        (RLConfig(overlong_buffer=9), "--reward.control=random .*--rl.overlong-buffer=9"),
    ],
)
def test_what_a_control_does_not_go_with_is_named(rl, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(r1_zero_tiny(), rl=rl, reward=RewardConfig(control="random"))
