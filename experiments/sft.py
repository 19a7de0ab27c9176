"""Supervised fine-tuning of a model that exists: cold start, distillation, or a style of one's own.

    python -m experiments.sft --model=DIR --data=replies.jsonl
    python -m experiments.sft --model=DIR --data=... --mesh=2x4 --export=OUT
    python -m experiments.sft --model=DIR --data=... --steps=100   # updates, whatever the epochs
    python -m experiments.sft --model=DIR --data=... --lora.rank=16 --lora.weights=int4
    python -m experiments.sft --resume                  # go on where it was stopped

DIR is a Hugging Face directory, an id on its Hub (org/name or org/name@revision), or the folder of
a run. A row of --data is {"messages"}, {"prompt", "completion"}, {"conversations"} or
{"instruction", "output"}; only the last reply is trained on. The prompt is of the model's
--conversation: by its chat template if it has one, else as it stands. The run leaves metrics.jsonl,
TensorBoard events and checkpoints in --out; --export also writes the result as a Hugging Face
directory, as experiments.export does later.
"""

from pathlib import Path

from experiments import cli
from r1jax.checks import check
from r1jax.config import SFTConfig
from r1jax.config_file import load_config
from r1jax.export import export
from r1jax.models import began_from, tuned_from
from r1jax.pipeline.tuning import fine_tune
from r1jax.published import tiny
from r1jax.sharding import make_mesh

FLAGS: cli.Flags = {
    "model": ("DIR|org/name", "sets base, model, tokenizer and conversation to those found there"),
    "export": ("DIR", "also writes the result as a Hugging Face directory"),
}


def starting_config(args: list[str]) -> SFTConfig:
    """Of the model in --model=DIR; with --resume, that of the run in --out."""
    folder, out = cli.take(args, "--model"), cli.take(list(args), "--out") or "runs/sft"
    if cli.resumes(args) and (Path(out) / "config.json").exists():
        cfg = load_config(SFTConfig, Path(out) / "config.json")
        same = folder is None or began_from(cfg.base, folder)
        check(same, f"--model={folder}: {out} began from {cfg.base}")
        return cfg
    cfg = SFTConfig(model=tiny(), base="DIR", tokenizer="")
    if {"-h", "--help"} & set(args):
        return cfg
    check(folder is not None, "--model=DIR is needed")
    return tuned_from(cfg, folder or "")


def main(args: list[str]) -> None:
    target = cli.take(args, "--export")
    cfg = cli.parse(SFTConfig, starting_config(args), args, __doc__ or "", FLAGS)
    check(bool(cfg.data), "--data=FILE is needed")
    taken = target and Path(target).exists() and any(Path(target).iterdir())
    check(not taken, f"--export={target}: already exists, and is not empty")
    fine_tune(cfg)
    if target:
        print(export(cfg.out, target, make_mesh(cfg.mesh)))


if __name__ == "__main__":
    cli.run(main, trains=True)
