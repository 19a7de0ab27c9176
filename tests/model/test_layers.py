"""Normalisation, rotary embedding with YaRN, SwiGLU."""

import functools

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tiny

from r1jax.architecture import RopeConfig
from r1jax.model.layers import apply_rope, rms_norm, rope_frequencies, rotary
from r1jax.model.matrices import swiglu
from r1jax.model.params import FFN
from r1jax.published import deepseek_v2_lite, deepseek_v3

V3_ROPE = deepseek_v3().rope
FAR = [0, 1, 4095, 4096, 40_000, 163_839]


def test_rms_norm():
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(2, 3, 32)) * 5, rng.normal(size=32)
    got = rms_norm(jnp.float32(x), jnp.float32(scale), 1e-6)
    np.testing.assert_allclose(got, oracle.rms_norm(x, scale, 1e-6), rtol=1e-5, atol=1e-6)


def test_rms_norm_works_in_float32_and_returns_the_input_type():
    x = jnp.full((1, 4), 256.0 + 1.0, jnp.bfloat16)  # the sum of squares would not fit bfloat16
    got = rms_norm(x, jnp.ones(4), 0.0)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(jnp.float32), 1.0)


@pytest.mark.parametrize(
    "rope", [RopeConfig(), V3_ROPE, tiny.CONFIG.rope], ids=["plain", "v3", "tiny"]
)
@pytest.mark.parametrize("dim", [8, 64])
def test_frequencies_are_the_reference_codes(rope, dim):
    np.testing.assert_allclose(
        rope_frequencies(rope, dim), oracle.rope_frequencies(rope, dim), rtol=1e-12
    )


def test_yarn_leaves_fast_pairs_and_slows_the_slow_ones():
    """By hand for V3: pair i turns 4096 / (2 pi 10000^(2i/64)) times in the original context,
    32 times at i = 10.5 and once at i = 22.5."""
    plain, yarn = rope_frequencies(RopeConfig(), 64), rope_frequencies(V3_ROPE, 64)
    np.testing.assert_array_equal(yarn[:11], plain[:11])
    np.testing.assert_allclose(yarn[23:], plain[23:] / 40, rtol=1e-12)
    assert np.all((yarn[11:23] < plain[11:23]) & (yarn[11:23] > plain[11:23] / 40))


def rotated_at(x, positions, rope):
    return apply_rope(x, rotary(jnp.array(positions), rope, x.shape[-1]), rope)


@pytest.mark.parametrize("shape", [(1, len(FAR), 64), (1, len(FAR), 2, 64)], ids=["key", "query"])
def test_rotation_far_beyond_the_original_context(shape):
    x = np.random.default_rng(0).normal(size=shape)
    got = np.asarray(rotated_at(jnp.float32(x), [FAR], V3_ROPE))
    for t, position in enumerate(FAR):
        for vector, rotated in zip(x[0, t].reshape(-1, 64), got[0, t].reshape(-1, 64), strict=True):
            want = oracle.rotate(vector, position, V3_ROPE)
            # An angle in float32 is off by up to 2^-23 of itself: all that a rotation can lose.
            np.testing.assert_allclose(rotated, want, atol=1e-6 + 4 * position * 2**-23)


def test_scores_depend_on_distance_alone():
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 64)).astype(np.float32)

    def score(t):
        rotated = rotated_at(jnp.stack([q, k], axis=1)[:, :, 0], [[t + 7, t]], V3_ROPE)
        return float(rotated[0, 0] @ rotated[0, 1])

    assert score(0) == pytest.approx(score(1000), abs=1e-2)
    assert abs(score(0) - float(q[0, 0] @ k[0, 0])) > 0.1


def test_published_softmax_scales():
    """192 ** -0.5 times the square of 0.1 mscale ln(40) + 1, worked out by hand."""
    assert deepseek_v3().softmax_scale == pytest.approx(0.1352337788608801, rel=1e-12)
    assert deepseek_v2_lite().softmax_scale == pytest.approx(0.1147213867929261, rel=1e-12)
    assert tiny.config(rope=RopeConfig()).softmax_scale == 18**-0.5


def test_rotary_part_is_scaled_by_the_ratio_of_mscales():
    x = jnp.ones((1, 1, 8))
    apart = RopeConfig(factor=40.0, mscale=2.0, mscale_all_dim=0.5)
    alike = RopeConfig(factor=40.0, mscale=0.5, mscale_all_dim=0.5)
    ratio = (0.2 * np.log(40) + 1) / (0.05 * np.log(40) + 1)
    np.testing.assert_allclose(
        rotated_at(x, [[5]], apart), ratio * rotated_at(x, [[5]], alike), rtol=1e-6
    )


def test_swiglu():
    rng = np.random.default_rng(0)
    x, gate, up, down = (rng.normal(size=s) for s in [(2, 3, 8), (8, 10), (8, 10), (10, 8)])
    ffn = FFN(*(jnp.float32(w) for w in (gate, up, down)))
    got = tiny.jit(functools.partial(swiglu, ffn=ffn))(jnp.float32(x))
    np.testing.assert_allclose(got, oracle.swiglu(x, gate, up, down), rtol=1e-5, atol=1e-5)
