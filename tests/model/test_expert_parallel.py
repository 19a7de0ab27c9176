"""The same numbers on every mesh, and experts that stay on their devices.

Eight emulated devices. What one device computes is the reference.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hlo import collectives

from r1jax.architecture import RouterConfig
from r1jax.checks import InputError
from r1jax.model import transformer
from r1jax.model.params import Weights, weight_specs
from r1jax.sharding import batch_sharding, make_mesh, replicated, shardings

B, T, E = 8, 16, 16
TOKENS = tiny.tokens(B, T)
LENGTHS = np.array([16, 9, 2, 1, 16, 12, 0, 16])  # one device holds nothing but padding
SEGMENTS = np.where(np.arange(T)[None, :] < LENGTHS[:, None], 1, 0)
ROUTER = RouterConfig(experts=E, active=3, groups=4, group_limit=2, scale=2.5)
MESHES = ["1x8", "2x4", "4x2", "8x1"]


@functools.cache
def step(mesh_text: str | None, multiply: str, travel: str = "ring"):
    """(compiled HLO, gradients, hidden, statistics); on one device where mesh_text is None."""
    how = {"experts_multiply": multiply, "experts_travel": travel}
    cfg = tiny.config(layers=1, dense_layers=0, router=ROUTER, **how)

    def loss(params, bias, tokens, segments):
        out = transformer.forward(Weights(params, bias), tokens, cfg, segments_BT=segments)
        value = jnp.mean(out.hidden_BTD**2) + jnp.mean(out.stats.balance_B)
        return value, (out.hidden_BTD, out.stats)

    weights = tiny.weights(cfg)
    args = (weights.params, weights.router_bias_LE, TOKENS, SEGMENTS)
    gradient = jax.grad(loss, has_aux=True)
    if mesh_text is None:
        compiled = tiny.jit(gradient).lower(*args).compile()
    else:
        mesh = make_mesh(mesh_text)
        params, rows = shardings(weight_specs(cfg).params, mesh), batch_sharding(mesh)
        args = jax.device_put(args, (params, replicated(mesh), rows, rows))
        with jax.set_mesh(mesh):
            compiled = tiny.jit(gradient, out_shardings=(params, None)).lower(*args).compile()
    grads, (hidden, stats) = jax.device_get(compiled(*args))
    return compiled.as_text(), grads, hidden, stats


# Each way to multiply and to travel, each mesh with the default ones; the others, which share all
# their parts with these, are slow.
USUAL = [(mesh, "grouped", "ring") for mesh in MESHES] + [
    ("2x4", "dense", "ring"),
    ("8x1", "dense", "ring"),
    ("2x4", "blocked", "ring"),
    ("1x8", "grouped", "all_to_all"),
    ("2x4", "grouped", "all_to_all"),
    ("1x8", "dense", "all_to_all"),
    ("2x4", "blocked", "all_to_all"),
]
MORE = [
    ("1x8", "dense", "ring"),
    ("4x2", "dense", "ring"),
    ("4x2", "grouped", "all_to_all"),
    ("8x1", "grouped", "all_to_all"),
]


@pytest.mark.parametrize(
    ("mesh", "multiply", "travel"),
    USUAL + [pytest.param(*case, marks=pytest.mark.slow) for case in MORE],
)
def test_every_mesh_computes_what_one_device_does(mesh, multiply, travel):
    _, grads, hidden, stats = step(mesh, multiply, travel)
    _, want_grads, want_hidden, want_stats = step(None, "dense")
    np.testing.assert_allclose(hidden, want_hidden, rtol=1e-5, atol=3e-5)
    np.testing.assert_array_equal(stats.load_E, want_stats.load_E)
    assert stats.load_E.sum() == LENGTHS.sum() * ROUTER.active
    np.testing.assert_allclose(stats.balance_B, want_stats.balance_B, rtol=1e-5, atol=1e-6)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())

    jax.tree.map(close, grads, want_grads)


@pytest.mark.parametrize(
    "rows, experts, message",
    [
        (6, 8, "--mesh: a batch of 6 does not divide over 8 devices"),
        (8, 10, "--mesh: RouterConfig.experts=10 does not divide over its 4"),
    ],
)
def test_what_does_not_divide_is_one_clear_line(rows, experts, message):
    cfg = tiny.config(layers=1, dense_layers=0, router=RouterConfig(experts=experts, active=3))
    with jax.set_mesh(make_mesh("2x4")), pytest.raises(InputError, match=message):
        tiny.forward(tiny.weights(cfg), TOKENS[:rows], cfg)


@pytest.mark.parametrize("multiply", ["dense", "grouped"])
def test_experts_stay_and_tokens_travel(multiply):
    """On two groups of four, tokens are reduce-scattered over the expert axis, forward and back
    (to tokens and to gates), and nothing as large as one layer's experts is ever gathered."""
    whole = E * tiny.CONFIG.d_model * tiny.CONFIG.expert_ffn
    hlo = step("2x4", multiply)[0]
    scatters = [groups for _, groups in collectives(hlo, "reduce-scatter")]
    assert len(scatters) >= 3
    by_name = "mesh['fsdp'=2,'expert'=4] {'expert'}"  # as jax 0.11 writes it
    assert set(scatters) <= {"{{0,1,2,3},{4,5,6,7}}", "[2,4]<=[8]", by_name}
    largest = max(size for size, _ in collectives(hlo, "all-gather"))
    assert largest == whole // 4  # a quarter of the experts, gathered over fsdp
    # Without an expert axis all experts are gathered: the reading of the HLO would show it.
    hlo = step("8x1", multiply)[0]
    assert max(size for size, _ in collectives(hlo, "all-gather")) == whole
