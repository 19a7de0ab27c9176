"""What it costs to keep a run safe: checkpoints at their default cadence, and the watchdog, as
ratios within one run, in turns.

    python -m experiments.bench.safety
    python -m experiments.bench.safety --mean=23 --turns=9

Blocks of as many updates of the main job as lie between two of its checkpoints, alone; with one
checkpoint, which is written while the others go on and is whole before the block ends; under the
watchdog. Turns differ by more than is looked for, so what is finer, too: checkpoints with nothing
beside them, the processors' time of the watchdog's own thread, and what the main one spends on it.
The replies of a step are not drawn here, so of a whole run it is less than is said.
"""

import contextlib
import dataclasses
import os
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np

from experiments import cli
from experiments.bench.update import drawn, lengths
from r1jax import sharding
from r1jax.base import EMBEDDED, load_weights
from r1jax.checkpoint import Checkpoints
from r1jax.flight import Watchdog
from r1jax.presets import RUNS
from r1jax.rl.grpo import grpo_step
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import new_policy

KINDS = ("alone", "checkpoint", "watchdog")
SAVES = 9
MARKS = 10_000


@dataclasses.dataclass(frozen=True)
class SafetyConfig:
    mean: float = 90.0  # tokens a reply: as late in the main job; 23: as early
    turns: int = 5


def main(args: list[str]) -> None:
    asked = cli.parse(SafetyConfig, SafetyConfig(), args, __doc__ or "")
    cfg = RUNS["tiny"]()
    mesh = sharding.make_mesh("1")
    state = new_policy(cfg, load_weights(EMBEDDED, cfg.model), mesh)
    length_N = lengths(asked.mean, cfg.sampling.max_tokens, cfg.rl.questions * cfg.rl.group)
    rollout = drawn(cfg, length_N, one_a_row=False)
    wall: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    own: list[float] = []  # of the watchdog's thread
    step = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(Path(folder) / "checkpoints") as checkpoints,
    ):
        # The first update compiles.
        state, metrics = grpo_step(state, rollout, hyper_of(cfg), **static_of(cfg))
        jax.block_until_ready(metrics)
        for turn in range(asked.turns):
            for kind in KINDS[turn % 3 :] + KINDS[: turn % 3]:
                watchdog = Watchdog(Path(folder), cfg.hang_minutes)
                started, used = time.perf_counter(), time.process_time()
                with watchdog if kind == "watchdog" else contextlib.nullcontext():
                    for number in range(cfg.checkpoint_every):
                        step += 1
                        watchdog.begins(step)
                        state, metrics = grpo_step(state, rollout, hyper_of(cfg), **static_of(cfg))
                        jax.block_until_ready(metrics)
                        watchdog.ends(counts=True)
                        if kind == "checkpoint" and number == 0:
                            checkpoints.save(step, state, cfg.model, {"position": step})
                    checkpoints.wait()
                    own += _of_watchdog()
                wall[kind].append(time.perf_counter() - started)
                cores[kind].append(time.process_time() - used)
        marks = _of_marks(Watchdog(Path(folder), cfg.hang_minutes))
        saves = []
        for _ in range(SAVES):
            step += 1
            started, used = time.perf_counter(), time.process_time()
            checkpoints.save(step, state, cfg.model, {"position": step})
            checkpoints.wait()
            saves.append((time.perf_counter() - started, time.process_time() - used))
    print(
        f"{cfg.checkpoint_every} updates on {length_N.size} replies of {length_N.mean():.0f} "
        f"tokens, {asked.turns} turns, load {os.getloadavg()[0]:.1f}"
    )
    for kind in KINDS:
        ratios = [np.array(took[kind]) / np.array(took["alone"]) for took in (wall, cores)]
        said = [f"{np.median(r):.3f}x ({r.min():.3f} to {r.max():.3f})" for r in ratios]
        print(
            f"{kind:10} {np.median(wall[kind]):6.2f} s, {said[0]}; of processors "
            f"{np.median(cores[kind]):6.2f} s, {said[1]}"
        )
    took, used = np.median(saves, axis=0)
    print(
        f"a checkpoint with nothing beside it, of {SAVES}: {took:.2f} s, "
        f"{took / np.median(wall['alone']):.2%} of a block; of processors {used:.2f} s, "
        f"{used / np.median(cores['alone']):.2%}"
    )
    thread, block = np.median(own), np.median(cores["alone"])
    print(
        f"the watchdog: its thread {1e3 * thread:.2f} ms of processors a block, "
        f"{thread / block:.4%}; the main one {1e6 * marks:.1f} us a step, "
        f"{cfg.checkpoint_every * marks / block:.5%}"
    )


def _of_watchdog() -> list[float]:
    """Processors' seconds that its thread has taken, if there is one."""
    clocks = [
        time.pthread_getcpuclockid(thread.ident)
        for thread in threading.enumerate()
        if thread.name == "watchdog" and thread.ident is not None
    ]
    return [time.clock_gettime(clock) for clock in clocks]


def _of_marks(watchdog: Watchdog) -> float:
    """Processors' seconds of a step's beginning and end."""
    used = time.thread_time()
    for step in range(MARKS):
        watchdog.begins(step)
        watchdog.ends(counts=True)
    return (time.thread_time() - used) / MARKS


if __name__ == "__main__":
    cli.run(main)
