"""Writes a run's newest checkpoint as a Hugging Face directory, for Transformers and vLLM.

    python -m experiments.export --run=runs/r1_zero --out=DIR
    python -m experiments.export --run=runs/sft --out=DIR --dtype=float32 --mesh=2x4
    python -m experiments.export --run=DIR --out=OUT --weights=int4 --calibrate=texts.txt
    python -m experiments.export --run=runs/sft --out=DIR --adapter    # of --lora.rank, for PEFT

--run is a folder of experiments.r1_zero or experiments.sft, of whatever mesh; with --weights, which
keeps matrices in 8 or 4 bits (compressed-tensors' pack-quantized), a Hugging Face directory or an
id on its Hub may be, too. They are rounded to the nearest, or with --calibrate by GPTQ, so that
what they make of the file's texts (a line each, or .jsonl of "prompt" or "messages") changes least.
--mesh is what the weights are read onto. The tokenizer's files are copied from the directory that
the run took its tokenizer from; that of the embedded model is written as a tokenizer.json of whole
words, with the opened thought that its run asked by as a chat template.
"""

import dataclasses
from typing import Literal

from experiments import cli
from r1jax import sharding
from r1jax.checks import check
from r1jax.export import export, export_adapter


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    run: str = ""  # a run's folder; with --weights any model
    out: str = ""  # an empty folder, or one that is not there
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    weights: Literal["arrays", "int8", "int4"] = "arrays"  # what matrices are written as
    calibrate: str = ""  # a file of texts to round them by
    adapter: bool = False  # only what --lora.rank trained, in PEFT's form
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8

    def __post_init__(self):
        check(
            not self.calibrate or self.weights != "arrays",
            f"--calibrate={self.calibrate}: rounds weights: give --weights=int4 or int8",
        )


def main(args: list[str]) -> None:
    cfg = cli.parse(ExportConfig, ExportConfig(), args, __doc__ or "")
    check(bool(cfg.run), "--run=DIR is needed")
    check(bool(cfg.out), "--out=DIR is needed")
    mesh = sharding.make_mesh(cfg.mesh)
    if cfg.adapter:
        print(export_adapter(cfg.run, cfg.out, mesh))
        return
    print(export(cfg.run, cfg.out, mesh, cfg.dtype, cfg.weights, cfg.calibrate))


if __name__ == "__main__":
    cli.run(main)
