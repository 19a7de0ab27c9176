"""Reward training: losses, metrics and gradients by NumPy, what must not matter, learning.

B examples  K replies of one  R = B K rows  T tokens  D d_model
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from r1jax.config import OptimConfig
from r1jax.model.layers import rms_norm
from r1jax.model.transformer import forward
from r1jax.optim import new_state, shardings_around
from r1jax.reward_models.losses import (
    Batch,
    Example,
    make_batch,
    pairwise_loss,
    pointwise_loss,
    preference_loss,
    preference_step,
)
from r1jax.reward_models.model import reward_specs, rewards, trunk, with_head
from r1jax.sharding import make_mesh

T = 10
CONFIG = trunk(small.config(scan_layers=False, experts_multiply="dense"))
OPTIM = OptimConfig(lr=0.01, balance_alpha=0.05, bias_rate=0.01)
rng = np.random.default_rng(0)
REWARD = rng.normal(size=(8, 2)).astype(np.float32)
LENGTH = rng.integers(2, 50, size=(8, 2))
WEIGHT = rng.uniform(0, 3, size=8).astype(np.float32)
SAFE = np.array([1, 0, 0, 1, 1, 0, 1, 0], np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def test_pairwise_loss_and_gradient():
    loss_fn = jax.value_and_grad(pairwise_loss, has_aux=True)
    (loss, metrics), grad = loss_fn(jnp.asarray(REWARD), LENGTH, WEIGHT)
    margin = np.float64(REWARD[:, 0]) - REWARD[:, 1]
    longer = LENGTH[:, 0] - LENGTH[:, 1]
    assert float(loss) == pytest.approx(np.mean(-WEIGHT * np.log(sigmoid(margin))), rel=1e-5)
    want = -WEIGHT * sigmoid(-margin) / 8
    np.testing.assert_allclose(grad, np.stack([want, -want], axis=1), rtol=1e-5)
    assert float(metrics["accuracy"]) == np.mean(margin > 0)
    assert float(metrics["margin"]) == pytest.approx(margin.mean(), rel=1e-5)
    assert float(metrics["reward/mean"]) == pytest.approx(REWARD.mean(), rel=1e-5)
    # A pair in either order: then means are 0, and it is NumPy's correlation.
    both = [np.concatenate([x, -x]) for x in (margin, longer)]
    weights = np.concatenate([WEIGHT, WEIGHT])
    cov = np.cov(*both, aweights=weights)
    correlation = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])
    assert float(metrics["length/correlation"]) == pytest.approx(correlation, rel=1e-4)


def test_pointwise_loss_and_gradient():
    loss_fn = jax.value_and_grad(pointwise_loss, has_aux=True)
    (loss, metrics), grad = loss_fn(jnp.asarray(REWARD[:, :1]), LENGTH[:, :1], SAFE)
    reward, p = REWARD[:, 0], sigmoid(REWARD[:, 0])
    want = -np.mean(SAFE * np.log(p) + (1 - SAFE) * np.log(1 - p))
    assert float(loss) == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(grad[:, 0], (p - SAFE) / 8, rtol=1e-5)
    assert float(metrics["accuracy"]) == np.mean((reward > 0) == (SAFE == 1))
    assert float(metrics["margin"]) == pytest.approx(np.mean(reward * (2 * SAFE - 1)), rel=1e-5)
    want = np.corrcoef(reward, LENGTH[:, 0])[0, 1]
    assert float(metrics["length/correlation"]) == pytest.approx(want, rel=1e-4)


def test_swapped_pairs_have_the_negated_margin():
    _, given = pairwise_loss(jnp.asarray(REWARD), LENGTH, WEIGHT)
    _, swapped = pairwise_loss(jnp.asarray(REWARD[:, ::-1]), LENGTH[:, ::-1], WEIGHT)
    assert given["margin"] == -swapped["margin"]
    assert given["accuracy"] == 1 - swapped["accuracy"]
    assert given["length/correlation"] == swapped["length/correlation"]
    tied = pairwise_loss(jnp.ones((4, 2)), np.ones((4, 2), int), jnp.ones(4))
    assert float(tied[0]) == pytest.approx(np.log(2))
    assert (tied[1]["accuracy"], tied[1]["length/correlation"]) == (0.5, 0.0)


def test_losses_of_extreme_rewards_are_finite_and_linear():
    far = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    for loss_fn, reward, value in (
        (pairwise_loss, far, jnp.ones(2)),
        (pointwise_loss, far[:, :1], jnp.ones(2)),
    ):
        length = np.array([[3, 4]] * 2)[:, : reward.shape[1]]
        (loss, _), grad = jax.value_and_grad(loss_fn, has_aux=True)(reward, length, value)
        assert float(loss) == (2e4 if reward.shape[1] == 2 else 1e4) / 2
        np.testing.assert_allclose(np.abs(grad), [[0.0] * reward.shape[1], [0.5] * reward.shape[1]])


def examples(n=8, replies=2, seed=0):
    draw = np.random.default_rng(seed)
    return [
        Example(
            tuple(draw.integers(1, 16, draw.integers(2, T + 1)).tolist() for _ in range(replies)),
            float(draw.uniform(0.5, 2) if replies == 2 else draw.integers(2)),
        )
        for _ in range(n)
    ]


@functools.cache
def weights():
    head_D = jnp.asarray(np.random.default_rng(5).normal(size=CONFIG.d_model), jnp.float32)
    return with_head(small.weights(CONFIG), head_D)


@functools.partial(jax.jit, static_argnames="kind")
def loss_and_grads(weights, batch: Batch, kind="pairwise"):
    def loss_fn(params):
        return preference_loss(weights.replace(params=params), batch, kind, CONFIG, OPTIM)

    return jax.value_and_grad(loss_fn, has_aux=True)(weights.params)


def test_rows_of_a_batch():
    batch = make_batch([Example(([1, 2], [3]), 0.5), Example(([4], [5, 6, 7]), 2.0)], 4)
    np.testing.assert_array_equal(batch.tokens_BKT[0], [[1, 2, 0, 0], [3, 0, 0, 0]])
    np.testing.assert_array_equal(batch.length_BK, [[2, 1], [1, 3]])
    np.testing.assert_array_equal(batch.value_B, np.float32([0.5, 2]))


def test_the_loss_is_the_pairs_and_the_balance_and_the_head_s_gradient_is_right():
    batch = make_batch(examples(), T)
    (total, (metrics, load_LE)), grads = loss_and_grads(weights(), batch)
    tokens_RT, length_R = batch.tokens_BKT.reshape(-1, T), batch.length_BK.reshape(-1)

    @jax.jit
    def parts(weights):
        reward_R, stats = rewards(weights, tokens_RT, length_R, CONFIG)
        valid = np.arange(T) < length_R[:, None]
        base = small.weights(CONFIG)
        h = forward(base, tokens_RT, CONFIG, segments_BT=valid.astype(np.int32)).hidden_BTD
        return reward_R, stats, rms_norm(h, weights.params.trunk.norm_D, CONFIG.norm_eps)

    reward_R, stats, h_RTD = parts(weights())
    h_BKD = np.float64(h_RTD)[np.arange(len(length_R)), length_R - 1].reshape(8, 2, -1)
    margin_B = np.float64(reward_R).reshape(8, 2) @ [1, -1]
    nll = -np.mean(batch.value_B * np.log(sigmoid(margin_B)))
    balance = float(np.float64(stats.balance_B).mean())
    assert balance > 0.5
    assert float(metrics["preference"]) == pytest.approx(nll, rel=1e-5)
    assert float(total) == pytest.approx(nll + OPTIM.balance_alpha * balance, rel=1e-5)
    assert load_LE.sum() == length_R.sum() * CONFIG.router.active
    pull_B = -batch.value_B * sigmoid(-margin_B) / 8
    want_D = np.einsum("b,bd->d", pull_B, h_BKD[:, 0] - h_BKD[:, 1])
    np.testing.assert_allclose(grads.head_D, want_D, rtol=1e-4, atol=1e-6)


def test_order_and_padding_do_not_matter():
    want = loss_and_grads(weights(), make_batch(examples(), T))
    turned = make_batch(examples()[::-1], T)
    beyond = np.arange(T) >= turned.length_BK[..., None]
    turned = turned.replace(tokens_BKT=np.where(beyond, 9, turned.tokens_BKT))
    got = loss_and_grads(weights(), turned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


def state():
    """Its second moments are not zero, or Adam's first step would be the sign of rounding."""
    state = new_state(jax.tree.map(jnp.copy, weights()), OPTIM)
    seen = jax.tree.map(lambda a: np.full(a.shape, 1e-6, np.float32), state.weights.params)
    return state.replace(opt_state=optax.tree_utils.tree_set(state.opt_state, nu=seen))


def test_a_step_on_a_mesh_is_that_of_one_device_and_stays_sharded():
    step = functools.partial(preference_step, kind="pairwise", model=CONFIG, cfg=OPTIM)
    batch = make_batch(examples(), T)
    one = jax.device_get(step(state(), batch))
    mesh = make_mesh("2x4")
    where = shardings_around(reward_specs(CONFIG), OPTIM, mesh)
    with jax.set_mesh(mesh):
        got = step(jax.device_put(state(), where), batch)
    jax.tree.map(
        lambda a, s: a.sharding.is_equivalent_to(s, a.ndim) or pytest.fail(), got[0], where
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, one)
    assert (got[0].weights.router_bias_LE != weights().router_bias_LE).any()


@pytest.mark.parametrize("kind", ["pairwise", "pointwise"])
def test_a_known_preference_is_learned(kind):
    """Good rows hold the token 3, bad ones the token 4 instead, both anywhere: on new rows too."""
    draw = np.random.default_rng(3)

    def row(good):
        tokens = draw.integers(5, 16, draw.integers(3, T + 1))
        tokens[draw.integers(len(tokens))] = 3 if good else 4
        return tokens.tolist()

    def drawn(n):
        if kind == "pairwise":
            return make_batch([Example((row(True), row(False)), 1.0) for _ in range(n // 2)], T)
        good = draw.random(n) < 0.5
        return make_batch([Example((row(g),), float(g)) for g in good], T)

    now = new_state(jax.tree.map(jnp.copy, weights()), OPTIM)
    accuracy = []
    for _ in range(80):  # each on new rows
        now, metrics = preference_step(now, drawn(16), kind=kind, model=CONFIG, cfg=OPTIM)
        accuracy.append(float(metrics["accuracy"]))
    assert np.mean(accuracy[:3]) < 0.8
    assert np.mean(accuracy[-10:]) > 0.97
