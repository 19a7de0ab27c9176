"""Grouped-query attention (arXiv 2305.13245), with Qwen2's biases and Qwen3's norms of heads.

B batch  T queries  S keys  D d_model  K key-value heads  G query heads a key-value head
H = K G query heads  X head dim  M = G T
"""

import jax
import jax.numpy as jnp

from r1jax.config import ModelConfig
from r1jax.model.cache import KVCache, update
from r1jax.model.layers import apply_rope, masked_softmax, rms_norm
from r1jax.model.params import GQA
from r1jax.sharding import constrain


def attention(
    x_BTD: jax.Array,
    p: GQA,
    cfg: ModelConfig,
    positions_BT: jax.Array,
    mask_BTS: jax.Array,
    cache: KVCache | None,
) -> tuple[jax.Array, KVCache | None]:
    """Returns the output [B, T, D] and the cache with the T new positions written.

    Without a cache, S = T. With one, the keys are the cache's.
    """
    q_BTHX = _project(x_BTD, p.q_DHX, p.q_bias_HX)
    k_BTKX = _project(x_BTD, p.k_DKX, p.k_bias_KX)
    v_BTKX = _project(x_BTD, p.v_DKX, p.v_bias_KX)
    if p.q_norm_X is not None:
        q_BTHX = rms_norm(q_BTHX, p.q_norm_X, cfg.norm_eps)
        k_BTKX = rms_norm(k_BTKX, p.k_norm_X, cfg.norm_eps)
    q_BTHX = apply_rope(q_BTHX, positions_BT, cfg.rope)
    k_BTKX = apply_rope(k_BTKX, positions_BT, cfg.rope)

    if cache is None:
        k_BKSX, v_BKSX = k_BTKX.swapaxes(1, 2), v_BTKX.swapaxes(1, 2)
    else:
        cache = update(cache, KVCache(k_BTKX, v_BTKX), positions_BT)
        k_BKSX, v_BKSX = cache.key_BKSX, cache.value_BKSX
    (b, t, h, x), k = q_BTHX.shape, k_BTKX.shape[2]
    q_BTKGX = q_BTHX.reshape(b, t, k, h // k, x)
    if t == 1:
        # The cache on the left: XLA:CPU transposes the right operand, which is the small one here.
        scores = jnp.einsum("bksx,btkgx->bkstg", k_BKSX, q_BTKGX)
        scores = jnp.moveaxis(scores, 2, 4).swapaxes(2, 3)
    else:
        scores = jnp.einsum("btkgx,bksx->bkgts", q_BTKGX, k_BKSX)
    weights = masked_softmax(scores, mask_BTS[:, None, None], cfg.softmax_scale)
    o_BKMX = weights.reshape(b, k, -1, weights.shape[-1]) @ v_BKSX
    o_BTHX = o_BKMX.reshape(b, h, t, x).swapaxes(1, 2)
    return jnp.einsum("bthx,hxd->btd", o_BTHX, p.out_HXD.astype(x_BTD.dtype)), cache


def _project(x_BTD, w_DHX, bias_HX):
    y = jnp.einsum("btd,dhx->bthx", x_BTD, w_DHX.astype(x_BTD.dtype))
    y = y if bias_HX is None else y + bias_HX.astype(y.dtype)[None, None]
    return constrain(y, "batch", None, None, None)
