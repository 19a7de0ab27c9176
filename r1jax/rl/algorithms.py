"""GRPO and its variants: short pure functions, chosen by name.

A variant says what a reward is worth within its group (`advantages`), how far the policy has moved
from the sampler (`log_ratios`), how much each token weighs (`weights`), and what its paper trains
with (`own`), which a run may set otherwise (`settings`). The loss is one for all (`rl/grpo.py`).

Everywhere: a reply that no grader graded is no reply. It is not in the mean, the deviation or the
weights, and has no advantage.

P questions  G replies a question  B rows of an update  T tokens
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from r1jax.config import AlgorithmName, RLConfig

# A deviation of rounding size (rewards of 0.1 + 0.2 and of 0.3) is none: such a group is equal.
SPREAD = 1e-6


class Settings(NamedTuple):
    """Ratios are clipped to [1 - clip_low, 1 + clip_high]; kl_coef weighs k3."""

    clip_low: float
    clip_high: float
    kl_coef: float


class Algorithm(NamedTuple):
    # reward_PG, graded_PG -> advantage_PG
    advantages: Callable[[jax.Array, jax.Array], jax.Array]
    # log-prob differences, mask -> the logarithm of the ratio at each token, [B, T]
    log_ratios: Callable[[jax.Array, jax.Array], jax.Array]
    # mask_BT, generation budget in tokens -> weight_BT, over a whole update
    weights: Callable[[jax.Array, int], jax.Array]
    own: Settings


def standardized(reward_PG: jax.Array, graded_PG: jax.Array) -> jax.Array:
    """Paper: A_i = (r_i - mean(r)) / std(r) within the group (DeepSeekMath, arXiv 2402.03300,
    section 4.1.2). Code: the same, over the graded replies; a group of equal rewards has no
    advantage (exactly zero, not 0 / 0), nor has one with fewer than two graded replies."""
    centred_PG, std_P1 = _within_groups(reward_PG, graded_PG)
    return centred_PG / jnp.maximum(std_P1, SPREAD)


def centred(reward_PG: jax.Array, graded_PG: jax.Array) -> jax.Array:
    """Paper: A_i = r_i - mean(r), no division, so no bias towards questions of low variance
    (Dr. GRPO, arXiv 2503.20783, section 3.2). Code: the same, over the graded replies."""
    return _within_groups(reward_PG, graded_PG)[0]


def _within_groups(reward_PG, graded_PG) -> tuple[jax.Array, jax.Array]:
    """(r - mean, std) of the graded replies of each group; the first exactly 0 where the second is
    no more than SPREAD."""
    chex.assert_equal_shape([reward_PG, graded_PG])
    count_P1 = jnp.maximum(jnp.sum(graded_PG, axis=1, keepdims=True), 1)
    # From one reply's reward: equal ones are then exactly 0, whatever the mean rounds to.
    one_P1 = jnp.take_along_axis(reward_PG, jnp.argmax(graded_PG, axis=1, keepdims=True), axis=1)
    above_PG = jnp.where(graded_PG, reward_PG - one_P1, 0.0)
    mean_P1 = jnp.sum(above_PG, axis=1, keepdims=True) / count_P1
    centred_PG = jnp.where(graded_PG, above_PG - mean_P1, 0.0)
    std_P1 = jnp.sqrt(jnp.sum(centred_PG**2, axis=1, keepdims=True) / count_P1)
    return jnp.where(std_P1 > SPREAD, centred_PG, 0.0), std_P1


def token_log_ratios(difference_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """log(pi / pi_old) of each token (DeepSeekMath, eq. 3)."""
    return jnp.where(mask_BT, difference_BT, 0.0)


def sequence_log_ratios(difference_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Paper: s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|) (GSPO, arXiv 2507.18071, eq. 7). Code: its
    logarithm, the mean over the reply of its tokens', the same at each of them."""
    difference = jnp.where(mask_BT, difference_BT, 0.0)
    length_B1 = jnp.maximum(jnp.sum(mask_BT, axis=1, keepdims=True), 1)
    mean_B1 = jnp.sum(difference, axis=1, keepdims=True) / length_B1
    return jnp.broadcast_to(mean_B1, mask_BT.shape)


def mean_of_replies(mask_BT: jax.Array, budget: int) -> jax.Array:
    """1/B sum_i 1/|o_i| sum_t: every reply weighs the same (DeepSeekMath, eq. 3)."""
    length_B1 = jnp.maximum(jnp.sum(mask_BT, axis=1, keepdims=True), 1)
    return mask_BT / (length_B1 * _replies(mask_BT))


def mean_of_tokens(mask_BT: jax.Array, budget: int) -> jax.Array:
    """1 / (sum_i |o_i|): every token weighs the same (DAPO, arXiv 2503.14476, eq. 12)."""
    return mask_BT / jnp.maximum(jnp.sum(mask_BT), 1)


def constant_length(mask_BT: jax.Array, budget: int) -> jax.Array:
    """1 / (B L): a reply weighs by its length, but no length changes what a token weighs.

    Paper: L is a constant, "MAX_TOKENS", the generation budget (Dr. GRPO, arXiv 2503.20783, listing
    1 and section 3.2). Code: SamplingConfig.max_tokens, whatever the rows are padded to.
    """
    return mask_BT / (_replies(mask_BT) * budget)


def _replies(mask_BT: jax.Array) -> jax.Array:
    """How many rows have one (at least 1)."""
    return jnp.maximum(jnp.sum(jnp.any(mask_BT, axis=1)), 1)


# Deviations, beside those in the functions' own words:
ALGORITHMS: dict[AlgorithmName, Algorithm] = {
    # Paper: DeepSeekMath's printed objective (eq. 3), with min(r A, clip(r, 1 - e, 1 + e) A) and
    # - beta k3. The Nature article's has no 1/|o|; which of the two trained R1-Zero is unreported.
    # e is unreported in both: 0.2 is PPO's. beta: R1's.
    "grpo": Algorithm(
        standardized, token_log_ratios, mean_of_replies, Settings(0.2, 0.2, kl_coef=1e-3)
    ),
    # Paper: no KL term (section 3.2: beta = 0), e = 0.2.
    "dr_grpo": Algorithm(
        centred, token_log_ratios, constant_length, Settings(0.2, 0.2, kl_coef=0.0)
    ),
    # Paper: eq. 8 with clip-higher (0.2, 0.28) and no KL (sections 2.3 and 3.1). Dynamic sampling
    # and overlong shaping are settings of a run (`presets.dapo`); the token mean is what differs in
    # the loss.
    "dapo": Algorithm(
        standardized, token_log_ratios, mean_of_tokens, Settings(0.2, 0.28, kl_coef=0.0)
    ),
    # Paper: eq. 5 to 7, clipped at 3e-4 and 4e-4 (section 5.1), since a whole reply's ratio is that
    # close to 1; the KL term is "omitted for brevity", its weight unreported: none here.
    "gspo": Algorithm(
        standardized, sequence_log_ratios, mean_of_replies, Settings(3e-4, 4e-4, kl_coef=0.0)
    ),
}


def settings(cfg: RLConfig) -> Settings:
    """What `cfg` sets, and the algorithm's own where it sets nothing (None)."""
    own = ALGORITHMS[cfg.algorithm].own
    chosen = {name: getattr(cfg, name) for name in Settings._fields}
    return own._replace(**{name: value for name, value in chosen.items() if value is not None})
