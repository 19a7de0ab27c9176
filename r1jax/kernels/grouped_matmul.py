"""Grouped matrix multiplication: rows sorted by group, each group with its own matrix.

M rows  D in  F out  E groups
"""

import jax
import jax.numpy as jnp


def grouped_matmul_reference(x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """[M, F], in plain jnp and E times the work: the oracle.

    The first sizes_E[0] rows are multiplied by w_EDF[0], the next sizes_E[1] by w_EDF[1], and so
    on; rows past the last group give zeros.
    """
    end_E = jnp.cumsum(sizes_E)
    row_M1 = jnp.arange(x_MD.shape[0])[:, None]
    member_ME = (row_M1 < end_E[None, :]) & (row_M1 >= (end_E - sizes_E)[None, :])
    return jnp.einsum("me,md,edf->mf", member_ME.astype(x_MD.dtype), x_MD, w_EDF)


def grouped_matmul(x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """XLA's `ragged_dot`, same signature as the reference."""
    return jax.lax.ragged_dot(x_MD, w_EDF, sizes_E.astype(jnp.int32))
