"""Routing statistics, experts and grouped matmul, on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tiny

from r1jax.architecture import RouterConfig
from r1jax.model.experts import blocked, dense, grouped
from r1jax.model.moe import moe, updated_bias

B, T = 3, 7
IMPLS = ("dense", "grouped", "blocked")
VALID = np.arange(T)[None, :] < np.array([[7], [4], [0]])  # full, padded, nothing but padding
ROUTERS = {
    "v3": tiny.CONFIG.router,
    "sigmoid-one-group": RouterConfig(experts=8, active=3),
    "v2": tiny.SOFTMAX,
    "softmax-groups": RouterConfig(
        experts=8, active=2, groups=2, group_limit=1, scoring="softmax", scale=1.5
    ),
}

run = tiny.jit(moe, static_argnames="cfg")


@functools.cache
def case(router: str = "v3", shared_experts: int = 2, impl: str = "dense"):
    cfg = tiny.config(router=ROUTERS[router], shared_experts=shared_experts, experts_multiply=impl)
    weights = tiny.weights(cfg)
    p = jax.tree.map(lambda a: a[0], weights.params.moe.ffn)
    x = np.random.default_rng(1).normal(size=(B, T, cfg.d_model)).astype(np.float32)
    return cfg, p, weights.router_bias_LE[0], x


def expected(cfg, p, bias_E, x):
    rows = [
        oracle.moe(x_TD, oracle.to_numpy(p), oracle.to_numpy(bias_E), cfg, valid)
        for x_TD, valid in zip(np.float64(x), VALID, strict=True)
    ]
    out, loads, balances = zip(*rows, strict=True)
    return np.stack(out), np.sum(loads, axis=0), np.array(balances)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("router", ROUTERS)
def test_moe_is_the_loops(router, impl):
    cfg, p, bias_E, x = case(router, impl=impl)
    out, stats = run(x, p, bias_E, VALID, cfg)
    want, load_E, balance_B = expected(cfg, p, bias_E, x)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(stats.load_E, load_E)
    np.testing.assert_allclose(stats.balance_B, balance_B, rtol=1e-5, atol=1e-6)


def test_cases_are_worth_their_names():
    """The biases and the group limit change which experts win, or the tests above say little."""
    cfg, p, bias_E, x = case("v3")
    logits = np.float64(x).reshape(-1, cfg.d_model) @ np.float64(p.router_DE)

    def choices(router, bias):
        return [frozenset(oracle.route(row, bias, router)) for row in logits]

    full = choices(cfg.router, np.float64(bias_E))
    assert full != choices(cfg.router, np.zeros(8))
    assert full != choices(ROUTERS["sigmoid-one-group"], np.float64(bias_E))


@pytest.mark.parametrize("impl", ["dense", "grouped"])
def test_no_shared_experts(impl):
    cfg, p, bias_E, x = case(shared_experts=0, impl=impl)
    assert p.shared is None
    out, _ = run(x, p, bias_E, VALID, cfg)
    np.testing.assert_allclose(out, expected(cfg, p, bias_E, x)[0], rtol=1e-5, atol=1e-5)


def test_load_counts_each_valid_token_once_a_choice():
    cfg, p, bias_E, x = case()
    stats = run(x, p, bias_E, VALID, cfg)[1]
    assert stats.load_E.sum() == VALID.sum() * cfg.router.active
    assert stats.balance_B[2] == 0.0


def test_balance_loss_of_perfect_balance_and_of_collapse():
    """1 where tokens spread evenly; experts / active where all go to the same few."""
    router = ROUTERS["sigmoid-one-group"]
    even = np.where(np.arange(8)[None, :] == np.arange(8)[:, None], 1.0, 1e-9)
    one = RouterConfig(experts=8, active=1)
    assert oracle.balance_loss(even, one) == pytest.approx(1.0)
    collapsed = np.tile(np.where(np.arange(8) < 3, 1.0, 0.0), (5, 1))
    assert oracle.balance_loss(collapsed, router) == pytest.approx(8 / 3)


def loss(x, p, bias_E, cfg):
    out, stats = moe(x, p, bias_E, VALID, cfg)
    return jnp.sum(out**2) + jnp.sum(stats.balance_B)


gradients = tiny.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnames="cfg")


@pytest.mark.parametrize("router", ["v3", "v2"])
def test_gradients_do_not_depend_on_the_implementation(router):
    dense, *others = (
        gradients(x, p, bias_E, cfg)
        for cfg, p, bias_E, x in (case(router, impl=impl) for impl in IMPLS)
    )
    for other in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), dense, other
        )


@pytest.mark.parametrize("impl", [dense, grouped, blocked])
@pytest.mark.parametrize("rows", [1, 3, 200])
def test_local_experts_of_few_rows_and_many(impl, rows):
    """Against one pair after another. Experts 0 to 3 are here, the others on another device; one
    gets nothing, one nearly everything, so that it fills many blocks."""
    rng = np.random.default_rng(rows)
    weights = [rng.normal(size=s).astype(np.float32) / 3 for s in ((4, 9, 7), (4, 9, 7), (4, 7, 9))]
    x = rng.normal(size=(rows, 9)).astype(np.float32)
    experts = np.array([rng.permutation([-2, 1, 3, 5])[:2] for _ in range(rows)], np.int32)
    experts = np.concatenate([np.full((rows, 1), 2), experts], axis=1)
    gates = rng.random((rows, 3)).astype(np.float32)
    want = np.zeros((rows, 9))
    for m, k in np.ndindex(rows, 3):
        if 0 <= (e := experts[m, k]) < 4:
            gate, up = np.float64(x[m]) @ weights[0][e], np.float64(x[m]) @ weights[1][e]
            want[m] += gates[m, k] * (gate / (1 + np.exp(-gate)) * up) @ weights[2][e]
    got = tiny.jit(impl, static_argnums=4)(x, gates, experts, tuple(weights), rows)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_router_learns_and_the_selection_bias_does_not():
    cfg, p, bias_E, x = case()
    d_x, d_p, d_bias = gradients(x, p, bias_E, cfg)
    assert np.abs(d_p.router_DE).max() > 1e-3
    np.testing.assert_array_equal(d_bias, 0.0)
    # The gradient along a direction is the slope of the float64 loops.
    d = np.random.default_rng(3).normal(size=x.shape) * 1e-5

    def slow(x):
        out, _, balance = expected(cfg, p, bias_E, x)
        return np.sum(out**2) + np.sum(balance)

    slope = (slow(np.float64(x) + d) - slow(np.float64(x) - d)) / 2
    assert np.sum(np.float64(d_x) * d) == pytest.approx(slope, rel=1e-3)


def test_bias_moves_against_the_load():
    bias = np.float32([[0.5, -0.5, 0.0, 0.25], [0.0, 0.0, 0.0, 0.0]])
    load = np.int32([[10, 0, 4, 2], [3, 3, 3, 3]])  # means 4 and 3
    got = updated_bias(jnp.asarray(bias), jnp.asarray(load), 0.001)
    want = np.stack([oracle.updated_bias(b, n, 0.001) for b, n in zip(bias, load, strict=True)])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(want[0] - bias[0], [-0.001, 0.001, 0.0, 0.001], atol=1e-12)
