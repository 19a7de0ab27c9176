"""How far sampler and trainer are apart before an update, and how much of it is routing.

    python -m experiments.bench.agreement
    python -m experiments.bench.agreement --model.dtype=bfloat16 --base=runs/r1_zero

One rollout of the tiny preset, scored by the trainer with its own choice of experts and with the
sampler's (routing replay). Any field of the preset is a flag.
"""

import dataclasses

import jax
import numpy as np

from experiments import cli
from r1jax import sharding
from r1jax.config import RunConfig
from r1jax.data.tasks import make_task
from r1jax.pipeline.reinforcement import base_weights
from r1jax.presets import RUNS
from r1jax.rl.correction import CORRECTIONS
from r1jax.rl.grpo import row_log_probs
from r1jax.rl.loop import Trainer, new_grader


def main(args: list[str]) -> None:
    cfg = cli.parse(RunConfig, RUNS["tiny"](), args, __doc__ or "")
    cfg = dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, routing_replay=True))
    mesh, task = sharding.make_mesh(cfg.mesh), make_task(cfg)
    score = jax.jit(lambda weights, rows: row_log_probs(weights, rows, cfg.model, 1.0))
    with new_grader(cfg) as grader, jax.set_mesh(mesh):
        trainer = Trainer(cfg, task, mesh, grader)
        weights = base_weights(cfg, mesh)
        samples, _, _ = trainer.rollout(weights, 0, 0)
        rows = trainer.rollout_of(samples, 0).rows
        rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[3:]), rows)
        used = np.any(rows.segments_BT > 0, axis=1)
        rows = jax.tree.map(lambda a: a[used], rows)
        found = {
            name: jax.device_get(score(weights, given))
            for name, given in (("own", rows.replace(experts_BTLK=None)), ("replayed", rows))
        }
    reply_BT, routed_BT = rows.reply_BT, np.asarray(rows.routed_BT)
    print(f"{len(samples)} replies, {reply_BT.sum():,} reply tokens, computed in {cfg.model.dtype}")
    for name, (logp_BT, _, stats) in found.items():
        taken_LBTK = np.moveaxis(rows.experts_BTLK, 2, 0)
        apart_LBT = np.any(np.sort(stats.experts_BTK) != np.sort(taken_LBTK), axis=-1)
        difference = (logp_BT - rows.old_logp_BT)[reply_BT]
        ratio, size = np.exp(difference), np.abs(difference)
        masked = np.mean(np.asarray(CORRECTIONS["icepop"](ratio)) == 0)
        print(
            f"experts {name:8}: {apart_LBT[:, routed_BT].mean():.3%} of (layer, token) routed "
            f"otherwise; |log-prob difference| mean {size.mean():.2e}, 99.9% "
            f"{np.quantile(size, 0.999):.2e}, most {size.max():.2e} nats; a ratio above 2 or below "
            f"1/2 {np.mean(size > np.log(2)):.3%}, outside [0.5, 5] {masked:.3%}"
        )


if __name__ == "__main__":
    cli.run(main)
