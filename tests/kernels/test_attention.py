"""Attention in blocks and by the TPU's kernel, beside softmax written out in float64.

B batch  T queries  S keys  H heads  K key-value heads  X width of queries and keys  U of values
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import blockwise as blocks
from r1jax.kernels.blockwise import Seen, blockwise
from r1jax.kernels.splash import splash
from r1jax.kernels.triton_attention import triton
from r1jax.model.attend import cached, plain
from r1jax.model.zigzag import own_tokens

SCALE = 0.3
BACKENDS = {
    "plain": plain,
    "blockwise": blockwise,
    "splash": functools.partial(splash, interpret=True),
    "triton": functools.partial(triton, interpret=True),
}


def drawn(b, t, s, heads, kv_heads, x, u, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    shapes = (b, t, heads, x), (b, s, kv_heads, x), (b, s, kv_heads, u)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def segments(b, t, seed=0):
    """Packed rows: segments 1, 2, ... of any length, then padding; the first row is one segment."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.random((b, t)) < 6 / t, axis=1) + 1
    starts[0] = 1
    padding = rng.integers(0, t // 3, (b, 1))
    return np.where(np.arange(t)[None] >= t - padding, 0, starts).astype(np.int32)


def expected(q, k, v, mask_BTS):
    q, k, v = (np.float64(a) for a in (q, k, v))
    k, v = (np.repeat(a, q.shape[2] // a.shape[2], axis=2) for a in (k, v))
    scores = np.einsum("bthx,bshx->bhts", q, k) * SCALE
    scores = np.where(mask_BTS[:, None], scores, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhts,bshu->bthu", p / p.sum(axis=-1, keepdims=True), v)


def with_gradients(backend, q, k, v, seen, weight):
    @jax.jit
    def found(q, k, v):
        def loss(q, k, v):
            o = BACKENDS[backend](q, k, v, seen, SCALE)
            return jnp.sum(o.astype(jnp.float32) * weight), o

        (_, o), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return o, *grads

    return found(q, k, v)


def packed(at_BT):
    mask_BTS = (at_BT[:, :, None] == at_BT[:, None]) & np.tri(at_BT.shape[1], dtype=bool)[None]
    return own_tokens(jnp.asarray(at_BT)), mask_BTS


SHAPES = {  # t, heads, kv_heads, x, u, tokens of a block
    "mla": (45, 4, 4, 12, 8, 16),
    "gqa": (64, 6, 2, 8, 8, 16),
    "one-block": (7, 2, 1, 8, 4, 16),
    "of-unlike-blocks": (33, 3, 1, 4, 6, 32),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_blocks_are_the_whole_with_their_gradients(shape, monkeypatch):
    t, heads, kv_heads, x, u, size = shape
    monkeypatch.setattr(blocks, "BLOCK", size)
    q, k, v = drawn(3, t, t, heads, kv_heads, x, u)
    seen, mask = packed(segments(3, t))
    weight = np.random.default_rng(1).normal(size=(3, t, heads, u)).astype(np.float32)
    got, want = (with_gradients(name, q, k, v, seen, weight) for name in ("blockwise", "plain"))
    np.testing.assert_allclose(got[0], expected(q, k, v, mask), atol=1e-5)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_nothing_above_the_diagonal_is_computed(monkeypatch):
    """NaN there changes nothing, in blocks that are never looked at."""
    monkeypatch.setattr(blocks, "BLOCK", 8)
    q, k, v = drawn(1, 32, 32, 2, 2, 4, 4)
    seen, _ = packed(np.ones((1, 32), np.int32))
    want = blockwise(q, k, v, seen, SCALE)[:, :16]
    spoilt = blockwise(q, k.at[:, 16:].set(jnp.nan), v.at[:, 16:].set(jnp.nan), seen, SCALE)
    np.testing.assert_array_equal(spoilt[:, :16], want)
    assert np.isnan(spoilt[:, 16:]).all()


def test_tokens_that_go_on_from_a_cache(monkeypatch):
    """Rows begin anywhere in it."""
    monkeypatch.setattr(blocks, "BLOCK", 8)
    q, k, v = drawn(3, 11, 40, 4, 2, 6, 5)
    positions = np.array([[0], [7], [29]]) + np.arange(11)[None]
    seen = cached(jnp.asarray(positions), 40)
    want = expected(q, k, v, np.arange(40)[None, None] <= positions[:, :, None])
    for backend in (plain, blockwise):
        np.testing.assert_allclose(backend(q, k, v, seen, SCALE), want, atol=1e-5)


def test_a_row_that_sees_nothing_is_finite_with_its_gradients(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 8)
    q, k, v = drawn(1, 12, 12, 2, 2, 4, 4)
    order = np.arange(12)[None]
    apart = np.full((1, 12), 5)
    seen = Seen(order, order, np.zeros((1, 12), np.int32), apart)
    for backend in ("plain", "blockwise"):
        found = with_gradients(backend, q, k, v, seen, np.ones((1, 12, 2, 4), np.float32))
        assert all(np.isfinite(a).all() for a in found), backend


def test_bfloat16_is_as_near_as_the_plain_form(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    wide = drawn(2, 48, 48, 4, 2, 16, 16)
    narrow = tuple(a.astype(jnp.bfloat16) for a in wide)
    seen, _ = packed(segments(2, 48))
    weight = np.random.default_rng(2).normal(size=(2, 48, 4, 16)).astype(np.float32)
    best = with_gradients("plain", *(a.astype(jnp.float32) for a in narrow), seen, weight)
    for name in ("plain", "blockwise"):
        got = with_gradients(name, *narrow, seen, weight)
        for a, b in zip(got, best, strict=True):
            assert a.dtype == jnp.bfloat16
            assert np.abs(np.float64(a) - np.float64(b)).max() < 0.02 * np.abs(b).max(), name


@pytest.mark.parametrize("kernel", ["splash", "triton"])
@pytest.mark.parametrize("t, heads, kv_heads", [(200, 2, 2), (128, 4, 2)], ids=["mla", "gqa"])
def test_a_kernel_is_the_plain_form_with_its_gradients(kernel, t, heads, kv_heads):
    q, k, v = drawn(2, t, t, heads, kv_heads, 24, 16)
    seen, _ = packed(segments(2, t))
    weight = np.random.default_rng(1).normal(size=(2, t, heads, 16)).astype(np.float32)
    got, want = (with_gradients(name, q, k, v, seen, weight) for name in (kernel, "plain"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)
