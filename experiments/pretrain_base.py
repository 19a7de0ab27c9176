"""Makes the embedded base model again, for any mixture of the corpus.

    python -m experiments.pretrain_base                          # the shipped recipe
    python -m experiments.pretrain_base --corpus.reflective=0 --corpus.practice=0   # the control

The result is kept in the user's cache under a hash of its recipe, where `experiments.r1_zero
--base=train` finds it; `--out=FILE` also writes it there.
"""

import dataclasses
import shutil
import sys
from pathlib import Path

import rich.progress

from experiments import cli
from r1jax.base import (
    EMBEDDED,
    BaseConfig,
    cached,
    load_weights,
    read_note,
    save_weights,
    train_base,
)
from r1jax.config import InputError, RunConfig
from r1jax.model.params import Weights
from r1jax.presets import tiny_base
from r1jax.sharding import make_mesh


def made(cfg: BaseConfig, mesh) -> Path:
    """The file of a base of this recipe: from the cache, or made now with progress shown."""
    path = cached(cfg)
    if path.exists():
        return path
    columns = rich.progress.Progress.get_default_columns()
    with rich.progress.Progress(*columns, rich.progress.TextColumn("{task.fields[nll]}")) as bar:
        task = bar.add_task("making the base", total=cfg.optim.steps, nll="")

        def show(step: int, metrics: dict[str, float]) -> None:
            bar.update(task, completed=step, nll=f"{metrics['nll']:.3f} nats a token")

        weights = train_base(cfg, mesh, show)
    save_weights(weights, path, {"recipe": dataclasses.asdict(cfg), "digest": cfg.digest()})
    return path


def base_weights(cfg: RunConfig, mesh) -> Weights:
    """The weights that `--base=embedded` or `--base=train` names."""
    recipe = dataclasses.replace(
        tiny_base(cfg.corpus), model=cfg.model, heldout_share=cfg.heldout_share
    )
    if cfg.base == "train":
        return load_weights(made(recipe, mesh), cfg.model)
    if read_note(EMBEDDED)["digest"] != recipe.digest():
        raise InputError(
            "the embedded base was made by another recipe (model, corpus or heldout_share "
            "differs): pass --base=train to make this one"
        )
    return load_weights(EMBEDDED, cfg.model)


def main(args: list[str]) -> None:
    out, mesh = cli.take(args, "--out"), cli.take(args, "--mesh") or "1"
    cfg = cli.parse(BaseConfig, tiny_base(), args, __doc__ or "")
    path = made(cfg, make_mesh(mesh))
    if out:
        shutil.copyfile(path, out)
    print(f"base: {out or path}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
