"""Speculative decoding: guesses at a reply's next tokens, all checked by the step that draws them.

A step reads a slot's token and its J drafts, and draws the token after each, with the key of that
token's own position, from the model's own distribution. A draft is right if it is what was drawn in
its place; what was drawn up to the first wrong one, and in its place, is the reply's. So every
token is drawn as it would be without drafts, from the same numbers with the same key: the reply is
the same one, whatever guesses. What wrong drafts left in the cache is written over.

The usual way (Leviathan et al., arXiv 2211.17192) accepts a draft by a coin of its own, and draws
again from what remains: the distribution is the same, the reply is not, and it depends on the
drafts. Here drafts are drawn with the noise of the position that they are for, so that a model that
is nearly right guesses nearly always what will be drawn, also far from greedily.

Where they come from: `lookup`, what came the last time after the same few tokens, in prompt or
reply (prompt lookup; the longest of up to MOST tokens decides); `mtp`, the model's first module of
multi-token prediction, which guesses the second and further ones from its own output (DeepSeek-V3,
section 2.2, has a module a token; the published model has one, and this is how it is used).

S slots  T = 1 + J tokens of a step  J drafts  L positions of the cache  D d_model
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax.architecture import ModelConfig
from r1jax.model.cache import Cache, update
from r1jax.model.head import unembed
from r1jax.model.mtp import ahead, shifted
from r1jax.model.params import Weights
from r1jax.model.transformer import place_of

MOST = 4  # tokens that are looked for

Draw = Callable[[jax.Array, jax.Array], jax.Array]  # of logits and positions, [S, V] and [S]


def remember(
    weights: Weights,
    cache: Cache,
    hidden_BTD: jax.Array,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    model: ModelConfig,
) -> Cache:
    """The cache with what drafts need of texts that were read. A module of MTP needs the token
    after each; after the last it has no meaning, and drafts are as good as without it."""
    if cache.tokens is not None:
        cache = _write(cache, tokens_BT, positions_BT)
    if cache.mtp is not None:
        norm_D, next_BT = weights.params.norm_D, shifted(tokens_BT, 1)
        _, cache = _ahead(weights, cache, hidden_BTD, norm_D, next_BT, positions_BT, model)
    return cache


def propose(
    weights: Weights,
    cache: Cache,
    hidden_STD: jax.Array,
    token_S: jax.Array,
    drawn_ST: jax.Array,
    read_ST: jax.Array,
    count_S: jax.Array,
    draw: Draw,
    drafts: int,
    model: ModelConfig,
) -> tuple[jax.Array, Cache]:
    """([S, J] drafts, -1 where there are none, the cache). Of a step that read token_S and drafts
    at the positions read_ST and drew drawn_ST, of which the first count_S are the replies'."""
    if cache.tokens is not None:
        whole = jnp.concatenate([token_S[:, None], drawn_ST], axis=1)
        after = jnp.concatenate([read_ST, read_ST[:, -1:] + 1], axis=1)
        cache = _write(cache, whole, after)
        assert cache.tokens is not None
        tokens_SL = cache.tokens.reshape(cache.tokens.shape[-3:-1])
        return looked_up(tokens_SL, read_ST[:, 0] + count_S, drafts), cache

    p, params = weights.params.mtp[0], weights.params
    found: list[jax.Array] = []
    norm_D = params.norm_D
    hidden, tokens, at = hidden_STD, drawn_ST, read_ST
    last_S = jnp.maximum(count_S - 1, 0)
    for _ in range(drafts):
        hidden, cache = _ahead(weights, cache, hidden, norm_D, tokens, at, model)
        if not found:
            hidden, at = (jnp.take_along_axis(a, _at(last_S, a), axis=1) for a in (hidden, at))
        # At i, of the hidden state at i and the token at i + 1: the token at i + 2.
        logits_SV = unembed(params.replace(norm_D=p.norm_D), hidden[:, 0], model)
        found.append(draw(logits_SV, at[:, 0] + 2))
        # Its own output stands for the next hidden state.
        tokens, norm_D, at = found[-1][:, None], p.norm_D, at + 1
    return jnp.stack(found, axis=1), cache


def _at(index_S: jax.Array, a: jax.Array) -> jax.Array:
    return index_S.reshape(-1, *(1,) * (a.ndim - 1))


def looked_up(tokens_SL: jax.Array, position_S: jax.Array, drafts: int) -> jax.Array:
    """[S, J]: what came after the last place that ends as the tokens up to position_S do, the
    longest of such ends deciding, of MOST tokens at most; -1 where not even one token came before.
    Where a text repeats itself in fewer tokens than J it is taken to go on so."""
    length = tokens_SL.shape[1]
    place_L = jnp.arange(length)

    def row(tokens_L, position):
        same_L = jnp.ones(length, bool)
        run_L = jnp.zeros(length, jnp.int32)  # of tokens that agree, up to each place
        for back in range(MOST):
            mine = jnp.where(position >= back, tokens_L[position - back], -1)
            theirs_L = jnp.pad(tokens_L, (back, 0), constant_values=-2)[:length]
            same_L &= theirs_L == mine
            run_L += same_L
        best = jnp.max(jnp.where(place_L < position, run_L * length + place_L, 0))
        run, place = best // length, best % length
        steps_J = jnp.arange(drafts) % jnp.maximum(position - place, 1)
        return jnp.where(run > 0, tokens_L[place + 1 + steps_J], -1)

    return jax.vmap(row)(tokens_SL, position_S)


def _write(cache: Cache, tokens_BT: jax.Array, positions_BT: jax.Array) -> Cache:
    assert cache.tokens is not None
    old_BSX = cache.tokens.reshape(cache.tokens.shape[-3:])
    new = update(old_BSX, tokens_BT[:, :, None], positions_BT)
    return cache.replace(tokens=new.reshape(cache.tokens.shape))


def _ahead(weights, cache: Cache, hidden_BTD, norm_D, next_BT, positions_BT, model: ModelConfig):
    """(hidden, cache) of the first module."""
    # Where layers are stacked, so is the one.
    lead = (1,) * model.scan_layers
    layer = jax.tree.map(lambda a: a.reshape(a.shape[len(lead) :]), cache.mtp)
    place = place_of(positions_BT, jnp.ones_like(positions_BT), model)
    hidden, layer, _ = ahead(weights, 1, hidden_BTD, norm_D, next_BT, place, model, layer)
    return hidden, cache.replace(mtp=jax.tree.map(lambda a: a.reshape(lead + a.shape), layer))
