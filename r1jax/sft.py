"""Supervised training: pre-training of the tiny base, later cold start and distillation.

B rows  T tokens  L MoE layers  E experts
"""

import functools

import jax
import jax.numpy as jnp

from r1jax import masked, optim
from r1jax.config import ModelConfig, OptimConfig
from r1jax.data.packing import Batch
from r1jax.model.mtp import mtp_log_probs
from r1jax.model.params import Weights
from r1jax.model.transformer import forward, log_probs
from r1jax.optim import TrainState


def sft_loss(
    weights: Weights, batch: Batch, model: ModelConfig, cfg: OptimConfig
) -> tuple[jax.Array, tuple[dict[str, jax.Array], jax.Array | None]]:
    """Mean cross-entropy of the trained tokens, plus balance loss and MTP loss (V3, eq. 17, 25).

    Returns (loss, (metrics, load_LE)).
    """
    out = forward(
        weights,
        batch.tokens_BT,
        model,
        positions_BT=batch.positions_BT,
        segments_BT=batch.segments_BT,
    )
    params, targets_BT = weights.params, batch.tokens_BT[:, 1:]
    logp, entropy = log_probs(params, out.hidden_BTD[:, :-1], targets_BT, model)
    same = batch.segments_BT[:, 1:] == batch.segments_BT[:, :-1]
    mask = same & batch.trained_BT[:, 1:]
    nll = -masked.mean(logp, mask)
    loss, metrics = nll, {"nll": nll, "entropy": masked.mean(entropy, mask)}
    stats = [] if out.stats is None else [out.stats]

    if params.mtp:
        logps, masks, mtp_stats = mtp_log_probs(
            weights, out.hidden_BTD, batch.tokens_BT, batch.segments_BT, batch.positions_BT, model
        )
        ahead = [
            # Depth k predicts the token k + 1 ahead.
            -masked.mean(lp, m & jnp.roll(batch.trained_BT, -(k + 1), axis=1))
            for k, (lp, m) in enumerate(zip(logps, masks, strict=True), start=1)
        ]
        metrics["mtp_nll"] = jnp.mean(jnp.stack(ahead))
        loss = loss + cfg.mtp_weight * metrics["mtp_nll"]
        stats += [jax.tree.map(lambda a: a[None], s) for s in mtp_stats]

    if not stats:
        return loss, (metrics, None)
    load_LE = jnp.concatenate([s.load_E for s in stats])
    balance_LB = jnp.concatenate([s.balance_B for s in stats])
    loss = loss + cfg.balance_alpha * jnp.sum(jnp.mean(balance_LB, axis=1))
    return loss, (metrics, load_LE)


@functools.partial(jax.jit, static_argnames=("model", "cfg"), donate_argnames="state")
def sft_step(
    state: TrainState, batch: Batch, *, model: ModelConfig, cfg: OptimConfig
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update on one batch."""
    return optim.descend(state, lambda weights: sft_loss(weights, batch, model, cfg), cfg)
