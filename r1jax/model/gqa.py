"""Grouped-query attention (arXiv 2305.13245), with Qwen2's biases and Qwen3's norms of heads.

B batch  T queries  S keys  D d_model  K key-value heads  G query heads a key-value head
H = K G query heads  X head dim  M = G T
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from r1jax.architecture import GQAConfig, ModelConfig
from r1jax.model.attend import attend, cached, chosen, decode, on_devices
from r1jax.model.cache import KVCache, length, part, update
from r1jax.model.layers import FEW, Place, apply_rope, einsum32, rms_norm, together
from r1jax.model.matrices import multiply
from r1jax.model.params import GQA
from r1jax.model.zigzag import own_tokens, whole
from r1jax.sharding import constrain


def attention(
    x_BTD: jax.Array,
    p: GQA,
    cfg: ModelConfig,
    place: Place,
    cache: KVCache | None,
) -> tuple[jax.Array, KVCache | None]:
    """Returns the output [B, T, D] and the cache with the T new positions written.

    Without a cache, S = T, as where it is fresh. Else the keys are the cache's.
    """
    drawn = cache is not None
    if drawn:
        x_BTD = together(x_BTD, cfg)

    def project(w_DHX, bias_HX):
        y = multiply(x_BTD, w_DHX)
        y = y if bias_HX is None else y + bias_HX.astype(y.dtype)[None, None]
        y = together(y, cfg, None, "heads", None) if drawn else y
        return constrain(y, "batch", "time", None, None)

    q_BTHX = project(p.q_DHX, p.q_bias_HX)
    k_BTKX = project(p.k_DKX, p.k_bias_KX)
    v_BTKX = project(p.v_DKX, p.v_bias_KX)
    if p.q_norm_X is not None:
        q_BTHX = rms_norm(q_BTHX, p.q_norm_X, cfg.norm_eps)
        k_BTKX = rms_norm(k_BTKX, p.k_norm_X, cfg.norm_eps)
    q_BTHX = apply_rope(q_BTHX, place.rotary, cfg.rope)
    k_BTKX = apply_rope(k_BTKX, place.rotary, cfg.rope)

    own, t = cache is None or place.fresh, x_BTD.shape[1]
    if cache is not None:
        cache = update(cache, KVCache(k_BTKX, v_BTKX), place.positions_BT)
    if cache is not None and not own and t <= FEW:
        o_BTHX = _decoded(q_BTHX, cache, place.positions_BT, cfg)
    else:
        k_BSKX, v_BSKX = k_BTKX, v_BTKX
        if cache is not None and not own:
            there = part(cache, 0, length(cache))
            k_BSKX, v_BSKX = there.key_BKSX.swapaxes(1, 2), there.value_BKSX.swapaxes(1, 2)
        # Where a query stands: in its segment, or in the cache.
        at_BT = place.segments_BT if own else place.positions_BT

        def local(by_token, _):
            q_BTHX, at_BT, *kv = by_token
            k_BSKX, v_BSKX = whole(kv) if own else kv
            seen = own_tokens(at_BT) if own else cached(at_BT, k_BSKX.shape[1])
            return attend(q_BTHX, k_BSKX, v_BSKX, seen, cfg)

        apart = chosen(cfg, t, k_BSKX.shape[1], own) != "plain"
        by_token = q_BTHX, at_BT, k_BSKX, v_BSKX
        o_BTHX = on_devices(local, by_token, (), (), apart, x_BTD.dtype)
    if drawn:  # first as they are, or what splits heads would split those of keys, which are fewer
        o_BTHX = constrain(o_BTHX, "batch", None, None, None)
        o_BTHX = together(o_BTHX, cfg, None, "heads", None)
    return constrain(multiply(o_BTHX, p.out_HXD, 2), "batch", "time", None), cache


def _decoded(q_BTHX, cache: KVCache, positions_BT, cfg: ModelConfig) -> jax.Array:
    """Of few queries: [B, T, H, X]."""
    t, a = q_BTHX.shape[1], cfg.attention
    assert isinstance(a, GQAConfig)
    q_BTKGX = rearrange(q_BTHX, "b t (k g) x -> b t k g x", k=a.kv_heads)

    def score(cache):
        # The cache on the left: XLA:CPU transposes the right operand, which is the small one here.
        scores = einsum32("bksx,btkgx->bkstg", cache.key_BKSX, q_BTKGX)
        return rearrange(scores, "b k s t g -> b k g t s")

    def mix(weights_BKGTS, cache):
        value_BKSX = cache.value_BKSX
        weights_BKMS = rearrange(weights_BKGTS.astype(value_BKSX.dtype), "b k g t s -> b k (g t) s")
        mixed = jnp.matmul(weights_BKMS, value_BKSX, preferred_element_type=jnp.float32)
        return rearrange(mixed, "b k (g t) x -> b k g t x", t=t)

    o_BKGTX = decode(cache, score, mix, positions_BT[:, None, None], cfg).astype(q_BTHX.dtype)
    return rearrange(o_BKGTX, "b k g t x -> b t (k g) x")
