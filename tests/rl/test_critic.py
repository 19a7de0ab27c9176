"""Values, advantages and the value loss, against plain loops.

R rows  T tokens
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.architecture import GQAConfig
from r1jax.config import RLConfig, RunConfig
from r1jax.rl.algorithms import CriticSettings, critic_settings
from r1jax.rl.critic import (
    Valued,
    critic_of,
    explained_variance,
    gae,
    normalized,
    row_values,
    value_loss,
)
from r1jax.rl.hyper import hyper_of
from r1jax.rl.loop import abstract_policy, policy_around
from r1jax.rl.types import Rows
from r1jax.sharding import make_mesh

T = 12
WHOLE = CriticSettings(gamma=1.0, gae_lambda=1.0, value_clip=0.2)
# Of each row: (tokens of the prompt, tokens of the reply), one after another.
PACKED = st.lists(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), max_size=4), min_size=1, max_size=3
)


def rows_of(plan, tokens=None) -> Rows:
    """What fits of the plan; a row's rest is padding. sample_BT numbers replies from 0 on."""
    shape = (len(plan), T)
    segments, positions, samples = (np.zeros(shape, np.int32) for _ in range(3))
    reply, number = np.zeros(shape, bool), 0
    for r, row in enumerate(plan):
        start = 0
        for segment, (prompt, drawn) in enumerate(row, start=1):
            here = slice(start, start + prompt + drawn)
            if here.stop > T:
                break
            segments[r, here], samples[r, here] = segment, number
            positions[r, here] = np.arange(prompt + drawn)
            reply[r, start + prompt : here.stop] = True
            start, number = here.stop, number + 1
    tokens = np.zeros(shape, np.int32) if tokens is None else np.int32(tokens)
    return Rows(tokens, segments, positions, reply, np.zeros(shape, np.float32), samples)


def drawn_of(rows: Rows, seed: int):
    """(what each token's reply earns, values), with NaN wherever there is no reply."""
    rng = np.random.default_rng(seed)
    earned = rng.normal(size=rows.sample_BT.max() + 1)[rows.sample_BT]
    value = rng.normal(size=rows.reply_BT.shape)
    return (np.float32(np.where(rows.reply_BT, x, np.nan)) for x in (earned, value))


def by_hand(earned, value, rows: Rows, gamma: float, lam: float) -> np.ndarray:
    """A_t = sum_k (gamma lambda)^k (r_(t+k) + gamma V_(t+k+1) - V_(t+k)), a reply at a time."""
    advantage = np.zeros(value.shape)
    for r in range(len(value)):
        for segment in range(1, rows.segments_BT[r].max() + 1):
            at = np.flatnonzero((rows.segments_BT[r] == segment) & rows.reply_BT[r])
            reward = np.zeros(at.size)
            reward[-1] = earned[r, at[-1]]
            v = np.append(np.float64(value[r, at]), 0)
            for t in range(at.size):
                for k in range(at.size - t):
                    error = reward[t + k] + gamma * v[t + k + 1] - v[t + k]
                    advantage[r, at[t]] += (gamma * lam) ** k * error
    return advantage


@settings(max_examples=40, deadline=None)
@given(PACKED, st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_advantages_are_those_of_a_loop_over_each_reply(plan, gamma, lam, seed):
    rows = rows_of(plan)
    earned, value = drawn_of(rows, seed)
    advantage, target = gae(earned, value, rows, WHOLE._replace(gamma=gamma, gae_lambda=lam))
    want = by_hand(earned, value, rows, gamma, lam)
    np.testing.assert_allclose(advantage, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(target, want + np.where(rows.reply_BT, value, 0), 1e-4, 1e-5)


PLAN = [[(1, 3), (2, 4)], [(3, 2)], [], [(1, 1), (1, 1), (1, 5)]]


def test_without_discount_a_target_is_what_the_reply_earned_and_so_is_the_first_advantage():
    rows = rows_of(PLAN)
    earned, value = drawn_of(rows, 0)
    reply = rows.reply_BT
    _, target = gae(earned, value, rows, WHOLE)
    np.testing.assert_allclose(np.asarray(target)[reply], earned[reply], rtol=1e-5)
    advantage, _ = gae(earned, np.zeros_like(value), rows, WHOLE)
    of_all = np.float64(earned[reply])
    want = (of_all - of_all.mean()) / of_all.std()
    np.testing.assert_allclose(np.asarray(normalized(advantage, reply))[reply], want, rtol=1e-4)


def test_lambda_of_0_looks_one_token_ahead():
    rows = rows_of([[(1, 3)]])
    earned, value = np.float32([[9] * T]), np.float32([[0, 1, 2, 4] + [7] * (T - 4)])
    advantage, _ = gae(earned, value, rows, WHOLE._replace(gamma=0.5, gae_lambda=0.0))
    assert advantage[0, :5].tolist() == [0, 0.5 * 2 - 1, 0.5 * 4 - 2, 9 - 4, 0]


def test_normalized_advantages_have_mean_0_and_deviation_1_over_reply_tokens_alone():
    rows = rows_of(PLAN)
    advantage = 3 + np.random.default_rng(0).normal(size=rows.reply_BT.shape)
    mine = advantage[rows.reply_BT]
    advantage = np.float32(np.where(rows.reply_BT, advantage, np.nan))
    got = np.asarray(normalized(advantage, rows.reply_BT))[rows.reply_BT]
    np.testing.assert_allclose(got, (mine - mine.mean()) / mine.std(), rtol=1e-4, atol=1e-5)
    equal = np.full_like(advantage, np.float32(0.7))
    assert not np.any(normalized(equal, rows.reply_BT))
    assert not np.any(normalized(equal, np.zeros_like(rows.reply_BT)))


@pytest.mark.parametrize(
    "value, old, target, loss, slope, held",
    [
        (0.1, 0.0, 1.0, 0.405, -0.9, False),  # within the range
        (0.5, 0.0, 1.0, 0.32, 0.0, True),  # far enough towards the target: (0.2 - 1)^2 / 2
        (0.5, 0.0, -1.0, 1.125, 1.5, False),  # far in the wrong direction: pulled back
        (-0.5, 0.0, -1.0, 0.32, 0.0, True),
        (2.0, 2.0, 2.0, 0.0, 0.0, False),
    ],
)
def test_value_loss_stops_what_has_gone_far_enough(value, old, target, loss, slope, held):
    def of(value):
        got, is_held = value_loss(value, Valued(jnp.float32(old), jnp.float32(target)), 0.2)
        return got, is_held

    (got, is_held), gradient = jax.value_and_grad(of, has_aux=True)(jnp.float32(value))
    assert float(got) == pytest.approx(loss, rel=1e-5, abs=1e-7)
    assert float(gradient) == pytest.approx(slope, rel=1e-5, abs=1e-7)
    assert bool(is_held) == held


def test_value_loss_is_that_of_numpy():
    value, old, target = np.random.default_rng(0).normal(size=(3, 4, T))
    got, held = value_loss(jnp.float32(value), Valued(jnp.float32(old), jnp.float32(target)), 0.3)
    near = old + np.minimum(0.3, np.maximum(-0.3, value - old))
    free, kept = (value - target) ** 2, (near - target) ** 2
    np.testing.assert_allclose(got, np.where(kept > free, kept, free) / 2, rtol=1e-4, atol=1e-6)
    assert 0 < np.mean(held) < 1
    unbounded, _ = value_loss(
        jnp.float32(value), Valued(jnp.float32(old), jnp.float32(target)), np.inf
    )
    np.testing.assert_allclose(unbounded, free / 2, rtol=1e-4, atol=1e-6)


def test_explained_variance():
    target = np.float32(np.random.default_rng(0).normal(size=(2, T)))
    reply = np.arange(T)[None] < np.array([[5], [T]])

    def of(value):
        value = np.float32(np.where(reply, value, np.nan))
        return float(explained_variance(Valued(value, target), reply))

    assert of(target) == pytest.approx(1) and of(target + 3) == pytest.approx(1, abs=1e-5)
    assert of(np.zeros_like(target)) == pytest.approx(0, abs=1e-6)
    assert of(-target) == pytest.approx(-3, rel=1e-4)
    equal = np.full_like(target, 0.5)
    assert float(explained_variance(Valued(target, equal), reply)) == 0


DENSE = small.config(
    dense_layers=1, router=None, shared_experts=0, attention=GQAConfig(2, 1, 6), tied_head=True
)
MODELS = {"moe": small.CONFIG, "mtp": small.config(mtp_depth=1), "dense": DENSE}
values = jax.jit(lambda w, rows, model: row_values(w, rows, model)[0], static_argnames="model")


def critic_with_a_head(model):
    critic = critic_of(small.weights(model), model)
    head_D = jnp.float32(np.random.default_rng(2).normal(size=model.d_model))
    return critic.replace(params=critic.params.replace(head_D=head_D))


@pytest.mark.parametrize("model", [small.CONFIG, DENSE], ids=["moe", "dense"])
def test_a_value_is_of_what_stands_before_its_token_in_its_own_segment(model):
    """Packed as alone; nothing that comes later, the token itself with it, has a part in it."""
    lengths = [(2, 4), (1, 5)]
    rng = np.random.default_rng(0)
    own = [rng.integers(0, 16, p + n) for p, n in lengths]
    weights = critic_with_a_head(model)

    def of(plan, texts):
        tokens = rng.integers(0, 16, (len(plan), T))
        for r, row in enumerate(texts):
            tokens[r, : len(row)] = row
        return np.asarray(values(weights, rows_of(plan, tokens), model))

    packed = of([lengths, []], [np.concatenate(own), []])[0]
    alone = of([[x] for x in lengths], own)
    np.testing.assert_allclose(packed[2:6], alone[0, 2:6], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(packed[7:12], alone[1, 1:6], rtol=1e-4, atol=1e-5)
    changed = own[0].copy()
    changed[4] = (changed[4] + 1) % 16
    other = of([lengths[:1], []], [changed, []])[0]
    np.testing.assert_allclose(other[2:5], alone[0, 2:5], rtol=1e-4, atol=1e-5)
    assert abs(other[5] - alone[0, 5]) > 1e-3


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_critic_begins_as_the_policys_trunk_with_a_head_of_zeros(model):
    """On the shapes and shardings that its checkpoints are restored with."""
    cfg = RunConfig(model=model, rl=RLConfig(algorithm="ppo"))
    weights = small.weights(model)
    state = policy_around(cfg, weights)
    got = jax.tree.map(lambda a: (a.shape, a.dtype), state)
    want = jax.tree.map(lambda a: (a.shape, a.dtype), abstract_policy(cfg, make_mesh("1")))
    assert got == want
    trunk = state.critic.weights.params.trunk
    assert trunk.mtp == () and trunk.head_DV is None
    np.testing.assert_array_equal(trunk.embed_VD, weights.params.embed_VD)
    assert trunk.embed_VD is not state.train.weights.params.embed_VD  # the step donates both
    assert not np.any(state.critic.weights.params.head_D)


def test_only_an_algorithm_with_a_critic_has_one():
    cfg = RunConfig(model=small.CONFIG)
    assert abstract_policy(cfg, make_mesh("1")).critic is None and hyper_of(cfg).critic is None


def test_a_critic_trains_with_what_is_published_unless_told_otherwise():
    """Open-Reasoner-Zero's gamma, lambda and ratio of learning rates; ppo2's range."""
    own = critic_settings(RLConfig(algorithm="ppo"), lr=1e-6)
    assert own == CriticSettings(1.0, 1.0, value_clip=0.2, critic_lr=pytest.approx(5e-6))
    told = RLConfig(algorithm="ppo", gae_lambda=0.0, critic_lr=0.0, value_clip=float("inf"))
    assert critic_settings(told, lr=1e-6) == CriticSettings(1.0, 0.0, float("inf"), 0.0)
    cfg = RunConfig(model=small.CONFIG, rl=dataclasses.replace(told, gamma=0.9))
    assert hyper_of(cfg).critic == CriticSettings(0.9, 0.0, float("inf"), 0.0)
