"""How a device's experts multiply the tokens that are there. Functions of one signature:

    (x_MD, gates_MK, experts_MK, weights, usual) -> [M, D]

the sum over a token's experts of gate x SwiGLU, over those of the E experts that are here: experts
are numbered from this device's first, and what is below 0 or not below E is another device's.
`usual` is how many pairs of token and expert are expected, of the M K that there might be.

M tokens  K experts a token  P = M K pairs  D d_model  E experts here  F expert FFN width
R rows of the buffer  L rows that a token has at most
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.architecture import ModelConfig
from r1jax.kernels.grouped_matmul import grouped_matmul
from r1jax.model.layers import matmul

TILES = (16, 512)  # rows of a tile, least and most
OVERFLOW = "overflow"  # in the names of what a compiled program computes for what did not fit
FEW = 256  # rows of the least buffer: a decoding step's, which are few, fit whatever their routing


def of(cfg: ModelConfig) -> Callable:
    """The function that cfg.experts_multiply names."""
    found: dict[str, Callable] = {
        "dense": dense,
        "blocked": blocked,
        "grouped": functools.partial(grouped, room=cfg.experts_room),
    }
    return found[cfg.experts_multiply]


def dense(x_MD, gates_MK, experts_MK, weights, usual=0):
    """Every token through every expert, as two plain matmuls; gates zero the rest out."""
    gate_EDF, up_EDF, down_EFD = weights
    n = gate_EDF.shape[0]
    chosen_MKE = experts_MK[:, :, None] == jnp.arange(n)[None, None, :]
    gate_ME = jnp.sum(jnp.where(chosen_MKE, gates_MK[:, :, None], 0.0), axis=1)
    if x_MD.shape[0] < gate_EDF.shape[2]:
        # A decoding step: to copy its few rows to every expert is less than to transpose weights.
        x_EMD = jnp.broadcast_to(x_MD[None], (n, *x_MD.shape))
        h_EMF = jax.nn.silu(x_EMD @ gate_EDF) * (x_EMD @ up_EDF)
        h_EMF = h_EMF * gate_ME.T[:, :, None].astype(x_MD.dtype)
        return jnp.sum(h_EMF @ down_EFD, axis=0)
    h_MEF = jax.nn.silu(_side_by_side(x_MD, gate_EDF)) * _side_by_side(x_MD, up_EDF)
    h_MEF = h_MEF * gate_ME[:, :, None].astype(x_MD.dtype)
    return matmul(h_MEF.reshape(x_MD.shape[0], -1), down_EFD.reshape(-1, x_MD.shape[1]))


def _side_by_side(x_MD, w_EDF):
    """All experts' matrices as one wide one: [M, D] -> [M, E, F]."""
    e, d, f = w_EDF.shape
    return matmul(x_MD, w_EDF.transpose(1, 0, 2).reshape(d, e * f)).reshape(-1, e, f)


class Layout(NamedTuple):
    """Pairs of tokens and experts as rows: those of an expert one after another, in whole tiles of
    which the last may be partly filled."""

    pair_R: jax.Array  # the pair in each row; P: none
    row_MK: jax.Array  # the row of each pair; R: it is another device's
    sizes_E: jax.Array  # rows of each expert, its unfilled ones included


def lay_out(experts_MK: jax.Array, experts: int, tile: int) -> Layout:
    """For as many rows as may be needed (`most_rows`)."""
    m, k = experts_MK.shape
    rows = most_rows(m, k, experts, tile)
    is_here_MK = (experts_MK >= 0) & (experts_MK < experts)
    expert_P = jnp.where(is_here_MK, experts_MK, experts).reshape(-1)
    order_P = jnp.argsort(expert_P, stable=True)  # the pairs, other devices' last
    count_E = jnp.sum(expert_P[:, None] == jnp.arange(experts)[None, :], axis=0)
    sizes_E = -(-count_E // tile) * tile
    end_E = jnp.cumsum(sizes_E)
    # How far an expert's rows lie behind its place among the sorted pairs.
    shift_E = (end_E - sizes_E) - (jnp.cumsum(count_E) - count_E)

    row_P = _inverse(order_P) + jnp.append(shift_E, 0)[expert_P]
    row_P = jnp.where(expert_P < experts, row_P, rows)
    expert_R = jnp.repeat(
        jnp.searchsorted(end_E, jnp.arange(rows // tile) * tile, side="right"), tile
    )
    first_R = jnp.append(end_E - sizes_E, 0)[expert_R]
    filled_R = jnp.arange(rows) - first_R < jnp.append(count_E, 0)[expert_R]
    sorted_R = jnp.arange(rows) - jnp.append(shift_E, 0)[expert_R]
    pair_R = order_P.at[sorted_R].get(mode="clip")
    return Layout(jnp.where(filled_R, pair_R, m * k), row_P.reshape(m, k), sizes_E)


def _inverse(order_P):
    """Of a permutation. A CPU sorts for longer than it scatters."""

    def scatter(order_P):
        places_P = jnp.arange(order_P.size, dtype=order_P.dtype)
        return jnp.zeros_like(order_P).at[order_P].set(places_P, unique_indices=True)

    return jax.lax.platform_dependent(order_P, cpu=scatter, default=jnp.argsort)


def most_rows(tokens: int, active: int, experts: int, tile: int) -> int:
    """Rows that `lay_out` may need, whatever the routing: a token has no expert twice."""
    pairs = tokens * min(active, experts)
    return (pairs // tile + min(experts, pairs)) * tile


def tile_of(usual: int, experts: int) -> int:
    """Rows of a tile, of which half is lost an expert on average: a sixteenth of what an expert
    usually gets."""
    least, most = TILES
    return min(most, max(least, 1 << max(0, (usual // (8 * experts)).bit_length() - 1)))


def rows_of(usual: int, tokens: int, active: int, experts: int, room: float) -> tuple[int, int]:
    """(rows of the buffer, of a tile), for `usual` pairs and `room` times as many."""
    tile = tile_of(usual, experts)
    wanted = max(FEW, int(room * usual) + experts * tile // 2)
    return min(-(-wanted // tile) * tile, most_rows(tokens, active, experts, tile)), tile


def grouped(x_MD, gates_MK, experts_MK, weights, usual, room=1.25, interpret=""):
    """Only the chosen pairs, in tiles of one expert each (`grouped_matmul`). They are multiplied in
    a buffer of `room` times the usual pairs; what does not fit is multiplied after that."""
    (m, k), n = experts_MK.shape, weights[0].shape[0]
    size, tile = rows_of(usual, m, k, n, room)
    laid = lay_out(experts_MK, n, tile)
    end_E = jnp.cumsum(laid.sizes_E)
    parts = -(-laid.pair_R.size // size)
    pair_R = jnp.pad(laid.pair_R, (0, parts * size - laid.pair_R.size), constant_values=m * k)

    def part(i, differentiated, others):
        x_MD, gates_P1, (gate_EDF, up_EDF, down_EFD) = differentiated
        pair_R, row_MK, end_E = others
        pair_R = jax.lax.dynamic_slice_in_dim(pair_R, i * size, size)
        row_MK = row_MK - i * size
        row_MK = jnp.where((row_MK >= 0) & (row_MK < size), row_MK, size)
        sizes_E = jnp.diff(jnp.clip(end_E - i * size, 0, size), prepend=0)
        tokens = Moves(jnp.where(pair_R < m * k, pair_R // k, m), row_MK)

        def product(a, w):
            return grouped_matmul(a, w, sizes_E, tile, interpret)

        x_RD = taken(x_MD, tokens)
        h_RF = jax.nn.silu(product(x_RD, gate_EDF)) * product(x_RD, up_EDF)
        # Gates here and not behind: their gradient then needs no product of its own.
        h_RF = h_RF * taken(gates_P1, Moves(pair_R, row_MK.reshape(-1, 1)))
        return summed(product(h_RF, down_EFD), tokens)

    gates_P1 = gates_MK.reshape(-1, 1).astype(x_MD.dtype)
    used = 1 if parts == 1 else -(-end_E[-1] // size)
    return in_parts(part, used, (x_MD, gates_P1, weights), (pair_R, laid.row_MK, end_E))


def blocked(x_MD, gates_MK, experts_MK, weights, usual=0):
    """Only the chosen pairs, in blocks of one expert each: two batched matmuls, for a CPU. Copies
    an expert's matrices for each of its blocks."""
    (m, k), n = experts_MK.shape, weights[0].shape[0]
    # Half of what an expert has on average, as a power of two: few blocks, little padding.
    size = 2 ** min(7, max(3, (m * k // (2 * n)).bit_length() - 1))
    laid = lay_out(experts_MK, n, size)
    start_B = jnp.arange(laid.pair_R.size // size) * size
    expert_B = jnp.searchsorted(jnp.cumsum(laid.sizes_E), start_B, side="right")
    own_BE = jax.nn.one_hot(expert_B, n, dtype=x_MD.dtype)  # zeros past the last block
    gate_BDF, up_BDF, down_BFD = (jnp.einsum("be,eio->bio", own_BE, w) for w in weights)

    tokens = Moves(jnp.where(laid.pair_R < m * k, laid.pair_R // k, m), laid.row_MK)
    x_BRD = taken(x_MD, tokens).reshape(start_B.size, size, -1)
    h_BRF = jax.nn.silu(x_BRD @ gate_BDF) * (x_BRD @ up_BDF)
    gates_P1 = gates_MK.reshape(-1, 1).astype(x_MD.dtype)
    gate_R1 = taken(gates_P1, Moves(laid.pair_R, laid.row_MK.reshape(-1, 1)))
    h_BRF = h_BRF * gate_R1.reshape(start_B.size, size, 1)
    return summed((h_BRF @ down_BFD).reshape(laid.pair_R.size, -1), tokens)


def in_parts(part, used, differentiated, others):
    """part(0, ...) + part(1, ...) + ... of `used` parts, which is usually one and costs no more
    than a call then: its residuals are kept as those of any function, where later parts are
    computed again in the backward pass. part(i, differentiated, others) -> a pytree."""
    if isinstance(used, int) and used == 1:
        return part(0, differentiated, others)

    def with_rest(used, first, one):
        def add(i, total):
            return jax.tree.map(jnp.add, total, one(i))

        with jax.named_scope(OVERFLOW):
            return jax.lax.fori_loop(1, used, add, first)

    @jax.custom_vjp
    def total(used, differentiated, others):
        first = part(0, differentiated, others)
        return with_rest(used, first, lambda i: part(i, differentiated, others))

    def forward(used, differentiated, others):
        first, pull = jax.vjp(lambda d: part(0, d, others), differentiated)
        out = with_rest(used, first, lambda i: part(i, differentiated, others))
        return out, (pull, used, differentiated, others)

    def backward(saved, d_out):
        pull, used, differentiated, others = saved

        def one(i):
            return jax.vjp(lambda d: part(i, d, others), differentiated)[1](d_out)[0]

        return None, with_rest(used, pull(d_out)[0], one), None

    total.defvjp(forward, backward)
    return total(jnp.asarray(used, jnp.int32), differentiated, others)


class Moves(NamedTuple):
    """Which of M things goes into each of R rows, and which L rows each thing goes into."""

    source_R: jax.Array  # M: none
    rows_ML: jax.Array  # R: none


def taken(x_MD: jax.Array, moves: Moves) -> jax.Array:
    """[R, D]: each row's source, zeros where it has none. Transposed, it is `summed`."""
    return _taken(x_MD, *moves)


def summed(y_RD: jax.Array, moves: Moves) -> jax.Array:
    """[M, D]: of each source, the sum of its rows."""
    return _summed(y_RD, *moves)


@jax.custom_vjp
def _taken(x_MD, source_R, rows_ML):
    return x_MD.at[source_R].get(mode="fill", fill_value=0)


@jax.custom_vjp
def _summed(y_RD, source_R, rows_ML):
    (m, most), rows = rows_ML.shape, y_RD.shape[0]

    def gathers(y_RD, source_R, rows_ML):
        # Summed in one order wherever it runs: a scatter would have none on a GPU.
        of = (y_RD.at[rows_ML[:, i]].get(mode="fill", fill_value=0) for i in range(most))
        total_MD = functools.reduce(jnp.add, (y_MD.astype(jnp.float32) for y_MD in of))
        return total_MD.astype(y_RD.dtype)

    def scatter(y_RD, source_R, rows_ML):
        return jnp.zeros((m, y_RD.shape[1]), y_RD.dtype).at[source_R].add(y_RD, mode="drop")

    # Compiled for v5p, a scatter sorts the rows and adds them in order, with a seventh of the
    # traffic of the gathers where an eighth of a token's pairs is here.
    tpu = scatter if m * most > 2 * rows else gathers
    return jax.lax.platform_dependent(y_RD, source_R, rows_ML, tpu=tpu, default=gathers)


_taken.defvjp(
    lambda x_MD, *moves: (_taken(x_MD, *moves), moves),
    lambda moves, d_RD: (_summed(d_RD, *moves), None, None),
)
_summed.defvjp(
    lambda y_RD, *moves: (_summed(y_RD, *moves), moves),
    lambda moves, d_MD: (_taken(d_MD, *moves), None, None),
)
