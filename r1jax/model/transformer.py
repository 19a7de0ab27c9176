"""One forward for training, scoring, prefill and decoding.

B batch  T time  S keys  D d_model  L layers  E experts  K experts a token
"""

from collections.abc import Callable

import chex
import flax.struct
import jax
import jax.numpy as jnp

from r1jax.architecture import ModelConfig
from r1jax.model import gqa, mla
from r1jax.model.cache import Cache, of_layer, record, stacked
from r1jax.model.layers import Place, rms_norm, rotary, together
from r1jax.model.matrices import rows, swiglu
from r1jax.model.moe import RouterStats, moe
from r1jax.model.params import FFN, GQA, MLA, Layer, Weights
from r1jax.model.zigzag import in_order, shards, spread
from r1jax.sharding import constrain

_ATTENTION: dict[type, Callable] = {MLA: mla.attention, GQA: gqa.attention}
_REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Output(flax.struct.PyTreeNode):
    """`stats` has a leading MoE-layer axis; it is None for a model without MoE layers."""

    hidden_BTD: jax.Array  # after the last layer, before the final norm
    cache: Cache | None
    stats: RouterStats | None


def forward(
    weights: Weights,
    tokens_BT: jax.Array,
    cfg: ModelConfig,
    *,
    positions_BT: jax.Array | None = None,
    segments_BT: jax.Array | None = None,
    cache: Cache | None = None,
    experts_BTLK: jax.Array | None = None,
    fresh: bool = False,
) -> Output:
    """Runs all layers.

    `segments_BT`: tokens attend to earlier tokens of the same segment; segment 0 is padding,
    which is not counted in the routing statistics. Positions default to 0..T-1. With a cache, a
    row's tokens are written at their positions, and attend to all positions up to their own. fresh:
    it holds nothing yet, and tokens attend to one another as without it.
    `experts_BTLK`, of the MoE layers, int32: experts that a token takes instead of those it would
    choose (routing replay); where its first is -1, it chooses. Gates are its own.
    """
    chex.assert_rank(tokens_BT, 2)
    shape = tokens_BT.shape
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
    if segments_BT is None:
        segments_BT = jnp.ones(shape, jnp.int32)
    chex.assert_equal_shape([tokens_BT, positions_BT, segments_BT])
    assert cache is None or shards() == 1, "rows are split: tokens of a cache's are not"
    tokens_BT, positions_BT, segments_BT, experts_BTLK = spread(
        (tokens_BT, positions_BT, segments_BT, experts_BTLK)
    )
    place = place_of(positions_BT, segments_BT, cfg).replace(fresh=fresh)
    looked_up = tokens_BT if cache is None else together(tokens_BT, cfg)
    x = rows(weights.params.embed_VD, looked_up, cfg.dtype)
    x = constrain(x, "batch", "time", None)

    def layer(x, p, bias_E, layer_cache, given_BTK):
        return apply_layer(x, p, bias_E, cfg, place, layer_cache, given_BTK)

    p, bias = weights.params, weights.router_bias_LE
    bias = None if bias is None else bias[: cfg.moe_layers]
    dense_cache, moe_cache = (None, None) if cache is None else (cache.dense, cache.moe)
    given = None if experts_BTLK is None else jnp.moveaxis(experts_BTLK, 2, 0)
    x, dense_cache, _ = _run(layer, x, p.dense, None, dense_cache, None, cfg.dense_layers, cfg)
    x, moe_cache, stats = _run(layer, x, p.moe, bias, moe_cache, given, cfg.moe_layers, cfg)
    if cache is not None:
        chosen = cache.experts
        if chosen is not None:
            chosen = record(chosen, stats.experts_BTK, positions_BT)
        cache = cache.replace(dense=dense_cache, moe=moe_cache, experts=chosen)
    return Output(hidden_BTD=in_order(x), cache=cache, stats=stats and stats_in_order(stats))


def stats_in_order(stats: RouterStats) -> RouterStats:
    """Those of layers [L, ...], by token in the order of rows."""
    experts, differs = in_order((stats.experts_BTK, stats.differs_BT), time=2)
    return stats.replace(experts_BTK=experts, differs_BT=differs)


def place_of(positions_BT, segments_BT, cfg: ModelConfig) -> Place:
    """Of tokens that lie as the layers have them."""
    turned = rotary(positions_BT, cfg.rope, cfg.attention.rotary_dim)
    return Place(positions_BT, turned, segments_BT, segments_BT > 0)


def apply_layer(x, p: Layer, bias_E, cfg: ModelConfig, place: Place, cache, given_BTK=None):
    """Pre-norm attention, then pre-norm FFN or MoE. Returns (x, cache, stats or None)."""
    y = rms_norm(x, p.attention_norm_D, cfg.norm_eps)
    attention = _ATTENTION[type(p.attention)]
    y, cache = attention(y, p.attention, cfg, place, cache)
    x = constrain(x + y, "batch", "time", None)
    y = rms_norm(x, p.ffn_norm_D, cfg.norm_eps)
    if isinstance(p.ffn, FFN):
        y = y if cache is None else together(y, cfg)
        y = constrain(swiglu(y, p.ffn), "batch", "time", None)
        return constrain(x + y, "batch", "time", None), cache, None
    y, stats = moe(y, p.ffn, bias_E, place.valid_BT, cfg, given_BTK)
    return constrain(x + y, "batch", "time", None), cache, stats


def remat(fn, cfg: ModelConfig):
    """Recompute in the backward pass what the policy does not keep."""
    return fn if cfg.remat == "none" else jax.checkpoint(fn, policy=_REMAT_POLICIES[cfg.remat])


def unstacked(weights: Weights, cfg: ModelConfig) -> Weights:
    """The same weights with a tuple of layers for each stack, where layers are not scanned.

    For loops over `forward`: inside one, XLA:CPU copies each layer's slice out of the stack at
    every turn, which at a decoding step's few rows costs as much as multiplying by it.
    """
    if cfg.scan_layers:
        return weights

    def layers(stack: Layer | None, n: int):
        return stack and tuple(jax.tree.map(lambda a, i=i: a[i], stack) for i in range(n))

    p = weights.params
    p = p.replace(dense=layers(p.dense, cfg.dense_layers), moe=layers(p.moe, cfg.moe_layers))
    return weights.replace(params=p)


def _run(layer, x, stack: Layer | tuple[Layer, ...] | None, bias_LE, cache, given_LBTK, n, cfg):
    """Applies n alike layers: scanned (compiled once), or unrolled in order."""
    if stack is None:
        return x, cache, None
    if cfg.scan_layers:

        def step(carry, xs):
            (x, cache), (i, p, bias_E, given_BTK) = carry, xs
            x, mine, stats = layer(x, p, bias_E, cache and of_layer(cache, i), given_BTK)
            return (x, mine and stacked(mine)), stats

        xs = jnp.arange(n), stack, bias_LE, given_LBTK
        (x, cache), stats = jax.lax.scan(remat(step, cfg), (x, cache), xs)
        return x, cache, stats
    caches, all_stats = [], []
    for i in range(n):
        p = stack[i] if isinstance(stack, tuple) else jax.tree.map(lambda a, i=i: a[i], stack)
        bias_E, given_BTK = (None if a is None else a[i] for a in (bias_LE, given_LBTK))
        x, layer_cache, stats = remat(layer, cfg)(x, p, bias_E, cache and cache[i], given_BTK)
        caches.append(layer_cache)
        all_stats.append(stats)
    stats = None if all_stats[0] is None else jax.tree.map(lambda *s: jnp.stack(s), *all_stats)
    return x, None if cache is None else tuple(caches), stats
