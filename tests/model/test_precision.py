"""What bfloat16 may round, and what it may not: logits and scores are summed and kept in float32.

The oracle is float64 of the same bfloat16 numbers. Cases are made so that nothing else is rounded
on the way, and each shows that a rounded product would be seen.

B batch  T queries  S keys  H heads  N head dim  D = H N d_model  V vocabulary
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from r1jax.architecture import GQAConfig, MLAConfig
from r1jax.model import gqa, mla
from r1jax.model.attend import attend
from r1jax.model.cache import KVCache, LatentCache
from r1jax.model.head import unembed
from r1jax.model.layers import Place, einsum32, rms_norm, rotary
from r1jax.model.params import GQA
from r1jax.model.zigzag import own_tokens

B, T, H, N = 32, 24, 2, 32
D = H * N
CAUSAL = np.broadcast_to(np.tri(T, dtype=bool), (B, T, T))
rng = np.random.default_rng(0)


def bfloat16(x):
    return jnp.asarray(x, jnp.bfloat16)


def test_logits_are_not_rounded_and_hardly_ever_equal():
    d, vocab, rows = 256, 2000, 8
    cfg = tiny.config(dtype="bfloat16", d_model=d, vocab=vocab)
    params = tiny.weights(tiny.CONFIG).params.replace(
        norm_D=jnp.ones(d), head_DV=jnp.float32(0.3 * rng.normal(size=(d, vocab)))
    )
    hidden = bfloat16(rng.normal(size=(rows, d)))
    got = np.asarray(unembed(params, hidden, cfg))
    h = np.float64(rms_norm(hidden, params.norm_D, cfg.norm_eps))
    want = h @ np.float64(bfloat16(params.head_DV))
    assert got.max() > 10
    assert np.abs(got - want).max() < 1e-4
    assert min(len(np.unique(row)) for row in got) > 0.99 * vocab
    rounded = np.float64(bfloat16(want))
    assert np.abs(rounded - want).max() > 0.01
    assert max(len(np.unique(row)) for row in rounded) < 0.8 * vocab


def softmax(scores):
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def attended(q, k, v, scale, rounded=False):
    """[B, T, H, N] of causal attention over [B, S, H, N], in float64."""
    scores = np.einsum("bthn,bshn->bhts", q, k)
    scores = np.float64(bfloat16(scores)) if rounded else scores
    weights = softmax(np.where(CAUSAL[:, None], scores * scale, -np.inf))
    return np.einsum("bhts,bshn->bthn", weights, v)


def assert_scores_are_not_rounded(got, q, k, v, scale):
    """`got` may be of the last queries alone."""
    q, k, v, got = np.float64(q), np.float64(k), np.float64(v), np.float64(got)
    want = attended(q, k, v, scale)[:, -got.shape[1] :]
    size = np.sqrt(np.mean(v**2))
    # Probabilities and the output are bfloat16: half a percent each.
    assert np.abs(got - want).max() < 0.02 * size
    rounded = attended(q, k, v, scale, rounded=True)[:, -got.shape[1] :]
    assert np.abs(rounded - want).max() > 0.05 * size


@pytest.mark.parametrize("impl", ["plain", "blockwise"])
def test_scores_are_not_rounded(impl):
    cfg = tiny.config(attention=MLAConfig(H, None, N, nope_dim=N, rope_dim=4, v_dim=N))
    cfg = dataclasses.replace(cfg, attention_impl=impl)
    q, k, v = (bfloat16(s * rng.normal(size=(B, T, H, N))) for s in (4, 4, 1))
    got = attend(q, k, v, own_tokens(jnp.ones((B, T), jnp.int32)), cfg)
    assert got.dtype == jnp.bfloat16
    assert_scores_are_not_rounded(got, q, k, v, cfg.softmax_scale)


def test_absorbed_attentions_scores_are_not_rounded():
    """Up-projections are identities: keys and values are the latents, exactly."""
    attention = MLAConfig(heads=H, q_lora=None, kv_lora=N, nope_dim=N, rope_dim=4, v_dim=N)
    cfg = tiny.config(attention=attention)
    q, rope_q = bfloat16(4 * rng.normal(size=(B, T, H, N))), jnp.zeros((B, T, H, 4), jnp.bfloat16)
    latent, rope_k = bfloat16(4 * rng.normal(size=(B, T, N))), jnp.zeros((B, T, 4), jnp.bfloat16)
    eye_CHN = np.broadcast_to(np.eye(N)[:, None], (N, H, N))
    up_CHY = bfloat16(np.concatenate([eye_CHN, eye_CHN], axis=-1))
    positions = np.tile(np.arange(T), (B, 1))
    got = mla.absorbed(q, rope_q, LatentCache(latent, rope_k), positions, up_CHY, cfg)
    heads = np.broadcast_to(np.float64(latent)[:, :, None], (B, T, H, N))
    assert got.dtype == jnp.bfloat16
    assert_scores_are_not_rounded(got, q, heads, heads, cfg.softmax_scale)


def unturned(positions_BT, cfg) -> Place:
    """Wherever tokens stand, they are rotated as at position 0."""
    turned = rotary(np.zeros_like(positions_BT), cfg.rope, cfg.attention.rotary_dim)
    one = np.ones_like(positions_BT)
    return Place(positions_BT, turned, one, one > 0)


@pytest.mark.parametrize("cached", [False, True])
def test_grouped_attentions_scores_are_not_rounded(cached):
    """Projections are permutations, and nothing turns: queries, keys and values are the input."""
    cfg = tiny.config(d_model=D, attention=GQAConfig(heads=H, kv_heads=H, head_dim=N))
    eye_DHN, turned_DHN = (
        bfloat16(np.roll(np.eye(D), turn, axis=0).reshape(D, H, N)) for turn in (0, 5)
    )
    p = GQA(eye_DHN, turned_DHN, eye_DHN, bfloat16(np.eye(D).reshape(H, N, D)), *[None] * 5)
    x = bfloat16(4 * rng.normal(size=(B, T, D)))
    k = np.einsum("btd,dhn->bthn", np.float64(x), np.float64(turned_DHN))
    v = np.float64(x).reshape(B, T, H, N)
    positions = np.tile(np.arange(T), (B, 1))
    if not cached:
        got, _ = gqa.attention(x, p, cfg, unturned(positions, cfg), None)
    else:  # the last query alone, as in decoding
        cache = KVCache(*(bfloat16(a.swapaxes(1, 2)) for a in (k, v)))
        got, _ = gqa.attention(x[:, -1:], p, cfg, unturned(positions[:, -1:], cfg), cache)
    got = got.reshape(B, -1, H, N)
    assert_scores_are_not_rounded(got, v, k, v, cfg.softmax_scale)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_a_product_are_those_of_einsum(dtype):
    a, b = (jnp.asarray(rng.normal(size=s), dtype) for s in ((3, 4, 5), (5, 6)))
    weight = jnp.float32(rng.normal(size=(3, 4, 6)))

    def through(product):
        return jax.grad(lambda a, b: jnp.sum(weight * product(a, b)), argnums=(0, 1))(a, b)

    got = through(functools.partial(einsum32, "mtd,dv->mtv"))
    want = through(lambda a, b: jnp.einsum("mtd,dv->mtv", a, b).astype(jnp.float32))
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(np.float32(g), np.float32(w))
