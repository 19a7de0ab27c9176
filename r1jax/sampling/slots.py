"""The engine's compiled functions. What each slot does is the host's to know and an argument
(`Rows`); the only thing that stays on the devices is the cache.

On a mesh every device has its own slots: rows of the cache are moved within a device, by index
into its own, and never between devices.

S slots  R prompts read at a time  P positions of a prompt  L positions of the cache
W most steps of a call  E stop tokens  X moves, on all devices together  N biased tokens
K likeliest tokens that are told
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.model.cache import Cache, init_cache
from r1jax.model.head import unembed
from r1jax.model.params import Weights
from r1jax.model.transformer import forward
from r1jax.sampling.rows import Rows
from r1jax.sampling.samplers import likeliest, reply_key, sample

WINDOW = 128  # most steps of one call
SCORED = 64  # positions whose logits are there at a time


@functools.partial(jax.jit, static_argnames=("model", "slots", "length", "routing"))
def new_cache(*, model: ModelConfig, slots: int, length: int, routing: bool = False) -> Cache:
    return _pin(init_cache(model, slots, length, routing), model)


@functools.partial(jax.jit, static_argnames=("model", "routing"))
def prefill(
    weights: Weights, tokens_RP: jax.Array, *, model: ModelConfig, routing: bool = False
) -> Cache:
    """What is remembered of R prompts. After a prompt's end it is of no meaning."""
    rows, length = tokens_RP.shape
    empty = _pin(init_cache(model, rows, length, routing), model)
    tokens_RP = sharding.constrain(tokens_RP, "batch", None)
    return _pin(forward(weights, tokens_RP, model, cache=empty).cache, model)


@functools.partial(jax.jit, static_argnames="model")
def extend(
    weights: Weights, cache: Cache, from_R, tokens_RP, start_R, *, model: ModelConfig
) -> Cache:
    """As `prefill`, of prompts whose first start_R tokens are in the cache: in rows from_R, each
    numbered on its device. `tokens_RP` are those that follow."""
    axis = int(model.scan_layers)

    def local(cache, from_R):
        return jax.tree.map(lambda a: jnp.take(a, from_R, axis=axis), cache)

    begun = _pin(_on_each(local, model)(cache, from_R), model)
    tokens_RP = sharding.constrain(tokens_RP, "batch", None)
    positions_RP = start_R[:, None] + jnp.arange(tokens_RP.shape[1])[None]
    out = forward(weights, tokens_RP, model, positions_BT=positions_RP, cache=begun)
    return _pin(out.cache, model)


@functools.partial(jax.jit, static_argnames=("model", "k"))
def score(weights: Weights, tokens_RP: jax.Array, *, model: ModelConfig, k: int):
    """What the model itself thinks of each token but the first: `likeliest` of [R, P - 1]."""
    tokens_RP = sharding.constrain(tokens_RP, "batch", None)
    rows, length = tokens_RP.shape
    hidden_RPD = forward(weights, tokens_RP, model).hidden_BTD
    more = -length % SCORED

    def apart(a):  # over positions, so that few logits are there at a time
        a = jnp.pad(a, [(0, 0), (0, more)] + [(0, 0)] * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(rows, -1, SCORED, *a.shape[2:]), 1, 0)

    def some(part):
        hidden, next_token = part
        return likeliest(unembed(weights.params, hidden, model), next_token, k)

    found = jax.lax.map(some, (apart(hidden_RPD), apart(jnp.roll(tokens_RP, -1, axis=1))))
    return jax.tree.map(
        lambda a: _everywhere(
            jnp.moveaxis(a, 0, 1).reshape(rows, -1, *a.shape[3:])[:, : length - 1]
        ),
        found,
    )


@functools.partial(jax.jit, static_argnames="model", donate_argnames="cache")
def place(cache: Cache, fresh: Cache, from_X, to_X, count_D, *, model: ModelConfig) -> Cache:
    """The cache with the first count moves made on every device: row from_X of `fresh` to to_X."""
    return _on_each(functools.partial(_move, axis=int(model.scan_layers)), model)(
        cache, fresh, from_X, to_X, count_D
    )


@functools.partial(jax.jit, static_argnames="model", donate_argnames="cache")
def share(cache: Cache, from_X, to_X, count_D, *, model: ModelConfig) -> Cache:
    """As `place`, from row to row of the cache itself, one after the other."""

    def local(cache, from_X, to_X, count_D):
        return _move(cache, None, from_X, to_X, count_D, axis=int(model.scan_layers))

    return _on_each(local, model)(cache, from_X, to_X, count_D)


@functools.partial(jax.jit, static_argnames=("model", "length"))
def refit(cache: Cache, from_S: jax.Array, *, model: ModelConfig, length: int) -> Cache:
    """A cache of as many slots as `from_S` has, which says of each the old slot on its device, and
    of `length` positions."""

    def local(cache, from_S):
        def one(a):
            a = jnp.take(a, from_S, axis=int(model.scan_layers))
            more = length - a.shape[-2]
            if more <= 0:
                return a[..., :length, :]
            return jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, more), (0, 0)])

        return jax.tree.map(one, cache)

    return _on_each(local, model)(cache, from_S)


@functools.partial(jax.jit, static_argnames="model")
def routing_of(recorded: jax.Array, from_X: jax.Array, *, model: ModelConfig) -> jax.Array:
    """[X, L, Y]: `Cache.experts` of the slots from_X, numbered on their device, as many on each."""

    def local(cache, from_X):
        return jax.tree.map(lambda a: jnp.take(a, from_X, axis=int(model.scan_layers)), cache)

    found = _on_each(local, model)(Cache((), (), recorded), from_X).experts
    return _everywhere(found.reshape(found.shape[-3:]))


@functools.partial(jax.jit, static_argnames=("model", "k"), donate_argnames="cache")
def decode(
    weights: Weights, cache: Cache, rows: Rows, keep, steps, *, model: ModelConfig, k: int = 0
):
    """Decodes until at most `keep` slots are active, or `steps` steps (at most W) are made.

    Returns (cache, token_WS, logp_WS, steps made, and for k > 0 `likeliest` of [W, S], else ()).
    A slot's tokens are the first of its column; -1 after its last. No active slot may come to stand
    past the cache's end.
    """
    rows = jax.tree.map(_by_slot, rows)
    count = rows.token_S.shape[0]
    reply_S = jax.vmap(reply_key)(
        jax.random.wrap_key_data(rows.key_SK), rows.question_S, rows.sample_S
    )

    def step(state):
        cache, token_S, position_S, left_S, active_S, token_WS, logp_WS, told, made = state
        at = {"positions_BT": position_S[:, None], "cache": cache}
        out = forward(weights, token_S[:, None], model, **at)
        position_S = position_S + active_S
        keys_S = jax.vmap(jax.random.fold_in)(reply_S, position_S)
        logits_SV = unembed(weights.params, out.hidden_BTD[:, 0], model)
        drawn_S, logp_S = sample(
            logits_SV, keys_S, rows.temperature_S, rows.cutoffs, rows.biases, rows.may_SM
        )
        if k:
            new = likeliest(logits_SV, drawn_S, k)
            told = tuple(a.at[made].set(b) for a, b in zip(told, new, strict=True))
        token_S = jnp.where(active_S, drawn_S, token_S)
        token_WS = token_WS.at[made].set(jnp.where(active_S, drawn_S, -1))
        logp_WS = logp_WS.at[made].set(logp_S)
        left_S = left_S - active_S
        stopped_S = jnp.any(token_S[:, None] == rows.stop_SE, axis=1)
        active_S = active_S & (left_S > 0) & ~stopped_S
        small = jax.tree.map(_by_slot, (token_S, position_S, left_S, active_S))
        return _pin(out.cache, model), *small, token_WS, logp_WS, told, made + 1

    def goes_on(state):
        return (jnp.sum(state[4]) > keep) & (state[-1] < steps)

    token_WS = jnp.full((WINDOW, count), -1, jnp.int32)
    begin = cache, rows.token_S, rows.position_S, rows.left_S, rows.active_S
    logp_WS = jnp.zeros((WINDOW, count), jnp.float32)
    told = _untold((WINDOW, count), k)
    state = jax.lax.while_loop(goes_on, step, (*begin, token_WS, logp_WS, told, jnp.int32(0)))
    cache, (token_WS, logp_WS, told, made) = state[0], state[-4:]
    told = jax.tree.map(_everywhere, told)
    return cache, _everywhere(token_WS), _everywhere(logp_WS), made, told


def _untold(shape: tuple[int, int], k: int) -> tuple[jax.Array, ...]:
    """Where `likeliest` goes."""
    if not k:
        return ()
    kinds = (((), jnp.float32), ((k,), jnp.int32), ((k,), jnp.float32))
    return tuple(jnp.zeros((*shape, *more), dtype) for more, dtype in kinds)


def _move(cache, fresh, from_X, to_X, count_D, *, axis: int):
    """As one device sees it."""

    def one(i, cache):
        def put(a, b):
            row = jax.lax.dynamic_slice_in_dim(b, from_X[i], 1, axis)
            start = [jnp.int32(0)] * a.ndim
            start[axis] = to_X[i]
            return jax.lax.dynamic_update_slice(a, row, start)

        return jax.tree.map(put, cache, cache if fresh is None else fresh)

    return jax.lax.fori_loop(0, count_D[0], one, cache)


def _on_each(local, model: ModelConfig):
    """`local`, of caches and of arrays over slots or moves, on each device's own part."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local
    over = sharding.RULES["batch"]
    of_cache = PartitionSpec(*(None,) * model.scan_layers, over)

    def call(*args):
        specs = tuple(of_cache if isinstance(a, Cache) else PartitionSpec(over) for a in args)
        return jax.shard_map(local, in_specs=specs, out_specs=of_cache)(*args)

    return call


def _pin(cache: Cache | None, model: ModelConfig) -> Any:
    """Keeps every slot's row on its own device."""

    def rows(a):
        lead = (None,) * model.scan_layers  # a stacked cache has a leading layer axis
        return sharding.constrain(a, *lead, "batch", *(None,) * (a.ndim - len(lead) - 1))

    return jax.tree.map(rows, cache)


def _by_slot(a: jax.Array) -> jax.Array:
    return sharding.constrain(a, "batch", *(None,) * (a.ndim - 1))


def _everywhere(x: jax.Array) -> jax.Array:
    """Replicated, so that every host reads the same and takes the same decisions."""
    return sharding.constrain(x, *(None,) * x.ndim)
