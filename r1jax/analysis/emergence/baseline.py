"""The base that a run begins with, looked at closely: whether it reflects at any temperature, and
how likely a first reflective token is anywhere.

A reply that never comes may still be likely to come: zero of n replies bounds its share by 3 / n,
and no more. The largest probability of a first reflective token, over every place of many replies,
says how far the base is from one where it was not drawn.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.analysis.emergence.logs import Reply
from r1jax.analysis.emergence.table import make_table
from r1jax.architecture import ModelConfig
from r1jax.model.head import unembed
from r1jax.model.params import Weights
from r1jax.model.transformer import forward

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
ROWS, CHUNK = 32, 32  # replies of a batch; places whose [rows, places, vocabulary] exist at once


def reflective(replies: Sequence[Reply]) -> list[bool]:
    """Whether each reflects, as a verdict reads it: by its structure where the task has a grammar,
    else by the stricter words."""
    table = make_table(replies)
    return table.found["event" if table.exact else "strict"].tolist()


def first_token_probability(
    weights: Weights,
    model: ModelConfig,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    tokens: Sequence[int],
) -> float:
    """The largest probability, at temperature 1, that the next token is one of `tokens`, over all
    places of the replies up to where each has its first."""
    longest = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
    length = -(-longest // CHUNK) * CHUNK
    wanted_K = jnp.asarray(sorted(tokens))
    most = 0.0
    for start in range(0, len(replies), ROWS):
        tokens_BT = np.zeros((ROWS, length), np.int32)
        counts_BT = np.zeros((ROWS, length), bool)
        rows = zip(prompts[start : start + ROWS], replies[start : start + ROWS], strict=True)
        for i, (prompt, reply) in enumerate(rows):
            tokens_BT[i, : len(prompt) + len(reply)] = [*prompt, *reply]
            first = next((k for k, t in enumerate(reply) if t in tokens), len(reply) - 1)
            # What stands at a place tells the next one.
            counts_BT[i, len(prompt) - 1 : len(prompt) + first] = True
        likely_BT = _probability(weights, tokens_BT, wanted_K, model)
        most = max(most, float(np.max(likely_BT, where=counts_BT, initial=0.0)))
    return most


@functools.partial(jax.jit, static_argnames="model")
def _probability(
    weights: Weights, tokens_BT: jax.Array, wanted_K: jax.Array, model: ModelConfig
) -> jax.Array:
    """Of the next token to be one of wanted_K, at every place: [B, T]."""
    hidden_BTD = forward(weights, tokens_BT, model).hidden_BTD
    rows, length, width = hidden_BTD.shape

    def of_chunk(hidden_BCD: jax.Array) -> jax.Array:
        logits_BCV = unembed(weights.params, hidden_BCD, model)
        return jax.nn.softmax(logits_BCV)[..., wanted_K].sum(-1)

    chunks_NBCD = hidden_BTD.reshape(rows, -1, CHUNK, width).swapaxes(0, 1)
    return jax.lax.map(of_chunk, chunks_NBCD).swapaxes(0, 1).reshape(rows, length)
