"""The control of what RL is said to cause: the same right replies, learnt as next tokens.

A run of RL drew replies, and was paid for those that were right. Here the same base is trained on
those of its replies alone, at the step at which it drew them, by cross-entropy (`r1jax.sft`), with
as many updates a step and the same optimizer: what it then does, imitation of successes is enough
for (Yuan et al., arXiv 2509.25123, have this control; so does rejection sampling). No reply of its
own is drawn but held-out ones, so nothing is explored and no wrong reply is learnt from.

Its folder is one of an RL run (`learn_from` in its config.json): evaluated when that is, with every
held-out reply in replies.jsonl.
"""

import dataclasses
import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.checks import check
from r1jax.config import RunConfig
from r1jax.data.packing import Batch, Document, best_fit, pack
from r1jax.data.tasks import Task
from r1jax.metrics import on_host, read_jsonl
from r1jax.model.params import Weights
from r1jax.rl import loop
from r1jax.run import Run
from r1jax.sft import sft_step

REPORTED = ("loss", "nll", "entropy", "grad_norm", "lr")  # of an update; its mean over a step


@dataclasses.dataclass(frozen=True)
class Lessons:
    """by_step: the right replies of a run's training, as documents. steps: that it made."""

    by_step: dict[int, list[Document]]
    steps: int


def lessons_of(folder: Path, task: Task) -> Lessons:
    """Raises InputError if the folder has no replies.jsonl, or of no step all replies."""
    path = folder / "replies.jsonl"
    check(path.exists(), f"--learn-from={folder}: no replies.jsonl (a run writes it with "
          "--log-replies)")  # fmt: skip
    found: dict[int, list[Document]] = defaultdict(list)
    last = -1
    for row in read_jsonl(path):
        if row["split"] != "train":
            continue
        last = max(last, row["step"])
        if row["outcome"] == "correct" and not row["truncated"]:
            found[row["step"]].append(task.conversation.document(row["prompt"], row["text"]))
    check(bool(found), f"--learn-from={folder}: none of its replies to train on is right")
    return Lessons(dict(found), last + 1)


def batches_of(
    documents: Sequence[Document],
    updates: int,
    length: int,
    least: int,
    pad: int,
    rng: np.random.Generator,
) -> list[Batch]:
    """One for each update: its part of the documents, which `rng` draws, in as many rows as hold
    them, rounded up to `least` times a power of two, so that few programs are compiled. Fewer where
    there are fewer documents."""
    parts = [part for part in np.array_split(rng.permutation(len(documents)), updates) if part.size]
    found = []
    for part in parts:
        mine = [documents[i] for i in part]
        rows = len(best_fit([sum(map(len, d)) for d in mine], length)[0])
        rounded = least * 2 ** math.ceil(math.log2(max(rows / least, 1)))
        found.append(pack(mine, rounded, length, pad)[0])
    return found


def train(
    cfg: RunConfig,
    task: Task,
    mesh: Mesh,
    base: Callable[[], Weights],
    say: Callable[[str], None] = print,
    preset: str = "",
) -> Run:
    """As `rl.loop.train`, on the right replies of the run in cfg.learn_from; for as many steps as
    that has made, at most cfg.steps. Raises InputError as it does, and for a model with modules of
    multi-token prediction, which RL does not train."""
    check(cfg.model.mtp_depth == 0, "--learn-from: not for a model with multi-token prediction")
    task = loop.fitting(cfg, task, mesh, say)
    lessons = lessons_of(Path(cfg.learn_from), task)
    steps = min(cfg.steps, lessons.steps)
    made = loop.begun(cfg, task, mesh, steps, base, say, preset=preset)
    with made as (run, trainer, state, _):
        layout = trainer.layout
        pack_step = functools.partial(
            batches_of,
            updates=layout.updates,
            length=layout.length,
            least=layout.rows,
            pad=task.tokenizer.pad_id,
        )
        for step in run.steps():
            heldout, shown = trainer.evaluate_if_due(state.train.weights, step)
            documents = lessons.by_step.get(step, [])
            rng = np.random.default_rng([cfg.seed, loop.SHUFFLING, step])
            started, reported = time.perf_counter(), []
            for batch in pack_step(documents, rng=rng):
                where = jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)
                batch = sharding.place(batch, where)
                trained, update = sft_step(state.train, batch, model=cfg.model, cfg=cfg.optim)
                state = state.replace(train=trained)
                reported.append(on_host(update))
            seconds = time.perf_counter() - started
            metrics = {name: _mean(reported, name) for name in REPORTED}
            metrics |= {"replies/right": float(len(documents)), "time/update": seconds}
            rows, replies = loop.rows_of(task, step, shown), loop.replies_of(cfg, task, step, shown)
            run.log(step, metrics | heldout, rows, replies=replies)
            run.end_step(loop.to_save(state), metrics, note=lambda: {"position": 0})
        if run.stopped is None:
            loop.evaluate_end(run, trainer, state.train.weights)
    return run


def _mean(reported: Sequence[dict[str, float]], name: str) -> float | None:
    return float(np.mean([update[name] for update in reported])) if reported else None
