"""Which keys a query sees, and attention over them in blocks: no mask of tokens by tokens, and no
array of scores, ever exists as a whole.

B batch  T queries  S keys  K key-value heads  G query heads a key-value head  H = K G heads
X width of queries and keys  U width of values  N blocks of queries, M of keys  P pairs of blocks
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

BLOCK = 512  # tokens
HIDDEN = -1e30  # finite, so that a row that sees nothing stays free of NaN

Array = jax.Array | np.ndarray


class Seen(NamedTuple):
    """Which keys each query sees: those of its segment (None: there is but one) whose order is not
    above its own. [1, T] where all rows are alike."""

    order_BT: Array
    order_BS: Array
    segments_BT: Array | None = None
    segments_BS: Array | None = None
    #: Keys are all of a row, in order, and queries the row's own tokens: all of them, or (`shards`
    #: above 1) the two parts of it that this device, number `shard`, has (`model/zigzag.py`). What
    #: is above the diagonal need not be computed.
    own: bool = False
    shards: int = 1
    shard: jax.Array | int = 0

    def mask_BTS(self) -> jax.Array:
        mask = jnp.asarray(self.order_BT)[:, :, None] >= self.order_BS[:, None, :]
        if self.segments_BT is None or self.segments_BS is None:
            return mask
        return (self.segments_BT[:, :, None] == self.segments_BS[:, None, :]) & mask

    @property
    def parts(self) -> tuple[int, int]:
        """In how many parts of one length queries and keys lie, each to be divided into blocks."""
        return (2, 2 * self.shards) if self.shards > 1 else (1, 1)


def blockwise(q_BTHX, k_BSKX, v_BSKU, seen: Seen, scale: float) -> jax.Array:
    """softmax(scale q k) v over the keys that are seen, [B, T, H, U] of v's type, by pairs of a
    block of queries and a block of keys, with an online softmax (arXiv 2112.05682); pairs above
    the diagonal are left out. The backward pass makes the scores again."""
    of_queries, of_keys = (
        _Cut(a.shape[1], parts) for a, parts in zip((q_BTHX, k_BSKX), seen.parts, strict=True)
    )
    last = np.iinfo(np.int32).max  # what is put behind a part's end comes after every query
    where = _Blocks(
        of_queries.blocks(seen.order_BT),
        of_keys.blocks(seen.order_BS, fill=last),
        None if seen.segments_BT is None else of_queries.blocks(seen.segments_BT),
        None if seen.segments_BS is None else of_keys.blocks(seen.segments_BS),
    )
    k = k_BSKX.shape[2]
    q_NBKGTX = rearrange(of_queries.blocks(q_BTHX), "n b t (k g) x -> n b k g t x", k=k)
    k_MBKSX, v_MBKSU = (of_keys.blocks(a).swapaxes(2, 3) for a in (k_BSKX, v_BSKU))
    pairs_P2 = _pairs(of_queries, of_keys, seen)
    o_NBKGTU = _pairwise(scale, q_NBKGTX, k_MBKSX, v_MBKSU, where, pairs_P2)
    return of_queries.whole(rearrange(o_NBKGTU, "n b k g t u -> n b t (k g) u"))


class _Cut:
    """How tokens in parts of one length are cut: each part in as few blocks as BLOCK allows, all of
    one size, the last of a part filled up."""

    def __init__(self, tokens: int, parts: int):
        self.parts, self.length = parts, tokens // parts
        self.a_part = -(-self.length // BLOCK)  # blocks
        self.size = -(-self.length // self.a_part)  # tokens of a block

    def blocks(self, a: Array, fill: int = 0) -> jax.Array:
        """[B, tokens, ...] -> [N, B, size, ...]."""
        a = rearrange(jnp.asarray(a), "b (p h) ... -> b p h ...", p=self.parts)
        more = self.a_part * self.size - self.length
        if more:
            widths = [(0, 0), (0, 0), (0, more)] + [(0, 0)] * (a.ndim - 3)
            a = jnp.pad(a, widths, constant_values=fill)
        return rearrange(a, "b p (n t) ... -> (p n) b t ...", t=self.size)

    def whole(self, a: jax.Array) -> jax.Array:
        """[N, B, size, ...] -> [B, tokens, ...]."""
        a = rearrange(a, "(p n) b t ... -> b p (n t) ...", p=self.parts)[:, :, : self.length]
        return rearrange(a, "b p h ... -> b (p h) ...")


def _pairs(of_queries: _Cut, of_keys: _Cut, seen: Seen) -> Array:
    """[P, 2]: the blocks of keys that each block of queries meets."""
    n, m = of_queries.a_part, of_keys.a_part
    if not seen.own:
        return np.indices((n, m), np.int32).reshape(2, -1).T

    def of_shard(shard: int) -> list[tuple[int, int]]:
        held = (shard, 2 * seen.shards - 1 - shard) if seen.shards > 1 else (0,)
        return [
            (here * n + i, j)
            for here, part in enumerate(held)
            for i in range(n)
            for j in range(part * n + i + 1)
        ]

    pairs = np.array([of_shard(d) for d in range(seen.shards)], np.int32)
    return pairs[0] if seen.shards == 1 else jnp.asarray(pairs)[seen.shard]


class _Blocks(NamedTuple):
    """`Seen`, in blocks."""

    order_NBT: jax.Array
    order_MBS: jax.Array
    segments_NBT: jax.Array | None
    segments_MBS: jax.Array | None

    def mask_BTS(self, i, j) -> jax.Array:
        one = [None if a is None else a[at] for a, at in zip(self, (i, j, i, j), strict=True)]
        return Seen(*one).mask_BTS()  # type: ignore[arg-type]


def _product(subscripts: str, a, b):
    """Summed in float32, whatever the operands are."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pairwise(scale: float, q_NBKGTX, k_MBKSX, v_MBKSU, where: _Blocks, pairs_P2) -> jax.Array:
    """[N, B, K, G, T, U]: the blocks of queries, each over all blocks of keys that it meets."""
    return _pairwise_forward(scale, q_NBKGTX, k_MBKSX, v_MBKSU, where, pairs_P2)[0]


def _scores(scale, q, k, where: _Blocks, i, j):
    s_BKGTS = _product("bkgtx,bksx->bkgts", q[i], k[j]) * scale
    return jnp.where(where.mask_BTS(i, j)[:, None, None], s_BKGTS, HIDDEN)


def _pairwise_forward(scale, q, k, v, where, pairs_P2):
    def step(state, pair):
        o, largest, total = state
        i, j = pair
        s = _scores(scale, q, k, where, i, j)
        new = jnp.maximum(largest[i], jnp.max(s, axis=-1))
        p = jnp.exp(s - new[..., None])
        kept = jnp.exp(largest[i] - new)
        mixed = _product("bkgts,bksu->bkgtu", p.astype(v.dtype), v[j])
        o = o.at[i].set(o[i] * kept[..., None] + mixed)
        total = total.at[i].set(total[i] * kept + jnp.sum(p, axis=-1))
        return (o, largest.at[i].set(new), total), None

    rows = q.shape[:-1]
    nothing = jnp.zeros((*rows, v.shape[-1]), jnp.float32)
    begin = nothing, jnp.full(rows, HIDDEN, jnp.float32), jnp.zeros(rows, jnp.float32)
    (o, largest, total), _ = jax.lax.scan(step, begin, pairs_P2)
    o = (o / total[..., None]).astype(v.dtype)
    return o, (q, k, v, where, pairs_P2, o, largest + jnp.log(total))


def _pairwise_backward(scale, saved, d_o):
    q, k, v, where, pairs_P2, o, log_total = saved
    delta = jnp.sum(d_o.astype(jnp.float32) * o.astype(jnp.float32), axis=-1)

    def step(sums, pair):
        d_q, d_k, d_v = sums
        i, j = pair
        p = jnp.exp(_scores(scale, q, k, where, i, j) - log_total[i][..., None])
        d_p = _product("bkgtu,bksu->bkgts", d_o[i], v[j])
        d_s = (p * (d_p - delta[i][..., None]) * scale).astype(q.dtype)
        d_q = d_q.at[i].add(_product("bkgts,bksx->bkgtx", d_s, k[j]))
        d_k = d_k.at[j].add(_product("bkgts,bkgtx->bksx", d_s, q[i]))
        d_v = d_v.at[j].add(_product("bkgts,bkgtu->bksu", p.astype(v.dtype), d_o[i]))
        return (d_q, d_k, d_v), None

    zeros = tuple(jnp.zeros(a.shape, jnp.float32) for a in (q, k, v))
    sums, _ = jax.lax.scan(step, zeros, pairs_P2)
    grads = (d.astype(a.dtype) for d, a in zip(sums, (q, k, v), strict=True))
    return *grads, None, None


_pairwise.defvjp(_pairwise_forward, _pairwise_backward)
