"""PPO's critic: what a reply is expected to earn, token by token (arXiv 1707.06347).

A network of its own: the policy's trunk, begun as a copy of the policy's, and a scalar head, begun
at zero, so that before it has learned anything an advantage is what the reply earned.

A token's value is of what stood before it, as its log-prob is. The reward comes with a reply's last
token, and nothing comes after it, also where the reply was cut at its budget.

N replies  M updates  A micro-batches  B rows  T tokens  L MoE layers  E experts
[..., T]: whatever axes lead
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax import masked, optim
from r1jax.architecture import ModelConfig
from r1jax.config import OptimConfig
from r1jax.model.params import Weights
from r1jax.model.transformer import forward
from r1jax.optim import TrainState
from r1jax.reward_models.model import RewardWeights, reward_specs, scalars, trunk, with_head
from r1jax.rl.algorithms import SPREAD, CriticSettings
from r1jax.rl.microbatches import accumulate, score, with_balance
from r1jax.rl.types import Rollout, Rows


def critic_of(weights: Weights, model: ModelConfig) -> RewardWeights:
    """A first critic: copies of the policy's trunk, without next-token head and MTP modules."""
    params = weights.params.replace(head_DV=None, mtp=())
    bias_LE = weights.router_bias_LE[: model.moe_layers] if model.moe_layers else None
    copies = jax.tree.map(jnp.copy, Weights(params, bias_LE))
    return with_head(copies, jnp.zeros(model.d_model, model.param_dtype))


def row_values(weights: RewardWeights, rows: Rows, model: ModelConfig):
    """The value of what stands before each token in its segment, float32 [B, T] (without meaning
    for a segment's first), and the routing statistics."""
    out = forward(
        Weights(weights.params.trunk, weights.router_bias_LE),
        rows.tokens_BT,
        trunk(model),
        positions_BT=rows.positions_BT,
        segments_BT=rows.segments_BT,
    )
    value_BT = scalars(weights.params, out.hidden_BTD[:, :-1], model)
    return jnp.pad(value_BT, ((0, 0), (1, 0))), out.stats


class Valued(NamedTuple):
    """Of every token before the first update: its value, and what that should have been."""

    value: jax.Array
    target: jax.Array


def assess(
    weights: RewardWeights,
    rollout: Rollout,
    earned_MABT: jax.Array,
    settings: CriticSettings,
    model: ModelConfig,
) -> tuple[jax.Array, Valued]:
    """Advantages, normalised over each update's tokens, and values, [M, A, B, T].

    earned: what the reply of each token is paid.
    """
    rows = rollout.rows
    value_MABT = score(rollout, lambda rows: row_values(weights, rows, model)[0])
    advantage_MABT, target_MABT = gae(earned_MABT, value_MABT, rows, settings)
    advantage_MABT = jax.vmap(normalized)(advantage_MABT, rows.reply_BT)
    return advantage_MABT, Valued(value_MABT, target_MABT)


def update(
    state: TrainState,
    rows_AB: Rows,
    valued_AB: Valued,
    filled: jax.Array,
    weight_N: jax.Array,
    share: jax.Array,
    settings: CriticSettings,
    *,
    model: ModelConfig,
    optim_cfg: OptimConfig,
) -> tuple[TrainState, dict[str, jax.Array], dict[str, jax.Array]]:
    """One update towards the targets: (state, metrics, sums over reply tokens).

    weight_N: of each token of a reply; an update has 1 / `share` tokens.
    """

    def loss_fn(params, micro):
        rows, valued = micro
        value_BT, stats = row_values(state.weights.replace(params=params), rows, model)
        loss_BT, held_BT = value_loss(value_BT, valued, settings.value_clip)
        loss = masked.total(weight_N[rows.sample_BT] * loss_BT, rows.reply_BT)
        loss, load_LE = with_balance(loss, stats, rows, share, optim_cfg)
        return loss, ({"critic/clipped": masked.total(held_BT, rows.reply_BT)}, load_LE)

    params, specs = state.weights.params, reward_specs(model).params
    grads, loss, sums, load_LE = accumulate(params, specs, (rows_AB, valued_AB), filled, loss_fn)
    state, metrics = optim.update(state, grads, load_LE, optim_cfg, lr=settings.critic_lr)
    return state, {"critic/loss": loss, "critic/grad_norm": metrics["grad_norm"]}, sums


def gae(
    earned: jax.Array, value: jax.Array, rows: Rows, settings: CriticSettings
) -> tuple[jax.Array, jax.Array]:
    """(advantages, and what values should have been), [..., T]; 0 where no reply is.

    Paper: A_t = sum_k (gamma lambda)^k d_(t+k), d_t = r_t + gamma V_(t+1) - V_t (arXiv 1506.02438,
    eq. 16 and 12). Code: backwards along the row, A_t = d_t + gamma lambda A_(t+1), from nothing at
    each reply's end; values are trained towards A_t + V_t.

    earned: what the reply of each token is paid at its last one.
    """
    reply, segments = rows.reply_BT, rows.segments_BT
    same = (segments[..., 1:] == segments[..., :-1]) & reply[..., 1:] & reply[..., :-1]
    goes_on = jnp.pad(same, [(0, 0)] * (same.ndim - 1) + [(0, 1)])
    value = jnp.where(reply, value, 0.0)
    after = settings.gamma * jnp.roll(value, -1, axis=-1)
    difference = jnp.where(reply, jnp.where(goes_on, after, earned) - value, 0.0)

    def back(advantage, xs):
        difference, goes_on = xs
        beyond = jnp.where(goes_on, settings.gamma * settings.gae_lambda * advantage, 0.0)
        return difference + beyond, difference + beyond

    by_token = (jnp.moveaxis(a, -1, 0) for a in (difference, goes_on))
    _, found = jax.lax.scan(back, jnp.zeros_like(value[..., 0]), tuple(by_token), reverse=True)
    advantage = jnp.moveaxis(found, 0, -1)
    return advantage, advantage + value


def normalized(advantage: jax.Array, reply: jax.Array) -> jax.Array:
    """(A - mean) / std over all tokens of replies, as PPO's usual code does for each update; 0
    everywhere where they are equal."""
    std = jnp.sqrt(masked.variance(advantage, reply))
    above = advantage - masked.mean(advantage, reply)
    return jnp.where(std > SPREAD, above / jnp.maximum(std, SPREAD), 0.0)


def value_loss(value: jax.Array, before: Valued, clip) -> tuple[jax.Array, jax.Array]:
    """max((V - R)^2, (clip(V, V_old - e, V_old + e) - R)^2) / 2 (OpenAI's baselines, ppo2), and
    where the clipped one is larger: values that have gone far enough, and have no gradient."""
    free = (value - before.target) ** 2
    held = (jnp.clip(value, before.value - clip, before.value + clip) - before.target) ** 2
    return jnp.maximum(free, held) / 2, held > free


def explained_variance(valued: Valued, reply: jax.Array) -> jax.Array:
    """1 - Var(R - V) / Var(R) over tokens of replies: 1 of a critic that knows, 0 of one that says
    the same of all, below 0 of a worse one; 0 where all R are equal."""
    value, target = valued
    unexplained, variance = (masked.variance(x, reply) for x in (target - value, target))
    some = variance > SPREAD**2
    return jnp.where(some, 1 - unexplained / jnp.where(some, variance, 1), 0.0)
