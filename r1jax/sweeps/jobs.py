"""What a sweep has to do, job by job, and how far each is: bases first, then the members that wait
for them. Pure, but for `look`, which reads the jobs' folders."""

import dataclasses
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from r1jax.base import cached
from r1jax.sweeps.plan import Member, is_finished

State = Literal["waiting", "running", "finished", "failed", "stopped"]


@dataclasses.dataclass
class Job:
    """name: of the member, or of the base. order: what a worker is told, as JSON. needs: the jobs
    that have to be finished first. configuration: "" of a base. step: how far it is, of `steps`.
    latest: its last logged line. before: steps that were there when the sweep began. error: why it
    failed, one line. riders: members that are run in one program with this one, as its order says;
    none of them is begun alone (`rides`)."""

    name: str
    folder: Path
    order: dict[str, Any]
    steps: int
    needs: "tuple[Job, ...]" = ()
    configuration: str = ""
    state: State = "waiting"
    step: int = 0
    before: int = 0
    latest: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""
    riders: "tuple[Job, ...]" = ()
    rides: bool = False


def together(
    jobs: Sequence[Job], programs: Mapping[Path, Hashable], most: int | None = None
) -> None:
    """Members that wait and have the same program (by folder; None: none) become one job, the first
    one's, whose order has those of all; at most `most` of them at a time."""
    groups: dict[Hashable, list[Job]] = {}
    for job in jobs:
        program = programs.get(job.folder)
        if job.state == "waiting" and program is not None:
            groups.setdefault(program, []).append(job)
    for group in groups.values():
        for at in range(0, len(group), most or len(group)):
            first, *others = group[at : at + (most or len(group))]
            if not others:
                continue
            first.riders = tuple(others)
            first.needs = tuple({id(n): n for job in (first, *others) for n in job.needs}.values())
            every = [job.order | {"folder": str(job.folder)} for job in (first, *others)]
            first.order = {"members": every}
            for job in others:
                job.rides = True


def jobs_of(members: Sequence[Member]) -> list[Job]:
    """The members' jobs, and before them those of the bases that are not made yet, one for each."""
    bases: dict[str, Job] = {}
    jobs: dict[Path, Job] = {}
    for member in sorted(members, key=lambda member: member.source is not None):
        done, needs = is_finished(member), []
        if member.recipe is not None and not done and not cached(member.recipe).exists():
            path = cached(member.recipe)
            base = Job(
                f"{path.stem} (of {member.configuration.name}, seed {member.base_seed})",
                path.with_suffix(""),
                {"base": dataclasses.asdict(member.recipe)},
                member.recipe.optim.steps,
            )
            needs.append(bases.setdefault(path.stem, base))
        if member.source is not None and not done:
            needs.append(jobs[member.source])
        jobs[member.folder] = Job(
            member.name,
            member.folder,
            {"member": dataclasses.asdict(member.cfg), "note": member.note()},
            member.cfg.steps,
            tuple(needs),
            member.configuration.name,
            "finished" if done else "waiting",
        )
    every = [*bases.values(), *jobs.values()]
    for job in every:
        look(job)
        job.before = job.step
    return every


def next_job(jobs: Sequence[Job]) -> Job | None:
    """The first that can be begun; None if there is none, or none yet. Those whose base failed, or
    the run that they learn from, fail with it."""
    for job in jobs:
        failed = next((need for need in job.needs if need.state == "failed"), None)
        if job.state == "waiting" and failed is not None:
            what = f"{failed.name}, which it learns from," if failed.configuration else "its base"
            how = "failed" if failed.configuration else "could not be made"
            job.state, job.error = "failed", f"{what} {how}: {failed.error}"
    ready = (
        job
        for job in jobs
        if job.state == "waiting"
        and not job.rides
        and all(need.state == "finished" for need in job.needs)
    )
    return next(ready, None)


def look(job: Job) -> None:
    """Reads how far a job is from the last line of its log."""
    if job.state == "finished" and job.step >= job.steps:
        return
    row = _last_row(job.folder / "metrics.jsonl")
    if row:
        # A line is of the policy before its step; the last, of that after all, has no training.
        job.step = min(int(row["step"]) + 1, job.steps)
        if int(row["step"]) < job.steps:
            job.latest = row
    if job.state == "finished":
        job.step = job.steps


def steps_left(jobs: Sequence[Job]) -> int:
    open_ = [job for job in jobs if job.state in ("waiting", "running")]
    return sum(job.steps - job.step for job in open_ if job.configuration)


def seconds_left(jobs: Sequence[Job], elapsed: float) -> float | None:
    """At the speed of this session, counted in steps of members; None before there is one."""
    done = sum(job.step - job.before for job in jobs if job.configuration)
    return elapsed * steps_left(jobs) / done if done > 0 else None


def _last_row(path: Path, reach: int = 1 << 14) -> dict[str, Any]:
    """The last whole line of a log, without reading the rest; {} where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - reach, 0))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:  # torn, or cut at the front
            continue
        if isinstance(row, dict) and "step" in row:
            return row
    return {}
