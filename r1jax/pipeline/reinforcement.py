"""RL from a configuration to a trained run with its report: what experiments.r1_zero does, and the
stages of R1 that are RL."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.analysis.emergence.settled import settled_in
from r1jax.analysis.reflection import has_thoughts
from r1jax.analysis.report import write_report
from r1jax.checks import check
from r1jax.config import RunConfig
from r1jax.data.tasks import Task
from r1jax.metrics import read_jsonl, summary
from r1jax.model.params import Weights
from r1jax.models import first_weights, size, with_lora, with_vocab
from r1jax.pipeline import supervised
from r1jax.presets import tiny_base
from r1jax.rl import loop
from r1jax.run import Run


def base_weights(cfg: RunConfig, mesh: Mesh) -> Weights:
    """Those that cfg.base names."""
    recipe = tiny_base(cfg.corpus, cfg.model, cfg.heldout_share)
    return first_weights(cfg.base, cfg.model, mesh, cfg.seed, recipe, Path(cfg.out) / "base")


def reinforce(
    cfg: RunConfig,
    task: Task,
    base: Callable[[Mesh], Weights] | None = None,
    say: Callable[[str], None] = print,
    functions: loop.Functions | None = None,
    preset: str = "",
    name: str = "RL",
    mesh: Mesh | None = None,
    computes: loop.Computes = loop.ALONE,
) -> Run:
    """A whole run from cfg.base, or from `base(mesh)`, with its report and the few lines of its
    end. functions: pay beside what cfg names. preset: that cfg was made from, for run.json. name:
    what its first line calls it. mesh: in place of the one that cfg names; computes: see
    `loop.train`. Raises as `loop.train`, and Stopped if a signal ended it.
    """
    started = time.perf_counter()
    check(
        has_thoughts(cfg.task) or not cfg.stop_when_settled,
        f"--stop-when-settled: replies of the task {cfg.task} hold no thoughts to read",
    )
    cfg = with_lora(with_vocab(cfg, task.tokenizer.vocab_size))
    mesh = mesh or sharding.make_mesh(cfg.mesh)
    say(
        f"{name}: {size(cfg.model)}; {cfg.data or cfg.task} ({len(task.train):,} problems, "
        f"{len(task.heldout):,} held out), "
        f"mesh {cfg.mesh}, {cfg.steps} steps of {cfg.rl.questions} x {cfg.rl.group} replies"
    )

    def begins() -> Weights:
        return base(mesh) if base else base_weights(cfg, mesh)

    settled = settled_in(Path(cfg.out), cfg.steps) if cfg.stop_when_settled else None
    if cfg.learn_from:
        check(not functions, "functions pay nothing where a run learns from another's replies")
        run = supervised.train(cfg, task, mesh, begins, say, preset)
    else:
        run = loop.train(cfg, task, mesh, begins, say, functions, preset, settled, computes)
    try:
        if jax.process_index() == 0 and run.at > 0:
            for line in closing(cfg, run):
                say(line)
            say(f"time                {time.perf_counter() - started:.0f} s")
    except KeyboardInterrupt:  # once more, while the report of a stopped run is drawn
        run.check_ended()
        raise
    run.check_ended()
    return run


def closing(cfg: RunConfig, run: Run) -> list[str]:
    """Writes the report; the lines that say what became of a run."""
    report = write_report(run.out)
    rows = read_jsonl(run.out / "metrics.jsonl"), read_jsonl(run.out / "samples.jsonl")
    lines = summary(*rows, report, has_thoughts(cfg.task))
    lines += [f"settled             {run.settled}"] if run.settled else []
    return lines + [f"changed             {line}" for line in run.changed]
