"""A sweep as it goes: a live table on a terminal, elsewhere a line for each job that ends."""

import datetime
import time
from collections.abc import Sequence

import rich.console
import rich.live
import rich.table
import rich.text

from r1jax.sweeps.jobs import Job, seconds_left, steps_left

MARKS = {"waiting": "·", "finished": "✓", "failed": "✗", "stopped": "‖"}
STYLES = {"finished": "green", "failed": "red", "running": "bold"}


class Board:
    """A context manager; `show` after every change of the jobs, with the job that changed."""

    def __init__(self, jobs: Sequence[Job], console: rich.console.Console | None = None):
        self._jobs, self._console = jobs, console or rich.console.Console()
        self._started = time.monotonic()
        self._live = rich.live.Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._console.is_terminal:
            self.show(None)
            self._live.stop()

    def show(self, job: Job | None) -> None:
        if self._console.is_terminal:
            self._live.update(table(self._jobs, self._elapsed()), refresh=True)
        elif job is not None:
            self._console.print(line(job, self._jobs, self._elapsed()), soft_wrap=True,
                                markup=False, highlight=False)  # fmt: skip

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def line(job: Job, jobs: Sequence[Job], elapsed: float) -> str:
    """What became of a job, and of how many."""
    if job.state == "running":
        at = f" at step {job.step}" if job.step else ""
        return f"begins{at}: {job.name}"
    why = f": {job.error}" if job.error else ""
    return f"{job.state}: {job.name}{why} ({summary(jobs, elapsed)})"


def summary(jobs: Sequence[Job], elapsed: float) -> str:
    """ "3 of 65 members, 1 failed, 0:12:00 left"."""
    members = [job for job in jobs if job.configuration]
    count = {state: sum(job.state == state for job in members) for state in STYLES}
    parts = [f"{count['finished']} of {len(members)} members"]
    parts += [f"{count['failed']} failed"] if count["failed"] else []
    bases = [job for job in jobs if not job.configuration and job.state != "finished"]
    parts += [f"{len(bases)} base{'s' * (len(bases) > 1)} to make"] if bases else []
    left = seconds_left(jobs, elapsed)
    if left is not None and steps_left(jobs):
        parts.append(f"{datetime.timedelta(seconds=round(left))} left")
    return ", ".join(parts)


def table(jobs: Sequence[Job], elapsed: float) -> rich.console.Group:
    """A row a configuration: each of its members, and their last values on average."""
    shown = rich.table.Table(box=None, pad_edge=False, header_style="dim")
    shown.add_column("configuration", no_wrap=True, overflow="ellipsis", max_width=28)
    shown.add_column("members")
    for name in ("reflects", "right", "tokens"):
        shown.add_column(name, justify="right")
    names = dict.fromkeys(job.configuration for job in jobs if job.configuration)
    for name in names:
        mine = [job for job in jobs if job.configuration == name]
        marks = rich.text.Text(" ").join(_mark(job) for job in mine)
        shown.add_row(
            rich.text.Text(name),
            marks,
            _mean(mine, "reflection/fraction", "{:.0%}"),
            _mean(mine, "reward/accuracy", "{:.0%}"),
            _mean(mine, "length/mean", "{:.0f}"),
        )
    making = [job for job in jobs if not job.configuration and job.state == "running"]
    below = [f"base {job.name} {_share(job)}" for job in making]
    failed = [f"failed: {job.name}: {job.error}" for job in jobs if job.state == "failed"]
    lines = [rich.text.Text(text) for text in (*below, *failed, summary(jobs, elapsed))]
    return rich.console.Group(shown, *lines)


def _mark(job: Job) -> rich.text.Text:
    text = _share(job) if job.state == "running" else MARKS[job.state]
    return rich.text.Text(text, style=STYLES.get(job.state, "dim"))


def _share(job: Job) -> str:
    return f"{job.step / job.steps:.0%}"


def _mean(jobs: Sequence[Job], name: str, form: str) -> str:
    """Of the last values that are known."""
    values = [v for job in jobs if (v := job.latest.get(name)) is not None]
    return form.format(sum(values) / len(values)) if values else ""
