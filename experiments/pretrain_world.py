"""Makes the base models of the embedded world of R1's stages again.

    python -m experiments.pretrain_world --out=world.safetensors
    python -m experiments.pretrain_world --student --out=world_student.safetensors

It trains in runs/pretrain_world (or pretrain_world_student), from where it was stopped there.
"""

from pathlib import Path

from experiments import cli
from r1jax.checks import check
from r1jax.pipeline import base
from r1jax.sharding import make_mesh


def main(args: list[str]) -> None:
    out, student = cli.take(args, "--out"), "--student" in args
    mesh = cli.take(args, "--mesh") or "1"
    cli.reject([arg for arg in args if arg != "--student"], __doc__ or "")
    check(bool(out), "--out=FILE is needed")
    target = cli.file_to_write(Path(out or ""))
    of, name = (base.student(), "_student") if student else (base.model(), "")
    base.make(base.recipe(of, f"runs/pretrain_world{name}"), make_mesh(mesh), target)
    print(f"base: {out}")


if __name__ == "__main__":
    cli.run(main, trains=True)
