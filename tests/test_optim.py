"""Learning rate, clipping, weight decay, and where the moments live."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from jax.sharding import PartitionSpec as P

from r1jax import optim
from r1jax.architecture import GQAConfig
from r1jax.checks import InputError
from r1jax.config import OptimConfig, RunConfig, SFTConfig
from r1jax.model.params import GQA, weight_specs
from r1jax.published import deepseek_v3
from r1jax.reward_models.model import RewardParams
from r1jax.sharding import CONTEXT, EXPERT, FSDP, is_spec, make_mesh

DECAY = OptimConfig(lr=0.01, weight_decay=0.1, warmup=4, bias_rate=0.01)
MODEL = small.config(
    layers=2,
    dense_layers=1,
    mtp_depth=1,
    attention=dataclasses.replace(small.CONFIG.attention, q_lora=7),
)
update = jax.jit(optim.update, static_argnames="cfg")


def rates(updates: int, **fields) -> list[float]:
    cfg = OptimConfig(lr=0.5, **fields)
    return [cfg.lr * float(optim.schedule(cfg)(jnp.asarray(count))) for count in range(updates)]


def cosine(t: float) -> float:
    """From 0.5 at t = 0 to a tenth of that at t = 1."""
    return 0.05 + 0.45 * (1 + math.cos(math.pi * t)) / 2


@pytest.mark.parametrize(
    "fields, want",
    [
        ({}, [0.5] * 6),
        ({"warmup": 4}, [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]),  # none is wasted on a rate of 0
        (
            {"schedule": "cosine", "steps": 4, "final": 0.1},
            [0.5, cosine(1 / 4), cosine(2 / 4), cosine(3 / 4), 0.05, 0.05],
        ),
        (
            {"schedule": "cosine", "warmup": 2, "steps": 5, "final": 0.1},
            [0.25, 0.5, cosine(1 / 3), cosine(2 / 3), 0.05, 0.05],
        ),
    ],
)
def test_learning_rate_of_each_update(fields, want):
    assert rates(6, **fields) == pytest.approx(want)


def test_weight_decay_shrinks_matrices_by_the_rate_and_leaves_norms_and_biases():
    """Without a gradient, the decay is all there is; the biases follow the load alone."""
    specs = weight_specs(MODEL).params
    is_norm = jax.tree.map(lambda spec: spec.init is specs.norm_D.init, specs, is_leaf=is_spec)
    assert sum(jax.tree.leaves(is_norm)) == 3 * 4 + 1 + 3  # three layers, the final one, MTP
    state = optim.new_state(small.weights(MODEL), DECAY)
    zeros = jax.tree.map(jnp.zeros_like, state.weights.params)
    load_LE = jnp.tile(jnp.arange(8), (2, 1))
    for rate in (0.0025, 0.005):
        before = state.weights
        state, metrics = update(state, zeros, load_LE, DECAY)
        assert float(metrics["lr"]) == pytest.approx(rate)

        def check(is_norm, new, old, rate=rate):
            np.testing.assert_allclose(new, old if is_norm else old * (1 - 0.1 * rate), rtol=1e-6)

        jax.tree.map(check, is_norm, state.weights.params, before.params)
        moved_LE = state.weights.router_bias_LE - before.router_bias_LE
        np.testing.assert_allclose(moved_LE, [[0.01] * 4 + [-0.01] * 4] * 2, atol=1e-7)


def test_weight_decay_leaves_the_biases_and_norms_of_grouped_attention():
    attention = GQAConfig(heads=2, kv_heads=1, head_dim=6, qkv_bias=True, qk_norm=True)
    model = small.config(attention=attention, router=None, dense_layers=1)
    state = optim.new_state(small.weights(model), DECAY)
    before = state.weights.params
    state, _ = update(state, jax.tree.map(jnp.zeros_like, before), None, DECAY)
    kept = jax.tree.map(
        np.array_equal, state.weights.params.dense.attention, before.dense.attention
    )
    assert kept == GQA(
        q_DHX=False, k_DKX=False, v_DKX=False, out_HXD=False,
        q_bias_HX=True, k_bias_KX=True, v_bias_KX=True, q_norm_X=True, k_norm_X=True,
    )  # fmt: skip


def share_moved(lr: float, std: float, dtype: str) -> float:
    """Of weights of N(0, std), after 50 updates along a steady gradient."""
    cfg = OptimConfig(lr=lr)
    tx = optim.make_optimizer(cfg)
    rng = np.random.default_rng(0)
    before = {"w": jnp.asarray(rng.normal(size=10_000) * std, dtype)}
    grads = {"w": jnp.float32(rng.normal(size=10_000))}

    def one(carry, _):
        params, opt_state = carry
        updates, opt_state = tx.update(grads, opt_state, params)
        updates = jax.tree.map(lambda u: -lr * u, updates)
        return (optax.apply_updates(params, updates), opt_state), None

    (after, _), _ = jax.lax.scan(one, (before, tx.init(optim.float32(before))), length=50)
    return float(np.mean(after["w"] != before["w"]))


def test_bfloat16_parameters_that_the_rate_cannot_move_are_refused_by_name():
    """R1-Zero's rate and V3's weights: a seventh of them moves at all, in 50 updates."""
    v3 = dataclasses.replace(deepseek_v3(), param_dtype="bfloat16")
    assert share_moved(3e-6, v3.init_std, "float32") == 1
    assert share_moved(3e-6, v3.init_std, "bfloat16") < 0.2
    assert share_moved(2e-4, v3.init_std, "bfloat16") > 0.9
    names = r"ModelConfig.param_dtype=bfloat16 .* OptimConfig.lr=3e-06"
    for make in (RunConfig, functools.partial(SFTConfig, base="", tokenizer="")):
        with pytest.raises(InputError, match=names):
            make(model=v3, optim=OptimConfig(lr=3e-6))
        make(model=v3, optim=OptimConfig(lr=2e-4))
        make(model=deepseek_v3(), optim=OptimConfig(lr=3e-6))


def test_gradient_is_clipped_by_its_global_norm_which_is_reported_unclipped():
    cfg = OptimConfig(clip_norm=0.5)
    state = optim.new_state(small.weights(), cfg)
    gradient = jax.tree.map(lambda a: 3 * a, state.weights.params)
    norm = math.sqrt(sum(np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(gradient)))
    after, metrics = update(state, gradient, None, cfg)
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    moments = optax.tree_utils.tree_get(after.opt_state, "mu")
    jax.tree.map(
        lambda m, g: np.testing.assert_allclose(m, 0.1 * g * 0.5 / norm, rtol=1e-4),
        moments, gradient,
    )  # fmt: skip
    np.testing.assert_array_equal(after.weights.router_bias_LE, state.weights.router_bias_LE)


@pytest.mark.parametrize("reward", [False, True], ids=["policy", "reward model"])
def test_norms_of_gradients_by_layer(reward):
    grads = jax.tree.map(lambda a: 3 * a, small.weights(small.config(mtp_depth=1)).params)
    if reward:
        grads = RewardParams(grads.replace(mtp=(), head_DV=None), np.full(16, 2.0, np.float32))
    found = jax.device_get(optim.norms_by_layer(grads))

    def norm(tree, layer=None):
        leaves = [np.float64(a if layer is None else a[layer]) for a in jax.tree.leaves(tree)]
        return math.sqrt(sum(np.sum(a**2) for a in leaves))

    trunk = grads.trunk if reward else grads
    wanted = {"embed_VD": norm(trunk.embed_VD), "norm_D": norm(trunk.norm_D)}
    for name in ("dense", "moe"):
        stack = getattr(trunk, name)
        for first in jax.tree.leaves(stack)[:1]:
            wanted |= {f"{name}.{layer}": norm(stack, layer) for layer in range(len(first))}
    if reward:
        wanted = {f"trunk.{name}": value for name, value in wanted.items()}
        wanted["head_D"] = norm(grads.head_D)
    else:
        wanted["head_DV"] = norm(grads.head_DV)
        wanted |= {f"mtp.{i}": norm(module) for i, module in enumerate(grads.mtp)}
    assert found == pytest.approx({f"grad_norm/{n}": v for n, v in wanted.items()}, rel=1e-5)
    whole = math.sqrt(sum(np.sum(np.square(value)) for value in found.values()))
    assert whole == pytest.approx(norm(grads), rel=1e-5)


def test_moments_live_beside_their_parameters():
    where = optim.state_shardings(MODEL, DECAY, make_mesh("4x2"))
    for name in ("mu", "nu"):
        assert optax.tree_utils.tree_get(where.opt_state, name) == where.weights.params
    assert where.weights.params.moe.ffn.up_EDF.spec == P(None, (EXPERT,), (FSDP, CONTEXT), None)
    assert where.step.spec == P()


def test_moments_in_bfloat16_are_half_the_size_and_move_weights_alike():
    """Thirty updates, beside those with float32 ones."""
    cfg = OptimConfig(lr=0.01)
    half = dataclasses.replace(cfg, moments="bfloat16")
    states = {c: optim.new_state(small.weights(), c) for c in (cfg, half)}
    begin, rng = states[cfg].weights.params, np.random.default_rng(0)
    for _ in range(30):
        noise = jax.tree.map(lambda a: a + rng.normal(size=a.shape).astype(np.float32), begin)
        states = {c: update(state, noise, None, c)[0] for c, state in states.items()}
    moments = {c: optax.tree_utils.tree_get(s.opt_state, "nu") for c, s in states.items()}
    assert {a.dtype for a in jax.tree.leaves(moments[half])} == {jnp.dtype("bfloat16")}
    flat = [
        np.concatenate([np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)])
        for pair in [(s.weights.params, begin) for s in states.values()]
    ]
    assert np.linalg.norm(flat[0] - flat[1]) < 0.02 * np.linalg.norm(flat[0])
    with pytest.raises(InputError, match=r"OptimConfig.moments=bfloat16 .* b2=0.999"):
        OptimConfig(moments="bfloat16", b2=0.999)


def test_selection_biases_stay_float32_where_parameters_are_bfloat16():
    model = small.config(param_dtype="bfloat16")
    weights = jax.eval_shape(lambda key: optim.init_weights(model, key), jax.random.key(0))
    assert {a.dtype for a in jax.tree.leaves(weights.params)} == {jnp.dtype("bfloat16")}
    assert weights.router_bias_LE.dtype == jnp.float32
