"""Attention by JAX's Pallas kernel for TPUs ("splash"): what `blockwise` computes, at the speed of
the matrix unit. Elsewhere it runs interpreted, for tests.

B batch  T queries  S keys  K key-value heads  H heads  X width of queries and keys  U of values
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from r1jax.kernels.blockwise import Seen

BLOCK, LANES = 512, 128  # tokens of a block: at most, and a multiple of
FILLED = -1  # the segment of what is put behind a part's end: it sees and is seen by its like


def splash(q_BTHX, k_BSKX, v_BSKU, seen: Seen, scale: float, interpret: bool) -> jax.Array:
    """[B, T, H, U], of `seen.own` with segments. XLA does not partition it: on a mesh it is called
    of one device's part, in a shard_map that does not check which axes a value varies over
    (`check_vma=False`; the kernel does not say)."""
    assert seen.own and seen.segments_BT is not None and seen.segments_BS is not None
    parts_t, parts_s = seen.parts
    length = q_BTHX.shape[1] // parts_t
    # Keys are in the order of the row, also where each part is filled up: what fills it is hidden
    # by its segment.
    block = min(BLOCK, -(-length // LANES) * LANES)
    filled = -(-length // block) * block

    def fill(a, parts: int, value: int = 0):
        a = rearrange(a, "b (p h) ... -> b p h ...", p=parts)
        widths = [(0, 0), (0, 0), (0, filled - length)] + [(0, 0)] * (a.ndim - 3)
        return rearrange(jnp.pad(a, widths, constant_values=value), "b p h ... -> b (p h) ...")

    q_BHTX = fill(q_BTHX, parts_t).swapaxes(1, 2)
    k_BKSX, v_BKSU = (fill(a, parts_s).swapaxes(1, 2) for a in (k_BSKX, v_BSKU))
    segments = kernels.SegmentIds(
        fill(seen.segments_BT, parts_t, FILLED), fill(seen.segments_BS, parts_s, FILLED)
    )
    kernel = _kernel(q_BHTX.shape[1], filled, block, seen, interpret)
    # It has no argument for the scale.
    q_BHTX = (q_BHTX.astype(jnp.float32) * scale).astype(q_BHTX.dtype)
    o_BHTU = jax.vmap(kernel)(q_BHTX, k_BKSX, v_BKSU, segments)
    o = rearrange(o_BHTU, "b h (p t) u -> b p t h u", p=parts_t)[:, :, :length]
    return rearrange(o, "b p t h u -> b (p t) h u").astype(v_BSKU.dtype)


def _kernel(heads: int, part: int, block: int, seen: Seen, interpret: bool):
    """For rows of 2 x shards parts (one where there is one shard), of which this device has two."""
    n, parts = seen.shards, seen.parts[1]
    mask = masks.CausalMask((parts * part, parts * part))
    if n > 1:
        held = [part_ for d in range(n) for part_ in (d, 2 * n - 1 - d)]
        mask.q_sequence = rearrange(mask.q_sequence, "(p h) -> p h", p=parts)[held].reshape(-1)
    sizes = kernels.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    made = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=n,
        interpret=interpret,
    )
    if n == 1:
        return made

    def mine(info):
        """What the blocks of all shards are told, of this one."""
        if info is None:
            return None

        def cut(a, axis: int):
            size = a.shape[axis] // n
            return jax.lax.dynamic_slice_in_dim(a, seen.shard * size, size, axis)

        by_block = ("data_next", "mask_next", "block_mask")
        own = {name: cut(getattr(info, name), 1) for name in by_block if _there(info, name)}
        if _there(info, "q_sequence"):
            own["q_sequence"] = cut(info.q_sequence, 0)
        return info._replace(**own)

    infos = (made.fwd_mask_info, made.dq_mask_info, made.dkv_mask_info)
    return kernels.SplashAttentionKernel(*map(mine, infos), **made.kwargs)


def _there(info, name: str) -> bool:
    return getattr(info, name) is not None
