"""Drawing a token, and the log-probability of the distribution it was drawn from.

S slots  V vocabulary
"""

import jax
import jax.numpy as jnp

from r1jax.config import SamplingConfig


def sample(logits_SV: jax.Array, keys_S: jax.Array, cfg: SamplingConfig):
    """Returns (token_S, logp_S).

    `logp` is of the distribution sampled from: after temperature, top-k and top-p, renormalised.
    Temperature 0 is a point mass on the largest logit, so its log-probability is 0.
    """
    if cfg.temperature == 0:
        return first_largest(logits_SV), jnp.zeros(logits_SV.shape[0])
    logits_SV = logits_SV / cfg.temperature
    if cfg.top_k:
        logits_SV = keep_top_k(logits_SV, cfg.top_k)
    if cfg.top_p < 1:
        logits_SV = keep_top_p(logits_SV, cfg.top_p)
    token_S = jax.vmap(jax.random.categorical)(keys_S, logits_SV).astype(jnp.int32)
    logp_SV = jax.nn.log_softmax(logits_SV)
    return token_S, jnp.take_along_axis(logp_SV, token_S[:, None], axis=1)[:, 0]


def first_largest(logits_SV: jax.Array) -> jax.Array:
    """argmax, int32, in two reductions that vectorise: XLA:CPU's own argmax does not."""
    index_SV = jax.lax.broadcasted_iota(jnp.int32, logits_SV.shape, 1)
    last = logits_SV.shape[1] - 1  # where all are NaN, which equals nothing
    largest_S1 = jnp.max(logits_SV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(logits_SV == largest_S1, index_SV, last), axis=-1)


def keep_top_k(logits_SV: jax.Array, k: int) -> jax.Array:
    """-inf for all but the k largest (and what ties with the k-th)."""
    kth_S = jax.lax.top_k(logits_SV, min(k, logits_SV.shape[-1]))[0][:, -1]
    return jnp.where(logits_SV < kth_S[:, None], -jnp.inf, logits_SV)


def keep_top_p(logits_SV: jax.Array, p: float) -> jax.Array:
    """-inf for all but the smallest set of likeliest tokens whose probability reaches p."""
    descending_SV = -jnp.sort(-logits_SV, axis=-1)
    probability_SV = jax.nn.softmax(descending_SV)
    # A token stays if those before it have not yet reached p; so the likeliest always does.
    before_SV = jnp.cumsum(probability_SV, axis=-1) - probability_SV
    least_S = jnp.min(jnp.where(before_SV < p, descending_SV, jnp.inf), axis=-1)
    return jnp.where(logits_SV < least_S[:, None], -jnp.inf, logits_SV)


def sample_keys(key, question_S, sample_S, position_S) -> jax.Array:
    """One key a slot from (key, question, sample, position) alone, so that a reply does not
    depend on which slot, batch or mesh it is decoded in."""

    def one(question, sample, position):
        return jax.random.fold_in(
            jax.random.fold_in(jax.random.fold_in(key, question), sample), position
        )

    return jax.vmap(one)(question_S, sample_S, position_S)
