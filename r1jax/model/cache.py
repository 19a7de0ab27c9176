"""What decoding remembers of each token. MLA: a latent and a rotary key, kv_lora + rope numbers a
layer (576 for DeepSeek-V3). Grouped-query attention: the keys and values of its few heads.

B slots  S cached positions  C key-value latent  R rope dim  K key-value heads  X head dim
Z = C + R  L layers  Y experts of a token, MoE layer by MoE layer
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from r1jax.architecture import MLAConfig, ModelConfig


class LatentCache(flax.struct.PyTreeNode):
    """Normalised latents and rotated keys, by position. One array a layer, or stacked over
    layers where the model scans them."""

    latent_BSC: jax.Array
    rope_BSR: jax.Array
    #: Only within a call of `decode`, and only where that is faster (`mla.turned`): both once more,
    #: positions last.
    turned_BZS: jax.Array | None = None


class KVCache(flax.struct.PyTreeNode):
    """Rotated keys and values: by head, then position, as attention multiplies them."""

    key_BKSX: jax.Array
    value_BKSX: jax.Array


LayerCache = LatentCache | KVCache


class InStack(flax.struct.PyTreeNode):
    """In a layer's cache, an array of all layers, [L, B, ...]: a loop over layers carries the whole
    and writes into it. Each layer's part taken out and put back would be all of the cache read and
    written once more at every step."""

    stack: jax.Array
    layer: jax.Array  # its number


def of_layer(cache: LayerCache, layer: jax.Array) -> LayerCache:
    return jax.tree.map(lambda a: InStack(a, layer), cache)


def stacked(cache: LayerCache) -> LayerCache:
    """All layers', of what is `of_layer`."""
    return jax.tree.map(lambda a: a.stack, cache, is_leaf=_in_stack)


def _in_stack(a) -> bool:
    return isinstance(a, InStack)


class Cache(flax.struct.PyTreeNode):
    """`dense` and `moe` hold a LayerCache a layer (a stacked one where layers are scanned)."""

    dense: LayerCache | tuple[LayerCache, ...]
    moe: LayerCache | tuple[LayerCache, ...]
    #: Where it is recorded: the experts that each position was sent to, [B, S, Y] of
    #: `expert_dtype` (under a leading 1 where layers are stacked, so that slots are one axis of
    #: all arrays). A copied prompt has its choices with it.
    experts: jax.Array | None = None
    #: Where drafts are made of them, likewise: what the first MTP module's layer remembers, and the
    #: tokens themselves, [B, S, 1].
    mtp: LayerCache | None = None
    tokens: jax.Array | None = None


def expert_dtype(cfg: ModelConfig) -> np.dtype:
    """The least that holds the number of an expert."""
    assert cfg.router is not None
    return np.dtype(np.uint8 if cfg.router.experts <= 256 else np.uint16)


def init_cache(
    cfg: ModelConfig,
    batch: int,
    length: int,
    routing: bool = False,
    mtp: bool = False,
    tokens: bool = False,
) -> Cache:
    """Zeros; nothing reads a position before it is written. routing, mtp, tokens: what else is
    kept."""

    def one(*lead: int) -> LayerCache:
        def zeros(width: int, *heads: int) -> jax.Array:
            return jnp.zeros((*lead, batch, *heads, length, width), jnp.dtype(cfg.dtype))

        a = cfg.attention
        if isinstance(a, MLAConfig):
            return LatentCache(zeros(a.kv_lora), zeros(a.rope_dim))
        return KVCache(zeros(a.head_dim, a.kv_heads), zeros(a.head_dim, a.kv_heads))

    def layers(n: int):
        # Where there are none, no array: XLA (jaxlib 0.11.2) does not survive moving empty ones.
        return one(n) if cfg.scan_layers and n else tuple(one() for _ in range(n))

    experts, lead = None, (1,) * cfg.scan_layers
    if routing:
        assert cfg.router is not None and cfg.moe_layers
        shape = batch, length, cfg.moe_layers * cfg.router.active
        experts = jnp.zeros(lead + shape, expert_dtype(cfg))
    return Cache(
        dense=layers(cfg.dense_layers),
        moe=layers(cfg.moe_layers),
        experts=experts,
        mtp=one(*lead) if mtp else None,
        tokens=jnp.zeros((*lead, batch, length, 1), jnp.int32) if tokens else None,
    )


def record(recorded: jax.Array, experts_LBTK: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """`Cache.experts` with the choices of T new positions of every row."""
    new_BTY = rearrange(experts_LBTK, "l b t k -> b t (l k)").astype(recorded.dtype)
    old_BSY = recorded.reshape(recorded.shape[-3:])
    return update(old_BSY, new_BTY, positions_BT).reshape(recorded.shape)


def length(cache) -> int:
    """Positions of a layer's."""
    return jax.tree.leaves(cache)[0].shape[-2]


def part(cache, start, size: int):
    """`size` positions of a layer's cache, from `start` on, as arrays [B, ...]."""

    def one(a):
        if not isinstance(a, InStack):
            return jax.lax.dynamic_slice_in_dim(a, start, size, a.ndim - 2)
        whole = a.stack
        begin = [a.layer, *[0] * (whole.ndim - 3), start, 0]
        some = jax.lax.dynamic_slice(whole, begin, (1, *whole.shape[1:-2], size, whole.shape[-1]))
        return some.reshape(some.shape[1:])

    return jax.tree.map(one, cache, is_leaf=_in_stack)


def update(cache, new, positions_BT):
    """Writes T new positions of every row: `cache` over S positions, `new` [B, T, (K,) width].

    Row by row, so that on a mesh each device writes its own rows: of an index over rows the
    partitioner does not know that it stays within them, and gathers what is new."""

    def one(a, b):
        if not isinstance(a, InStack):
            return _written(a, b, positions_BT[..., None], ())
        layer_BT = jnp.broadcast_to(a.layer.astype(positions_BT.dtype), positions_BT.shape)
        at_BT2 = jnp.stack([layer_BT, positions_BT], axis=-1)
        return a.replace(stack=_written(a.stack, b, at_BT2, (0,)))

    return jax.tree.map(one, cache, new, is_leaf=_in_stack)


def _written(a, b, index_BTI, layers: tuple[int, ...]):
    """a, [(L,) B, (K,) S, width], with b, [B, T, (K,) width], where index_BTI says of each; layers:
    the axis of L. What would lie outside is left out."""
    indexed = *layers, a.ndim - 2
    where = jax.lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(2, b.ndim)),
        inserted_window_dims=indexed,
        scatter_dims_to_operand_dims=indexed,
        operand_batching_dims=(len(layers),),
        scatter_indices_batching_dims=(0,),
    )
    return jax.lax.scatter(a, index_BTI, b.astype(a.dtype), where, mode="drop")
