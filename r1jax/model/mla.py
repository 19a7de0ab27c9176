"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

Keys and values are up-projections of one latent a token, plus one rotary key shared by all heads.
There are two ways to the same scores. `naive` expands the latent into keys and values for each
head: cheapest when many queries share them. `absorbed` moves the up-projections to the query and
the output, so that a decoding step reads nothing but the latent cache (57x fewer numbers for V3).

B batch  T queries  S keys  D d_model  H heads  Q query latent  C key-value latent
N nope dim  R rope dim  U value dim  X = N + R  Y = N + U  M = T H
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from r1jax.architecture import MLAConfig, ModelConfig
from r1jax.model.cache import LatentCache, update
from r1jax.model.layers import FEW, Place, apply_rope, einsum32, masked_softmax, rms_norm
from r1jax.model.matrices import dense, multiply
from r1jax.model.params import MLA
from r1jax.sharding import constrain

# Of the norms of the latents, whatever the layers' own: as in the published modeling code.
LATENT_EPS = 1e-6


def attention(
    x_BTD: jax.Array,
    p: MLA,
    cfg: ModelConfig,
    place: Place,
    cache: LatentCache | None,
) -> tuple[jax.Array, LatentCache | None]:
    """Returns the output [B, T, D] and the cache with the T new positions written.

    Without a cache, S = T. With one, the keys are the cache's; few queries are decoded absorbed.
    """
    a = cfg.attention
    assert isinstance(a, MLAConfig)
    if p.q_a_DQ is None:
        q_in = x_BTD
    else:
        q_in = rms_norm(multiply(x_BTD, p.q_a_DQ), p.q_norm_Q, LATENT_EPS)
    q_BTHX = multiply(q_in, p.q_b_QHX)
    q_BTHX = constrain(q_BTHX, "batch", None, None, None)
    q_nope, q_rope = jnp.split(q_BTHX, [a.nope_dim], axis=-1)
    q_rope = apply_rope(q_rope, place.rotary, cfg.rope)

    latent = rms_norm(multiply(x_BTD, p.kv_a_DC), p.kv_norm_C, LATENT_EPS)
    k_rope = apply_rope(multiply(x_BTD, p.k_rope_DR), place.rotary, cfg.rope)
    if cache is not None:
        cache = update(cache, LatentCache(latent, k_rope), place.positions_BT)
        latent, k_rope = cache.latent_BSC, cache.rope_BSR

    core = absorbed if cache is not None and x_BTD.shape[1] <= FEW else naive
    o_BTHU = core(q_nope, q_rope, latent, k_rope, place.mask_BTS, p.kv_b_CHY, cfg)
    return multiply(o_BTHU, p.out_HUD, 2), cache


def naive(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, mask_BTS, kv_b_CHY, cfg):
    """Attention over keys and values expanded for each head. Returns [B, T, H, U]."""
    kv = multiply(latent_BSC, kv_b_CHY)
    kv = constrain(kv, "batch", None, None, None)
    k_BSHN, v_BSHU = jnp.split(kv, [cfg.attention.nope_dim], axis=-1)
    # One product for both parts: a second array of scores costs more than a copy of the keys.
    q_BTHX = jnp.concatenate([q_nope_BTHN, q_rope_BTHR], axis=-1)
    k_rope_BSHR = jnp.broadcast_to(k_rope_BSR[:, :, None], (*k_BSHN.shape[:3], k_rope_BSR.shape[2]))
    k_BSHX = jnp.concatenate([k_BSHN, k_rope_BSHR], axis=-1)
    scores = einsum32("bthx,bshx->bhts", q_BTHX, k_BSHX)
    weights = masked_softmax(scores, mask_BTS[:, None], cfg.softmax_scale).astype(v_BSHU.dtype)
    return jnp.einsum("bhts,bshu->bthu", weights, v_BSHU)


def absorbed(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, mask_BTS, kv_b_CHY, cfg):
    """The same numbers in latent space: (q Wk) . c = q . (Wk c). Returns [B, T, H, U]."""
    kv_b_CHY = dense(kv_b_CHY, q_nope_BTHN.dtype)
    k_up_CHN, v_up_CHU = jnp.split(kv_b_CHY, [cfg.attention.nope_dim], axis=-1)
    q_BTHC = jnp.einsum("bthn,chn->bthc", q_nope_BTHN, k_up_CHN)
    # The cache on the left: XLA:CPU transposes the right operand, which is the small one here.
    scores = einsum32("bsc,bthc->bsth", latent_BSC, q_BTHC)
    scores = scores + einsum32("bsr,bthr->bsth", k_rope_BSR, q_rope_BTHR)
    weights = masked_softmax(jnp.moveaxis(scores, 1, 3), mask_BTS[:, :, None], cfg.softmax_scale)
    weights_BMS = rearrange(weights.astype(latent_BSC.dtype), "b t h s -> b (t h) s")
    o_BTHC = rearrange(weights_BMS @ latent_BSC, "b (t h) c -> b t h c", t=q_BTHC.shape[1])
    return jnp.einsum("bthc,chu->bthu", o_BTHC, v_up_CHU)
