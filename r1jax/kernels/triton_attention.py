"""Attention by JAX's Pallas kernel for GPUs (Triton): what `blockwise` computes, with nothing of
tokens by tokens in memory. Elsewhere it runs interpreted, for tests.

B batch  T tokens  K key-value heads  H heads  X width of queries and keys  U of values
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention as kernels

from r1jax.kernels.blockwise import Seen

FILLED = -1  # the segment of what is put behind a row's end: it sees and is seen by its like
LEAST = 32  # tokens of a block


def triton(q_BTHX, k_BTKX, v_BTKU, seen: Seen, scale: float, interpret: bool) -> jax.Array:
    """[B, T, H, U], of `seen.own` with segments on one device, not of a part of a row. Values are
    filled up to the width of queries and keys, and key-value heads repeated: the kernel takes all
    three alike."""
    assert seen.own and seen.shards == 1 and seen.segments_BT is not None
    (_, t, heads, x), (_, _, kv_heads, u) = q_BTHX.shape, v_BTKU.shape
    # What a block of keys and values takes of an H100's 227 KiB at 256 numbers a head, twice over.
    block = 64 if x > 128 else 128
    more = -t % block

    def fill(a, last: int = 0):
        return jnp.pad(a, ((0, 0), (0, more), (0, 0), (0, last)))

    segments_BT = jnp.pad(seen.segments_BT, ((0, 0), (0, more)), constant_values=FILLED)
    k, v = (jnp.repeat(a, heads // kv_heads, axis=2) for a in (fill(k_BTKX), fill(v_BTKU, x - u)))
    names = ("block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    sizes = kernels.BlockSizes(block_q=block, block_k=block, **dict.fromkeys(names, LEAST))
    # Positional, as its gradient is declared.
    args = scale, True, sizes, "triton", None, 2, None, interpret
    return kernels.mha(fill(q_BTHX), k, v, segments_BT, *args)[:, :t, :, :u]
