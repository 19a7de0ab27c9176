"""When does reflection appear, and why? A grid of runs with its controls, and the verdict.

    python -m experiments.ablate_reflection                          # the default grid
    python -m experiments.ablate_reflection --grid=my.toml --seeds=3 --out=runs/mine
    python -m experiments.ablate_reflection --resume                 # go on where it was killed
    python -m experiments.ablate_reflection --shard=2/8              # of a cluster's job array
    python -m experiments.ablate_reflection --workers=1
    python -m experiments.ablate_reflection --workers=compiled       # members as one program

A grid is a TOML file of configurations that differ from a reference in any field of a run, by its
flag's name; `r1jax/sweeps/grid.py` has the form, `experiments/default_grid.toml` is the default.
Its controls are the reference with one thing taken away, and belong to every grid.

Every member is a run's folder in --out (runs/ablation), as `experiments.r1_zero` makes them, with
a log.txt; the bases that they begin from are made once and kept in the user's cache. On a CPU there
is a worker process for each core, of one thread; on an accelerator members run one after another,
or with --workers=compiled all those that share shapes as one compiled program (:8, at most eight).
--seeds=N takes the place of the grid's own. A member that fails is named, and the others finish.
At the end `experiments.emergence` judges what is finished.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from experiments import cli, emergence
from experiments.errors import one_line
from r1jax.analysis.emergence.logs import find_runs
from r1jax.base import BaseConfig, made
from r1jax.checks import InputError, check
from r1jax.config import RunConfig
from r1jax.config_file import from_values
from r1jax.data.tasks import make_task
from r1jax.lock import locked
from r1jax.pipeline.reinforcement import reinforce
from r1jax.run import Stopped
from r1jax.sharding import make_mesh
from r1jax.sweeps.grid import read_grid
from r1jax.sweeps.jobs import Job, jobs_of, together
from r1jax.sweeps.plan import Member, check_folders, is_finished, parse_shard, plan, shard_of
from r1jax.sweeps.population import program_of, run_members
from r1jax.sweeps.schedule import run_jobs, worker_environment
from r1jax.sweeps.table import Board
from r1jax.sweeps.worker import LOG, Answer, answer_of, locked_in_turn, serve, write_note

DEFAULT = Path(__file__).parent / "default_grid.toml"
WORKER = [sys.executable, "-m", "experiments.ablate_reflection", "--no-distributed", "--worker"]
# Seconds that a worker waits for another process: one that still saves what a killed sweep did,
# and one of another shard that makes the same base.
SAVING, MAKING = 120.0, 3600.0


def do(order: dict[str, Any]) -> dict[str, Answer] | None:
    """A job of a worker: a base, a member, or members that are one program, each with an answer."""
    if "members" in order:
        return _do_together(order["members"])
    folder = Path(order["folder"])
    if "base" in order:
        with locked_in_turn(folder.parent / "making" / folder.name, MAKING):
            made(from_values(BaseConfig, order["base"]), make_mesh("1"), folder)
            shutil.rmtree(folder, ignore_errors=True)  # another made it: this one's log is left
        return None
    cfg = _begun(order)
    reinforce(cfg, make_task(cfg))
    return None


def _do_together(orders: list[dict[str, Any]]) -> dict[str, Answer]:
    cfgs = [_begun(order) for order in orders]

    def say(folder: str, line: str) -> None:
        with (Path(folder) / LOG).open("a") as file:
            file.write(f"{line}\n")

    found = run_members(cfgs, say)
    return {cfg.out: answer_of(e, one_line) for cfg, e in zip(cfgs, found, strict=True)}


def _begun(order: dict[str, Any]) -> RunConfig:
    """Of a member, once nothing else writes to its folder."""
    folder = Path(order["folder"])
    with locked_in_turn(folder, SAVING):
        pass
    write_note(folder, order["note"])
    return from_values(RunConfig, order["member"])


def main(args: list[str]) -> None:
    if args == ["--worker"]:
        return serve(do, one_line)
    args = list(args)
    name, out = (
        cli.take(args, "--grid") or "default",
        Path(cli.take(args, "--out") or "runs/ablation"),
    )
    seeds, shard = cli.take(args, "--seeds"), cli.take(args, "--shard") or "1/1"
    told = cli.take(args, "--workers") or "auto"
    workers, most = _workers(told)
    resume = "--resume" in args
    cli.reject([arg for arg in args if arg != "--resume"], __doc__ or "")
    check(seeds is None or seeds.isdigit(), f"--seeds={seeds}: expected a number of seeds")

    grid = read_grid(
        DEFAULT if name == "default" else Path(name), None if seeds is None else int(seeds)
    )
    every = plan(grid, out)
    members = shard_of(every, *parse_shard(shard))
    check(bool(members), f"--shard={shard}: the grid has no more than {len(every)} members")
    check_folders(members, resume)
    with locked(out / "shards" / shard.replace("/", "_of_")):
        jobs = jobs_of(members)
        if most != 1:
            together(jobs, {m.folder: program_of(m.cfg) for m in members}, most)
        at_once = f"{workers} at a time" if most == 1 else "those of one program together"
        print(
            f"{len(grid.configurations)} configurations, {len(grid.seeds)} seeds: {len(members)} "
            f"members{'' if shard == '1/1' else f' of {len(every)}'} in {out}, {at_once}"
        )
        with Board(jobs) as board:
            stopped = run_jobs(jobs, WORKER, workers, worker_environment(workers > 1), board.show)
    if stopped is not None:
        done = sum(is_finished(member) for member in members)
        rest = "".join(f" --{k}={v}" for k, v in _given(name, seeds, shard, told).items())
        raise Stopped(
            f"stopped by {stopped.name}; {done} of {len(members)} members are finished",
            stopped,
            f"python -m experiments.ablate_reflection --resume --out={out}{rest}",
        )
    _judge(every, members, out)
    _check_failures(jobs)


def _workers(told: str) -> tuple[int, int | None]:
    """(processes, members of a program; None: as many as share one). auto: as many processes as
    there are cores, or one for an accelerator."""
    cpu = cli.computes_on_cpu()
    if told == "auto":
        return (len(os.sched_getaffinity(0)) if cpu else 1), 1
    compiled, _, most = told.partition(":")
    if compiled == "compiled":
        good = not most or (most.isdigit() and int(most) > 1)
        check(good, f"--workers={told}: expected compiled:N, N at least 2")
        return 1, int(most) if most else None
    check(
        told.isdigit() and int(told) > 0, f"--workers={told}: expected auto, compiled or how many"
    )
    check(
        cpu or told == "1",
        f"--workers={told}: runs on an accelerator go one after another, or as --workers=compiled",
    )
    return int(told), 1


def _given(name: str, seeds: str | None, shard: str, workers: str) -> dict[str, str]:
    workers = workers if workers.startswith("compiled") else ""
    found = {"grid": name, "seeds": seeds or "", "shard": shard, "workers": workers}
    rest = {"grid": "default", "seeds": "", "shard": "1/1", "workers": ""}
    return {k: v for k, v in found.items() if v != rest[k]}


def _judge(every: list[Member], members: list[Member], out: Path) -> None:
    """The verdict on what is finished, once no other shard has anything to do."""
    finished = [member.folder for member in every if is_finished(member)]
    mine = {member.name for member in members}
    elsewhere = [m for m in every if m.name not in mine and not is_finished(m)]
    if elsewhere:
        print(
            f"{len(elsewhere)} members of other shards are not finished; the verdict is then: "
            f"python -m experiments.emergence {out}"
        )
    elif any(is_finished(m) and m.configuration.control is None for m in every):
        whole = find_runs(out) == sorted(finished)
        paths = [out] if whole else finished
        emergence.main([*map(str, paths), f"--out={out / 'emergence'}"])


def _check_failures(jobs: list[Job]) -> None:
    failed = [job for job in jobs if job.state != "finished"]
    if failed:
        told = "; ".join(f"{job.name}: {job.error or job.state}" for job in failed[:8])
        more = f"; and {len(failed) - 8} more" if len(failed) > 8 else ""
        raise InputError(
            f"{len(failed)} not finished: {told}{more}. Each has a {LOG}; --resume tries again"
        )


if __name__ == "__main__":
    cli.run(main, trains=True)
