"""Masked statistics, in one place."""

import jax
import jax.numpy as jnp


def mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of x where mask, over all axes; 0 where nothing is."""
    m = mask.astype(x.dtype)
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(m), 1)
