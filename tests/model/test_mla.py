"""Latent attention: the expanded and the absorbed form, with and without a query latent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tiny

from r1jax.model import mla
from r1jax.model.cache import LatentCache
from r1jax.model.layers import Place, rotary
from r1jax.model.transformer import place_of

B, T = 2, 9
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1, 1, 2, 2, 2, 3, 3, 3, 3]], np.int32)
POSITIONS = np.array([[0, 1, 2, 0, 1, 2, 3, 0, 0], [0, 1, 0, 1, 2, 0, 1, 2, 3]], np.int32)

attention = tiny.jit(mla.attention, static_argnames="cfg")


@functools.cache
def case(q_lora: int | None):
    cfg = tiny.config(attention=dataclasses.replace(tiny.CONFIG.attention, q_lora=q_lora))
    p = jax.tree.map(lambda a: a[0], tiny.weights(cfg).params.dense.attention)
    x = np.random.default_rng(1).normal(size=(B, T, cfg.d_model)).astype(np.float32)
    return cfg, p, x


def expected(cfg, p, x, positions, segments):
    args = zip(np.float64(x), positions, segments, strict=True)
    return np.stack([oracle.attention(row, oracle.to_numpy(p), cfg, t, s) for row, t, s in args])


@pytest.mark.parametrize("q_lora", [20, None])
def test_expanded_with_packed_segments(q_lora):
    cfg, p, x = case(q_lora)
    got, cache = attention(x, p, cfg, place_of(POSITIONS, SEGMENTS, cfg), None)
    assert cache is None
    np.testing.assert_allclose(got, expected(cfg, p, x, POSITIONS, SEGMENTS), atol=3e-5)


@pytest.mark.parametrize("q_lora", [20, None])
@pytest.mark.parametrize("chunk", [1, 3], ids=["absorbed", "expanded"])
def test_cached(q_lora, chunk):
    """The keys come from a cache, longer than needed, written `chunk` tokens at a time."""
    cfg, p, x = case(q_lora)
    length = T + 2
    cache = LatentCache(
        latent_BSC=jnp.zeros((B, length, cfg.attention.kv_lora)),
        rope_BSR=jnp.zeros((B, length, cfg.attention.rope_dim)),
    )
    positions = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    out = []
    for start in range(0, T, chunk):
        now = positions[:, start : start + chunk]
        mask = np.arange(length)[None, None, :] <= now[:, :, None]
        turned = rotary(now, cfg.rope, cfg.attention.rope_dim)
        place = Place(now, turned, mask, np.ones_like(now, bool))
        y, cache = attention(x[:, start : start + chunk], p, cfg, place, cache)
        out.append(y)
    want = expected(cfg, p, x, positions, np.ones((B, T)))
    np.testing.assert_allclose(np.concatenate(out, axis=1), want, atol=3e-5)


def test_absorbed_equals_naive_for_any_number_of_queries():
    cfg = tiny.CONFIG
    m, rng = cfg.attention, np.random.default_rng(2)
    shapes = [
        (B, T, m.heads, m.nope_dim),
        (B, T, m.heads, m.rope_dim),
        (B, T, m.kv_lora),
        (B, T, m.rope_dim),
    ]
    args = [jnp.float32(rng.normal(size=s)) for s in shapes]
    args += [
        place_of(POSITIONS, SEGMENTS, cfg).mask_BTS,
        jnp.float32(rng.normal(size=(m.kv_lora, m.heads, m.nope_dim + m.v_dim))),
    ]
    naive, absorbed = (tiny.jit(functools.partial(f, cfg=cfg)) for f in (mla.naive, mla.absorbed))
    np.testing.assert_allclose(naive(*args), absorbed(*args), rtol=1e-4, atol=1e-5)


def test_other_segments_and_the_future_have_no_influence():
    cfg, p, x = case(20)
    place = place_of(POSITIONS, SEGMENTS, cfg)
    before, _ = attention(x, p, cfg, place, None)
    changed = x.copy()
    changed[0, [0, 2, 6, 7]] += 1.0  # segment 1, the end of segment 2, padding
    after, _ = attention(changed, p, cfg, place, None)
    same = np.all(np.asarray(before) == np.asarray(after), axis=-1)
    assert same[1].all()
    np.testing.assert_array_equal(same[0], [False, False, False, True, True, True] + [False] * 3)


def test_padding_rows_and_their_gradients_are_finite():
    cfg, p, x = case(20)
    place = place_of(POSITIONS, SEGMENTS, cfg)
    place = place._replace(mask_BTS=jnp.zeros_like(place.mask_BTS))  # sees nothing at all

    def loss(x, p):
        return jnp.sum(mla.attention(x, p, cfg, place, None)[0] ** 2)

    value, grads = tiny.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, p)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((value, grads)))
