"""The stages in a row: which are done, which are next, and where one goes on."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from r1jax import processes
from r1jax.checks import InputError, check
from r1jax.config_file import fields_of, load_config, save_config
from r1jax.files import write_whole
from r1jax.lock import locked
from r1jax.pipeline import stages
from r1jax.pipeline.evaluate import sets
from r1jax.pipeline.page import write_page
from r1jax.pipeline.place import At
from r1jax.pipeline.plan import R1Config
from r1jax.pipeline.stages import Stage
from r1jax.run import Stopped, program

DONE = "stage.json"


def run(cfg: R1Config, first: str = "", last: str = "", say=print) -> list[str]:
    """Runs the stages from `first` (empty: the first that is not done) to `last` (empty: all);
    returns the names of those that it ran.

    A stage that is done is not done again, unless it is `first`, or one behind it, or behind one
    that is run now: what stood there is moved to OUT/before. One that was stopped goes on. Raises
    InputError for a folder that holds a pipeline where cfg.resume is no, for what a stage needs and
    is not there, and for another configuration of a stage that is done; Stopped if a signal ended a
    stage.
    """
    out, every = Path(cfg.out), [stage.name for stage in stages.STAGES]
    for flag, name in (("from", first), ("until", last)):
        check(not name or name in every, f"--{flag}={name}: expected one of {', '.join(every)}")
    end = every.index(last or every[-1])
    check(every.index(first or every[0]) <= end, f"--from={first} comes after --until={last}")
    # A start that was refused, which leaves its configuration alone, has begun nothing.
    holds = (out / "config.json").exists() and any((out / name).exists() for name in every)
    check(
        not holds or cfg.resume != "no" or bool(first),
        f"{out} already holds a pipeline: --resume goes on with it, --from=STAGE begins there",
    )
    check(holds or cfg.resume != "yes", f"--resume: {out} holds no pipeline to go on with")
    _check_given(cfg)
    with contextlib.ExitStack() as held:

        def begin() -> list:
            if jax.process_index() == 0:
                held.enter_context(locked(out))
                if first:
                    _set_aside(out, every[every.index(first) :], say)
                if holds:
                    _check_done(out, cfg, goes_on=not first)
                save_config(dataclasses.replace(cfg, resume="no"), out / "config.json")
            return []

        processes.gather(begin)
        at = At(cfg, say)
        stages.prepare(at)
        ran: list[str] = []
        for stage in stages.STAGES[every.index(first) if first else 0 : end + 1]:
            if ran and jax.process_index() == 0:  # what it is made from is not what it was
                _set_aside(out, [stage.name] if (out / stage.name / DONE).exists() else [], say)
            processes.gather(list)  # so that all see the same
            if _run_stage(at, stage):
                ran.append(stage.name)
        if jax.process_index() == 0:
            say(f"the stages: {write_page(out)}")
        return ran


def _check_given(cfg: R1Config) -> None:
    """Files of the user's own, before hours pass until the stage that reads them."""
    given = {
        "heldout": cfg.heldout,
        "cold-start.data": cfg.cold_start.data,
        "rejection-sft.data": cfg.rejection_sft.data,
        "rejection-sft.general": cfg.rejection_sft.general,
        "distill.data": cfg.distill.data,
    }
    for flag, path in given.items():
        check(not path or Path(path).exists(), f"--{flag}={path}: no such file")
    if cfg.heldout:
        sets(Path(cfg.heldout), cfg.evaluate)  # as the last stage reads them


def _run_stage(at: At, stage: Stage) -> bool:
    """Whether there was anything to do."""
    folder = at.out / stage.name
    if (folder / DONE).exists():
        at.say(f"{stage.name}: done")
        return False
    if any(folder.glob("*.safetensors")):
        at.say(f"{stage.name}: given, a model of your own")
        return False
    for name in stage.needs:
        there = (at.out / name).exists()
        check(there, f"stage {stage.name} needs {at.out / name}, and it is not there")
    at.say(f"\n{stage.name}: {stage.about}")
    started = time.perf_counter()
    try:
        stage.run(at)
    except InputError as error:
        raise InputError(f"stage {stage.name}: {error}") from error
    except Stopped as stopped:
        way_on = f"{program()} --resume --out={at.out}"
        where = f"stage {stage.name}: {stopped.where}"
        raise Stopped(where, stopped.by, way_on, stopped.at_once) from None
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        told: dict[str, Any] = {"stage": stage.name, "about": stage.about, "gives": stage.gives}
        told["seconds"] = round(time.perf_counter() - started, 1)
        write_whole(folder / DONE, json.dumps(told, indent=2) + "\n")
    return True


def _check_done(out: Path, cfg: R1Config, goes_on: bool) -> None:
    """A stage that is done is as it was told to be then, or is made anew. What no stage is told
    alone, as the seed, may be another from a stage on."""
    before, now = fields_of(load_config(R1Config, out / "config.json")), fields_of(cfg)
    # What is no stage's own; more devices make no other model.
    shared = {"ablations": ("reasoning_rl", "all_scenarios"), "heldout": ("evaluate",)}
    every = tuple(stage.name for stage in stages.STAGES)
    for name, value in now.items():
        first = name.partition(".")[0]
        asked = (first,) if first in every else shared.get(first, every if goes_on else ())
        done = [stage for stage in asked if (out / stage / DONE).exists()]
        if done and value != before.get(name, value) and name not in ("out", "resume", "mesh"):
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{flag}={value}: stage {done[0]} is done, with {before[name]}: "
                f"--from={done[0]} {flag}={value} makes it anew, and those behind it"
            )


def _set_aside(out: Path, names: Sequence[str], say) -> None:
    """Moves what these stages have left to a folder of its own: nothing is lost."""
    there = [name for name in names if (out / name).exists()]
    if not there:
        return
    before = out / "before"
    number = 1 + max((int(p.name) for p in before.glob("[0-9]*")), default=0)
    (before / str(number)).mkdir(parents=True)
    for name in there:
        (out / name).rename(before / str(number) / name)
    say(f"{', '.join(there)}: what was there is now in {before / str(number)}")
