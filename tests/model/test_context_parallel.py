"""Rows whose tokens several devices share, beside the same rows on one device.

B batch  T tokens
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from r1jax.architecture import GQAConfig
from r1jax.checks import InputError
from r1jax.kernels import blockwise
from r1jax.model import mla, zigzag
from r1jax.model.head import log_probs
from r1jax.model.mtp import mtp_log_probs
from r1jax.model.params import Weights, weight_specs
from r1jax.model.transformer import forward
from r1jax.sharding import make_mesh, shardings

B, T = 4, 48
TOKENS = tiny.tokens(B, T)
SEGMENTS = np.array(
    [[1] * 48, [1] * 17 + [2] * 20 + [3] * 11, [1] * 5 + [2] * 40 + [0] * 3, [1] * 48]
)
STARTS = np.concatenate([np.ones((B, 1), bool), np.diff(SEGMENTS, axis=1) != 0], axis=1)
POSITIONS = np.arange(T)[None] - np.maximum.accumulate(STARTS * np.arange(T)[None], axis=1)
MLA = tiny.config(layers=2, mtp_depth=1, experts_multiply="dense", logits_chunk=5)
GQA = tiny.config(
    layers=2,
    dense_layers=2,
    attention=GQAConfig(heads=6, kv_heads=2, head_dim=8, qkv_bias=True, qk_norm=True),
    tied_head=True,
)


def loss(params, bias, cfg):
    """Everything that training takes of a model: log-probs, entropy, balance, MTP, loads."""
    weights = Weights(params, bias)
    at = {"positions_BT": POSITIONS, "segments_BT": SEGMENTS}
    out = forward(weights, TOKENS, cfg, **at)
    logp, entropy = log_probs(params, out.hidden_BTD[:, :-1], TOKENS[:, 1:], cfg)
    mask = (SEGMENTS[:, 1:] == SEGMENTS[:, :-1]) & (SEGMENTS[:, 1:] > 0)
    value = jnp.sum(jnp.where(mask, jnp.sin(logp) + 0.1 * entropy, 0))
    found = {"logp": jnp.where(mask, logp, 0), "hidden": out.hidden_BTD}
    if out.stats is not None:
        value += jnp.sum(out.stats.balance_B)
        found |= {"load": out.stats.load_E, "experts": out.stats.experts_BTK}
    if params.mtp:
        logps, masks, stats = mtp_log_probs(
            weights, out.hidden_BTD, TOKENS, SEGMENTS, POSITIONS, cfg
        )
        ahead = [jnp.where(m, a, 0) for a, m in zip(logps, masks, strict=True)]
        value += sum(jnp.sum(jnp.sin(a)) for a in ahead) + jnp.sum(stats[0].balance_B)
        found |= {"ahead": ahead[0], "load of mtp": stats[0].load_E}
    return value, found


@functools.cache
def found(mesh_text: str, cfg):
    mesh = make_mesh(mesh_text)
    weights, where = tiny.weights(cfg), shardings(weight_specs(cfg), mesh)
    with jax.set_mesh(mesh):
        weights = jax.device_put(weights, where)
        grad = tiny.jit(jax.value_and_grad(loss, has_aux=True), static_argnames="cfg")
        return jax.device_get(grad(weights.params, weights.router_bias_LE, cfg))


def assert_alike(got, want):
    (value, values), grads = got
    (value_, values_), grads_ = want
    np.testing.assert_allclose(value, value_, rtol=1e-5)
    for name, a in values_.items():
        np.testing.assert_allclose(values[name], a, rtol=1e-4, atol=1e-4, err_msg=name)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4 * max(1, np.abs(b).max()))


@pytest.mark.parametrize(
    "mesh, impl",
    [
        ("fsdp=2,context=4", "blockwise"),
        ("fsdp=2,expert=2,context=2", "plain"),
        pytest.param("fsdp=2,context=4", "plain", marks=pytest.mark.slow),
        pytest.param("fsdp=2,expert=2,context=2", "blockwise", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("cfg", [MLA, GQA], ids=["mla-moe-mtp", "gqa-dense"])
def test_rows_that_are_shared_are_whole_rows(mesh, cfg, impl, monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", 4)
    monkeypatch.setattr(mla, "HEADS", 2)
    cfg = dataclasses.replace(cfg, attention_impl=impl)
    assert_alike(found(mesh, cfg), found("1", dataclasses.replace(cfg, attention_impl="plain")))


def test_parts_are_of_equal_work_and_come_back():
    mesh = make_mesh("fsdp=1,context=8")
    rows = np.arange(2 * 32, dtype=np.int32).reshape(2, 32)
    with jax.set_mesh(mesh):
        out = jax.jit(lambda a: (zigzag.spread(a), zigzag.in_order(zigzag.spread(a))))(rows)
    parts = np.split(np.asarray(out[0])[0], 16)
    assert [int(p[0]) // 2 for p in parts] == [p for d in range(8) for p in (d, 15 - d)]
    seen = [sum(int(t) + 1 for t in np.concatenate(parts[2 * d : 2 * d + 2])) for d in range(8)]
    assert max(seen) == min(seen)
    np.testing.assert_array_equal(out[1], rows)


def test_rows_that_do_not_divide_are_told():
    with jax.set_mesh(make_mesh("context=8")), pytest.raises(InputError) as error:
        forward(tiny.weights(GQA), TOKENS[:, :40], GQA)
    assert str(error.value) == "rows of 40 tokens do not divide into 16 parts: --mesh has context=8"


def test_the_tpus_kernel_of_a_device_is_its_part():
    """Interpreted; the blocks that it visits are those of its own tokens."""
    cfg = tiny.config(layers=1, dense_layers=1, attention_impl="splash")
    tokens = tiny.tokens(1, 1024)

    def hidden(weights, cfg):
        return forward(weights, tokens, cfg).hidden_BTD

    run = tiny.jit(hidden, static_argnames="cfg")
    want = run(tiny.weights(cfg), dataclasses.replace(cfg, attention_impl="plain"))
    with jax.set_mesh(make_mesh("context=4")):
        got = run(tiny.weights(cfg), cfg)
    np.testing.assert_allclose(got, want, atol=2e-4)
