"""The engine's compiled functions. What each slot does is the host's to know and an argument
(`Rows`); the only thing that stays on the devices is the cache.

On a mesh every device has its own slots: rows of the cache are moved within a device, by index
into its own, and never between devices.

S slots  R prompts read at a time  P positions of a prompt  L positions of the cache
W most steps of a call  E stop tokens  X moves, on all devices together  N biased tokens
K likeliest tokens that are told  J drafts  T = 1 + J tokens that a step reads
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.config import DraftsName
from r1jax.model.cache import Cache, LatentCache, init_cache
from r1jax.model.head import unembed
from r1jax.model.layers import together
from r1jax.model.mla import turned
from r1jax.model.params import Weights
from r1jax.model.transformer import forward
from r1jax.sampling.drafts import propose, remember
from r1jax.sampling.rows import Rows
from r1jax.sampling.samplers import likeliest, reply_key, sample

WINDOW = 128  # most steps of one call
SCORED = 64  # positions whose logits are there at a time


@functools.partial(jax.jit, static_argnames=("model", "slots", "length", "routing", "drafts"))
def new_cache(
    *,
    model: ModelConfig,
    slots: int,
    length: int,
    routing: bool = False,
    drafts: DraftsName = "none",
) -> Cache:
    return _empty(model, slots, length, routing, drafts)


def _empty(model: ModelConfig, slots: int, length: int, routing: bool, drafts: DraftsName) -> Cache:
    mtp, tokens = drafts == "mtp", drafts == "lookup"
    return _pin(init_cache(model, slots, length, routing, mtp, tokens), model)


@functools.partial(jax.jit, static_argnames=("model", "routing", "drafts"))
def prefill(
    weights: Weights,
    tokens_RP: jax.Array,
    *,
    model: ModelConfig,
    routing: bool = False,
    drafts: DraftsName = "none",
) -> Cache:
    """What is remembered of R prompts. After a prompt's end it is of no meaning."""
    rows, length = tokens_RP.shape
    empty = _empty(model, rows, length, routing, drafts)
    return _read(weights, tokens_RP, jnp.zeros(rows, jnp.int32), empty, model, fresh=True)


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
    return _read(weights, tokens_RP, start_R, begun, model)


def _read(
    weights: Weights, tokens_RP, start_R, cache: Cache, model: ModelConfig, fresh: bool = False
) -> Cache:
    """The cache with tokens from start_R on; fresh: of one that is empty."""
    tokens_RP = sharding.constrain(tokens_RP, "batch", None)
    positions_RP = start_R[:, None] + jnp.arange(tokens_RP.shape[1])[None]
    out = forward(weights, tokens_RP, model, positions_BT=positions_RP, cache=cache, fresh=fresh)
    assert out.cache is not None
    cache = remember(weights, out.cache, out.hidden_BTD, tokens_RP, positions_RP, model)
    return _pin(cache, model)


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
        return likeliest(_logits(weights, hidden, model), next_token, k)

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


class Drawn(flax.struct.PyTreeNode):
    """What a call drew: a slot's tokens are those of its own [W, T], step by step, that are not -1.
    told: for k > 0 `likeliest` of each, else ()."""

    token_WST: Any
    logp_WST: Any
    told: tuple[Any, ...]
    steps: Any  # that were made
    draft_SJ: Any  # for the next call; None, as the next, where none are made
    #: Of running slots' first drafts, second, ...: how many there were, and how many were right.
    tried_2J: Any


@functools.partial(jax.jit, static_argnames=("model", "k", "drafts"), donate_argnames="cache")
def decode(
    weights: Weights,
    cache: Cache,
    rows: Rows,
    keep,
    steps,
    *,
    model: ModelConfig,
    k: int = 0,
    drafts: int = 0,
) -> tuple[Cache, Drawn]:
    """Decodes until at most `keep` slots are active, or `steps` steps (at most W) are made.

    A slot draws at most left_S tokens. No active slot may come to stand past the cache's end.
    drafts: how many tokens are guessed a slot and a step; see `sampling.drafts`.
    """
    rows = jax.tree.map(_by_slot, rows)
    step = functools.partial(
        decode_step, weights, rows, reply_keys(rows), model=model, k=k, drafts=drafts
    )

    def turn(layer: LatentCache) -> LatentCache:
        return turned(layer, model, 1 + drafts)

    def goes_on(state):
        _, (*_, active_S), drawn = state
        return (jnp.sum(active_S) > keep) & (drawn.steps < steps)

    state = rows.token_S, rows.position_S, rows.left_S, rows.active_S
    start = _latents(cache, turn), state, undrawn(rows, k)
    cache, _, drawn = jax.lax.while_loop(goes_on, step, start)
    cache = _latents(cache, lambda layer: layer.replace(turned_BZS=None))
    return cache, jax.tree.map(_everywhere, drawn)


def _logits(weights: Weights, hidden_STD: jax.Array, model: ModelConfig) -> jax.Array:
    logits_STV = unembed(weights.params, together(hidden_STD, model), model)
    return _by_slot(together(logits_STV, model, None, "vocab"))


def _latents(cache: Cache, change) -> Cache:
    """The cache with `change` made to each layer's latents, if it has such."""

    def one(layer):
        return change(layer) if isinstance(layer, LatentCache) else layer

    return jax.tree.map(one, cache, is_leaf=lambda c: isinstance(c, LatentCache))


def reply_keys(rows: Rows) -> jax.Array:
    keys_S = jax.random.wrap_key_data(rows.key_SK)
    return jax.vmap(reply_key)(keys_S, rows.question_S, rows.sample_S)


def undrawn(rows: Rows, k: int = 0) -> Drawn:
    """What a call has drawn at its beginning."""
    drafts = 0 if rows.draft_SJ is None else rows.draft_SJ.shape[1]
    shape = WINDOW, rows.token_S.shape[0], 1 + drafts
    return Drawn(
        jnp.full(shape, -1, jnp.int32),
        jnp.zeros(shape, jnp.float32),
        _untold(shape, k),
        jnp.int32(0),
        rows.draft_SJ,
        jnp.zeros((2, drafts), jnp.int32) if drafts else None,
    )


def decode_step(
    weights: Weights, rows: Rows, reply_S, state, *, model: ModelConfig, k: int = 0, drafts: int = 0
):
    """The state (cache, what `Rows` says first of each slot, Drawn) after another step."""
    cache, (token_S, position_S, left_S, active_S), drawn = state
    how = rows.temperature_S, rows.cutoffs, rows.biases, rows.may_SM

    def draw(logits_SV, position_S):
        """For these positions."""
        return sample(logits_SV, jax.vmap(jax.random.fold_in)(reply_S, position_S), *how)

    read_ST = position_S[:, None] + jnp.arange(1 + drafts)[None]
    tokens_ST, draft_SJ = token_S[:, None], drawn.draft_SJ
    if drafts:  # where there is none, any token
        tokens_ST = jnp.concatenate([tokens_ST, jnp.maximum(draft_SJ, 0)], axis=1)
    out = forward(weights, tokens_ST, model, positions_BT=read_ST, cache=cache)
    logits_STV = _logits(weights, out.hidden_BTD, model)
    token_ST, logp_ST = jax.vmap(draw, 1, 1)(logits_STV, read_ST + 1)
    stops_ST = jnp.any(token_ST[:, :, None] == rows.stop_SE[:, None, :], axis=2)
    kept_ST = _kept(active_S, left_S, token_ST, draft_SJ, stops_ST)
    drawn = _noted(drawn, active_S, kept_ST, token_ST, logp_ST, logits_STV, k)
    assert out.cache is not None
    cache, kept_S = out.cache, jnp.sum(kept_ST, axis=1)
    if drafts:
        new_SJ, cache = propose(
            weights, cache, out.hidden_BTD, token_S, token_ST, read_ST, kept_S,
            lambda logits_SV, position_S: draw(logits_SV, position_S)[0], drafts, model,
        )  # fmt: skip
        # Who has drawn all that it may for now goes on from the guesses that it had.
        draft_SJ = jnp.where(active_S[:, None], new_SJ, draft_SJ)
        drawn = drawn.replace(draft_SJ=_by_slot(draft_SJ))
    last_ST = jnp.arange(1 + drafts)[None] == kept_S[:, None] - 1
    token_S = jnp.where(active_S, jnp.sum(jnp.where(last_ST, token_ST, 0), axis=1), token_S)
    position_S, left_S = position_S + kept_S, left_S - kept_S
    active_S = active_S & (left_S > 0) & ~jnp.any(kept_ST & stops_ST, axis=1)
    small = jax.tree.map(_by_slot, (token_S, position_S, left_S, active_S))
    return _pin(cache, model), small, drawn


def _kept(active_S, left_S, token_ST, draft_SJ, stops_ST) -> jax.Array:
    """Which of the tokens drawn are replies': those after right drafts alone, up to a stop, and no
    more than are left."""
    kept_ST = active_S[:, None] & (jnp.arange(token_ST.shape[1])[None] < left_S[:, None])
    if draft_SJ is None:
        return kept_ST
    ends_SJ = (token_ST[:, :-1] != draft_SJ) | stops_ST[:, :-1]
    return kept_ST & (jnp.pad(jnp.cumsum(ends_SJ, axis=1), ((0, 0), (1, 0))) == 0)


def _noted(drawn: Drawn, active_S, kept_ST, token_ST, logp_ST, logits_STV, k: int) -> Drawn:
    """With another step."""
    at, told, draft_SJ = drawn.steps, drawn.told, drawn.draft_SJ
    if k:
        new = likeliest(logits_STV, token_ST, k)
        told = tuple(a.at[at].set(b) for a, b in zip(told, new, strict=True))
    if draft_SJ is not None:
        there_SJ = active_S[:, None] & (draft_SJ >= 0)
        right_SJ = kept_ST[:, :-1] & (token_ST[:, :-1] == draft_SJ)
        tried_2J = jnp.sum(jnp.stack([there_SJ, right_SJ]), axis=1)
        drawn = drawn.replace(tried_2J=drawn.tried_2J + tried_2J)
    return drawn.replace(
        token_WST=drawn.token_WST.at[at].set(jnp.where(kept_ST, token_ST, -1)),
        logp_WST=drawn.logp_WST.at[at].set(logp_ST),
        told=told,
        steps=at + 1,
    )


def _untold(shape: tuple[int, ...], k: int) -> tuple[jax.Array, ...]:
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
    if sharding.current_mesh() is None:
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
