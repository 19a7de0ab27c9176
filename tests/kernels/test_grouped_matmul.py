"""Grouped products and their gradients, by each backend that runs here, against plain jnp."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import grouped_matmul as kernels
from r1jax.kernels.grouped_matmul import grouped_matmul, grouped_matmul_reference, tiles_visited

TILE = 8
TILES = {
    "full": [2, 1, 3],
    "empty-groups": [0, 6, 0],
    "tiles-past-the-end": [1, 0, 2],
    "all-past-the-end": [0, 0, 0],
}


@functools.partial(jax.jit, static_argnames="interpret")
def gradients(x, w, sizes, d, interpret):
    out, pull = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes, TILE, interpret), x, w)
    return out, *pull(d)


@jax.jit
def expected(x, w, sizes, d):
    out, pull = jax.vjp(lambda x, w: grouped_matmul_reference(x, w, sizes), x, w)
    return out, *pull(d)


@pytest.mark.parametrize("interpret", ["", "tpu", "cuda"], ids=["blocks", "megablox", "triton"])
@pytest.mark.parametrize("tiles", TILES.values(), ids=TILES)
def test_product_and_gradients(tiles, interpret):
    """Whatever lies in rows past the last group, nothing comes of it, and they give zeros: the
    kernels leave them as they were, which is NaN where they are interpreted."""
    rng = np.random.default_rng(0)
    x, w, d = (rng.normal(size=s).astype(np.float32) for s in [(48, 6), (3, 6, 5), (48, 5)])
    sizes, end = np.int32(tiles) * TILE, sum(tiles) * TILE
    here = np.arange(48)[:, None] < end
    want = expected(np.where(here, x, 0), w, sizes, np.where(here, d, 0))
    got = gradients(np.where(here, x, np.nan), w, sizes, np.where(here, d, np.nan), interpret)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    np.testing.assert_array_equal(got[0][end:], 0.0)
    np.testing.assert_array_equal(got[1][end:], 0.0)


@pytest.mark.parametrize("memory", [1_400_000, 0], ids=["all-rows", "neither"])
def test_a_matrix_in_several_blocks(monkeypatch, memory):
    """One too large for the kernel's memory is taken a block after another, of which the last may
    stick out."""
    rng = np.random.default_rng(1)
    x, w, d = (rng.normal(size=s).astype(np.float32) for s in [(16, 640), (2, 640, 384), (16, 384)])
    monkeypatch.setattr(kernels, "VMEM", memory)
    blocks = kernels._blocks(TILE, 640, 384, 4), kernels._blocks(TILE, 384, 640, 4)
    assert blocks == (((640, 256), (384, 384)) if memory else ((128, 384), (384, 384)))
    got = gradients.__wrapped__(x, w, np.int32([8, 8]), d, "tpu")
    want = expected(x, w, np.int32([8, 8]), d)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), got, want)


@pytest.mark.parametrize("bytes_", [2, 4])
@pytest.mark.parametrize("tile", [16, 128, 256, 512])
def test_blocks_fit_the_memory(tile, bytes_):
    """And are wide enough that a row which is read is multiplied by 256 columns at least, few of
    them beyond the matrix."""
    for d, f in ((7168, 2048), (2048, 7168), (2048, 1408), (1408, 2048)):
        deep, wide = kernels._blocks(tile, d, f, bytes_)
        twice = tile * deep + deep * wide + tile * wide
        assert 2 * bytes_ * twice + 4 * tile * wide <= kernels.VMEM
        assert wide >= 256 and d % deep == 0
        assert -(-f // wide) * wide <= f * 1.1
        area = kernels.area_multiplied(tile, d, f, bytes_)
        assert area == d * f if f % 256 == d % 256 == 0 else d * f < area <= d * f * 1.1


@pytest.mark.parametrize("tiles", [[3, 1, 2, 2], [0, 7, 0, 0], [0, 0, 0, 0]])
def test_tiles_that_the_kernels_say_they_visit(tiles):
    """No tile twice, none of those that nothing is in: groups are made of whole tiles."""
    m = 10 * TILE
    sizes = np.int32(tiles) * TILE
    assert tiles_visited(sizes, m, TILE) == sum(tiles)
    assert tiles_visited(sizes, m, TILE, transposed=True) == sum(tiles)


def test_groups_of_other_sizes_would_be_visited_twice():
    assert tiles_visited(np.int32([TILE // 2, TILE + TILE // 2, 0, 0]), 10 * TILE, TILE) == 3


def test_precision_of_bfloat16():
    rng = np.random.default_rng(2)
    x, w, d = (jnp.bfloat16(rng.normal(size=s)) for s in [(32, 64), (2, 64, 16), (32, 16)])
    sizes = np.int32([24, 8])
    want = expected(*(a.astype(jnp.float32) for a in (x, w)), sizes, d.astype(jnp.float32))
    for interpret in ("", "tpu", "cuda"):
        got = gradients(x, w, sizes, d, interpret)
        assert all(a.dtype == jnp.bfloat16 for a in got)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(np.float32(a), b, rtol=0.01, atol=0.02 * np.abs(b).max())
