"""GRPO and its variants: short pure functions, chosen by name.

A variant says what a reward is worth (`advantages`), how far the policy has moved from the sampler
(`log_ratios`), what is maximised of both (`surrogate`), how much each token weighs (`weights`), and
what its paper trains with (`own`), which a run may set otherwise (`settings`). The loss is one for
all (`rl/grpo.py`). Where there is a critic (`rl/critic.py`), what a reward is worth is spread over
the reply's tokens.

Everywhere: a reply that no grader graded is no reply. It is not in the mean, the deviation or the
weights, and has no advantage.

P questions  G replies a question  N replies  B rows of packed replies  T tokens
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from r1jax.config import AlgorithmName, RLConfig

# A deviation of rounding size (rewards of 0.1 + 0.2 and of 0.3) is none: such a group is equal.
SPREAD = 1e-6
Budget = jax.Array | float  # tokens


class Settings(NamedTuple):
    """Ratios are clipped to [1 - clip_low, 1 + clip_high]; kl_coef weighs k3."""

    clip_low: float
    clip_high: float
    kl_coef: float


class CriticSettings(NamedTuple):
    """Of `rl/critic.py`; may be traced."""

    gamma: float  # what the next token's value counts
    gae_lambda: float  # and the advantage beyond it; 1: what the reply earned, less its value
    value_clip: float  # how far a value may move in a rollout, in units of the reward
    critic_lr: float | None = None  # None: CRITIC_RATE times the policy's


class Algorithm(NamedTuple):
    # reward_PG, graded_PG -> advantage_PG; with a critic, what a reply earns at its last token
    advantages: Callable[[jax.Array, jax.Array], jax.Array]
    # log-prob differences, mask, segments -> the logarithm of the ratio at each token, [B, T]
    log_ratios: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    # log-ratios, log-probs, advantages, clip_low, clip_high -> what is maximised, [B, T]
    surrogate: Callable[..., jax.Array]
    # length_N of an update's replies, 0 of all others; budget -> what a token of each weighs
    weights: Callable[[jax.Array, Budget], jax.Array]
    own: Settings
    critic: CriticSettings | None = None


def as_paid(reward_PG: jax.Array, graded_PG: jax.Array) -> jax.Array:
    """The rewards: what a reply is worth is no matter of its group."""
    return jnp.where(graded_PG, reward_PG, 0.0)


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


def leave_one_out(reward_PG: jax.Array, graded_PG: jax.Array) -> jax.Array:
    """Paper: A_i = r_i - the mean of the others' (RLOO, arXiv 2402.14740). Code: the
    same, as n / (n - 1) (r_i - mean(r)) over the n graded replies."""
    count_P1 = jnp.sum(graded_PG, axis=1, keepdims=True)
    return centred(reward_PG, graded_PG) * (count_P1 / jnp.maximum(count_P1 - 1, 1))


def standardized_over_all(reward_PG: jax.Array, graded_PG: jax.Array) -> jax.Array:
    """Paper: A = (r - mean) / std over the whole batch (REINFORCE++, arXiv 2501.03262), so
    that a question which all replies solve still has an advantage. Code: over the rollout, before
    it is split into updates; none has one where all rewards are equal."""
    advantage_1N = standardized(reward_PG.reshape(1, -1), graded_PG.reshape(1, -1))
    return advantage_1N.reshape(reward_PG.shape)


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


def token_log_ratios(difference_BT, mask_BT, segments_BT) -> jax.Array:
    """log(pi / pi_old) of each token (DeepSeekMath, eq. 3)."""
    return jnp.where(mask_BT, difference_BT, 0.0)


def sequence_log_ratios(difference_BT, mask_BT, segments_BT) -> jax.Array:
    """Paper: s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|) (GSPO, arXiv 2507.18071, eq. 7). Code: its
    logarithm, the mean over the reply of its tokens', the same at each of them."""
    segments = segments_BT.shape[1] // 2 + 2  # each of a prompt and a reply, and the padding

    def along_row(difference_T, mask_T, segments_T):
        def total(x_T):
            return jax.ops.segment_sum(x_T, segments_T, segments)

        mean = total(difference_T) / jnp.maximum(total(mask_T.astype(difference_T.dtype)), 1)
        return mean[segments_T]

    difference_BT = jnp.where(mask_BT, difference_BT, 0.0)
    mean_BT = jax.vmap(along_row)(difference_BT, mask_BT, segments_BT)
    return jnp.where(mask_BT, mean_BT, 0.0)


def clipped(log_ratio_BT, logp_BT, advantage_BT, low, high) -> jax.Array:
    """min(r A, clip(r, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347, eq. 7)."""
    ratio = jnp.exp(log_ratio_BT)
    return jnp.minimum(ratio * advantage_BT, jnp.clip(ratio, 1 - low, 1 + high) * advantage_BT)


def unclipped(log_ratio_BT, logp_BT, advantage_BT, low, high) -> jax.Array:
    """r A, whose gradient where r = 1 is REINFORCE's A grad log pi."""
    return jnp.exp(log_ratio_BT) * advantage_BT


def clipped_weight(log_ratio_BT, logp_BT, advantage_BT, low, high) -> jax.Array:
    """sg(clip(r, 1 - low, 1 + high)) A log pi: beyond the bounds a token weighs no more, but keeps
    its gradient (CISPO, MiniMax-M1, arXiv 2506.13585, eq. 4 and 5)."""
    weight = jnp.clip(jnp.exp(log_ratio_BT), 1 - low, 1 + high)
    return jax.lax.stop_gradient(weight) * advantage_BT * logp_BT


def mean_of_replies(length_N: jax.Array, budget: Budget) -> jax.Array:
    """1/N sum_i 1/|o_i| sum_t: every reply weighs the same (DeepSeekMath, eq. 3)."""
    return 1 / (jnp.maximum(length_N, 1) * _replies(length_N))


def mean_of_tokens(length_N: jax.Array, budget: Budget) -> jax.Array:
    """1 / (sum_i |o_i|): every token weighs the same (DAPO, arXiv 2503.14476, eq. 12)."""
    return jnp.full(length_N.shape, 1 / jnp.maximum(jnp.sum(length_N), 1))


def constant_length(length_N: jax.Array, budget: Budget) -> jax.Array:
    """1 / (N L): a reply weighs by its length, but no length changes what a token weighs.

    Paper: L is a constant, "MAX_TOKENS", the generation budget (Dr. GRPO, arXiv 2503.20783, listing
    1 and section 3.2). Code: SamplingConfig.max_tokens, whatever the rows are padded to.
    """
    return jnp.full(length_N.shape, 1 / (_replies(length_N) * budget))


def _replies(length_N: jax.Array) -> jax.Array:
    """How many there are (at least 1)."""
    return jnp.maximum(jnp.sum(length_N > 0), 1)


# Deviations, beside those in the functions' own words:
ALGORITHMS: dict[AlgorithmName, Algorithm] = {
    # Paper: DeepSeekMath's printed objective (eq. 3), with min(r A, clip(r, 1 - e, 1 + e) A) and
    # - beta k3. The Nature article's has no 1/|o|; which of the two trained R1-Zero is unreported.
    # e is unreported in both: 0.2 is PPO's. beta: R1's.
    "grpo": Algorithm(
        standardized, token_log_ratios, clipped, mean_of_replies, Settings(0.2, 0.2, kl_coef=1e-3)
    ),
    # Paper: no KL term (section 3.2: beta = 0), e = 0.2.
    "dr_grpo": Algorithm(
        centred, token_log_ratios, clipped, constant_length, Settings(0.2, 0.2, kl_coef=0.0)
    ),
    # Paper: eq. 8 with clip-higher (0.2, 0.28) and no KL (sections 2.3 and 3.1). Dynamic sampling
    # and overlong shaping are settings of a run (`presets.dapo`); the token mean is what differs in
    # the loss.
    "dapo": Algorithm(
        standardized, token_log_ratios, clipped, mean_of_tokens, Settings(0.2, 0.28, kl_coef=0.0)
    ),
    # Paper: eq. 5 to 7, clipped at 3e-4 and 4e-4 (section 5.1), since a whole reply's ratio is that
    # close to 1; the KL term is "omitted for brevity", its weight unreported: none here.
    "gspo": Algorithm(
        standardized,
        sequence_log_ratios,
        clipped,
        mean_of_replies,
        Settings(3e-4, 4e-4, kl_coef=0.0),
    ),
    # Paper: plain REINFORCE on a whole reply, its KL in the reward. Here the token's own ratio, so
    # that later updates of a rollout are corrected; a reply's sum, over a constant; no KL.
    "rloo": Algorithm(
        leave_one_out, token_log_ratios, unclipped, constant_length, Settings(0.2, 0.2, kl_coef=0.0)
    ),
    # Paper: PPO's clip on tokens (section 3), KL in the reward (k1): here in the loss, as GRPO's,
    # and off unless set.
    "reinforce++": Algorithm(
        standardized_over_all,
        token_log_ratios,
        clipped,
        mean_of_tokens,
        Settings(0.2, 0.2, kl_coef=0.0),
    ),
    # Paper: no lower bound (section 3.1: "a large value"), no KL; the upper is tuned, unreported.
    # Here 1 + 4, as in ScaleRL's (arXiv 2510.13786) range.
    "cispo": Algorithm(
        standardized,
        token_log_ratios,
        clipped_weight,
        mean_of_tokens,
        Settings(1.0, 4.0, kl_coef=0.0),
    ),
    # Paper: what GRPO replaced (DeepSeekMath, eq. 1 and 2): KL in the reward, a mean of replies.
    # Here KL is in the loss, weighed as GRPO's, and all tokens weigh the same (PPO, arXiv
    # 1707.06347, eq. 7), since advantages are normalised over tokens. gamma, lambda: those of
    # Open-Reasoner-Zero (arXiv 2503.24290). value_clip: the range of OpenAI's ppo2.
    "ppo": Algorithm(
        as_paid,
        token_log_ratios,
        clipped,
        mean_of_tokens,
        Settings(0.2, 0.2, kl_coef=1e-3),
        CriticSettings(gamma=1.0, gae_lambda=1.0, value_clip=0.2),
    ),
}
CRITIC_RATE = 5.0  # Open-Reasoner-Zero's: 5e-6 beside 1e-6


def settings(cfg: RLConfig) -> Settings:
    """What `cfg` sets, and the algorithm's own where it sets nothing (None)."""
    return _chosen(ALGORITHMS[cfg.algorithm].own, cfg)


def critic_settings(cfg: RLConfig, lr: float) -> CriticSettings | None:
    """As `settings`, for a policy that learns at `lr`; None where there is no critic."""
    own = ALGORITHMS[cfg.algorithm].critic
    return own and _chosen(own._replace(critic_lr=CRITIC_RATE * lr), cfg)


def _chosen(own, cfg: RLConfig):
    chosen = {name: getattr(cfg, name) for name in own._fields}
    return own._replace(**{name: value for name, value in chosen.items() if value is not None})
