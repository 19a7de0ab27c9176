"""Orbax checkpoints of the sharded state. One is either complete or not there."""

import dataclasses
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from r1jax import manifest, peers, processes, sharding, stored
from r1jax.architecture import HOW_IT_RUNS, ModelConfig
from r1jax.checks import InputError, check
from r1jax.model.adapters import adapters_of
from r1jax.model.params import Weights
from r1jax.model.quantise import abstract_weights, kept_specs

_ONE_AT_A_TIME = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the `newest` ones, those of every so many steps (0: none), and the
    best by `values`, which has the metric of a step where it is known (higher is better)."""

    newest: int = 2
    every: int = 0
    values: Callable[[], Mapping[int, float]] = dict

    def stays(self, steps: Sequence[int]) -> dict[int, str]:
        """Of these steps those that stay, and why."""
        found: dict[int, str] = {}
        for step in sorted(steps, reverse=True)[: self.newest]:
            found[step] = "newest"
        known = {step: value for step, value in self.values().items() if step in steps}
        if known:
            best = max(known, key=lambda step: (known[step], step))
            found[best] = " ".join(filter(None, (found.get(best), "best")))
        for step in steps:
            if self.every and step % self.every == 0:
                found[step] = " ".join(filter(None, (found.get(step), f"every {self.every}")))
        return found

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """As Orbax asks."""
        stays = self.stays([info.step for info in checkpoints])
        return [info.step in stays for info in checkpoints]


def meets(*, key: str, timeout_ms: int) -> None:
    """Where the processes of a pod wait for each other in the background of a save. One whose
    writing has failed would wait here, and the others elsewhere, until both have waited for twenty
    minutes: it says so instead, and all end."""
    error, others = sys.exc_info()[1], peers.current()
    if others and error and threading.current_thread() is not threading.main_thread():
        told = " ".join(str(error).split())[:200]
        others.give_up(f"a checkpoint was not written: {type(error).__name__}: {told}", 2)
    else:
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


class Checkpoints:
    """The checkpoints of a run, in `folder`; a context manager.

    Each holds the state (parameters, moments, reference, step counts; every array written by the
    devices that own it), a JSON note (the position in the data, the model's configuration) and the
    checksums of its files. Orbax writes to a temporary folder and renames it, so a killed save
    leaves the one before it. A damaged one is passed over, and `say` says so.
    """

    def __init__(
        self, folder: epath.PathLike, keep: Keep = Keep(), say: Callable[[str], None] = print
    ):
        self._say = say
        self._found: dict[int, tuple[manifest.State, str]] = {}
        self._saving: int | None = None
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            create=True,
            async_options=ocp.AsyncOptions(
                barrier_sync_fn=meets, post_finalization_callback=self._sum_up
            ),
        )
        self._root = stored.absolute(folder)
        with stored.reaching(self._root):
            self._manager = ocp.CheckpointManager(self._root, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        with stored.reaching(self._root):
            self._manager.close()

    def save(self, step: int, state: Any, model: ModelConfig, note: dict[str, Any]) -> None:
        """Returns when the arrays are copied; writing goes on in the background. Raises InputError
        if Orbax declines: training on would train what is never kept."""
        state = _parts(state)
        note = {**note, "model": dataclasses.asdict(model), "parts": sorted(state)}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), note=ocp.args.JsonSave(note))
        self.wait()  # or `_sum_up` of the last one would take this step
        self._saving = step
        self._found[step] = "whole", ""
        if not self._saves(step, args):
            del self._found[step]
            raise InputError(
                f"{self._manager.directory}: the checkpoint of step {step} was not saved; the "
                f"newest there is of step {self.newest()}"
            )

    def _saves(self, step: int, args: ocp.args.Composite) -> bool:
        """Orbax numbers what is being saved in a process as if there were one such thing at a time:
        runs in threads of their own save one after another."""
        if threading.current_thread() is threading.main_thread():
            with stored.reaching(self._root):
                return self._manager.save(step, args=args)
        with _ONE_AT_A_TIME:
            with stored.reaching(self._root):
                saved = self._manager.save(step, args=args)
            self.wait()
            return saved

    def wait(self) -> None:
        """Until what is being saved is written."""
        with stored.reaching(self._root):
            self._manager.wait_until_finished()

    def _sum_up(self) -> None:
        """The checksums of what was written, in the first process, before it is renamed: what is
        there under its own name has them."""
        root = self._root
        # Where a file system cannot rename folders, Orbax writes in place, and a last file ends it.
        written = [*root.glob(f"{self._saving}.orbax-checkpoint-tmp*")] or [
            root / str(self._saving)
        ]
        for folder in written:
            manifest.write(folder)

    def newest(self) -> int | None:
        """The newest that is not damaged. Every process of a pod must ask; the first one looks."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            if self.state(step)[0] != "damaged":
                return step
        return None

    def damaged(self) -> list[int]:
        """Those newer than the newest that is not. Every process must ask."""
        newest = self.newest() or 0
        return [step for step in sorted(self._manager.all_steps()) if step > newest]

    def state(self, step: int) -> tuple[manifest.State, str]:
        """Whether a checkpoint is whole, and what is wrong with it; looked at once."""
        if step not in self._found:
            folder = self._root / str(step)

            def look() -> list[list[str]]:
                return [list(manifest.damage(folder))] if jax.process_index() == 0 else []

            [(state, wrong)] = processes.gather(look)
            self._found[step] = state, wrong
            if state == "damaged":
                self._say(f"warning: {folder} is damaged ({wrong}) and is passed over")
        return self._found[step]

    def set_aside(self) -> None:
        """Moves the damaged ones out of the way of what is saved from here on, beside the others.
        Every process must ask."""
        for step in self.damaged():

            def move(step: int = step) -> list:
                if jax.process_index() == 0:
                    aside = self._root.parent / f"damaged_checkpoint_{step}"
                    with stored.reaching(self._root):
                        aside.rmtree(missing_ok=True)
                        (self._root / str(step)).rename(aside)
                return []

            processes.gather(move)
            del self._found[step]
        with stored.reaching(self._root):
            self._manager.reload()

    def restore(self, abstract: Any, model: ModelConfig) -> tuple[int, Any, dict[str, Any]]:
        """(step, state, note) of the newest checkpoint, straight to the shards that `abstract`
        (ShapeDtypeStructs with shardings) asks for, whatever mesh it was written on. What else it
        holds, such as the critic of an algorithm that the run goes on without, is not read: the
        note names it under "left_out".

        Raises InputError if there is none, it is of another model, or lacks what is asked for.
        """
        step, note = self._newest_of(model)
        left_out = sorted(set(note.get("parts", ())) - set(_parts(abstract)))
        return step, self._read(step, abstract), note | {"left_out": left_out}

    def restore_weights(self, model: ModelConfig, mesh: Mesh) -> Weights:
        """Of the newest checkpoint, whose state has `train`, a TrainState: its weights alone (of a
        model with adapters these alone), read straight to their shards. Raises as `restore` does.
        """
        step, _ = self._newest_of(model)
        abstract = abstract_like(
            abstract_weights(model), sharding.shardings(kept_specs(model), mesh)
        )
        if model.lora is not None:
            abstract = Weights(adapters_of(abstract.params), None)
        part = {"train": {"weights": abstract}}
        return self._read(step, part)["train"]["weights"]

    def _read(self, step: int, abstract: Any) -> Any:
        """The parts of a state that `abstract` asks for."""
        how = ocp.checkpoint_utils.construct_restore_args(abstract)
        args = ocp.args.PyTreeRestore(abstract, restore_args=how, partial_restore=True)
        found = self._restored(step, state=args)
        for path, leaf in jax.tree_util.tree_leaves_with_path(found):
            absent = isinstance(leaf, jax.ShapeDtypeStruct)  # as it was asked for
            part = jax.tree_util.keystr(path[:1], simple=True)
            check(
                not absent,
                f"{self._manager.directory}: the checkpoint of step {step} has no {part}, which "
                "this run needs: it was written with another --rl.algorithm or --rl.kl-coef; keep "
                "that, or begin another run with --base=FOLDER of the one that wrote it",
            )
        return found

    def _newest_of(self, model: ModelConfig) -> tuple[int, dict[str, Any]]:
        """(step, note) of the newest checkpoint, which must be of this model."""
        step = self.newest()
        if step is None:
            there = "every checkpoint is damaged" if self.damaged() else "no complete checkpoint"
            raise InputError(f"{self._manager.directory}: {there}")
        note = self._restored(step, note=ocp.args.JsonRestore())
        self._check_model(note["model"], model)
        return step, note

    def _restored(self, step: int, **item: Any) -> Any:
        """One item of a checkpoint, as Orbax reads it. Raises InputError where it cannot."""
        try:
            with stored.reaching(self._root / str(step)):
                [found] = self._manager.restore(step, args=ocp.args.Composite(**item)).values()
        except InputError:
            raise
        except (ValueError, OSError, KeyError, TypeError) as error:
            told = " ".join(str(error).split())[:300]
            raise InputError(
                f"{self._manager.directory}: the checkpoint of step {step} cannot be read: {told}"
            ) from error
        return found

    def _check_model(self, saved: dict[str, Any], model: ModelConfig) -> None:
        ours = _shape_fields(dataclasses.asdict(model))
        for name, value in _shape_fields(saved).items():
            if ours.get(name) != value:
                raise InputError(
                    f"{self._manager.directory}: checkpoint of another model: {name} is {value}, "
                    f"this run has {ours.get(name)}"
                )


def load_weights(run: Path, model: ModelConfig, mesh: Mesh) -> Weights:
    """The newest weights of a run's folder, whatever mesh it ran on."""
    folder = stored.of(run)
    check(bool(stored.steps(folder)), f"{run}: no checkpoints in this folder")
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_weights(model, mesh)


def _parts(state: Any) -> dict[str, Any]:
    """Without what has no arrays, such as the critic of an algorithm that has none: that it is not
    there is for the run to say that reads it."""
    if not dataclasses.is_dataclass(state):
        return state
    values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {name: value for name, value in values.items() if jax.tree.leaves(value)}


def _shape_fields(model: dict[str, Any], prefix: str = "model.") -> dict[str, Any]:
    """Flat fields that say what a model is; how it runs may change between save and restore."""
    flat: dict[str, Any] = {}
    for name, value in model.items():
        if isinstance(value, dict):
            flat |= _shape_fields(value, f"{prefix}{name}.")
        elif name not in HOW_IT_RUNS or name == "param_dtype":  # of the arrays, which it is read as
            flat[prefix + name] = value
    return flat


def abstract_like(shapes: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs that carry their shardings."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, shardings
    )
