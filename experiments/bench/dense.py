"""One GRPO step of a small dense model, here, in TRL and in Tunix, in one process.

    python -m experiments.bench.dense

Compared is who is installed: `pip install trl` beside the parity extra, `pip install google-tunix`.
A model of Qwen2's form (4 x 256, 4 heads, 2 key-value heads, feed-forward 1,024, vocabulary 4,096,
tied), float32, on the CPU. A step draws 8 replies to each of 8 prompts of 32 tokens, gives random
rewards, and takes one update without a KL term. Once all replies are of 96 tokens; once they end
at random, where a bias of the end token's logit makes them a third as long on average. Two at a
time take turns, and medians are compared.
"""

import dataclasses
import importlib.util
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments import cli
from experiments.bench.dense_task import (
    END,
    GROUP,
    LONG_TAIL,
    LR,
    MODEL,
    PROMPT,
    QUESTIONS,
    REPLY,
    VOCAB,
    random_prompts,
)
from r1jax import hub, optim, sharding
from r1jax.config import OptimConfig, RLConfig, RunConfig, SamplingConfig
from r1jax.rl.biases import bias_vector
from r1jax.rl.grpo import grpo_step
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import new_policy
from r1jax.rl.types import layout_of, make_rollout
from r1jax.sampling.engine import Request
from r1jax.sampling.lanes import Lanes


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    rows: int = 16  # computed at once
    row_tokens: int = 0  # 0: as long as the longest prompt with its reply
    turns: int = 5


def here(weights, asked: DenseConfig, bias: dict[int, float]) -> Callable[[], float]:
    """A step; the mean length of its replies."""
    cfg = RunConfig(
        model=MODEL,
        rl=RLConfig(
            questions=QUESTIONS,
            group=GROUP,
            minibatches=1,
            kl_coef=0.0,
            rows=asked.rows,
            row_tokens=asked.row_tokens,
        ),
        sampling=SamplingConfig(max_prompt=PROMPT, max_tokens=REPLY, slots=QUESTIONS * GROUP),
        optim=OptimConfig(lr=LR),
    )
    mesh, rng = sharding.make_mesh("1"), np.random.default_rng(0)
    engine = Lanes(cfg.model, cfg.sampling, mesh, [END] if bias else [])
    hyper = hyper_of(cfg, bias_vector(bias, VOCAB))
    held = [new_policy(cfg, weights, mesh)]
    layout, turn = layout_of(cfg, 1), iter(range(10**6))

    def step() -> float:
        prompts = random_prompts(rng, QUESTIONS)
        asked = [Request(p, i, k, bias=bias) for i, p in enumerate(prompts) for k in range(GROUP)]
        completions, _ = engine.generate(held[0].train.weights, asked, jax.random.key(next(turn)))
        rewards = rng.random(len(asked)).tolist()
        rollout = make_rollout(
            [list(r.prompt) for r in asked], completions, rewards, [True] * len(asked), layout, rng
        )
        held[0], metrics = grpo_step(held[0], rollout, hyper, **static_of(cfg))
        jax.block_until_ready(metrics)
        return float(np.mean([len(c.tokens) for c in completions]))

    return step


def compared() -> dict[str, type]:
    """Whoever is installed."""
    found: dict[str, type] = {}
    if importlib.util.find_spec("trl"):
        from experiments.bench.dense_trl import TRL

        found["TRL"] = TRL
    if importlib.util.find_spec("tunix"):
        from experiments.bench.dense_tunix import Tunix

        found["Tunix"] = Tunix
    return found


def main(args: list[str]) -> None:
    asked = cli.parse(DenseConfig, DenseConfig(), args, __doc__ or "")
    others = compared()
    if not others:
        print("neither TRL nor Tunix is installed: this project alone")
    weights = optim.random_weights(MODEL, sharding.make_mesh("1"), jax.random.key(0))
    for name, bias in (("all of 96 tokens", {}), ("a third as long", LONG_TAIL)):
        step = here(jax.tree.map(np.asarray, weights), asked, bias)
        for other in others or [""]:
            ours: list[float] = []
            lengths: list[float] = []

            def turn(step=step, ours=ours, lengths=lengths) -> None:
                started = time.perf_counter()
                lengths.append(step())
                ours.append(time.perf_counter() - started)

            line = ""
            if other:
                logging.disable(logging.WARNING)
                with tempfile.TemporaryDirectory() as folder:
                    saved = hub.save_model(weights, MODEL, Path(folder) / "model", dtype="float32")
                    there = others[other](saved, bias, asked.turns + 1)
                    theirs = statistics.median(there.steps(turn)[1:])
                line = f"; {other} {theirs:.2f} s for {np.mean(there.lengths[1:]):.0f} tokens"
            else:
                for _ in range(asked.turns + 1):
                    turn()
            mine = statistics.median(ours[1:])
            ratio = f": {theirs / mine:.1f}x" if other else ""
            print(f"{name}: {mine:.2f} s a step of {np.mean(lengths[1:]):.0f} tokens{line}{ratio}")


if __name__ == "__main__":
    cli.run(main)
