"""The small pieces that layers share: normalisation, rotary embedding, softmax, products, and where
a batch's tokens stand.

B batch  T time  D d_model  R rope dim  F FFN width
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.architecture import ModelConfig, RopeConfig, yarn_mscale
from r1jax.config import MOST_DRAFTS
from r1jax.sharding import constrain


def together(x: jax.Array, cfg: ModelConfig, *axes: str | None) -> jax.Array:
    """Where replies are drawn by a model without experts: the rows of all devices that its weights
    are split over, which make their products together. axes: of x behind the first, or whole."""
    if cfg.moe_layers:  # its weights are not
        return x
    return constrain(x, "together", *(axes or (None,) * (x.ndim - 1)))


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis, in float32; returns x's dtype."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return (y * jnp.expand_dims(scale, tuple(range(x.ndim - 1)))).astype(x.dtype)


def rope_frequencies(rope: RopeConfig, dim: int) -> np.ndarray:
    """Radians a position for each of dim/2 pairs, slowed when rope.factor > 1.

    Pairs that turn more than beta_fast times within the original context are left as they are,
    those that turn less than beta_slow times are slowed by `factor`. Between, YaRN (arXiv
    2309.00071, section 3.2) blends linearly in the pair's number, as in DeepSeek-V3's
    `precompute_freqs_cis`; Llama 3.1 blends linearly in the turns.
    """
    pair = np.arange(dim // 2, dtype=np.float64)
    frequency = rope.theta ** (-2 * pair / dim)
    if rope.factor <= 1.0:
        return frequency
    if rope.scaling == "llama3":
        turns = rope.original_context * frequency / (2 * np.pi)
        kept = np.clip((turns - rope.beta_slow) / (rope.beta_fast - rope.beta_slow), 0, 1)
        return frequency * kept + frequency / rope.factor * (1 - kept)

    def pair_that_turns(times: float) -> float:
        wavelength = rope.original_context / (times * 2 * np.pi)
        return dim * np.log(wavelength) / (2 * np.log(rope.theta))

    low = max(np.floor(pair_that_turns(rope.beta_fast)), 0)
    high = min(np.ceil(pair_that_turns(rope.beta_slow)), dim - 1)
    slowed = np.clip((pair - low) / max(high - low, 0.001), 0, 1)
    return frequency * (1 - slowed) + frequency / rope.factor * slowed


#: Queries of a row, up to which attention over a cache computes as for a decoding step's own one:
#: that one and its drafts, so that what is drawn of them is the same.
FEW = 1 + MOST_DRAFTS


class Rotary(NamedTuple):
    """Cosines and sines of the angles of every pair at each position, [B, T, R / 2], float32."""

    cos: jax.Array
    sin: jax.Array


class Place(flax.struct.PyTreeNode):
    """Where the tokens of a batch stand, which is the same for every layer."""

    positions_BT: jax.Array
    rotary: Rotary
    segments_BT: jax.Array  # tokens see those of their own; 0: padding
    valid_BT: jax.Array  # counted in the routing statistics
    #: A cache holds nothing yet: tokens see one another alone.
    fresh: bool = flax.struct.field(pytree_node=False, default=False)


def rotary(positions_BT: jax.Array, rope: RopeConfig, dim: int) -> Rotary:
    """Of `dim` numbers, once for all layers and heads. The barrier keeps XLA:CPU from computing
    them again in each of the products that they are fused into."""
    frequency = jnp.asarray(rope_frequencies(rope, dim), jnp.float32)
    angle = positions_BT[:, :, None].astype(jnp.float32) * frequency[None, None, :]
    scale = yarn_mscale(rope, rope.mscale) / yarn_mscale(rope, rope.mscale_all_dim)
    return jax.lax.optimization_barrier(Rotary(jnp.cos(angle) * scale, jnp.sin(angle) * scale))


def apply_rope(x: jax.Array, by: Rotary, rope: RopeConfig) -> jax.Array:
    """Rotates each pair by its position: (x0, x1), (x2, x3), ... where interleaved, else
    (x0, xR/2), (x1, xR/2+1), ...

    x: [B, T, R] or [B, T, H, R].
    """
    cos, sin = by if x.ndim == 3 else (by.cos[:, :, None, :], by.sin[:, :, None, :])
    if rope.interleaved:
        a, b = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
        rotated = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    else:
        a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        rotated = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum32(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum of two arrays, summed and returned in float32: for logits and scores, whose rounding
    to bfloat16 would be larger than the differences that a softmax decides by.

    Its gradient is rounded to the operands' dtype first, as those of all other products are:
    otherwise the backward pass would multiply in float32, at a fraction of the speed.
    """
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _einsum32_forward(subscripts, a, b):
    return einsum32(subscripts, a, b), (a, b)


def _einsum32_backward(subscripts, saved, g):
    _, pull = jax.vjp(lambda a, b: jnp.einsum(subscripts, a, b), *saved)
    return pull(g.astype(jnp.result_type(*saved)))


einsum32.defvjp(_einsum32_forward, _einsum32_backward)


def masked_softmax(scores: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    """softmax(scale * scores) over the last axis, float32, 0 where the mask is false. A finite mask
    value keeps padding rows free of NaN."""
    s = jnp.where(mask, scores.astype(jnp.float32) * scale, -1e30)
    return jax.nn.softmax(s, axis=-1)


@jax.custom_vjp
def matmul(x: jax.Array, w_DF: jax.Array) -> jax.Array:
    """x @ w for x of [..., D], with a weight gradient that transposes the narrower operand.

    JAX's own always transposes the incoming gradient. XLA:CPU fuses whatever made that gradient
    into a strided copy of it, which at a narrow D and a wide F took a third of a training step.
    """
    return x @ w_DF


def _matmul_forward(x, w_DF):
    return x @ w_DF, (x, w_DF)


def _matmul_backward(saved, g):
    x, w_DF = saved
    x_MD, g_MF = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    narrow_x = x_MD.shape[1] <= g_MF.shape[1]
    d_w = jnp.einsum("md,mf->df", x_MD, g_MF) if narrow_x else jnp.einsum("mf,md->fd", g_MF, x_MD).T
    return (g @ w_DF.T), d_w.astype(w_DF.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)
