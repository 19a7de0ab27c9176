"""Attention, whatever made the queries, keys and values.

A query sees the keys of its segment that come no later than itself (`Seen`): no mask of tokens by
tokens is handed around. Backends of one signature make of it what they need:

- `plain` materialises the scores: the oracle, and the fastest below a thousand tokens or so.
- `blockwise` (`kernels/blockwise.py`) goes through them in blocks, on any device: memory linear in
  the tokens, and nothing above the diagonal.
- `splash` (`kernels/splash.py`) is a TPU's kernel of the same, and `triton`
  (`kernels/triton_attention.py`) a GPU's.

Decoding, few queries a row over a cache, is `decode`: it reads the part of the cache that is live.

B batch  T queries  S keys  K key-value heads  G query heads a key-value head  H = K G heads
X width of queries and keys  U width of values
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from r1jax.architecture import AttentionName, ModelConfig
from r1jax.kernels.blockwise import HIDDEN, Seen, blockwise
from r1jax.kernels.splash import splash
from r1jax.kernels.triton_attention import triton
from r1jax.model import zigzag
from r1jax.model.cache import length as length_of
from r1jax.model.cache import part
from r1jax.model.layers import einsum32, masked_softmax
from r1jax.model.matrices import dense
from r1jax.sharding import current_mesh, partition

LONG = 1024  # tokens of a row, from whose scores on `plain` is not the fastest
LIVE = 1024  # positions of a cache that are read at a time
AHEAD = "ahead"  # in the names of what a compiled program computes for those behind the first LIVE


def attend(q_BTHX, k_BSKX, v_BSKU, seen: Seen, cfg: ModelConfig) -> jax.Array:
    """softmax(scale q k) v over the keys that are seen, [B, T, H, U] of v's type. Scores and their
    softmax are float32."""
    name = chosen(cfg, q_BTHX.shape[1] * seen.shards, k_BSKX.shape[1], seen.own)
    args = q_BTHX, k_BSKX, v_BSKU, seen, cfg.softmax_scale
    if name in _KERNELS:
        kernel, home = _KERNELS[name]
        return kernel(*args, interpret=platform() not in home)
    return (plain if name == "plain" else blockwise)(*args)


# Of kernels, the platforms that they are compiled for.
_KERNELS: dict[AttentionName, tuple[Callable[..., jax.Array], tuple[str, ...]]] = {
    "splash": (splash, ("tpu",)),
    "triton": (triton, ("gpu", "cuda")),
}


def chosen(cfg: ModelConfig, queries: int, keys: int, own: bool) -> AttentionName:
    """The backend, for so many of a row; `own`: keys are the row's own tokens."""
    name = cfg.attention_impl
    if name == "auto":
        best = (kernel for kernel, (_, home) in _KERNELS.items() if platform() in home)
        name = "plain" if queries * keys < LONG**2 else next(best, "blockwise")
    # Kernels cannot begin anywhere in a cache, and Triton's cannot in the midst of a row.
    split = name == "triton" and zigzag.shards() > 1
    return "blockwise" if name in _KERNELS and (not own or split) else name


def platform() -> str:
    """What is compiled for: "cpu", "tpu", ... as the current mesh says, or else JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


def plain(q_BTHX, k_BSKX, v_BSKU, seen: Seen, scale: float) -> jax.Array:
    """All scores at once."""
    mask_BTS, k = seen.mask_BTS(), k_BSKX.shape[2]
    if k == q_BTHX.shape[2]:
        scores = einsum32("bthx,bshx->bhts", q_BTHX, k_BSKX)
        weights = masked_softmax(scores, mask_BTS[:, None], scale).astype(v_BSKU.dtype)
        return jnp.einsum("bhts,bshu->bthu", weights, v_BSKU)
    k_BKSX, v_BKSU = k_BSKX.swapaxes(1, 2), v_BSKU.swapaxes(1, 2)
    q_BTKGX = rearrange(q_BTHX, "b t (k g) x -> b t k g x", k=k)
    scores = einsum32("btkgx,bksx->bkgts", q_BTKGX, k_BKSX)
    weights = masked_softmax(scores, mask_BTS[:, None, None], scale)
    weights_BKMS = rearrange(weights.astype(v_BKSU.dtype), "b k g t s -> b k (g t) s")
    return rearrange(weights_BKMS @ v_BKSU, "b k (g t) u -> b t (k g) u", t=q_BTHX.shape[1])


def cached(positions_BT: jax.Array, length: int) -> Seen:
    """Where tokens attend to a cache of `length` positions, up to their own."""
    return Seen(positions_BT, np.arange(length, dtype=np.int32)[None])


def on_devices(
    local: Callable[..., jax.Array], by_token: Any, weights: Any, axes: Any, apart: bool, dtype
) -> jax.Array:
    """`local(by_token, weights)`, of tokens [B, T, ...] to tokens. Where rows are split, and where
    it is a kernel's (`apart`), each device computes its own part by itself, with the weights of
    logical `axes` gathered in `dtype`; elsewhere XLA partitions it."""
    mesh = current_mesh()
    if mesh is None or not (apart or zigzag.shards() > 1):
        return local(by_token, weights)
    tokens = jax.tree.map(
        lambda a: partition(a.shape, ("batch", "time", *(None,) * (a.ndim - 2)), mesh), by_token
    )
    weights = tuple(dense(w, dtype) for w in weights)
    lie = tuple(partition(a.shape, x, mesh) for a, x in zip(weights, axes, strict=True))

    def mine(by_token, weights):
        whole = tuple(_gathered(a, spec) for a, spec in zip(weights, lie, strict=True))
        return local(by_token, whole)

    like = jax.tree.leaves(by_token)[0]
    out = partition(like.shape[:2], ("batch", "time"), mesh)
    # No check of what varies: kernels do not say.
    return jax.shard_map(mine, in_specs=(tokens, lie), out_specs=out, check_vma=False)(
        by_token, weights
    )


def _gathered(a: jax.Array, spec) -> jax.Array:
    """All of an array; of its gradient a sum over devices, of which each keeps its part."""
    for axis, names in enumerate(spec):
        if names:
            a = jax.lax.all_gather(a, names, axis=axis, tiled=True)
    return a


def decode(
    cache: Any, score: Callable[[Any], jax.Array], mix: Callable[..., jax.Array], positions, cfg
) -> jax.Array:
    """Few queries a row: `mix(weights, cache)` of softmax(scale `score(cache)`) over the positions
    up to the queries' own; scores are [B, ..., S], what is mixed [B, ..., U], both float32, and
    `positions` [B, ...] with axes of one where queries do not lie. A cache's arrays have their
    positions before the last axis. A long one is read LIVE positions at a time, up to the last that
    any query has."""
    length, scale = length_of(cache), cfg.softmax_scale

    def shown(index_S):
        return positions[..., None] >= index_S.reshape(*(1,) * positions.ndim, -1)

    if length <= LIVE:
        all_of_it = part(cache, 0, length)
        s = score(all_of_it)
        return mix(masked_softmax(s, shown(jnp.arange(length)), scale), all_of_it)

    def live(j):
        # The last begins earlier, where the length is no multiple, and hides what it repeats.
        start = jnp.minimum(j * LIVE, length - LIVE)
        some = part(cache, start, LIVE)
        s, index_S = score(some) * scale, start + jnp.arange(LIVE)
        index_S = jnp.where(index_S < j * LIVE, np.iinfo(np.int32).max, index_S)
        return jnp.where(shown(index_S), s, HIDDEN), some

    def step(j, state):
        o, largest, total = state
        s, some = live(j)
        new = jnp.maximum(largest, jnp.max(s, axis=-1, keepdims=True))
        p, kept = jnp.exp(s - new), jnp.exp(largest - new)
        return o * kept + mix(p, some), new, total * kept + jnp.sum(p, axis=-1, keepdims=True)

    s, some = live(0)
    largest = jnp.max(s, axis=-1, keepdims=True)
    p = jnp.exp(s - largest)
    begin = mix(p, some), largest, jnp.sum(p, axis=-1, keepdims=True)
    blocks = jnp.max(positions) // LIVE + 1
    with jax.named_scope(AHEAD):
        o, _, total = jax.lax.fori_loop(1, blocks, step, begin)
    return o / total
