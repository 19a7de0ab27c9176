"""Grouped-query attention (arXiv 2305.13245), with Qwen2's biases and Qwen3's norms of heads.

B batch  T queries  S keys  D d_model  K key-value heads  G query heads a key-value head
H = K G query heads  X head dim  M = G T
"""

import jax
from einops import rearrange

from r1jax.architecture import ModelConfig
from r1jax.model.cache import KVCache, update
from r1jax.model.layers import FEW, Place, apply_rope, einsum32, masked_softmax, rms_norm
from r1jax.model.matrices import multiply
from r1jax.model.params import GQA
from r1jax.sharding import constrain


def attention(
    x_BTD: jax.Array,
    p: GQA,
    cfg: ModelConfig,
    place: Place,
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
    q_BTHX = apply_rope(q_BTHX, place.rotary, cfg.rope)
    k_BTKX = apply_rope(k_BTKX, place.rotary, cfg.rope)

    if cache is None:
        k_BKSX, v_BKSX = k_BTKX.swapaxes(1, 2), v_BTKX.swapaxes(1, 2)
    else:
        cache = update(cache, KVCache(k_BTKX, v_BTKX), place.positions_BT)
        k_BKSX, v_BKSX = cache.key_BKSX, cache.value_BKSX
    t, k = q_BTHX.shape[1], k_BTKX.shape[2]
    q_BTKGX = rearrange(q_BTHX, "b t (k g) x -> b t k g x", k=k)
    if cache is not None and t <= FEW:
        # The cache on the left: XLA:CPU transposes the right operand, which is the small one here.
        scores = einsum32("bksx,btkgx->bkstg", k_BKSX, q_BTKGX)
        scores = rearrange(scores, "b k s t g -> b k g t s")
    else:
        scores = einsum32("btkgx,bksx->bkgts", q_BTKGX, k_BKSX)
    weights = masked_softmax(scores, place.mask_BTS[:, None, None], cfg.softmax_scale)
    weights_BKMS = rearrange(weights.astype(v_BKSX.dtype), "b k g t s -> b k (g t) s")
    o_BTHX = rearrange(weights_BKMS @ v_BKSX, "b k (g t) x -> b t (k g) x", t=t)
    return multiply(o_BTHX, p.out_HXD, 2), cache


def _project(x_BTD, w_DHX, bias_HX):
    y = multiply(x_BTD, w_DHX)
    y = y if bias_HX is None else y + bias_HX.astype(y.dtype)[None, None]
    return constrain(y, "batch", None, None, None)
