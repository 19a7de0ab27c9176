"""What decoding remembers of each token. MLA: a latent and a rotary key, kv_lora + rope numbers a
layer (576 for DeepSeek-V3). Grouped-query attention: the keys and values of its few heads.

B slots  S cached positions  C key-value latent, or key-value heads x head dim  R rope dim
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
    """Rotated keys and values, by position, the heads side by side."""

    key_BSC: jax.Array
    value_BSC: jax.Array


LayerCache = LatentCache | KVCache


class Cache(flax.struct.PyTreeNode):
    """`dense` and `moe` hold a LayerCache a layer (a stacked one where layers are scanned)."""

    dense: LayerCache | tuple[LayerCache, ...]
    moe: LayerCache | tuple[LayerCache, ...]


def init_cache(cfg: ModelConfig, batch: int, length: int) -> Cache:
    """Zeros; nothing reads a position before it is written."""

    def layers(n: int):
        def one(*lead: int) -> LayerCache:
            def zeros(width: int) -> jax.Array:
                return jnp.zeros((*lead, batch, length, width), jnp.dtype(cfg.dtype))

            a = cfg.attention
            if isinstance(a, MLAConfig):
                return LatentCache(zeros(a.kv_lora), zeros(a.rope_dim))
            return KVCache(zeros(a.kv_heads * a.head_dim), zeros(a.kv_heads * a.head_dim))

        return one(n) if cfg.scan_layers else tuple(one() for _ in range(n))

    return Cache(dense=layers(cfg.dense_layers), moe=layers(cfg.moe_layers))


def update(cache, new, positions_BT):
    """Writes T new positions of every row: `cache` over S positions, `new` over T."""
    row_B1 = jnp.arange(positions_BT.shape[0])[:, None]
    return jax.tree.map(lambda a, b: a.at[row_B1, positions_BT].set(b), cache, new)
