"""Masked statistics, in one place."""

import jax
import jax.numpy as jnp


def mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of x where mask, over all axes; 0 where nothing is."""
    m = mask.astype(x.dtype)
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(m), 1)


def total(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum of x where mask, over all axes, float32."""
    return jnp.sum(jnp.where(mask, x, 0).astype(jnp.float32))


def variance(x: jax.Array, mask: jax.Array) -> jax.Array:
    return mean((x - mean(x, mask)) ** 2, mask)
