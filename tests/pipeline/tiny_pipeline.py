"""All stages so small that they take seconds: a base made by hand, as in tiny_run, of the world's
words. Its replies are mostly

    check right|对 </think> 1 + 1 - 1 ...

so that some are right, some are Chinese, and all are to be rewritten.
"""

import dataclasses
import json
import random
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import small

from experiments import r1
from r1jax import hub
from r1jax.config import OptimConfig, RLConfig, RunConfig, SamplingConfig, SFTConfig
from r1jax.config_file import save_config
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.evaluation.replies import Lines
from r1jax.metrics import read_jsonl
from r1jax.pipeline import made, presets, rows, world
from r1jax.pipeline.plan import Evaluate, R1Config
from r1jax.run import Run

FOLLOWS = {
    "<think>": ["check"],
    "check": ["right", "对"],
    "right": ["</think>"],
    "对": ["</think>"],
    "</think>": ["1"],
    "1": ["+", "-", "<eos>"],
    "+": ["1"],
    "-": ["1"],
}
PROBLEMS = [(2, (2, 0)), (3, (3, 1)), (4, (4, 2, 0))]  # of so many ones, these targets
TOKENS = 16


def model():
    return small.config(vocab=len(world.vocabulary()), context=64, scan_layers=False)


def config() -> R1Config:
    cfg, drawn = presets.tiny(), {"max_tokens": TOKENS, "k": 8, "keep": 4}

    def rl(run: RunConfig, steps: int) -> RunConfig:
        sampling = SamplingConfig(
            run.sampling.temperature, max_prompt=16, max_tokens=TOKENS, slots=16, refill=8
        )
        return dataclasses.replace(
            run, model=model(), steps=steps, evaluate_every=2, evaluate_samples=8,
            final_samples=8, heldout_share=0.3, checkpoint_every=1, sampling=sampling,
            rl=RLConfig(questions=4, group=4, minibatches=2, rows=4),
        )  # fmt: skip

    def sft(run: SFTConfig) -> SFTConfig:
        return dataclasses.replace(run, steps=3, rows=2, length=64, log_every=1, checkpoint_every=1)

    def judge(run):
        return dataclasses.replace(
            run, model=model(), batch=8, heldout_most=16, evaluate_every=4, checkpoint_every=2,
            optim=OptimConfig(lr=1e-3),
        )  # fmt: skip

    last = cfg.all_scenarios
    return dataclasses.replace(
        cfg,
        zero=rl(cfg.zero, 3),
        cold_start=dataclasses.replace(
            cfg.cold_start, sft=sft(cfg.cold_start.sft),
            sample=dataclasses.replace(cfg.cold_start.sample, **drawn),
        ),
        reasoning_rl=rl(cfg.reasoning_rl, 2),
        rejection_sft=dataclasses.replace(
            cfg.rejection_sft, sft=sft(cfg.rejection_sft.sft),
            sample=dataclasses.replace(cfg.rejection_sft.sample, **drawn),
        ),
        all_scenarios=dataclasses.replace(
            last, helpful=judge(last.helpful), safety=judge(last.safety),
            rules=rl(last.rules, 2), preferences=rl(last.preferences, 2),
        ),
        distill=dataclasses.replace(
            cfg.distill, sft=sft(cfg.distill.sft), alone=rl(cfg.distill.alone, 1),
            sample=dataclasses.replace(cfg.distill.sample, **drawn),
        ),
        evaluate=Evaluate(k=2, max_tokens=TOKENS, limit=4),
    )  # fmt: skip


class Killed(Exception):
    pass


def run(plan: Path, out: Path, *flags: str) -> None:
    """Without the figures of each run's report, which take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r1jax.pipeline.reinforcement.write_report", lambda out: None)
        r1.main([f"--config={plan}", f"--out={out}", *flags])


def counted(patch, kill_at=()) -> dict[str, int]:
    """Counts the steps that end and the replies and grades that are kept; dies at some of them,
    before they are. kill_at: (name, number)."""
    calls = {"step": 0, "reply": 0}

    def counting(name, function):
        def wrapped(*args, **kwargs):
            calls[name] += 1
            if (name, calls[name]) in kill_at:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    patch.setattr(Run, "end_step", counting("step", Run.end_step))
    patch.setattr(Lines, "add", counting("reply", Lines.add))
    return calls


def moments(calls: dict[str, int], steps: int, replies: int, seed: int = 0) -> set:
    """So many at random, for `counted`."""
    rng = random.Random(seed)
    at = {("step", n) for n in rng.sample(range(1, calls["step"]), steps)}
    return at | {("reply", n) for n in rng.sample(range(1, calls["reply"]), replies)}


def inputs(folder: Path) -> Path:
    """Writes a config.json; returns it."""
    path = folder / "plan.json"
    save_config(config(), path)
    return path


def begin(out: Path) -> None:
    """What a pipeline in OUT finds: the base made by hand, and small data."""
    data = out / "world"
    made.write_world(data, rows=60, pairs=100)
    problems = [
        {"id": f"{n}-{target}", "kind": "countdown", "source": f"{max(n, 3)}_numbers",
         "prompt": f"use {' '.join('1' * n)} to make {target}", "answer": str(target),
         "numbers": [1] * n}
        for n, targets in PROBLEMS
        for target in targets
    ]  # fmt: skip
    for name in ("reasoning.jsonl", "heldout/reasoning.jsonl"):
        rows.write(data / name, problems)
    tokenizer, words = Tokenizer.words(world.vocabulary()), data / "tokenizer"
    words.mkdir()
    tokenizer.save(words)
    (words / "chat_template.jinja").write_text(templates.OPENED)
    special: dict[str, int | list[int] | None] = {"eos_token_id": tokenizer.eos_id}
    for name in ("model", "student"):
        hub.save_model(weights(), model(), data / name, words, "float32", special_tokens=special)


def weights():
    """Each word of FOLLOWS has a direction of its own, which asks for what follows it."""
    base, words = small.weights(model()), world.vocabulary()
    embed_VD, head_DV = (0.1 * np.array(a) for a in (base.params.embed_VD, base.params.head_DV))
    for axis, (word, followers) in enumerate(FOLLOWS.items()):
        embed_VD[words.index(word), axis] = 3
        for follower in followers:
            head_DV[axis, words.index(follower)] = 2.2
    embeddings = {"embed_VD": jnp.asarray(embed_VD), "head_DV": jnp.asarray(head_DV)}
    return base.replace(params=base.params.replace(**embeddings))


def outcome(out: Path) -> dict:
    """What must be the same however often a pipeline was stopped, and wherever it is."""
    names = ("cold_start/rows.jsonl", "cold_start/dropped.jsonl", "rejection_sft/rows.jsonl")
    found = {name: read_jsonl(out / name) for name in names if (out / name).exists()}
    found["table"] = json.loads((out / "evaluate" / "table.json").read_text())
    for log in sorted(out.glob("*/metrics.jsonl")):
        found[log.parent.name] = [
            {k: v for k, v in row.items() if "time" not in k and not k.endswith("_second")}
            for row in read_jsonl(log)
        ]
    return json.loads(json.dumps(found).replace(str(out), "OUT"))
