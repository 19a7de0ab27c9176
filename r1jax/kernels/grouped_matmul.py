"""Grouped matrix multiplication: rows sorted by group, each group with its own matrix.

Groups are made of whole tiles: every size is a multiple of `tile`, which divides M, so that a tile
of rows has one matrix. Rows past the last group give zeros.

M rows  D in  F out  E groups  B = M / tile blocks of rows

On TPU the products are megablox's kernels, which come with JAX; on a GPU Triton's (below);
elsewhere one block is multiplied after another. JAX's own `ragged_dot` is not among them: its
weight gradient is a dense product over all groups, E times the work (compiled for v5p), and XLA:CPU
runs it forward at a fifth of this speed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, make_group_metadata, tgmm

VMEM = 13 * 2**20  # bytes that the blocks of a kernel may take, of the 16 MiB that it gets unasked

LEAST_TRITON = 16  # rows and columns of a product
_dot = getattr(triton, "dot", None) or pl.dot  # where it is in jax 0.11, and in 0.10


def grouped_matmul_reference(x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """[M, F], in plain jnp and E times the work: the oracle.

    The first sizes_E[0] rows are multiplied by w_EDF[0], the next sizes_E[1] by w_EDF[1], and so
    on; rows past the last group give zeros.
    """
    end_E = jnp.cumsum(sizes_E)
    row_M1 = jnp.arange(x_MD.shape[0])[:, None]
    member_ME = (row_M1 < end_E[None, :]) & (row_M1 >= (end_E - sizes_E)[None, :])
    return jnp.einsum("me,md,edf->mf", member_ME.astype(x_MD.dtype), x_MD, w_EDF)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def grouped_matmul(
    x_MD: jax.Array, w_EDF: jax.Array, sizes_E: jax.Array, tile: int, interpret: str = ""
) -> jax.Array:
    """As the reference; the work is that of the tiles in use, forward and in both gradients.
    interpret: the kernels of "tpu" or "cuda", as ordinary JAX on any device; for tests."""
    return _rows(x_MD, w_EDF, sizes_E, tile, interpret, False)


def _forward(x_MD, w_EDF, sizes_E, tile, interpret):
    return _rows(x_MD, w_EDF, sizes_E, tile, interpret, False), (x_MD, w_EDF, sizes_E)


def _backward(tile, interpret, saved, d_MF):
    x_MD, w_EDF, sizes_E = saved
    d_MF = d_MF.astype(x_MD.dtype)
    d_x = _rows(d_MF, w_EDF, sizes_E, tile, interpret, True)
    return d_x, _outer(x_MD, d_MF, sizes_E, tile, interpret).astype(w_EDF.dtype), None


grouped_matmul.defvjp(_forward, _backward)


def _rows(x_MD, w_EDF, sizes_E, tile, interpret, transposed):
    """Each row by its group's matrix, or by that matrix transposed."""
    kernels = {"tpu": _rows_megablox, "cuda": _rows_triton, "default": _rows_blocks}
    args = x_MD, w_EDF, sizes_E.astype(jnp.int32)
    return _where_compiled(kernels, args, interpret, tile=tile, transposed=transposed)


def _outer(x_MD, d_MF, sizes_E, tile, interpret):
    """[E, D, F]: of each group, the sum of its rows' outer products."""
    kernels = {"tpu": _outer_megablox, "cuda": _outer_triton, "default": _outer_blocks}
    return _where_compiled(kernels, (x_MD, d_MF, sizes_E.astype(jnp.int32)), interpret, tile=tile)


def _where_compiled(kernels, args, interpret, **options):
    """The choice falls when the program is lowered, as in `routing.route`."""
    if interpret:
        return kernels[interpret](*args, **options, interpret=True)
    kernels = {name: functools.partial(kernel, **options) for name, kernel in kernels.items()}
    return jax.lax.platform_dependent(*args, **kernels)


def _rows_megablox(x_MD, w_EDF, sizes_E, *, tile, transposed, interpret=False):
    d, f = w_EDF.shape[:0:-1] if transposed else w_EDF.shape[1:]
    out_MF = gmm(
        x_MD,
        w_EDF,
        sizes_E,
        x_MD.dtype,
        (tile, *_blocks(tile, d, f, x_MD.dtype.itemsize)),
        transpose_rhs=transposed,
        interpret=interpret,
    )
    # What no group holds the kernel leaves as it was.
    in_use = jnp.arange(x_MD.shape[0]) < jnp.sum(sizes_E)
    return jnp.where(in_use[:, None], out_MF, 0)


def _blocks(tile: int, d: int, f: int, bytes_: int) -> tuple[int, int]:
    """Of a matrix's rows and columns, how many are in memory with a tile of rows.

    All rows and at least 256 columns, if these fit: then they are read once for all tiles of their
    group, and a tile's rows stream by. Else 1,024 of both for large tiles: every tile then reads
    its matrix, but for so many rows that it is worth it. What is read or written is there twice,
    since the next is on its way; sums are in float32.
    """
    columns = (VMEM - 2 * bytes_ * tile * d) // (2 * bytes_ * (d + tile) + 4 * tile)
    if columns >= min(f, 256):
        return d, _even(f, columns)
    most = 1024 * 2 // bytes_
    return _largest(d, most), _even(f, most)


def _outer_megablox(x_MD, d_MF, sizes_E, *, tile, interpret=False):
    blocks = _blocks_outer(x_MD.shape[1], d_MF.shape[1], x_MD.dtype.itemsize)
    return tgmm(
        x_MD.T,  # the kernel turns it back
        d_MF,
        sizes_E,
        d_MF.dtype,
        (min(tile, 256), *blocks),
        interpret=interpret,
    )


def _blocks_outer(d: int, f: int, bytes_: int) -> tuple[int, int]:
    most = 1024 * 2 // bytes_
    return _even(d, most), _even(f, most)


def _largest(size: int, most: int) -> int:
    """The widest block of so many columns at most: all, or a multiple of 128 that divides, where
    one does."""
    if size <= most:
        return size
    most = max(128, most // 128 * 128)
    return next((n for n in range(most, 127, -128) if size % n == 0), most)


def _even(size: int, most: int) -> int:
    """As `_largest` where that is half of `most` at least. Else one of blocks as even as multiples
    of 128 are, of which the last is partly filled: 1,408 columns are 11 x 128, and in blocks of 128
    a kernel would wait for its rows, which it reads for each."""
    found = _largest(size, most)
    if 2 * found > most or size <= most:
        return found
    most = max(128, most // 128 * 128)
    return -(-size // -(-size // most) // 128) * 128


def _rows_triton(x_MD, w_EDF, sizes_E, *, tile, transposed, interpret=False):
    m, (e, d, f) = x_MD.shape[0], w_EDF.shape
    inner, outer = (f, d) if transposed else (d, f)
    deep, wide = _power_of_two(inner, 64), _power_of_two(outer, 128)
    if min(deep, wide, tile) < LEAST_TRITON and not interpret:
        return _rows_blocks(x_MD, w_EDF, sizes_E, tile=tile, transposed=transposed)

    def kernel(x_ref, w_ref, group_ref, out_ref):
        row, column, group = pl.program_id(0), pl.program_id(1), group_ref[pl.program_id(0)]

        def add(i, total_RO):
            x_RI = x_ref[pl.ds(row * tile, tile), pl.ds(i * deep, deep)]
            at = pl.ds(i * deep, deep), pl.ds(column * wide, wide)
            w = w_ref[group, *(at[::-1] if transposed else at)]
            return total_RO + _dot(x_RI, w, trans_b=transposed)

        # Of tiles that no group holds nothing is read.
        steps = jnp.where(group < e, jnp.int32(inner // deep), jnp.int32(0))
        total_RO = jax.lax.fori_loop(jnp.int32(0), steps, add, jnp.zeros((tile, wide), jnp.float32))
        out_ref[...] = total_RO.astype(out_ref.dtype)

    return pl.pallas_call(
        kernel,
        grid=(m // tile, outer // wide),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * 3,
        out_specs=pl.BlockSpec((tile, wide), lambda i, j: (i, j)),
        out_shape=jax.ShapeDtypeStruct((m, outer), x_MD.dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="grouped_rows",
    )(x_MD, w_EDF, _group_of_block(sizes_E, m, tile))


def _outer_triton(x_MD, d_MF, sizes_E, *, tile, interpret=False):
    d, f, e = x_MD.shape[1], d_MF.shape[1], sizes_E.shape[0]
    high, wide = _power_of_two(d, 128), _power_of_two(f, 128)
    rows = min(tile, 64)
    if min(high, wide, rows) < LEAST_TRITON and not interpret:
        return _outer_blocks(x_MD, d_MF, sizes_E, tile=tile)

    def kernel(x_ref, d_ref, end_ref, out_ref):
        group, i, j = (pl.program_id(axis) for axis in range(3))
        first = jnp.where(group > 0, end_ref[jnp.maximum(group - 1, 0)], 0)

        def add(step, total_DF):
            at = pl.ds(first + step * rows, rows)
            x_RD = x_ref[at, pl.ds(i * high, high)]
            return total_DF + _dot(x_RD, d_ref[at, pl.ds(j * wide, wide)], trans_a=True)

        steps = (end_ref[group] - first) // rows
        total_DF = jax.lax.fori_loop(jnp.int32(0), steps, add, jnp.zeros((high, wide), jnp.float32))
        out_ref[...] = total_DF.astype(out_ref.dtype)

    return pl.pallas_call(
        kernel,
        grid=(e, d // high, f // wide),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * 3,
        out_specs=pl.BlockSpec((None, high, wide), lambda g, i, j: (g, i, j)),
        out_shape=jax.ShapeDtypeStruct((e, d, f), d_MF.dtype),
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=3),
        interpret=interpret,
        name="grouped_outer",
    )(x_MD, d_MF, jnp.cumsum(sizes_E))


def _power_of_two(size: int, most: int) -> int:
    """The largest that divides, up to `most`."""
    return min(most, size & -size)


def _group_of_block(sizes_E, m: int, tile: int) -> jax.Array:
    """[B]: past the last group, E."""
    end_E = jnp.cumsum(sizes_E)
    return jnp.searchsorted(end_E, jnp.arange(m // tile) * tile, side="right")


def _rows_blocks(x_MD, w_EDF, sizes_E, *, tile, transposed):
    m, (e, d, f) = x_MD.shape[0], w_EDF.shape

    def one(block):
        x_RD, group = block
        w_DF = w_EDF[jnp.minimum(group, e - 1)]
        return jax.lax.cond(
            group < e,
            lambda: x_RD @ (w_DF.T if transposed else w_DF),
            lambda: jnp.zeros((tile, d if transposed else f), x_MD.dtype),
        )

    blocks = x_MD.reshape(m // tile, tile, -1), _group_of_block(sizes_E, m, tile)
    return jax.lax.map(one, blocks).reshape(m, -1)


def _outer_blocks(x_MD, d_MF, sizes_E, *, tile):
    m, e = x_MD.shape[0], sizes_E.shape[0]

    def add(total_EDF, block):
        x_RD, d_RF, group = block
        product = jax.lax.cond(
            group < e,
            lambda: x_RD.T @ d_RF,
            lambda: jnp.zeros(total_EDF.shape[1:], total_EDF.dtype),
        )
        return total_EDF.at[group].add(product, mode="drop"), None

    zeros = jnp.zeros((e, x_MD.shape[1], d_MF.shape[1]), d_MF.dtype)
    rows = (a.reshape(m // tile, tile, -1) for a in (x_MD, d_MF))
    return jax.lax.scan(add, zeros, (*rows, _group_of_block(sizes_E, m, tile)))[0]


def tiles_visited(sizes_E: np.ndarray, m: int, tile: int, transposed: bool = False) -> int:
    """How many tiles of rows megablox's kernels multiply, from the metadata that they go by: their
    cost is this, and not the 2 M D F that they declare. transposed: of the weight gradient, which
    visits empty groups too, without multiplying."""
    _, visited = make_group_metadata(
        group_sizes=jnp.asarray(sizes_E, jnp.int32),
        m=m,
        tm=tile,
        start_group=jnp.int32(0),
        num_nonzero_groups=len(sizes_E),
        visit_empty_groups=transposed,
    )
    return int(visited) - (int(np.sum(np.asarray(sizes_E) == 0)) if transposed else 0)


def area_multiplied(tile: int, d: int, f: int, bytes_: int) -> int:
    """D x F as megablox's kernels have it, at most: blocks may stick out of a matrix."""
    there, back, outer = (
        _blocks(tile, d, f, bytes_),
        _blocks(tile, f, d, bytes_)[::-1],
        _blocks_outer(d, f, bytes_),
    )
    return max(-(-d // deep) * deep * -(-f // wide) * wide for deep, wide in (there, back, outer))
