"""Log-probabilities and entropies: the oracle's, in chunks, and on a mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tiny
from hlo import collectives, largest

from r1jax import sharding
from r1jax.model import head
from r1jax.model.params import weight_specs

B, T = 2, 12
TOKENS = tiny.tokens(B, T)
log_probs = tiny.jit(head.log_probs, static_argnames=("cfg", "temperature"))


@pytest.mark.parametrize("tied_head", [False, True])
def test_log_probs_and_entropy_are_the_oracles(tied_head):
    cfg = tiny.config(tied_head=tied_head)
    weights = tiny.weights(cfg)
    assert (weights.params.head_DV is None) == tied_head
    hidden = np.random.default_rng(0).normal(size=(B, T, cfg.d_model)).astype(np.float32)
    for temperature in (1.0, 0.7):
        logp, entropy = log_probs(weights.params, hidden, TOKENS, cfg, temperature)
        want = oracle.log_softmax_logits(
            oracle.to_numpy(weights), np.float64(hidden), cfg, temperature
        )
        picked = np.take_along_axis(want, TOKENS[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(logp, picked, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(entropy, -np.sum(np.exp(want) * want, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("chunk", [4, 5, 12, 100], ids=lambda n: f"chunk-{n}")
def test_chunked_log_probs_are_the_same(chunk):
    weights = tiny.weights(tiny.CONFIG)
    hidden = np.random.default_rng(0).normal(size=(B, T, 32)).astype(np.float32)
    whole = log_probs(weights.params, hidden, TOKENS, tiny.CONFIG, 0.7)
    parts = log_probs(weights.params, hidden, TOKENS, tiny.config(logits_chunk=chunk), 0.7)
    for a, b in zip(whole, parts, strict=True):
        assert a.shape == b.shape == (B, T)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@functools.cache
def gradient(mesh: str, tied_head: bool):
    """(what the compiled gradient is, its values) of 8 rows in three chunks."""
    cfg = tiny.config(logits_chunk=4, tied_head=tied_head, dtype="float32")
    hidden = np.random.default_rng(0).normal(size=(8, T, cfg.d_model)).astype(np.float32)
    targets = tiny.tokens(8, T)

    def loss(params, hidden):
        logp, entropy = head.log_probs(params, hidden, targets, cfg, 0.7)
        return jnp.mean(logp) + 0.1 * jnp.mean(entropy)

    mesh_ = sharding.make_mesh(mesh)
    with jax.set_mesh(mesh_):
        placed = sharding.shardings(weight_specs(cfg).params, mesh_)
        params = jax.device_put(tiny.weights(cfg).params, placed)
        rows = jax.device_put(hidden, sharding.batch_sharding(mesh_))
        lies = placed, sharding.batch_sharding(mesh_)
        step = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=(None, lies))
        compiled = step.lower(params, rows).compile()
        return compiled.as_text(), jax.device_get(compiled(params, rows))


@pytest.mark.parametrize("tied_head", [False, True])
def test_on_a_mesh_the_head_is_gathered_once_and_its_gradient_scattered_once(tied_head):
    """Over fsdp alone, once for all chunks, and not again for those that the gradient makes anew:
    within a loop only tokens are sent, and nothing that every device has the whole of."""
    hlo, found = gradient("4x2", tied_head)
    want = gradient("1", tied_head)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, want)
    part = tiny.CONFIG.d_model * tiny.CONFIG.vocab // 2  # the expert axis splits the vocabulary
    assert max(size for size, _ in collectives(hlo, "all-gather")) == part
    assert part // 4 in [size for size, _ in collectives(hlo, "reduce-scatter")]
    assert max((size for size, _ in collectives(hlo, "all-reduce")), default=0) < part // 4
    loops = re.findall(r"body=%?([\w.\-]+)", hlo)
    assert len(loops) >= 2  # over chunks, forward and back
    tokens = 2 * 4 * tiny.CONFIG.d_model  # of both devices that share the vocabulary
    for name in loops:
        body = re.search(rf"^%?{re.escape(name)} .*?^}}", hlo, re.M | re.S)
        assert body and largest(body[0]) <= tokens < part
        sizes = [n for op in ("reduce-scatter", "all-reduce") for n, _ in collectives(body[0], op)]
        assert part // 4 not in sizes and part not in sizes


def test_rows_that_do_not_divide_over_the_mesh():
    cfg = tiny.config(logits_chunk=4)
    hidden = np.random.default_rng(0).normal(size=(B, T, cfg.d_model)).astype(np.float32)
    want = log_probs(tiny.weights(cfg).params, hidden, TOKENS, cfg)
    with jax.set_mesh(sharding.make_mesh("4x2")):
        found = log_probs(tiny.weights(cfg).params, hidden, TOKENS, cfg)
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
