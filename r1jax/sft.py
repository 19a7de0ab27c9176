"""Supervised training: of the embedded base, and fine-tuning (cold start, distillation).

B rows  T tokens  L MoE layers  E experts
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from r1jax import masked, optim, sharding
from r1jax.architecture import ModelConfig
from r1jax.checkpoint import abstract_like
from r1jax.checks import check
from r1jax.config import OptimConfig, SFTConfig
from r1jax.data.packing import Batch, Document, Packed
from r1jax.data.pipeline import batches
from r1jax.metrics import on_host
from r1jax.model.head import log_probs
from r1jax.model.mtp import mtp_log_probs
from r1jax.model.params import Weights
from r1jax.model.transformer import forward
from r1jax.optim import TrainState
from r1jax.run import Run


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


def train(
    cfg: SFTConfig,
    documents: Sequence[Document],
    pad: int,
    mesh: Mesh,
    base: Callable[[], Weights],
    say: Callable[[str], None] = print,
) -> Run:
    """Runs cfg on packed documents from `base()` weights, or from cfg.out's newest checkpoint.

    A step is an update: as many as cfg.epochs are, or cfg.steps, of which `say` tells how often
    they go through the documents. Returns the run, ended or stopped by a signal. Raises InputError
    as Run does, for a document that is longer than a row, and for a batch that does not divide.
    """
    packed = Packed(documents, cfg.length, pad)
    over, parts = sharding.rows_over(mesh), 2 * mesh.shape[sharding.CONTEXT]
    check(
        cfg.rows % over == 0,
        f"--mesh={cfg.mesh}: {cfg.rows} rows an update do not divide over {over} devices",
    )
    check(
        parts == 2 or cfg.length % parts == 0,
        f"--mesh={cfg.mesh}: rows of {cfg.length} tokens do not divide into {parts} parts, two of "
        "each device that shares one",
    )
    stream = batches(packed, cfg.rows, cfg.seed)
    to_devices = functools.partial(
        jax.make_array_from_process_local_data, sharding.batch_sharding(mesh)
    )
    steps = cfg.steps or math.ceil(cfg.epochs * len(packed) / cfg.rows)
    if cfg.steps:
        say(passes(steps, cfg.rows, len(packed)))
    if cfg.optim.schedule == "cosine":
        own = dataclasses.replace(cfg.optim, steps=max(steps, cfg.optim.warmup + 1))
        cfg = dataclasses.replace(cfg, optim=own)
    read = functools.partial(map, repr, documents)
    with Run(cfg, cfg.model, steps, say, data=read) as run, jax.set_mesh(mesh):
        abstract = optim.to_save(abstract_state(cfg.model, cfg.optim, mesh))
        restored = run.restore({"train": abstract})

        def begin() -> TrainState:
            return optim.state_around(base(), cfg.model, cfg.optim, mesh)

        state = optim.as_saved(restored[0]["train"], begin) if restored else begin()
        started = time.perf_counter()
        for step in run.steps():
            batch = stream[step]
            state, metrics = sft_step(
                state, jax.tree.map(to_devices, batch), model=cfg.model, cfg=cfg.optim
            )
            if step % cfg.log_every == 0 or step + 1 == steps:
                run.log(
                    step, on_host(metrics) | {"time": time.perf_counter() - started}, batch=batch
                )
            run.end_step({"train": optim.to_save(state)}, metrics, batch)
    return run


def passes(steps: int, rows: int, packed: int) -> str:
    """How often so many updates of `rows` rows go through all `packed` rows there are."""
    times = steps * rows / packed
    seen = "some are never seen" if times < 1 else "all are seen" if times == 1 else "they repeat"
    often = "1 pass" if times == 1 else f"{times:.3g} passes"
    whole = f"{often} over the data ({packed:,} packed)"
    return f"{steps:,} updates of {rows:,} rows: {whole}, so {seen}"


def abstract_state(model: ModelConfig, cfg: OptimConfig, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of a model in training; allocates nothing."""

    def create() -> TrainState:
        return optim.new_state(optim.init_weights(model, jax.random.key(0)), cfg)

    return abstract_like(jax.eval_shape(create), optim.state_shardings(model, cfg, mesh))
