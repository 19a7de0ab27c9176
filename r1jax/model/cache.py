"""What decoding remembers of each token. MLA: a latent and a rotary key, kv_lora + rope numbers a
layer (576 for DeepSeek-V3). Grouped-query attention: the keys and values of its few heads.

B slots  S cached positions  C key-value latent  R rope dim  K key-value heads  X head dim
"""

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.config import MLAConfig, ModelConfig


class LatentCache(flax.struct.PyTreeNode):
    """Normalised latents and rotated keys, by position. One array a layer, or stacked over
    layers where the model scans them."""

    latent_BSC: jax.Array
    rope_BSR: jax.Array


class KVCache(flax.struct.PyTreeNode):
    """Rotated keys and values: by head, then position, as attention multiplies them."""

    key_BKSX: jax.Array
    value_BKSX: jax.Array


LayerCache = LatentCache | KVCache


class Cache(flax.struct.PyTreeNode):
    """`dense` and `moe` hold a LayerCache a layer (a stacked one where layers are scanned)."""

    dense: LayerCache | tuple[LayerCache, ...]
    moe: LayerCache | tuple[LayerCache, ...]


def init_cache(cfg: ModelConfig, batch: int, length: int) -> Cache:
    """Zeros; nothing reads a position before it is written."""

    def layers(n: int):
        def one(*lead: int) -> LayerCache:
            def zeros(width: int, *heads: int) -> jax.Array:
                return jnp.zeros((*lead, batch, *heads, length, width), jnp.dtype(cfg.dtype))

            a = cfg.attention
            if isinstance(a, MLAConfig):
                return LatentCache(zeros(a.kv_lora), zeros(a.rope_dim))
            return KVCache(zeros(a.head_dim, a.kv_heads), zeros(a.head_dim, a.kv_heads))

        # Where there are none, no array: XLA (jaxlib 0.11.2) does not survive moving empty ones.
        return one(n) if cfg.scan_layers and n else tuple(one() for _ in range(n))

    return Cache(dense=layers(cfg.dense_layers), moe=layers(cfg.moe_layers))


def update(cache, new, positions_BT):
    """Writes T new positions of every row: `cache` over S positions, `new` [B, T, (K,) width].

    Row by row, so that on a mesh each device writes its own rows: of an index over rows the
    partitioner does not know that it stays within them, and gathers what is new."""

    def row(a, b, positions_T):
        if a.ndim == 2:
            return a.at[positions_T].set(b)
        return a.at[:, positions_T].set(b.swapaxes(0, 1))

    return jax.tree.map(lambda a, b: jax.vmap(row)(a, b, positions_BT), cache, new)
