"""The latent cache: kv_lora + rope numbers a token a layer (576 for DeepSeek-V3).

B slots  S cached positions  C key-value latent  R rope dim
"""

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.config import ModelConfig


class LayerCache(flax.struct.PyTreeNode):
    """Normalised latents and rotated keys, by position. One array a layer, or stacked over
    layers where the model scans them."""

    latent_BSC: jax.Array
    rope_BSR: jax.Array


class Cache(flax.struct.PyTreeNode):
    """`dense` and `moe` hold a LayerCache a layer (a stacked one where layers are scanned)."""

    dense: LayerCache | tuple[LayerCache, ...]
    moe: LayerCache | tuple[LayerCache, ...]


def init_cache(cfg: ModelConfig, batch: int, length: int) -> Cache:
    """Zeros; nothing reads a position before it is written."""

    def layers(n: int):
        def one(*lead: int) -> LayerCache:
            dtype = jnp.dtype(cfg.dtype)
            return LayerCache(
                latent_BSC=jnp.zeros((*lead, batch, length, cfg.mla.kv_lora), dtype),
                rope_BSR=jnp.zeros((*lead, batch, length, cfg.mla.rope_dim), dtype),
            )

        return one(n) if cfg.scan_layers else tuple(one() for _ in range(n))

    return Cache(dense=layers(cfg.dense_layers), moe=layers(cfg.moe_layers))


def update(cache: LayerCache, latent_BTC, rope_BTR, positions_BT) -> LayerCache:
    """Writes T new positions of every row."""
    row_B1 = jnp.arange(latent_BTC.shape[0])[:, None]
    return LayerCache(
        latent_BSC=cache.latent_BSC.at[row_B1, positions_BT].set(latent_BTC),
        rope_BSR=cache.rope_BSR.at[row_B1, positions_BT].set(rope_BTR),
    )
