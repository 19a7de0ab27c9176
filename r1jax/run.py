"""A run's folder while something is trained in it: the one way to start, log, save, stop and go on.

Every training loop (RL, SFT, reward models, the embedded base) is written over `Run`:

    with Run(cfg, cfg.model, steps) as run:
        state, note = run.restore(abstract) or (new_state(), {})
        for step in run.steps():
            state, metrics = train_step(state, batch)
            run.log(step, metrics)
            run.end_step(state, metrics)

A step is numbered by the updates before it: its line in metrics.jsonl is of the policy that it
starts from, and a checkpoint N is of the state after N steps.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

import r1jax
from r1jax import processes, stored
from r1jax.architecture import ModelConfig
from r1jax.checkpoint import Checkpoints, Keep
from r1jax.checks import InputError, check
from r1jax.config import FolderConfig
from r1jax.config_file import fields_of, save_config
from r1jax.files import write_whole
from r1jax.flight import Watchdog
from r1jax.lock import locked
from r1jax.metrics import MetricsLog, Progress, Row, read_jsonl
from r1jax.optim import BY_LAYER
from r1jax.trackers import trackers_of

Status = Literal["running", "finished", "stopped"]
STOPS = (signal.SIGINT, signal.SIGTERM)
PACKAGE = Path(__file__).parent


# Of a configuration: what a run begins with, and stands beside, and which of its problems are never
# trained on.
BEGINNING = ("base", "corpus", "heldout_share", "lora")


# The signal that came to a process whose runs are in threads, which hear none.
_told: signal.Signals | None = None


def tell_threads(number: signal.Signals | None) -> None:
    """Ends the runs of this process that are not in its main thread as the signal would, those that
    begin later too; None: no longer."""
    global _told
    _told = number


class Stopped(Exception):
    """A signal has ended a run, or what had to be made before one could begin. `where` it was, and
    the command to go on with. at_once: in the midst of a step, so in this process alone."""

    def __init__(self, where: str, by: signal.Signals, way_on: str, at_once: bool = False):
        super().__init__(f"{where}; to go on: {way_on}")
        self.where, self.by, self.at_once = where, by, at_once


class Run:
    """A context manager. `first` is the step to begin with, `stopped` the signal that ended it,
    `changes` the fields that are others than before, where it goes on: (before, now) by name,
    `settled` why it ended before its last step, of itself; "" if it did not.

    cfg: a frozen dataclass, kept in config.json. model: of which a checkpoint must be. steps: how
    many there are in all. preset: the one that cfg was made from, if it was named; a run that goes
    on keeps the one that it began with.

    SIGTERM, and Ctrl-C the first time, end the run after the step that it is in, with a checkpoint;
    a second Ctrl-C ends it at once, as does one before the first step and after the last, where
    nothing is to be saved. What was being saved is saved all the same: that no Ctrl-C ends. On
    several processes a signal to one ends all at the same step. SIGUSR1 writes a flight record.

    One run at a time holds a folder (`r1jax/lock.py`).

    Raises Stopped where Ctrl-C ends it at once, and InputError for a folder that does not suit
    cfg.resume or that another run holds, a checkpoint of another model, a run that is already
    longer, and where the loss or the gradient is not finite: such a state is never saved, its batch
    is.
    """

    def __init__(
        self,
        cfg: FolderConfig,
        model: ModelConfig,
        steps: int,
        say: Callable[[str], None] = print,
        preset: str = "",
        data: Callable[[], Iterable[str]] = tuple,
    ):
        check(bool(cfg.out), "--out= is empty: expected a folder")
        trackers_of(cfg.log)  # before anything is made
        self.cfg, self.out, self.total, self.say = cfg, Path(cfg.out), steps, say
        self._held = cfg.checkpoint_to or str(self.out)  # where its checkpoints are
        self.first = self.at = 0
        self.stopped: signal.Signals | None = None
        self.settled = ""
        self._model, self._preset, self._data = model, preset, data
        self.changes: dict[str, tuple[Any, Any]] = {}
        self.changed: list[str] = []  # a line for each start that did it otherwise
        self._taken = False  # the folder, so that it tells of this start
        self._saves = False  # and so is not to be ended at once
        self._closing = False
        self._signal: signal.Signals | None = None
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._began = {"command": shlex.join([*program().split(), *sys.argv[1:]]), "started": now}
        self._resumed: list[dict[str, Any]] = []  # the starts after the first
        # Every process of a pod keeps a log; the first one's is the run's.
        index = jax.process_index()
        self.folder = self.out / f"process_{index}" if index else self.out

    def __enter__(self) -> "Run":
        processes.check_same(self._told_to_others())
        with contextlib.ExitStack() as opened:
            folder = stored.place(self.cfg.checkpoint_to, self.out)
            self._check_place(folder)
            self._check_resumable(bool(stored.steps(folder)))
            processes.gather(lambda: self._lock(opened))
            opened.callback(self._listen())  # until the last checkpoint is written
            self._watchdog = Watchdog(self.folder, self.cfg.hang_minutes)
            self._checkpoints = opened.enter_context(Checkpoints(folder, self._keep(), self.say))
            self._begin()
            if self.first > 0:
                self._preset = self._preset or preset_of(self.folder) or ""
                self.changes = self._changes_now()
                self._check_begun()
                if self.changes:
                    self.say(f"{self.out} goes on with changes: {self._said_changes()}")
            else:
                self._take(opened)
            opened.enter_context(self._watchdog)
            self._opened = opened.pop_all()
        return self

    def _told_to_others(self) -> dict[str, Any]:
        """What must be the same in all processes of a pod; {} where there is one."""
        if processes.count() == 1:
            return {}
        devices = jax.local_devices()
        return {
            "version": f"r1jax {r1jax.__version__}, jax {jax.__version__}",
            "code": processes.digest(p.read_bytes() for p in sorted(PACKAGE.rglob("*.py"))),
            **{f"--{name.replace('_', '-')}": value for name, value in fields_of(self.cfg).items()},
            "data hash": processes.digest(text.encode() for text in self._data()),
            "devices": f"{len(devices)} x {devices[0].device_kind}",
        }

    def _keep(self) -> Keep:
        self._best: dict[int, float] = {}
        log = self.folder / "metrics.jsonl"
        for row in read_jsonl(log) if self._best_by() and log.exists() else ():
            self._note_best(row["step"], row)
        kept, every = self.cfg.checkpoint_keep, self.cfg.checkpoint_keep_every
        return Keep(kept, every, lambda: self._best)

    def _best_by(self) -> str:
        return self.cfg.checkpoint_best.removeprefix("-")

    def _note_best(self, step: int, metrics: Mapping[str, Any]) -> None:
        """A step's line is of the weights that its checkpoint holds."""
        value = metrics.get(self._best_by())
        if value is not None:
            sign = -1 if self.cfg.checkpoint_best.startswith("-") else 1
            self._best[step] = sign * float(value)

    def _take(self, opened: contextlib.ExitStack) -> None:
        """From here on the folder says what this start does. Of a run that goes on it keeps what
        the last one left until its checkpoint was read: one that is refused changes nothing."""
        keep = None if self.cfg.resume == "no" else self.first - 1
        # Of the first process alone: the others' files tell what only they saw.
        log = "" if jax.process_index() else self.cfg.log
        told = dataclasses.asdict(self.cfg)
        self._log = opened.enter_context(MetricsLog(self.folder, keep, log, told))
        self._taken = True
        save_config(dataclasses.replace(self.cfg, resume="no"), self.folder / "config.json")
        self._write_status("running")

    def __exit__(self, kind, error, traceback) -> None:
        self._closing = True
        status: Status = "stopped"
        try:
            self._opened.__exit__(kind, error, traceback)
            done = self.at == self.total or bool(self.settled)
            if kind is None and self.stopped is None and done:
                status = "finished"
        finally:
            if self._taken:
                self._write_status(status)
        if isinstance(error, KeyboardInterrupt):
            where = f"stopped by Ctrl-C; {self._newest()}"
            raise Stopped(where, signal.SIGINT, self._way_on(), at_once=True) from None
        if isinstance(error, Stopped):  # in what was made for this run, which makes it again
            raise Stopped(error.where, error.by, self._way_on(), error.at_once) from None

    def _lock(self, opened: contextlib.ExitStack) -> list:
        """In the first process, for all. A bucket has no locks."""
        if jax.process_index() == 0:
            opened.enter_context(locked(self.out))
            if self.cfg.checkpoint_to and not stored.in_bucket(self.cfg.checkpoint_to):
                opened.enter_context(locked(Path(self.cfg.checkpoint_to)))
        return []

    def _begin(self) -> None:
        """Looks at what the folder holds."""
        newest, damaged = self._checkpoints.newest(), self._checkpoints.damaged()
        if newest is None:
            check(
                not damaged,
                f"{self._held}: every checkpoint is damaged; begin again in another --out",
            )
            self._check_resumable(False)
            for model in self.out.glob("*.safetensors"):
                raise InputError(f"--out={self.out}: a model stands there, {model.name}")
            if self.cfg.resume == "auto":
                self.say(f"{self.out}: no complete checkpoint, so it starts anew")
        else:
            check(
                self.cfg.resume != "no",
                f"{self._held} already holds a run: resume it or choose another folder",
            )
            check(
                newest <= self.total,
                f"{self.out} is already at step {newest}: it cannot become a run of {self.total} "
                "steps",
            )
        self.first = self.at = newest or 0
        self._saved, self._last_save = newest, time.monotonic()

    def _changes_now(self) -> dict[str, tuple[Any, Any]]:
        """Which fields of its configuration are others than before: (before, now) by name."""
        try:
            before = _flat(json.loads((self.folder / "config.json").read_text()))
        except (OSError, ValueError):  # another process of a pod, or a folder put together by hand
            return {}
        now = fields_of(self.cfg)
        return {
            name: (before[name], value)
            for name, value in now.items()
            if name in before and before[name] != value and name not in ("out", "resume")
        }

    def _check_begun(self) -> None:
        for name, (before, now) in self.changes.items():
            check(
                name.split(".")[0] not in BEGINNING,
                f"--{name.replace('_', '-')}={now}: {self.out} began with {before}, and goes on "
                "with it; begin another run, with another --out",
            )

    def _said_changes(self) -> str:
        return ", ".join(f"{name} {a!r} → {b!r}" for name, (a, b) in self.changes.items())

    def _check_resumable(self, found: bool) -> None:
        check(
            found or self.cfg.resume != "yes",
            f"--resume: {self._held} holds no complete checkpoint to go on from; "
            "--resume=auto starts anew there",
        )

    def _check_place(self, folder: epath.Path) -> None:
        """A run whose checkpoints are elsewhere is not begun anew because nobody said where."""
        before = stored.of(self.out)
        there = stored.steps(before) if before != folder else []
        check(
            not there,
            f"--checkpoint-to={self.cfg.checkpoint_to}: {self.out} already holds a run, which has "
            f"its checkpoints in {before.parent}: give that, or choose another folder",
        )

    # What a loop calls, in this order.

    def restore(self, abstract: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, note) of the newest checkpoint, straight to the shards of `abstract`
        (ShapeDtypeStructs with shardings) and in its types; None where there is none."""
        if self._saved is None:
            return None
        step, state, note = self._checkpoints.restore(abstract, self._model)
        self._checkpoints.set_aside()
        without = f"without its {' and '.join(note['left_out'])}" if note["left_out"] else ""
        before = _told_in(self.folder) or {}
        self._resumed = [*before.get("resumed", []), self._began | {"step": step}]
        self._began = {name: before.get(name, value) for name, value in self._began.items()}
        self.changed = list(before.get("changed", []))
        if told := ", ".join(filter(None, (self._said_changes(), without))):
            self.changed.append(f"from step {step}: {told}")
        self._take(self._opened)
        self.say(", ".join(filter(None, (f"resumed from step {step}", without))))
        return state, note

    def steps(self, settled: Callable[[int], str] | None = None) -> Iterator[int]:
        """The steps that are left, until a signal ends them, or settled(step) says why no more are
        needed: what the first process says, it alone is asked."""
        self._progress = self._opened.enter_context(Progress(self.total))
        self._saves = True
        for step in range(self.first, self.total):
            if self.stopped is not None:
                break
            if settled is not None and (why := _of_first(settled, step)):
                self.settled = f"after {step} of {self.total} steps: {why}"
                break
            self._watchdog.begins(step)
            yield step
            self._watchdog.ends(counts=step > self.first)
        self._saves = False

    def log(
        self,
        step: int,
        metrics: Mapping[str, Any],
        rows: Sequence[Row] = (),
        batch: Any = None,
        replies: Sequence[Row] = (),
    ) -> None:
        """Writes the line of a step, and shows it. Raises InputError if the loss is not finite;
        `batch` (host arrays, or arrays this process can read) is then saved and named."""
        self._check_finite(step, metrics, batch)
        metrics = {name: value for name, value in metrics.items() if not name.startswith(BY_LAYER)}
        self._log.log(step, metrics, rows, replies)
        self._note_best(step, metrics)
        self._progress.update(min(step + 1, self.total), metrics)

    def end_step(
        self,
        state: Any,
        metrics: Mapping[str, Any],
        batch: Any = None,
        note: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Counts a step, and saves the state where that is due: by the configuration, at the end
        of the run, or because a signal ends it here. `note()`, called only then, is what a
        checkpoint holds beside the state."""
        self.at += 1
        minutes = self.cfg.checkpoint_minutes
        overdue = minutes > 0 and time.monotonic() - self._last_save > 60 * minutes
        # All processes must take the same decision, at the same step.
        heard, late = processes.any_of([self._signal or self._of_process() or 0, int(overdue)])
        if heard:
            self.stopped = signal.Signals(heard)
        if self.at % self.cfg.checkpoint_every == 0 or self.at == self.total or late or heard:
            self._check_finite(self.at - 1, metrics, batch)
            self.save(state, note)

    def save(self, state: Any, note: Callable[[], dict[str, Any]] = dict) -> None:
        """The state after as many steps as were made, unless it is saved already."""
        if self._saved == self.at:
            return
        # Copies the arrays; writing goes on behind.
        self._checkpoints.save(self.at, state, self._model, note())
        self._saved, self._last_save = self.at, time.monotonic()
        self._write_status("running")

    def check_ended(self) -> None:
        """Raises Stopped, whose message says how to go on, if a signal has ended the run."""
        if self.stopped is None:
            return
        name = {signal.SIGINT: "Ctrl-C"}.get(self.stopped, self.stopped.name)
        where = f"stopped by {name} after step {self.at} of {self.total}"
        raise Stopped(where, self.stopped, self._way_on())

    # How.

    def _way_on(self) -> str:
        how = "--resume" if self._saved else "--resume=auto"
        return f"{program()} {how} --out={shlex.quote(str(self.out))}"

    def _newest(self) -> str:
        return f"the newest checkpoint is of step {self._saved}" if self._saved else "none is saved"

    def _check_finite(self, step: int, metrics: Mapping[str, Any], batch: Any) -> None:
        found = {name: metrics.get(name) for name in ("loss", "grad_norm")}
        values = {name: float(value) for name, value in found.items() if value is not None}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if not wrong:
            return
        path = self._save_batch(step, batch) if batch is not None else None
        saved = f"; its batch is saved as {path}" if path else ""
        if step == 0:
            advice = (
                "No step came before: look at the weights that it began with, and at --optim.lr "
                "if a step has several updates"
            )
        elif self._saved is None:
            advice = "Start again with another --seed or --optim.lr"
        else:
            advice = "The same step follows from --resume: change --seed or --optim.lr with it"
        told = {"batch": str(path) if path else "not kept"} | _norms_said(metrics)
        self._watchdog.record(f"the {wrong[0]} of step {step} is not finite: {values}", "nan", told)
        raise InputError(
            f"step {step}: the {wrong[0]} is not finite{saved}; {self._newest()}. {advice}"
        )

    def _save_batch(self, step: int, batch: Any) -> Path:
        path = self.folder / f"nan_step_{step}.npz"
        leaves = jax.tree_util.tree_leaves_with_path(batch)
        named = {jax.tree_util.keystr(at, simple=True, separator="."): leaf for at, leaf in leaves}
        np.savez_compressed(path, **named)
        return path

    def _of_process(self) -> signal.Signals | None:
        return None if threading.current_thread() is threading.main_thread() else _told

    def _listen(self) -> Callable[[], None]:
        """Begins to hear signals; the result ends it."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None  # Python hands signals to the main thread only

        def hear(number: int, _frame) -> None:
            if self._closing:  # what is written now is all that the last steps leave
                print("\nsaving what is done: wait for it", file=sys.stderr, flush=True)
                return
            again = self._signal == signal.SIGINT
            if number == signal.SIGINT and (again or not self._saves):
                raise KeyboardInterrupt
            self._signal = signal.Signals(number)
            once_more = "; once more to stop at once" if number == signal.SIGINT else ""
            print(f"\nstopping once this step is saved{once_more}", file=sys.stderr, flush=True)

        # JAX's own listener on a pod catches SIGTERM and does nothing with it: this replaces it.
        before = {number: signal.signal(number, hear) for number in STOPS}

        def end() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return end

    def _write_status(self, status: Status) -> None:
        """run.json: what was started, where, and how far it came."""
        value = {
            **self._began,
            **({"resumed": self._resumed} if self._resumed else {}),
            **({"preset": self._preset} if self._preset else {}),
            **({"changed": self.changed} if self.changed else {}),
            **({"settled": self.settled} if self.settled else {}),
            "status": status,
            "step": self.at,
            "steps": self.total,
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "processes": jax.process_count(),
            "versions": {
                "python": sys.version.split()[0],
                "jax": jax.__version__,
                "r1jax": r1jax.__version__,
            },
        }
        text, path = json.dumps(value, indent=2) + "\n", self.folder / "run.json"
        try:
            write_whole(path, text)
        except OSError:
            # On a full disk there is room where the last one stands.
            with path.open("r+") as file:
                file.write(text)
                file.truncate()


def _of_first(settled: Callable[[int], str], step: int) -> str:
    said = processes.gather(lambda: [] if jax.process_index() else [settled(step)])
    return str(said[0])


def _norms_said(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Gradient norms by part of the model, and by layer: the first that is not finite is where it
    began, going from the head down."""
    norms = {n.removeprefix(BY_LAYER): v for n, v in metrics.items() if n.startswith(BY_LAYER)}
    lines = [f"{name}: {value:.3g}" for name, value in jax.device_get(norms).items()]
    return {"gradient norms": "\n  ".join(["", *lines])} if lines else {}


def preset_of(folder: Path) -> str | None:
    """The preset that a run's folder names; "": it was started without. None: it does not say."""
    told = _told_in(folder)
    return None if told is None else str(told.get("preset", ""))


def _told_in(folder: Path) -> dict[str, Any] | None:
    try:
        told = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):  # a kill, or an older version's
        return None
    return told if isinstance(told, dict) else None


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def program() -> str:
    """What was run, as one would type it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is None:
        return f"python {sys.argv[0]}"
    return f"python -m {module.name.removesuffix('.__main__')}"
