"""GRPO and its variants: short pure functions, chosen by name.

A variant says three things: what a reward is worth within its group (`advantages`), how far the
policy has moved from the sampler (`ratios`), and how much each token weighs (`weights`). The
loss is one for all (`rl/grpo.py`).

P questions  G replies a question  B rows of an update  T tokens
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Algorithm(NamedTuple):
    advantages: Callable[[jax.Array], jax.Array]  # reward_PG -> advantage_PG
    ratios: Callable[[jax.Array, jax.Array], jax.Array]  # logp difference, mask -> ratio_BT
    weights: Callable[[jax.Array], jax.Array]  # mask_BT -> weight_BT, over a whole update


def standardized(reward_PG: jax.Array) -> jax.Array:
    """A = (r - mean) / std within the group (DeepSeekMath, arXiv 2402.03300, section 4.1.2).

    A group of equal rewards has no advantage: exactly zero, not 0 / 0.
    """
    centred_PG = centred(reward_PG)
    std_P1 = jnp.sqrt(jnp.mean(centred_PG**2, axis=1, keepdims=True))
    # A spread of rounding size (rewards of 0.1 + 0.2 and of 0.3) is no spread.
    return jnp.where(std_P1 > 1e-6, centred_PG / jnp.maximum(std_P1, 1e-6), 0.0)


def centred(reward_PG: jax.Array) -> jax.Array:
    """A = r - mean within the group: no division, so no bias towards questions of low variance
    (Dr. GRPO, arXiv 2503.20783, section 3.2)."""
    # From the first reply's reward: equal ones are then exactly 0, whatever the mean rounds to.
    reward_PG = reward_PG - reward_PG[:, :1]
    return reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True)


def token_ratios(difference_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """pi / pi_old of each token."""
    return jnp.exp(jnp.where(mask_BT, difference_BT, 0.0))


def sequence_ratios(difference_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """(pi / pi_old)^(1/|o|) of the whole reply, the same at each of its tokens
    (GSPO, arXiv 2507.18071, eq. 7)."""
    difference = jnp.where(mask_BT, difference_BT, 0.0)
    length_B1 = jnp.maximum(jnp.sum(mask_BT, axis=1, keepdims=True), 1)
    mean_B1 = jnp.sum(difference, axis=1, keepdims=True) / length_B1
    return jnp.broadcast_to(jnp.exp(mean_B1), mask_BT.shape)


def mean_of_replies(mask_BT: jax.Array) -> jax.Array:
    """1/B sum_i 1/|o_i| sum_t: every reply weighs the same (DeepSeekMath, eq. 3)."""
    length_B1 = jnp.maximum(jnp.sum(mask_BT, axis=1, keepdims=True), 1)
    return mask_BT / (length_B1 * mask_BT.shape[0])


def mean_of_tokens(mask_BT: jax.Array) -> jax.Array:
    """1 / (sum_i |o_i|): every token weighs the same (DAPO, arXiv 2503.14476, section 3.3)."""
    return mask_BT / jnp.maximum(jnp.sum(mask_BT), 1)


def constant_length(mask_BT: jax.Array) -> jax.Array:
    """1 / (B T): a reply weighs by its length, but no length changes what a token weighs
    (Dr. GRPO, section 3.2, whose constant is the generation budget; here it is the row)."""
    return mask_BT / mask_BT.size


ALGORITHMS = {
    # DeepSeekMath's printed objective. The Nature article's has no 1/|o|; which of the two trained
    # R1-Zero is unreported.
    "grpo": Algorithm(standardized, token_ratios, mean_of_replies),
    "dr_grpo": Algorithm(centred, token_ratios, constant_length),
    # Clip-higher, dynamic sampling, overlong shaping and the missing KL are settings of a run
    # (`presets.dapo`); the token mean is what differs here.
    "dapo": Algorithm(standardized, token_ratios, mean_of_tokens),
    "gspo": Algorithm(standardized, sequence_ratios, mean_of_replies),
}
