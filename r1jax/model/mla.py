"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

Keys and values are up-projections of one latent a token, plus one rotary key shared by all heads.
There are two ways to the same scores. `expanded` makes of the latent keys and values for each head:
cheapest when many queries share them. `absorbed` moves the up-projections to the query and the
output, so that a decoding step reads nothing but the latent cache (57x fewer numbers for V3).

Where many tokens meet many heads (`attend.LONG`, HEADS), these are expanded HEADS at a time, from
the latents on: the keys and values of all never exist at once. Where rows are split over devices
it is latents that are sent, once a layer: kv_lora + rope numbers a token, 576 for V3, where keys
and values are 40,960; their gradient comes home as one too.

B batch  T queries  S keys  D d_model  H heads  Q query latent  C key-value latent
N nope dim  R rope dim  U value dim  X = N + R  Y = N + U  Z = C + R  M = T H
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

from r1jax.architecture import MLAConfig, ModelConfig
from r1jax.model.attend import LIVE, attend, cached, chosen, decode, on_devices, platform
from r1jax.model.cache import LatentCache, length, part, update
from r1jax.model.layers import FEW, Place, Rotary, apply_rope, einsum32, rms_norm
from r1jax.model.matrices import dense, multiply
from r1jax.model.params import MLA
from r1jax.model.zigzag import own_tokens, whole
from r1jax.sharding import constrain

# Of the norms of the latents, whatever the layers' own: as in the published modeling code.
LATENT_EPS = 1e-6
HEADS = 16  # that are expanded at a time
VECTOR = 8  # float32 numbers that a CPU computes at once, at least


def attention(
    x_BTD: jax.Array,
    p: MLA,
    cfg: ModelConfig,
    place: Place,
    cache: LatentCache | None,
) -> tuple[jax.Array, LatentCache | None]:
    """Returns the output [B, T, D] and the cache with the T new positions written.

    Without a cache, S = T, as where it is fresh. Else the keys are the cache's; few queries are
    decoded absorbed.
    """
    a, t = cfg.attention, x_BTD.shape[1]
    assert isinstance(a, MLAConfig)
    if p.q_a_DQ is None:
        q_in = x_BTD
    else:
        q_in = rms_norm(multiply(x_BTD, p.q_a_DQ), p.q_norm_Q, LATENT_EPS)
    latent = rms_norm(multiply(x_BTD, p.kv_a_DC), p.kv_norm_C, LATENT_EPS)
    k_rope = apply_rope(multiply(x_BTD, p.k_rope_DR), place.rotary, cfg.rope)
    own = cache is None or place.fresh
    if cache is not None:
        cache = _written(cache, latent, k_rope, place.positions_BT)
        if not own:
            there = part(cache.replace(turned_BZS=None), 0, length(cache))
            latent, k_rope = there.latent_BSC, there.rope_BSR
    if cache is not None and not own and t <= FEW:
        q_nope, q_rope = _queries(q_in, place.rotary, p.q_b_QHX, cfg)
        o_BTHU = absorbed(q_nope, q_rope, cache, place.positions_BT, p.kv_b_CHY, cfg)
        return multiply(o_BTHU, p.out_HUD, 2), cache

    # Where a query stands: in its segment, or in the cache.
    at_BT = place.segments_BT if own else place.positions_BT
    apart = chosen(cfg, t, latent.shape[1], own) != "plain"
    local = functools.partial(expanded, cfg=cfg, own=own, chunked=apart and a.heads > HEADS)
    by_token = q_in, place.rotary, at_BT, latent, k_rope
    weights = p.q_b_QHX, p.kv_b_CHY, p.out_HUD
    axes = ("embed", "heads", None), ("embed", "heads", None), ("heads", None, "embed")
    return on_devices(local, by_token, weights, axes, apart, x_BTD.dtype), cache


def turned(cache: LatentCache, cfg: ModelConfig, queries: int) -> LatentCache:
    """For a call that decodes `queries` of each row at a time: on a CPU, with what it scores
    positions last too, where a row has fewer queries than a vector has numbers. XLA:CPU computes
    several scores of one query at once only if their positions lie side by side. Of layers apart:
    scanned ones are of large models."""
    few = queries * cfg.attention.heads < VECTOR
    if platform() != "cpu" or cfg.scan_layers or not few or length(cache) > LIVE:
        return cache
    both = jnp.concatenate([cache.latent_BSC, cache.rope_BSR], axis=-1)
    return cache.replace(turned_BZS=both.swapaxes(-1, -2))


def _written(cache: LatentCache, latent_BTC, k_rope_BTR, positions_BT) -> LatentCache:
    turned_BZS = cache.turned_BZS
    cache = update(
        cache.replace(turned_BZS=None), LatentCache(latent_BTC, k_rope_BTR), positions_BT
    )
    if turned_BZS is None:
        return cache
    new_BTZ = jnp.concatenate([latent_BTC, k_rope_BTR], axis=-1)
    put = jax.vmap(lambda a_ZS, new_TZ, at_T: a_ZS.at[:, at_T].set(new_TZ.T))
    return cache.replace(turned_BZS=put(turned_BZS, new_BTZ, positions_BT))


def _queries(q_in_BTQ, rotary: Rotary, q_b_QHX, cfg):
    """Their parts without and with rotation."""
    q_BTHX = multiply(q_in_BTQ, q_b_QHX)
    q_BTHX = constrain(q_BTHX, "batch", "time", None, None)
    q_nope, q_rope = jnp.split(q_BTHX, [cfg.attention.nope_dim], axis=-1)
    return q_nope, apply_rope(q_rope, rotary, cfg.rope)


def expanded(by_token, weights, cfg: ModelConfig, own: bool, chunked: bool) -> jax.Array:
    """Attention over keys and values expanded for each head, projected: [B, T, D]. chunked: HEADS
    heads at a time, if that divides them, and again in the backward pass; their outputs are summed
    in float32."""
    q_in_BTQ, rotary, at_BT, latent_BSC, k_rope_BSR = by_token
    if own:
        seen = own_tokens(at_BT)
        latent_BSC, k_rope_BSR = whole((latent_BSC, k_rope_BSR))
    else:
        seen = cached(at_BT, latent_BSC.shape[1])

    def heads(q_b_QHX, kv_b_CHY):
        q_nope, q_rope = _queries(q_in_BTQ, rotary, q_b_QHX, cfg)
        kv = multiply(latent_BSC, kv_b_CHY)
        kv = constrain(kv, "batch", None, None, None)
        k_BSHN, v_BSHU = jnp.split(kv, [q_nope.shape[-1]], axis=-1)
        # One product for both parts: a second array of scores costs more than a copy of the keys.
        q_BTHX = jnp.concatenate([q_nope, q_rope], axis=-1)
        k_rope_BSHR = jnp.broadcast_to(
            k_rope_BSR[:, :, None], (*k_BSHN.shape[:3], k_rope_BSR.shape[2])
        )
        k_BSHX = jnp.concatenate([k_BSHN, k_rope_BSHR], axis=-1)
        return attend(q_BTHX, k_BSHX, v_BSHU, seen, cfg)

    q_b_QHX, kv_b_CHY, out_HUD = weights
    if not chunked or q_b_QHX.shape[1] % HEADS:
        return multiply(heads(q_b_QHX, kv_b_CHY), out_HUD, 2)

    @jax.checkpoint
    def chunk(y_BTD, some):
        q_b, kv_b, out = some
        return y_BTD + einsum32("bthu,hud->btd", heads(q_b, kv_b), out), None

    q_b_QHX, kv_b_CHY, out_HUD = (dense(w, q_in_BTQ.dtype) for w in weights)
    of_inputs = "i (n h) x -> n i h x"
    chunks = (
        rearrange(q_b_QHX, of_inputs, h=HEADS),
        rearrange(kv_b_CHY, of_inputs, h=HEADS),
        rearrange(out_HUD, "(n h) u d -> n h u d", h=HEADS),
    )
    nothing = jnp.zeros((*q_in_BTQ.shape[:2], out_HUD.shape[-1]), jnp.float32)
    return jax.lax.scan(chunk, nothing, chunks)[0].astype(q_in_BTQ.dtype)


def absorbed(q_nope_BTHN, q_rope_BTHR, cache: LatentCache, positions_BT, kv_b_CHY, cfg):
    """The same numbers in latent space: (q Wk) . c = q . (Wk c). Returns [B, T, H, U]."""
    kv_b_CHY = dense(kv_b_CHY, q_nope_BTHN.dtype)
    k_up_CHN, v_up_CHU = jnp.split(kv_b_CHY, [cfg.attention.nope_dim], axis=-1)
    q_BTHC = jnp.einsum("bthn,chn->bthc", q_nope_BTHN, k_up_CHN)
    # Of a stack, the layer's own: few as they are, a TPU's loop would have them the other way
    # round, and turn those of all layers for each.
    cache = cache.replace(rope_BSR=part(cache.rope_BSR, 0, length(cache)))
    turned_BZS, cache = cache.turned_BZS, cache.replace(turned_BZS=None)

    def score(cache):
        if turned_BZS is not None:
            q_BTHZ = jnp.concatenate([q_BTHC, q_rope_BTHR], axis=-1)
            return einsum32("bthz,bzs->bths", q_BTHZ, turned_BZS)
        # The cache on the left: XLA:CPU transposes the right operand, which is the small one here.
        scores = einsum32("bsc,bthc->bsth", cache.latent_BSC, q_BTHC)
        scores = scores + einsum32("bsr,bthr->bsth", cache.rope_BSR, q_rope_BTHR)
        return jnp.moveaxis(scores, 1, 3)

    def mix(weights_BTHS, cache):
        latent_BSC = cache.latent_BSC
        weights_BMS = rearrange(weights_BTHS.astype(latent_BSC.dtype), "b t h s -> b (t h) s")
        mixed = jnp.matmul(weights_BMS, latent_BSC, preferred_element_type=jnp.float32)
        return rearrange(mixed, "b (t h) c -> b t h c", t=weights_BTHS.shape[1])

    o_BTHC = decode(cache, score, mix, positions_BT[:, :, None], cfg).astype(q_BTHC.dtype)
    return jnp.einsum("bthc,chu->bthu", o_BTHC, v_up_CHU)
