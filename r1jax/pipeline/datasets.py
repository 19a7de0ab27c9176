"""What the tuning stages learn from: rows with where they are from, and what was dropped, and why.

    STAGE/drawn/         what a model replied, kept.jsonl and dropped.jsonl (`rejection.py`)
    STAGE/rows.jsonl     what is learnt
    STAGE/dropped.jsonl  what is not, with the reason

A file that is there is taken as it is. The first process of a pod writes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from r1jax import processes
from r1jax.checks import check
from r1jax.data.problems import Problem
from r1jax.data.rows import read_rows
from r1jax.data.tasks import read_files
from r1jax.evaluation.questions import evenly
from r1jax.metrics import read_jsonl
from r1jax.pipeline import readable, rows, runs
from r1jax.pipeline.place import At
from r1jax.pipeline.plan import ColdStart, Distillation, RejectionSFT
from r1jax.pipeline.rejection import DROPPED, KEPT
from r1jax.pipeline.rows import Row

ROWS = "rows.jsonl"
Made = tuple[Sequence[Row], Sequence[Row]]  # rows, and those dropped


def cold_start(at: At) -> Path:
    """Zero's replies that are right, in one language and checked, rewritten where a rule can."""
    cfg, folder = at.cfg.cold_start, at.out / "cold_start"
    if cfg.data:
        return Path(cfg.data)

    def made() -> Made:
        by_id = {problem.id: problem for problem in _problems(at, at.cfg.zero.data)}
        kept, dropped = _drawn(folder)
        good: list[Row] = []
        bad = list(dropped)
        for row in kept:
            if by_id[row["id"]].kind != "countdown":
                good.append(row)
            elif readable.checks(row["completion"]):
                text, changed = readable.rewritten(by_id[row["id"]], row["completion"])
                own = {"drawn": row["completion"], "changed": changed}
                good.append(row | {"completion": text} | own)
            else:
                bad.append(row | {"reason": "unchecked"})
        return good, bad

    return _written(at, cfg, "zero", at.cfg.zero.data, folder, made)


def rejection_sft(at: At) -> Path:
    """Dev2's replies that are right and readable, and rows of other kinds, by the ratio."""
    cfg, folder = at.cfg.rejection_sft, at.out / "rejection_sft"

    def made() -> Made:
        kept, dropped = (given(cfg.data), []) if cfg.data else _drawn(folder)
        others = general(at)
        most = round(cfg.ratio * len(others)) if cfg.ratio else len(kept)
        taken = set(evenly(len(kept), most))
        surplus = [row | {"reason": "ratio"} for i, row in enumerate(kept) if i not in taken]
        at.say(f"{len(taken):,} reasoning rows and {len(others):,} of other kinds")
        return [*(kept[i] for i in sorted(taken)), *others], [*dropped, *surplus]

    return _written(at, cfg, "reasoning_rl", at.cfg.reasoning_rl.data, folder, made)


def distill(at: At) -> Path:
    """R1's replies that are right and readable, and the rows of other kinds of stage 3."""
    cfg, folder = at.cfg.distill, at.out / "distill"

    def made() -> Made:
        kept, dropped = (given(cfg.data), []) if cfg.data else _drawn(folder)
        return [*kept, *general(at)], dropped

    return _written(at, cfg, "all_scenarios", at.cfg.reasoning_rl.data, folder, made)


def general(at: At) -> list[Row]:
    """Rows of other kinds than reasoning."""
    return given(at.cfg.rejection_sft.general or at.data("general_sft.jsonl"))


def given(path: str) -> list[Row]:
    """Raises InputError, "file:line: ...", for what is not a JSON object."""
    return read_rows(path, lambda row, place: row)


def _problems(at: At, data: str) -> list[Problem]:
    return read_files(data or at.data("reasoning.jsonl"), "problems")


def _drawn(folder: Path) -> tuple[list[Row], list[Row]]:
    return read_jsonl(folder / "drawn" / KEPT), read_jsonl(folder / "drawn" / DROPPED)


def _written(
    at: At,
    cfg: ColdStart | RejectionSFT | Distillation,
    model: str,
    data: str,
    folder: Path,
    made: Callable[[], Made],
) -> Path:
    """rows.jsonl, made after the model was asked the problems of `data` (empty: the world's),
    unless rows are given or there."""
    path = folder / ROWS
    if path.exists():
        return path
    if not cfg.data:
        problems = _problems(at, data)
        some = [problems[i] for i in evenly(len(problems), cfg.limit or len(problems))]
        sample = dataclasses.replace(cfg.sample, seed=at.cfg.seed)
        runs.sample(sample, str(at.out / model), some, folder / "drawn", at.mesh(), at.say)

    def write() -> list:
        if jax.process_index() == 0:
            good, bad = made()
            folder.mkdir(parents=True, exist_ok=True)
            rows.write(folder / DROPPED, bad)
            check(bool(good), f"{folder / DROPPED}: no reply is fit to be learnt from: the reasons")
            rows.write(path, good)
        return []

    processes.gather(write)
    return path
