"""Where a run's scalars go beside its own files: `--log=tensorboard,wandb`, each behind one small
interface."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from r1jax.checks import InputError, check


class Tracker(Protocol):
    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `out`/tensorboard; those of an earlier process are hidden from `first` on."""

    def __init__(self, out: Path, first: int, config: Mapping[str, Any]):
        self._events = SummaryWriter(str(out / "tensorboard"), purge_step=first)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class WandB:
    """Weights & Biases, which is the user's to install: a run named as the folder is, with the
    run's configuration, gone on with where the folder's run is resumed."""

    def __init__(self, out: Path, first: int, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise InputError("--log=wandb: it is not installed: pip install wandb") from None
        same = str(out.resolve()).replace("/", "-").strip("-")[-64:]
        self._run = wandb.init(
            name=out.name, id=same, dir=str(out), config=dict(config), resume="allow"
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
}


def trackers_of(names: str) -> list[str]:
    """Those that `names` lists, by commas. Raises InputError for one that is unknown."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        known = ", ".join(TRACKERS)
        check(name in TRACKERS, f"--log={names}: no log is called {name!r}, there are {known}")
    return wanted


def open_trackers(names: str, out: Path, first: int, config: Mapping[str, Any]) -> list[Tracker]:
    """Those that `names` lists. Raises InputError for one that is unknown or not installed."""
    return [TRACKERS[name](out, first, config) for name in trackers_of(names)]
