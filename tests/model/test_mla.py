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
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("how", ["expanded", "absorbed", "turned"])
def test_cached(monkeypatch, q_lora, chunk, how):
    """The keys come from a cache, longer than needed, written `chunk` tokens at a time."""
    monkeypatch.setattr(mla, "FEW", 0 if how == "expanded" else 8)
    cfg, p, x = case(q_lora)
    length = T + 2
    cache = LatentCache(
        latent_BSC=jnp.zeros((B, length, cfg.attention.kv_lora)),
        rope_BSR=jnp.zeros((B, length, cfg.attention.rope_dim)),
    )
    if how == "turned":
        apart = dataclasses.replace(cfg, scan_layers=False)
        cache = mla.turned(cache, apart, queries=1)
    positions = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    out = []
    for start in range(0, T, chunk):
        now = positions[:, start : start + chunk]
        place = place_of(now, np.ones_like(now), cfg)
        y, cache = attention(x[:, start : start + chunk], p, cfg, place, cache)
        out.append(y)
    want = expected(cfg, p, x, positions, np.ones((B, T)))
    np.testing.assert_allclose(np.concatenate(out, axis=1), want, atol=3e-5)
    if how == "turned":
        both = np.concatenate([cache.latent_BSC, cache.rope_BSR], axis=2)
        np.testing.assert_array_equal(cache.turned_BZS, both.swapaxes(1, 2))


@pytest.mark.parametrize(
    ("platform", "heads", "queries", "length", "turns"),
    [
        ("cpu", 4, 1, 1024, True),
        ("cpu", 4, 2, 64, False),
        ("cpu", 8, 1, 64, False),
        ("cpu", 1, 7, 64, True),
        ("cpu", 4, 1, 1025, False),  # is read in parts
        ("tpu", 4, 1, 64, False),
        ("gpu", 4, 1, 64, False),
    ],
)
def test_a_cache_is_kept_twice_on_a_cpu_and_for_few_queries_alone(
    monkeypatch, platform, heads, queries, length, turns
):
    monkeypatch.setattr(mla, "platform", lambda: platform)
    cfg = tiny.config(
        attention=dataclasses.replace(tiny.CONFIG.attention, heads=heads), scan_layers=False
    )
    a = cfg.attention
    cache = LatentCache(jnp.zeros((B, length, a.kv_lora)), jnp.zeros((B, length, a.rope_dim)))
    found = mla.turned(cache, cfg, queries).turned_BZS
    assert (found is not None) == turns
    assert not turns or found.shape == (B, a.kv_lora + a.rope_dim, length)


def test_tokens_of_a_fresh_cache_attend_to_one_another():
    """Whatever is in it, and are remembered."""
    cfg, p, x = case(20)
    shapes = ((B, T + 2, n) for n in (cfg.attention.kv_lora, cfg.attention.rope_dim))
    cache = LatentCache(*(jnp.full(shape, 5.0) for shape in shapes))
    place = place_of(POSITIONS, SEGMENTS, cfg)
    got, cache = attention(x, p, cfg, place.replace(fresh=True), cache)
    np.testing.assert_array_equal(got, attention(x, p, cfg, place, None)[0])
    old = np.asarray(cache.latent_BSC) == 5
    assert not old[1, :4].any()
    assert old[1, 4:].all()


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
    place = place_of(POSITIONS, np.zeros_like(SEGMENTS), cfg)

    def loss(x, p):
        return jnp.sum(mla.attention(x, p, cfg, place, None)[0] ** 2)

    value, grads = tiny.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, p)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((value, grads)))


@pytest.mark.parametrize("dtype, close", [("float32", 1e-5), ("bfloat16", 0.02)])
def test_heads_in_chunks_are_all_heads_with_their_gradients(monkeypatch, dtype, close):
    attention = dataclasses.replace(tiny.CONFIG.attention, heads=4)
    cfg = tiny.config(attention=attention, attention_impl="blockwise", dtype=dtype)
    p = jax.tree.map(lambda a: a[0], tiny.weights(cfg).params.dense.attention)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(B, T, cfg.d_model)), dtype)

    def found(heads):
        monkeypatch.setattr(mla, "HEADS", heads)

        def loss(x, p):
            y, _ = mla.attention(x, p, cfg, place_of(POSITIONS, SEGMENTS, cfg), None)
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

        (_, y), grads = tiny.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, p)
        return jax.tree.leaves((y, grads))

    for got, want in zip(found(2), found(4), strict=True):
        got, want = np.float64(got), np.float64(want)
        np.testing.assert_allclose(got, want, atol=close * np.abs(want).max())
