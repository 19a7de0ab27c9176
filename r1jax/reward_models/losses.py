"""Training reward models: on pairs of replies (Bradley-Terry) or on labelled ones.

DeepSeek-R1, Nature 645:633, Methods: helpfulness from pairs, safety from labels. The model and
its use as a reward are in r1jax/reward_models/model.py.

Deviation: the lengths of chosen and rejected replies are balanced by weights on whatever data is
given (`balance_weights`); R1's pairs were made so that they compare.

B examples  K replies of one: 2 in pairs (chosen, rejected), 1 with a label  T tokens
L MoE layers  E experts
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import optim, sharding
from r1jax.architecture import ModelConfig
from r1jax.config import OptimConfig
from r1jax.optim import TrainState
from r1jax.reward_models.model import RewardWeights, padded, rewards

Kind = Literal["pairwise", "pointwise"]
Array = Any  # of NumPy when made, of JAX inside a compiled step
Metrics = dict[str, jax.Array]


class Batch(flax.struct.PyTreeNode):
    """Examples, their rows left-aligned. `value_B`: a pair's weight, or 1 for safe, 0 unsafe."""

    tokens_BKT: Array  # int32
    length_BK: Array  # int32: prompt, reply and end of sequence
    value_B: Array  # float32


class Example(NamedTuple):
    """One of a batch, its rows as long as they are."""

    rows: tuple[Sequence[int] | np.ndarray, ...]
    value: float


def make_batch(examples: Sequence[Example], length: int) -> Batch:
    rows = [row for example in examples for row in example.rows]
    tokens, lengths = padded(rows, len(rows), length)
    value_B = np.array([example.value for example in examples], np.float32)
    shape = len(examples), len(rows) // len(examples)
    return Batch(tokens.reshape(*shape, length), lengths.reshape(shape), value_B)


def pairwise_loss(
    reward_BK: jax.Array, length_BK: jax.Array, weight_B: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Mean of weight * -log sigmoid(r_chosen - r_rejected) (Bradley-Terry; arXiv 2009.01325).

    `margin` is the mean difference; `accuracy` the share of pairs with a positive one (half of
    those with none); `length/correlation` that of the difference in reward with the difference in
    length, under the weights, in [-1, 1]: pairs have no order of their own, so no mean is taken
    off. The loss is divided by the pairs, not by their weights: a heavy pair weighs as much in
    every batch.
    """
    margin_B = reward_BK[:, 0] - reward_BK[:, 1]
    longer_B = (length_BK[:, 0] - length_BK[:, 1]).astype(jnp.float32)
    loss = jnp.mean(weight_B * jax.nn.softplus(-margin_B))
    return loss, {
        "accuracy": _share_above(margin_B),
        "margin": jnp.mean(margin_B),
        "reward/mean": jnp.mean(reward_BK),
        "length/correlation": _correlation(margin_B, longer_B, weight_B),
    }


def pointwise_loss(
    reward_BK: jax.Array, length_BK: jax.Array, safe_B: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Mean binary cross-entropy of sigmoid(r) with the label: 1 safe, 0 unsafe.

    Metrics as `pairwise_loss`; here, `margin` is the mean reward on the label's side of 0, and the
    correlation is between rewards and the lengths of rows, about their means.
    """
    reward_B, sign_B = reward_BK[:, 0], 2 * safe_B - 1
    length_B = length_BK[:, 0].astype(jnp.float32)
    return jnp.mean(jax.nn.softplus(-sign_B * reward_B)), {
        "accuracy": _share_above(sign_B * reward_B),
        "margin": jnp.mean(sign_B * reward_B),
        "reward/mean": jnp.mean(reward_B),
        "length/correlation": _correlation(
            reward_B - jnp.mean(reward_B), length_B - jnp.mean(length_B), jnp.ones_like(reward_B)
        ),
    }


LOSSES = {"pairwise": pairwise_loss, "pointwise": pointwise_loss}


def _share_above(x_B: jax.Array) -> jax.Array:
    return jnp.mean((x_B > 0) + 0.5 * (x_B == 0))


def _correlation(x_B: jax.Array, y_B: jax.Array, weight_B: jax.Array) -> jax.Array:
    """sum(w x y) / sqrt(sum(w x x) sum(w y y)); 0 where either is constantly 0."""
    scale = jnp.sqrt(jnp.sum(weight_B * x_B**2) * jnp.sum(weight_B * y_B**2))
    return jnp.sum(weight_B * x_B * y_B) / jnp.where(scale > 0, scale, 1)


def preference_loss(
    weights: RewardWeights, batch: Batch, kind: Kind, model: ModelConfig, cfg: OptimConfig
) -> tuple[jax.Array, tuple[Metrics, jax.Array | None]]:
    """The loss of `kind`, plus the balance loss of the router (V3, eq. 17).

    Returns (loss, (metrics, load_LE)).
    """
    tokens_RT = batch.tokens_BKT.reshape(-1, batch.tokens_BKT.shape[-1])
    tokens_RT = sharding.constrain(tokens_RT, "batch", None)
    reward_R, stats = rewards(weights, tokens_RT, batch.length_BK.reshape(-1), model)
    reward_BK = reward_R.reshape(batch.length_BK.shape)
    loss, metrics = LOSSES[kind](reward_BK, batch.length_BK, batch.value_B)
    metrics["preference"] = loss
    if stats is None:
        return loss, (metrics, None)
    load_LE = stats.load_E.astype(jnp.float32)
    mean_L = jnp.maximum(jnp.mean(load_LE, axis=-1), 1)
    metrics["router/max_load"] = jnp.max(jnp.max(load_LE, axis=-1) / mean_L)
    loss = loss + cfg.balance_alpha * jnp.sum(jnp.mean(stats.balance_B, axis=1))
    return loss, (metrics, stats.load_E)


@functools.partial(jax.jit, static_argnames=("kind", "model", "cfg"), donate_argnames="state")
def preference_step(
    state: TrainState, batch: Batch, *, kind: Kind, model: ModelConfig, cfg: OptimConfig
) -> tuple[TrainState, Metrics]:
    """One update on one batch. The state's weights are RewardWeights."""
    return optim.descend(
        state, lambda weights: preference_loss(weights, batch, kind, model, cfg), cfg
    )
