"""Makes the embedded base model again, for any mixture of the corpus.

    python -m experiments.pretrain_base                          # the shipped recipe
    python -m experiments.pretrain_base --corpus.reflective=0 --corpus.practice=0   # the control

The result is kept in the user's cache under a hash of its recipe, where `experiments.r1_zero
--base=train` finds it; `--out=FILE` also writes it there.
"""

import shutil
import sys

from experiments import cli
from r1jax.base import BaseConfig, cached, made
from r1jax.presets import tiny_base
from r1jax.sharding import make_mesh

FLAGS: cli.Flags = {
    "out": ("FILE", "also writes the result there"),
    "mesh": ("FSDPxEXPERT", "such as 8x8; 1 where it is left out"),
}


def main(args: list[str]) -> None:
    out, mesh = cli.take(args, "--out"), cli.take(args, "--mesh") or "1"
    cfg = cli.parse(BaseConfig, tiny_base(), args, __doc__ or "", FLAGS)
    path = cached(cfg)
    made(cfg, make_mesh(mesh), path.with_suffix(""))
    if out:
        shutil.copyfile(path, out)
    print(f"base: {out or path}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main, trains=True)
