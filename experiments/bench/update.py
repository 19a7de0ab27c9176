"""What packing replies into rows saves of an update, as ratios within one run.

    python -m experiments.bench.update
    python -m experiments.bench.update --rows=16

The step of the tiny preset on replies as long as those of its first and of its last steps, packed,
beside the same replies one a row of max_prompt + max_tokens.
"""

import dataclasses
import time

import jax
import numpy as np

from experiments import cli
from r1jax import sharding
from r1jax.base import EMBEDDED, load_weights
from r1jax.presets import RUNS
from r1jax.rl.grpo import grpo_step
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import new_policy
from r1jax.rl.types import Rollout, fill, layout_of, make_rollout
from r1jax.sampling.engine import Completion

PROMPT = 12  # tokens, as the embedded problems have


def lengths(mean: float, longest: int, replies: int) -> np.ndarray:
    """Of replies of one attempt of 23 tokens, or several, as those of the main job."""
    attempts = np.random.default_rng(0).geometric(min(1.0, 23 / mean), replies)
    return np.minimum(23 * attempts + 1, longest)


def drawn(cfg, length_N: np.ndarray, one_a_row: bool) -> Rollout:
    rng = np.random.default_rng(1)
    completions = [
        Completion(rng.integers(0, cfg.model.vocab, n, dtype=np.int32), np.full(n, -1.0), False)
        for n in length_N
    ]
    rewards = rng.integers(0, 2, length_N.size).astype(float).tolist()
    graded = [True] * length_N.size
    layout = layout_of(cfg, 1)
    if not one_a_row:
        prompts = [rng.integers(0, cfg.model.vocab, PROMPT).tolist() for _ in length_N]
        return make_rollout(prompts, completions, rewards, graded, layout, rng)
    # A prompt so long that no row holds a second reply; then it is made padding.
    prompts = [[0] * (layout.length - int(n)) for n in length_N]
    r = make_rollout(prompts, completions, rewards, graded, layout, rng)
    kept = r.rows.positions_BT >= layout.length - length_N[r.rows.sample_BT] - PROMPT
    return r.replace(rows=r.rows.replace(segments_BT=np.where(kept, r.rows.segments_BT, 0)))


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    rows: int = 8  # computed at once: the preset's
    row_tokens: int = 0
    turns: int = 5


def main(args: list[str]) -> None:
    asked = cli.parse(UpdateConfig, UpdateConfig(), args, __doc__ or "")
    cfg = RUNS["tiny"]()
    padded_cfg = dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, rows=128, row_tokens=0))
    cfg = dataclasses.replace(
        cfg, rl=dataclasses.replace(cfg.rl, rows=asked.rows, row_tokens=asked.row_tokens)
    )
    mesh = sharding.make_mesh("1")
    state = new_policy(cfg, load_weights(EMBEDDED, cfg.model), mesh)
    replies = cfg.rl.questions * cfg.rl.group
    for name, mean in (("early", 23.0), ("late", 90.0)):
        length_N = lengths(mean, cfg.sampling.max_tokens, replies)
        runs = {
            "padded": (padded_cfg, drawn(padded_cfg, length_N, one_a_row=True)),
            "packed": (cfg, drawn(cfg, length_N, one_a_row=False)),
        }
        took: dict[str, list[float]] = {kind: [] for kind in runs}
        for turn in range(asked.turns + 1):
            for kind, (run, rollout) in runs.items():
                started = time.perf_counter()
                state, metrics = grpo_step(state, rollout, hyper_of(run), **static_of(run))
                jax.block_until_ready(metrics)
                if turn:  # the first compiles
                    took[kind].append(time.perf_counter() - started)
        best = {kind: min(times) for kind, times in took.items()}
        full = {kind: fill(rollout) for kind, (_, rollout) in runs.items()}
        print(
            f"{name}: {replies} replies of {length_N.mean():.0f} tokens on average: padded "
            f"{best['padded']:.2f} s (rows {full['padded']:.0%} full), packed "
            f"{best['packed']:.2f} s ({full['packed']:.0%}): {best['packed'] / best['padded']:.2f}x"
        )


if __name__ == "__main__":
    cli.run(main)
