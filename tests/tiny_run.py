"""A complete run so small that it takes seconds, for the integration tests.

Its base is made by hand, so that replies and their rewards differ: a table of which word follows
which, in a model that is otherwise noise. Replies are mostly

    right|check [wait check ...] </think> <answer> 1 + 1 - 1 ... </answer> <eos>

and now and then solve their problem.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import small

from experiments import r1_zero
from r1jax.base import save_weights
from r1jax.checkpoint import Checkpoints
from r1jax.config import RLConfig, RunConfig, SamplingConfig
from r1jax.config_file import load_config, save_config
from r1jax.data.countdown import VOCABULARY
from r1jax.metrics import read_jsonl
from r1jax.model.params import Weights
from r1jax.rl.loop import abstract_policy
from r1jax.sharding import make_mesh

CONFIG = RunConfig(
    model=small.config(vocab=len(VOCABULARY), expert_ffn=11, context=32),
    steps=3,
    evaluate_dense=0,
    evaluate_every=2,
    evaluate_samples=8,
    final_samples=16,
    checkpoint_every=1,
    log_replies=True,
    heldout_share=0.3,
    sampling=SamplingConfig(max_prompt=12, max_tokens=16, slots=16, refill=8),
    rl=RLConfig(questions=4, group=4, minibatches=2, reference_every=3),
)
FOLLOWS = {
    "<think>": ["check", "right"],
    "check": ["</think>", "wait"],
    "wait": ["check"],
    "right": ["</think>"],
    "</think>": ["<answer>"],
    "<answer>": ["1", "2"],
    "1": ["+", "-", "</answer>"],
    "2": ["+", "-"],
    "+": ["1"],
    "-": ["1"],
    "</answer>": ["<eos>"],
}
PROBLEMS = [((1, 1, 1, 1), (0, 2, 4)), ((2, 1, 1, 1), (1, 3, 5))]  # numbers, targets


def weights(cfg=CONFIG.model) -> Weights:
    """Each word of FOLLOWS has a direction of its own, which asks for what follows it."""
    base = small.weights(cfg)
    embed_VD, head_DV = (0.1 * np.array(a) for a in (base.params.embed_VD, base.params.head_DV))
    for axis, (word, followers) in enumerate(FOLLOWS.items()):
        embed_VD[VOCABULARY.index(word), axis] = 3
        for follower in followers:
            head_DV[axis, VOCABULARY.index(follower)] = 2.2
    embeddings = {"embed_VD": jnp.asarray(embed_VD), "head_DV": jnp.asarray(head_DV)}
    return base.replace(params=base.params.replace(**embeddings))


def inputs(folder: Path, **changes) -> Path:
    """Writes the base, the problems and a config.json that names them; returns the latter."""
    base, data, config = (
        folder / name for name in ("base.safetensors", "problems.jsonl", "config.json")
    )
    cfg = dataclasses.replace(CONFIG, base=str(base), data=str(data), **changes)
    save_weights(weights(cfg.model), base, {})
    rows = [{"numbers": numbers, "target": t} for numbers, targets in PROBLEMS for t in targets]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_config(cfg, config)
    return config


def run(config: Path, out: Path, *flags: str) -> Path:
    r1_zero.main([f"--config={config}", f"--out={out}", *flags])
    return out


def metrics(out: Path) -> list[dict]:
    """The lines of metrics.jsonl, without what depends on the clock."""
    rows = read_jsonl(out / "metrics.jsonl")
    return [
        {k: v for k, v in row.items() if not (k.startswith("time/") or k.endswith("_second"))}
        for row in rows
    ]


def last_checkpoint(out: Path):
    """(step, position in the data, every array of the state), as NumPy."""
    cfg = load_config(RunConfig, out / "config.json")
    with Checkpoints(out / "checkpoints") as checkpoints:
        abstract = abstract_policy(cfg, make_mesh("1"))
        step, state, note = checkpoints.restore(abstract, cfg.model)
    return step, note["position"], jax.device_get(state)


def environment(cache: Path) -> dict[str, str]:
    """For subprocesses: what one has compiled the next one reads from `cache`."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def assert_same_metrics(out: Path, other: Path) -> None:
    """To rounding, as on another mesh."""
    for got, want in zip(metrics(out), metrics(other), strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            if value is None:
                assert got[name] is None
            else:
                np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def killed_then_finished(module: str, flags: Sequence[str], out: Path, cache: Path) -> None:
    """Runs a command that writes out/replies.jsonl, kills it once some are there, and runs it
    again: all whole lines are kept."""
    replies = out / "replies.jsonl"
    command = [sys.executable, "-m", module, f"--out={out}", "--slots=8", *flags]
    process = subprocess.Popen(command, env=environment(cache), stdout=subprocess.DEVNULL)
    while not replies.exists() or replies.stat().st_size < 500:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    whole, newline, _ = replies.read_bytes().rpartition(b"\n")
    done = subprocess.run(
        command, env=environment(cache), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert replies.read_bytes().startswith(whole + newline)
