"""Rows whose tokens several devices share (context parallelism).

A row is cut into 2n parts for n devices, of which device d has parts d and 2n - 1 - d: then each
has as many keys to see as any other, where of parts in order the last would have almost twice the
mean. All gather the keys (Llama 3, arXiv 2407.21783, section 3.3.2, has the same two). Within the
layers tokens lie in this order; outside, in that of the row.

n devices  B batch  T tokens of a row, or of a device's part
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.checks import check
from r1jax.kernels.blockwise import Seen
from r1jax.sharding import CONTEXT, current_mesh, partition

Tree = TypeVar("Tree")


def shards() -> int:
    """Over how many devices a row is split, on the current mesh."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape[CONTEXT]


def spread(tree: Tree, time: int = 1) -> Tree:
    """Arrays in a row's order to the order of the layers; `time` is the axis of tokens, the one
    before it that of rows. Raises InputError if the parts do not divide."""
    return jax.tree.map(lambda a: _exchanged(a, time, back=False), tree)


def in_order(tree: Tree, time: int = 1) -> Tree:
    """The inverse of `spread`."""
    return jax.tree.map(lambda a: _exchanged(a, time, back=True), tree)


def _exchanged(a: jax.Array, time: int, back: bool) -> jax.Array:
    n = shards()
    if n == 1:
        return a
    length = a.shape[time]
    check(
        length % (2 * n) == 0,
        f"rows of {length} tokens do not divide into {2 * n} parts: --mesh has context={n}",
    )
    axes = (None,) * (time - 1) + ("batch", "time") + (None,) * (a.ndim - time - 1)
    mesh = jax.sharding.get_abstract_mesh()
    spec = partition(a.shape, axes, mesh)

    # In a row's order device d has parts 2d and 2d + 1. In either order it has one that is even
    # and one that is odd, so that each kind makes one permutation of the devices.
    def device(part: int) -> int:
        return part if part < n else 2 * n - 1 - part

    def local(a):
        first, second = jnp.split(a, 2, axis=time)
        odd_here = jax.lax.axis_index(CONTEXT) % 2 == 1  # its first part, in zigzag
        if back:
            first, second = _swapped(odd_here, first, second)
        sent = []
        for kind, half in enumerate((first, second)):
            to = [(d, device(2 * d + kind)) for d in range(n)]
            to = [(b, a) for a, b in to] if back else to
            sent.append(jax.lax.ppermute(half, CONTEXT, to))
        if not back:
            sent = _swapped(odd_here, *sent)
        return jnp.concatenate(sent, axis=time)

    return jax.shard_map(local, in_specs=spec, out_specs=spec)(a)


def _swapped(where, a, b):
    return jnp.where(where, b, a), jnp.where(where, a, b)


def whole(tree: Tree) -> Tree:
    """Of arrays [B, T, ...], in a shard_map: all of a row's tokens, in its order. The gradient is
    summed and scattered."""
    n = shards()
    if n == 1:
        return tree

    def one(a):
        all_nBT = jax.lax.all_gather(a, CONTEXT)
        first, second = jnp.split(all_nBT, 2, axis=2)
        parts = [*first, *second[::-1]]
        return jnp.concatenate(parts, axis=1)

    return jax.tree.map(one, tree)


def own_tokens(segments_BT: jax.Array) -> Seen:
    """Where tokens attend to each other: all of a row, or on one device of several its part."""
    n, t = shards(), segments_BT.shape[1]
    if n == 1:
        order_1T = np.arange(t, dtype=np.int32)[None]
        return Seen(order_1T, order_1T, segments_BT, segments_BT, own=True)
    d, half = jax.lax.axis_index(CONTEXT), jnp.arange(t // 2, dtype=jnp.int32)
    held = [part * (t // 2) + half for part in (d, 2 * n - 1 - d)]
    order_1S = np.arange(n * t, dtype=np.int32)[None]
    return Seen(jnp.concatenate(held)[None], order_1S, segments_BT, whole(segments_BT), True, n, d)
