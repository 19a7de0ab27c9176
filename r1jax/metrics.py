"""What a run leaves to read: metrics.jsonl, samples.jsonl, TensorBoard events and one live line;
replies.jsonl where every reply is wanted.

Every line of a .jsonl file is one JSON object with a "step". A run killed at any moment leaves
at most one torn last line, which readers drop; resuming drops every line of a later step too,
so a file never holds a step twice.
"""

import datetime
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import rich.console
import rich.progress
import rich.table

from r1jax.checks import InputError
from r1jax.files import replaced
from r1jax.trackers import open_trackers

Row = dict[str, Any]


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a .jsonl file, without its last line if a kill tore it.

    Raises InputError with the line's number if any other line is not JSON.
    """
    lines = Path(path).read_text().split("\n")
    while lines and not lines[-1]:
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f"{path}:{number}: not a line of JSON: {error}") from error
    return rows


def _truncate(path: Path, last_step: int) -> None:
    """Drops the rows of `path` after last_step."""
    rows = [row for row in read_jsonl(path) if row["step"] <= last_step] if path.exists() else []
    with replaced(path) as partial, partial.open("w") as file:
        _append(file, rows)


def _append(file: IO[str], rows: Sequence[Row]) -> None:
    # ASCII, the default, so that a torn line is still text; one write a call, then out of our
    # hands: what the process has flushed survives its being killed.
    file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    file.flush()


def _plain(name: str, value: Any) -> float | None:
    """`value` (a scalar of any library, or None) as JSON can hold it."""
    if value is None:
        return None
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"metric {name} is {value}; a value that does not exist is None")
    return value


def on_host(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a step reports, in one transfer: numbers, and arrays where it is no scalar."""
    found = jax.device_get(dict(metrics))
    return {n: v if isinstance(v, dict) else float(v) for n, v in found.items()}


class MetricsLog:
    """Appends each step's metrics and samples to the run's files in `out`.

    `resume_from` is the last step to keep, that of the checkpoint resumed from; -1 starts anew.
    Without it, `out` must not hold a logged step yet (InputError): appending would mix two runs.
    log: names of trackers that get the scalars too (`r1jax/trackers.py`); config: told to them.
    """

    def __init__(
        self,
        out: Path,
        resume_from: int | None = None,
        log: str = "tensorboard",
        config: Mapping[str, Any] | None = None,
    ):
        out = Path(out)
        paths = tuple(out / f"{name}.jsonl" for name in ("metrics", "samples", "replies"))
        if resume_from is None and any(path.exists() and path.stat().st_size for path in paths):
            raise InputError(f"{out} already holds a run: resume it or choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        last_step = -1 if resume_from is None else resume_from
        *always, self._replies_path = paths
        for path in (*always, *(p for p in paths[2:] if p.exists())):
            _truncate(path, last_step)
        self._metrics, self._samples = (path.open("a") for path in always)
        self._replies: IO[str] | None = None  # there is no file of none
        self._trackers = open_trackers(log, out, last_step + 1, config or {})

    def log(
        self,
        step: int,
        metrics: Mapping[str, Any],
        samples: Sequence[Row] = (),
        replies: Sequence[Row] = (),
    ) -> None:
        """Writes one step: scalars by name (None where a value does not exist), a few replies to
        be shown, and all of them.

        Raises ValueError, and writes nothing, if a metric is NaN or infinite: that is a bug to
        be seen where it happens, not a hole in a curve.
        """
        scalars = {name: _plain(name, value) for name, value in metrics.items()}
        _append(self._samples, samples)
        if replies:
            self._replies = self._replies or self._replies_path.open("a")
            _append(self._replies, replies)
        _append(self._metrics, [{"step": step, **scalars}])
        given = {name: value for name, value in scalars.items() if value is not None}
        for tracker in self._trackers:
            tracker.log(step, given)

    def close(self) -> None:
        for file in (self._metrics, self._samples, self._replies):
            if file is not None:
                file.close()
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class Progress:
    """One live line on a terminal; elsewhere, a plain line at about ten evenly spaced steps.

    Use as a context manager and call `update` after each step, up to `total`. The line fits 80
    columns.
    """

    def __init__(self, total: int, console: rich.console.Console | None = None):
        self._total = total
        self._console = console or rich.console.Console()
        self._live = rich.progress.Progress(
            rich.progress.BarColumn(bar_width=8),
            rich.progress.TextColumn(
                "{task.description}",
                markup=False,
                table_column=rich.table.Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._live.add_task(f"0/{total}", total=total)
        self._first: tuple[int, float] | None = None
        self._tenth = -1
        self._held_out: float | None = None

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows `metrics`; a held-out accuracy stays in view until the next one."""
        accuracy = metrics.get("heldout/accuracy")
        self._held_out = self._held_out if accuracy is None else accuracy
        line = self._line(step, metrics)
        self._live.update(self._task, completed=step, description=line)
        tenth = step * 10 // self._total
        if not self._console.is_terminal and tenth > self._tenth:
            self._console.print(f"step {line}", soft_wrap=True, markup=False, highlight=False)
        self._tenth = tenth

    def _line(self, step: int, metrics: Mapping[str, Any]) -> str:
        shown = {
            "loss {:.3f}": metrics.get("nll"),
            "reward {:.2f}": metrics.get("reward/mean"),
            "held-out {:.0%}": self._held_out,
            "{:.0f} tokens": metrics.get("length/mean"),
            "reflects {:.0%}": metrics.get("reflection/fraction"),
        }
        parts = [form.format(value) for form, value in shown.items() if value is not None]
        return "  ".join([f"{step}/{self._total}", *self._time_left(step), *parts])

    def _time_left(self, step: int) -> list[str]:
        # Counted from the end of the first step, which compiles.
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
            return []
        first_step, first_time = self._first
        seconds = (now - first_time) / max(step - first_step, 1) * (self._total - step)
        time_left = str(datetime.timedelta(seconds=round(seconds))).removeprefix("0:")
        return [f"{time_left} left"] if seconds else []

    def __enter__(self) -> "Progress":
        self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        self._live.stop()


def first_and_last(metrics: Sequence[Row], name: str) -> tuple[float, float] | None:
    """A metric where it first and last exists; None if it never does."""
    values = [row[name] for row in metrics if row.get(name) is not None]
    return (values[0], values[-1]) if values else None


def moved(metrics: Sequence[Row], name: str, form: str) -> str:
    """From a metric's first value to its last, if there are two; "" if there is none."""
    found = [form.format(row[name]) for row in metrics if row.get(name) is not None]
    return " → ".join(found[:1] + found[1:][-1:])


_OF_TRAINING = {"length": "length/mean", "reflection": "reflection/fraction"}


def measured(metrics: Sequence[Row], what: str) -> tuple[str, str]:
    """("held-out", the metric) of "length" or "reflection", or where that was never measured
    ("training", that of the replies trained on)."""
    heldout = f"heldout/{what}"
    if first_and_last(metrics, heldout):
        return "held-out", heldout
    return "training", _OF_TRAINING[what]


def is_correct(sample: Row) -> bool:
    return sample["components"].get("accuracy") == 1


def first_reflective(samples: Sequence[Row]) -> Row | None:
    """The first correct reply with a reflective term in it, of samples.jsonl."""
    return next((row for row in samples if is_correct(row) and row["reflective_terms"]), None)


def summary(
    metrics: Sequence[Row],
    samples: Sequence[Row],
    report: Path | None = None,
    thoughts: bool = True,
) -> list[str]:
    """The few lines that say at the end of a run what became of it, from start to end.
    thoughts: whether its replies have any, so that reflective terms mean something."""
    lines = []
    if accuracy := moved(metrics, "heldout/accuracy", "{:.1%}"):
        lines.append(f"held-out accuracy   {accuracy}")
    if reward := moved(metrics, "heldout/reward", "{:.2f}"):
        lines.append(f"held-out reward     {reward}")
    of, name = measured(metrics, "length")
    if length := moved(metrics, name, "{:.0f}"):
        start, end = first_and_last(metrics, name) or (0, 0)
        times = f" ({end / start:.1f}x)" if "→" in length else ""
        lines.append(f"{f'{of} length':20}{length} tokens{times}")
    of, name = measured(metrics, "reflection")
    if fraction := moved(metrics, name, "{:.1%}"):
        lines.append(f"{f'{of} reflecting':20}{fraction} of replies")
    if not thoughts:
        pass
    elif aha := first_reflective(samples):
        lines.append(f"first correct reply of samples.jsonl that reflects: step {aha['step']}")
    else:
        lines.append("no reply of samples.jsonl is both correct and reflective")
    if report:
        lines.append(f"report              {report}")
    return lines
