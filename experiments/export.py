"""Writes a run's newest checkpoint as a Hugging Face directory, for Transformers and vLLM.

    python -m experiments.export --run=runs/r1_zero --out=DIR
    python -m experiments.export --run=runs/sft --out=DIR --dtype=float32 --mesh=2x4

--run is a folder of experiments.r1_zero or experiments.sft, of whatever mesh; --mesh is what the
weights are read onto. The tokenizer's files are copied from the directory that the run took its
tokenizer from; that of the embedded model is written as a tokenizer.json of whole words, with the
opened thought that its run asked by as a chat template.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Literal

from jax.sharding import Mesh

from experiments import cli
from r1jax import hub, sharding
from r1jax.checks import check
from r1jax.data import templates
from r1jax.model.params import weight_specs
from r1jax.models import open_model


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    run: str = ""  # a run's folder
    out: str = ""  # an empty folder, or one that is not there
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8


def export(
    run: str, out: str, mesh: Mesh, dtype: Literal["bfloat16", "float32"] = "bfloat16"
) -> str:
    """Returns what was done, as a line."""
    for name in ("config.json", "checkpoints"):
        check((Path(run) / name).exists(), f"--run={run} is not a run's folder: it has no {name}")
    source = open_model(run)
    weights = source.weights(source.config, mesh)
    files = Path(source.files) if source.files else None
    with tempfile.TemporaryDirectory() as words:
        tokenizer = source.tokenizer()
        ends = sorted(tokenizer.eos_ids)
        special = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": ends if len(ends) > 1 else tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
        }
        if files is None:
            tokenizer.save(words)
            if source.conversation().form == "embedded":
                (Path(words) / "chat_template.jinja").write_text(templates.OPENED)
        folder = Path(words) if files is None else files if files.is_dir() else files.parent
        hub.save_model(weights, source.config, out, folder, dtype, special_tokens=special)
    return f"{out}: {sharding.count(weight_specs(source.config).params):,} parameters in {dtype}"


def main(args: list[str]) -> None:
    cfg = cli.parse(ExportConfig, ExportConfig(), args, __doc__ or "")
    check(bool(cfg.run), "--run=DIR is needed")
    check(bool(cfg.out), "--out=DIR is needed")
    print(export(cfg.run, cfg.out, sharding.make_mesh(cfg.mesh), cfg.dtype))


if __name__ == "__main__":
    cli.run(main)
