"""Orbax checkpoints of the sharded state. One is either complete or not there."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.architecture import HOW_IT_RUNS, ModelConfig
from r1jax.checks import InputError, check
from r1jax.model.params import Weights, weight_specs
from r1jax.optim import init_weights


class Checkpoints:
    """The newest checkpoints of a run, in `folder`; a context manager.

    Each holds the state (parameters, moments, reference, step counts; every array written by the
    devices that own it) and a JSON note: the position in the data, and the model's configuration.
    Orbax writes to a temporary folder and renames it, so a killed save leaves the one before it.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(Path(folder).resolve(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def save(self, step: int, state: Any, model: ModelConfig, note: dict[str, Any]) -> None:
        """Returns when the arrays are copied; writing goes on in the background. Raises InputError
        if Orbax declines: training on would train what is never kept."""
        state = _parts(state)
        note = {**note, "model": dataclasses.asdict(model), "parts": sorted(state)}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), note=ocp.args.JsonSave(note))
        if not self._manager.save(step, args=args):
            raise InputError(
                f"{self._manager.directory}: the checkpoint of step {step} was not saved; the "
                f"newest there is of step {self.newest()}"
            )

    def newest(self) -> int | None:
        return self._manager.latest_step()

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
        """Of the newest checkpoint, whose state has `train`, a TrainState: its weights alone, read
        straight to their shards. Raises as `restore` does."""
        step, _ = self._newest_of(model)
        specs = weight_specs(model)
        shapes = jax.eval_shape(lambda: init_weights(model, jax.random.key(0)))
        part = {"train": {"weights": abstract_like(shapes, sharding.shardings(specs, mesh))}}
        return self._read(step, part)["train"]["weights"]

    def _read(self, step: int, abstract: Any) -> Any:
        """The parts of a state that `abstract` asks for."""
        how = ocp.checkpoint_utils.construct_restore_args(abstract)
        args = ocp.args.PyTreeRestore(abstract, restore_args=how, partial_restore=True)
        found = self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(found):
            absent = isinstance(leaf, jax.ShapeDtypeStruct)  # as it was asked for
            part = jax.tree_util.keystr(path[:1], simple=True)
            check(
                not absent,
                f"{self._manager.directory}: the checkpoint of step {step} has no {part}, which "
                "this run needs: it was written with another --rl.algorithm or --rl.kl-coef; keep "
                f"that, or begin another run with --base={self._manager.directory.parent}",
            )
        return found

    def _newest_of(self, model: ModelConfig) -> tuple[int, dict[str, Any]]:
        """(step, note) of the newest checkpoint, which must be of this model."""
        step = self.newest()
        if step is None:
            raise InputError(f"{self._manager.directory}: no complete checkpoint")
        note = self._manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore()))
        self._check_model(note["note"]["model"], model)
        return step, note["note"]

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
    check((run / "checkpoints").is_dir(), f"{run}: no checkpoints in this folder")
    with Checkpoints(run / "checkpoints") as checkpoints:
        return checkpoints.restore_weights(model, mesh)


def _parts(state: Any) -> dict[str, Any]:
    """Without what is None, such as the critic of an algorithm that has none: that it is not there
    is for the run to say that reads it."""
    if not dataclasses.is_dataclass(state):
        return state
    values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {name: value for name, value in values.items() if value is not None}


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
