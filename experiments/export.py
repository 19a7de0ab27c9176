"""Writes a run's newest checkpoint as a Hugging Face directory, for Transformers and vLLM.

    python -m experiments.export --run=runs/r1_zero --out=DIR
    python -m experiments.export --run=runs/sft --out=DIR --dtype=float32 --mesh=2x4

--run is a folder of experiments.r1_zero or experiments.sft, of whatever mesh; --mesh is what the
weights are read onto. The tokenizer's files are copied from the directory that the run took its
tokenizer from; that of the embedded model is written as a tokenizer.json of whole words, with the
opened thought that its run asked by as a chat template.
"""

import dataclasses
from typing import Literal

from experiments import cli
from r1jax import sharding
from r1jax.checks import check
from r1jax.export import export


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    run: str = ""  # a run's folder
    out: str = ""  # an empty folder, or one that is not there
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8


def main(args: list[str]) -> None:
    cfg = cli.parse(ExportConfig, ExportConfig(), args, __doc__ or "")
    check(bool(cfg.run), "--run=DIR is needed")
    check(bool(cfg.out), "--out=DIR is needed")
    print(export(cfg.run, cfg.out, sharding.make_mesh(cfg.mesh), cfg.dtype))


if __name__ == "__main__":
    cli.run(main)
