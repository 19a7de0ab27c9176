"""Drawing a token, and the log-probability of the distribution it was drawn from.

How each slot draws is an argument: one compiled program draws greedily for one slot and at any
temperature for the next.

S slots  V vocabulary  N biased tokens, or blocks of B tokens
"""

import math

import flax.struct
import jax
import jax.numpy as jnp

FEW = 128  # tokens, up to which each has noise of its own


class Cutoffs(flax.struct.PyTreeNode):
    """Which few tokens may be drawn; it costs a sort of the vocabulary, so it is left out where no
    slot asks for it."""

    top_k_S: jax.Array  # int32; 0: off
    top_p_S: jax.Array  # 1: off


class Biases(flax.struct.PyTreeNode):
    """Likewise: a scatter into the vocabulary."""

    biased_SN: jax.Array  # int32, tokens; V: none
    bias_SN: jax.Array  # added to their logits


def sample(
    logits_SV: jax.Array,
    keys_S: jax.Array,
    temperature_S: jax.Array,
    cutoffs: Cutoffs | None = None,
    biases: Biases | None = None,
    may_SM: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns (token_S, logp_S).

    `logp` is of the distribution sampled from: after biases, `may_SM` (a bit a token: what may be
    drawn), temperature, top-k and top-p, renormalised. Temperature 0 is a point mass on the largest
    logit, so its log-probability is 0.
    """
    if biases is not None:
        # Row by row, as in `model.cache.update`.
        add = jax.vmap(lambda logits_V, at_N, bias_N: logits_V.at[at_N].add(bias_N, mode="drop"))
        logits_SV = add(logits_SV, biases.biased_SN, biases.bias_SN)
    if may_SM is not None:
        logits_SV = jnp.where(unpacked(may_SM, logits_SV.shape[1]), logits_SV, -jnp.inf)
    greedy_S = temperature_S == 0
    logits_SV = logits_SV / jnp.where(greedy_S, 1.0, temperature_S)[:, None]
    if cutoffs is not None:
        logits_SV = keep_top(logits_SV, cutoffs.top_k_S, cutoffs.top_p_S)
    token_S = jnp.where(greedy_S, first_largest(logits_SV), categorical(logits_SV, keys_S))
    drawn_S = jnp.take_along_axis(logits_SV, token_S[:, None], axis=1)[:, 0]
    logp_S = drawn_S - jax.nn.logsumexp(logits_SV, axis=1)
    return token_S, jnp.where(greedy_S, 0.0, logp_S)


def categorical(logits_SV: jax.Array, keys_S: jax.Array) -> jax.Array:
    """A token a row, where logits and Gumbel noise are largest; of few it is the one that
    `jax.random.categorical` draws. Of many, first a block of neighbours by its whole probability,
    then a token in it: noise for every logit costs more on a CPU than a small model's step.

    Noise for each, rather than one number for the row, so that where some tokens are banned the
    others come as they would have come: of few always, of many for the most part."""

    def noise(n: int) -> jax.Array:
        return jax.vmap(lambda key: jax.random.gumbel(key, (n,), logits_SV.dtype))(keys_S)

    slots, vocab = logits_SV.shape
    if vocab <= FEW:
        return first_largest(logits_SV + noise(vocab))
    size = math.isqrt(vocab - 1) + 1
    padded_SV = jnp.pad(logits_SV, [(0, 0), (0, -vocab % size)], constant_values=-jnp.inf)
    logits_SNB = padded_SV.reshape(slots, -1, size)
    blocks = logits_SNB.shape[1]
    of_block_SN, within_SB = jnp.split(noise(blocks + size), [blocks], axis=1)
    block_S = first_largest(jax.nn.logsumexp(logits_SNB, axis=2) + of_block_SN)
    logits_SB = jnp.take_along_axis(logits_SNB, block_S[:, None, None], axis=1)[:, 0]
    return jnp.minimum(block_S * size + first_largest(logits_SB + within_SB), vocab - 1)


def unpacked(bits_SM: jax.Array, vocab: int) -> jax.Array:
    """[S, V] bool of uint32 words, lowest bit first."""
    shift_1W = jnp.arange(32, dtype=jnp.uint32)[None, None]
    set_SMW = (bits_SM[:, :, None] >> shift_1W) & 1
    return set_SMW.reshape(len(bits_SM), -1)[:, :vocab] > 0


def likeliest(
    logits: jax.Array, drawn: jax.Array, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of logits [..., V] and the tokens drawn [...]: (their log-probabilities, the k likeliest
    tokens, theirs)."""
    logp = jax.nn.log_softmax(logits)
    best, tokens = jax.lax.top_k(logp, k)
    return jnp.take_along_axis(logp, drawn[..., None], axis=-1)[..., 0], tokens, best


def first_largest(logits_SV: jax.Array) -> jax.Array:
    """argmax, int32, in two reductions that vectorise: XLA:CPU's own argmax does not."""
    index_SV = jax.lax.broadcasted_iota(jnp.int32, logits_SV.shape, 1)
    last = logits_SV.shape[1] - 1  # where all are NaN, which equals nothing
    largest_S1 = jnp.max(logits_SV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(logits_SV == largest_S1, index_SV, last), axis=-1)


def keep_top(logits_SV: jax.Array, k_S: jax.Array, p_S: jax.Array) -> jax.Array:
    """-inf for all but a row's k largest (and what ties with the k-th; k = 0: all), and of these
    for all but the smallest set of likeliest ones whose probability reaches p (p = 1: all)."""
    descending_SV = -jnp.sort(-logits_SV, axis=-1)
    at_S1 = jnp.clip(k_S - 1, 0, logits_SV.shape[1] - 1)[:, None]
    kth_S1 = jnp.take_along_axis(descending_SV, at_S1, axis=1)
    kth_S1 = jnp.where(k_S[:, None] > 0, kth_S1, -jnp.inf)
    descending_SV = jnp.where(descending_SV < kth_S1, -jnp.inf, descending_SV)
    probability_SV = jax.nn.softmax(descending_SV)
    # A token stays if those before it have not yet reached p; so the likeliest always does.
    before_SV = jnp.cumsum(probability_SV, axis=-1) - probability_SV
    stays_SV = (before_SV < p_S[:, None]) | (p_S[:, None] >= 1)
    least_S1 = jnp.min(jnp.where(stays_SV, descending_SV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_SV < jnp.maximum(kth_S1, least_S1), -jnp.inf, logits_SV)


def sample_keys(key, question_S, sample_S, position_S) -> jax.Array:
    """One key a slot from (key, question, sample, position) alone, so that a reply does not
    depend on which slot, batch or mesh it is decoded in. `key` is one for all, or one a slot."""

    def one(key, question, sample, position):
        return jax.random.fold_in(reply_key(key, question, sample), position)

    return jax.vmap(one, (0 if key.ndim else None, 0, 0, 0))(key, question_S, sample_S, position_S)


def reply_key(key, question, sample) -> jax.Array:
    """What all keys of a reply are folded from."""
    return jax.random.fold_in(jax.random.fold_in(key, question), sample)
