"""Routing: the reference against loops written from the paper, the kernel against both.

Suffixes as in r1jax/kernels/routing.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from r1jax.architecture import RouterConfig
from r1jax.kernels.routing import Routing, route, route_pallas, route_reference

CONFIGS = {
    "v3": RouterConfig(256, 8, groups=8, group_limit=4, scale=2.5),
    "v2": RouterConfig(160, 6, 8, 3, scoring="softmax", renormalize=False, scale=16.0),
    "v2_lite": RouterConfig(64, 6, scoring="softmax", renormalize=False),
    "tiny": RouterConfig(8, 2),
    "small_groups": RouterConfig(12, 3, groups=4, group_limit=2, renormalize=False),
    "groups_of_one": RouterConfig(6, 2, groups=6, group_limit=3),
    "softmax_renormalized": RouterConfig(16, 4, groups=4, group_limit=2, scoring="softmax"),
    "all_active": RouterConfig(4, 4, groups=2, group_limit=2),
}
BLOCK = 128
N = BLOCK + 12  # two blocks, the second reaching past the tokens
BACKENDS = {
    "reference": route_reference,
    "kernel": partial(route_pallas, block=BLOCK, interpret=True),
    "route": route,
}

each_config = pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS.keys())
each_backend = pytest.mark.parametrize("backend", BACKENDS)


# Unlike other tests (conftest.py): with less, XLA:CPU computes a score anew for each use and rounds
# it differently, so that in an interpreted kernel the largest may differ from itself.
FULLY_OPTIMISED = {"xla_backend_optimization_level": 3}


def traced(backend, logits_NE, bias_E, valid_N, weights_NK, cfg, given_NK=None):
    """Routing, and the gradient of sum(gates * weights) for logits and bias."""

    def loss(logits_NE, bias_E):
        routing = BACKENDS[backend](logits_NE, bias_E, valid_N, cfg, given_NK)
        return (routing.gates_NK * weights_NK).sum() + routing.load_E.sum(), routing

    gradients, routing = jax.grad(loss, argnums=(0, 1), has_aux=True)(logits_NE, bias_E)
    return routing, *gradients


run = jax.jit(traced, static_argnames=("backend", "cfg"), compiler_options=FULLY_OPTIMISED)


@pytest.fixture(autouse=True)
def no_implicit_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


def inputs(cfg: RouterConfig, N: int = N, seed: int = 0):
    rng = np.random.default_rng(seed)
    logits_NE = rng.normal(size=(N, cfg.experts)).astype(np.float32)
    bias_E = rng.normal(scale=0.1, size=cfg.experts).astype(np.float32)
    weights_NK = rng.normal(size=(N, cfg.active)).astype(np.float32)
    return logits_NE, bias_E, rng.random(N) < 0.7, weights_NK


def scores_of(logits_E, cfg: RouterConfig):
    if cfg.scoring == "sigmoid":
        return 1 / (1 + np.exp(-logits_E))
    exps_E = np.exp(logits_E - logits_E.max())
    return exps_E / exps_E.sum()


def gates_of(logits_E, experts_K, cfg: RouterConfig):
    gates_K = scores_of(logits_E, cfg)[experts_K]
    return cfg.scale * (gates_K / gates_K.sum() if cfg.renormalize else gates_K)


def route_in_loops(logits_NE, bias_E, valid_N, cfg: RouterConfig, left_out=-np.inf):
    """The paper, a token and a group at a time, in float64."""
    size = cfg.experts // cfg.groups
    gates_NK, experts_NK, load_E = [], [], np.zeros(cfg.experts, np.int64)
    for logits_E, valid in zip(logits_NE.astype(np.float64), valid_N, strict=True):
        biased_E = scores_of(logits_E, cfg) + bias_E
        worth_G = []
        for group in range(cfg.groups):
            best = sorted(biased_E[group * size : (group + 1) * size], reverse=True)
            worth_G.append(sum(best[:2]) if cfg.scoring == "sigmoid" else best[0])
        kept = sorted(range(cfg.groups), key=lambda g: -worth_G[g])[: cfg.group_limit]
        for expert in range(cfg.experts):
            if expert // size not in kept:
                biased_E[expert] = left_out
        experts_K = sorted(range(cfg.experts), key=lambda e: -biased_E[e])[: cfg.active]
        gates_NK.append(gates_of(logits_E, experts_K, cfg))
        experts_NK.append(experts_K)
        for expert in experts_K:
            load_E[expert] += valid
    return Routing(np.array(gates_NK), np.array(experts_NK), load_E)


def assert_same(actual: Routing, expected: Routing):
    np.testing.assert_array_equal(actual.experts_NK, expected.experts_NK)
    np.testing.assert_array_equal(actual.load_E, expected.load_E)
    np.testing.assert_allclose(actual.gates_NK, expected.gates_NK, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["reference", "kernel"])
@each_config
def test_follows_the_paper(cfg, backend):
    args = inputs(cfg)
    routing, d_logits_NE, d_bias_E = run(backend, *args, cfg)
    expected = route_in_loops(*args[:3], cfg)
    assert_same(routing, expected)
    assert routing.gates_NK.dtype == jnp.float32
    assert routing.experts_NK.dtype == routing.load_E.dtype == jnp.int32
    assert routing.load_E.sum() == cfg.active * args[2].sum()

    slope_NE = finite_differences(args[0][-3:], expected.experts_NK[-3:], args[3][-3:], cfg)
    np.testing.assert_allclose(d_logits_NE[-3:], slope_NE, rtol=1e-4, atol=2e-6)
    assert not d_bias_E.any()


def finite_differences(logits_NE, experts_NK, weights_NK, cfg, step=1e-6):
    """d sum(gates * weights) / d logits in float64, the experts held fixed."""
    slope_NE = np.zeros(logits_NE.shape)
    for n, e in np.ndindex(logits_NE.shape):
        up_E, down_E = logits_NE[n].astype(np.float64), logits_NE[n].astype(np.float64)
        up_E[e] += step
        down_E[e] -= step
        rise_K = gates_of(up_E, experts_NK[n], cfg) - gates_of(down_E, experts_NK[n], cfg)
        slope_NE[n, e] = rise_K @ weights_NK[n] / (2 * step)
    return slope_NE


@pytest.mark.parametrize("backend", ["reference", "kernel"])
@pytest.mark.parametrize("name", ["small_groups", "softmax_renormalized"])
def test_given_experts_replace_the_choice_and_nothing_else(name, backend):
    """Any distinct ones, also of groups left out, of half of the tokens; the others choose."""
    cfg, (logits_NE, bias_E, valid_N, weights_NK) = CONFIGS[name], inputs(CONFIGS[name])
    own = route_in_loops(logits_NE, bias_E, valid_N, cfg)
    rng = np.random.default_rng(4)
    given_NK = np.array([rng.permutation(cfg.experts)[: cfg.active] for _ in range(N)], np.int32)
    given_NK[0], given_NK[2] = (
        own.experts_NK[0][::-1],
        [0, *given_NK[2][given_NK[2] > 0]][: cfg.active],
    )
    given_NK[1::2] = -1
    used_NK = np.where(given_NK < 0, own.experts_NK, given_NK)
    gates_NK = [gates_of(np.float64(a), b, cfg) for a, b in zip(logits_NE, used_NK, strict=True)]
    load_E = np.bincount(used_NK[valid_N].reshape(-1), minlength=cfg.experts)

    args = logits_NE, bias_E, valid_N, weights_NK, cfg
    routing, d_logits_NE, d_bias_E = run(backend, *args, given_NK)
    assert_same(routing, Routing(np.array(gates_NK), used_NK, load_E))
    apart_N = np.any(np.sort(used_NK, axis=1) != np.sort(own.experts_NK, axis=1), axis=1)
    np.testing.assert_array_equal(routing.differs_N, apart_N)
    assert 0.3 < apart_N.mean() <= 0.5 and not apart_N[0]
    slope_NE = finite_differences(logits_NE[-3:], used_NK[-3:], weights_NK[-3:], cfg)
    np.testing.assert_allclose(d_logits_NE[-3:], slope_NE, rtol=1e-4, atol=2e-6)
    assert not d_bias_E.any()

    want, *d_want = run(backend, *args)
    same, *d_same = run(backend, *args, np.int32(own.experts_NK))
    jax.tree.map(np.testing.assert_array_equal, same.replace(differs_N=None), want)
    jax.tree.map(np.testing.assert_array_equal, d_same, d_want)
    assert want.differs_N is None and not same.differs_N.any()


@each_config
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kernel_agrees_with_the_reference(cfg, seed):
    args = inputs(cfg, seed=seed)
    actual, *d_actual = run("kernel", *args, cfg)
    expected, *d_expected = run("reference", *args, cfg)
    assert_same(actual, expected)
    np.testing.assert_allclose(d_actual[0], d_expected[0], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("backend", ["reference", "kernel"])
@each_config
def test_of_equals_the_first_wins(cfg, backend):
    """Three levels of logit: experts tie within groups, and groups with each other."""
    rng = np.random.default_rng(1)
    logits_NE = rng.integers(0, 3, size=(N, cfg.experts)).astype(np.float32)
    logits_NE[0] = 0
    args = logits_NE, np.zeros(cfg.experts, np.float32), np.ones(N, bool)
    routing, *_ = run(backend, *args, inputs(cfg)[3], cfg)
    assert_same(routing, route_in_loops(*args, cfg))
    np.testing.assert_array_equal(routing.experts_NK[0], range(cfg.active))


@pytest.mark.parametrize("N", [1, BLOCK - 1, BLOCK, 3 * BLOCK])
def test_kernel_takes_any_number_of_tokens(N):
    cfg = CONFIGS["tiny"]
    args = inputs(cfg, N)
    actual, *d_actual = run("kernel", *args, cfg)
    expected, *d_expected = run("reference", *args, cfg)
    assert_same(actual, expected)
    np.testing.assert_allclose(d_actual[0], d_expected[0], rtol=1e-4, atol=2e-6)


@each_backend
def test_padding_is_routed_but_not_counted(backend):
    cfg = CONFIGS["tiny"]
    logits_NE, bias_E, valid_N, weights_NK = inputs(cfg)
    everywhere, *_ = run(backend, logits_NE, bias_E, np.ones(N, bool), weights_NK, cfg)
    somewhere, *_ = run(backend, logits_NE, bias_E, valid_N, weights_NK, cfg)
    nowhere, *_ = run(backend, logits_NE, bias_E, np.zeros(N, bool), weights_NK, cfg)
    for routing, tokens in (everywhere, N), (somewhere, valid_N.sum()), (nowhere, 0):
        assert routing.load_E.sum() == cfg.active * tokens
        np.testing.assert_array_equal(routing.experts_NK, everywhere.experts_NK)
        np.testing.assert_array_equal(routing.gates_NK, everywhere.gates_NK)


@pytest.mark.parametrize("backend", ["reference", "kernel"])
def test_groups_left_out_stay_out_under_a_negative_bias(backend):
    """At bias -1 every biased score is negative, so masking with 0 would choose what it masks."""
    cfg = CONFIGS["v3"]
    logits_NE, _, valid_N, weights_NK = inputs(cfg)
    bias_E = np.full(cfg.experts, -1.0, np.float32)
    routing, *_ = run(backend, logits_NE, bias_E, valid_N, weights_NK, cfg)
    best_NG2 = np.sort(scores_of(logits_NE, cfg).reshape(N, cfg.groups, -1))[..., -2:]
    worth_NG = best_NG2.sum(axis=2)
    kept_NG = worth_NG >= np.sort(worth_NG)[:, -cfg.group_limit, None]

    def is_kept(experts_NK):
        return np.take_along_axis(kept_NG, experts_NK // (cfg.experts // cfg.groups), axis=1)

    assert is_kept(np.asarray(routing.experts_NK)).all()
    zero_masked = route_in_loops(logits_NE, bias_E, valid_N, cfg, left_out=0.0)
    assert not is_kept(zero_masked.experts_NK).any()


@each_backend
def test_scores_that_underflow_leave_gates_and_gradients_finite(backend):
    cfg = CONFIGS["tiny"]
    logits_NE, *rest = inputs(cfg)
    routing, d_logits_NE, _ = run(backend, np.full_like(logits_NE, -200.0), *rest, cfg)
    assert np.isfinite(routing.gates_NK).all() and np.isfinite(d_logits_NE).all()


@each_backend
def test_nan_logits_give_nan_gates_and_experts_in_range(backend):
    cfg = CONFIGS["tiny"]
    logits_NE, bias_E, _, weights_NK = inputs(cfg)
    logits_NE[:] = np.nan
    routing, *_ = run(backend, logits_NE, bias_E, np.ones(N, bool), weights_NK, cfg)
    assert ((routing.experts_NK >= 0) & (routing.experts_NK < cfg.experts)).all()
    assert np.isnan(routing.gates_NK).all() and routing.load_E.sum() == cfg.active * N


@each_backend
def test_bfloat16_logits_are_scored_in_float32(backend):
    cfg = CONFIGS["tiny"]
    logits_NE, *rest = inputs(cfg)
    rounded_NE = jnp.asarray(logits_NE, jnp.bfloat16)
    routing, d_logits_NE, _ = run(backend, rounded_NE, *rest, cfg)
    expected, *_ = run("reference", rounded_NE.astype(jnp.float32), *rest, cfg)
    assert_same(routing, expected)
    assert d_logits_NE.dtype == jnp.bfloat16


# Interpreted kernels do not run under check_vma; test_routing_tpu.py compiles them under it.
@pytest.mark.parametrize(
    "backend, check", [("reference", True), ("route", True), ("kernel", False)]
)
def test_sharded_over_tokens(backend, check):
    """Under shard_map tokens route as on one device, and local loads sum to the global one."""
    cfg = CONFIGS["small_groups"]
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    args = inputs(cfg, N=5 * mesh.size)

    def local(*args):
        routing, d_logits_NE, d_bias_E = traced(backend, *args, cfg)
        return routing.replace(load_E=jax.lax.psum(routing.load_E, "data")), d_logits_NE, d_bias_E

    tokens, replicated = PartitionSpec("data"), PartitionSpec()
    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(tokens, replicated, tokens, tokens),
        out_specs=(Routing(tokens, tokens, replicated), tokens, replicated),
        check_vma=check,
    )
    routing, d_logits_NE, d_bias_E = jax.jit(sharded, compiler_options=FULLY_OPTIMISED)(*args)
    expected, d_expected_NE, _ = run("reference", *args, cfg)
    assert_same(routing, expected)
    np.testing.assert_allclose(d_logits_NE, d_expected_NE, rtol=1e-4, atol=2e-6)
    assert not d_bias_E.any()
