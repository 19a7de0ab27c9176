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
from experiments.export import export
from r1jax import sharding
from r1jax.checks import check
from r1jax.config import SFTConfig
from r1jax.config_file import load_config
from r1jax.data.documents import read_documents
from r1jax.metrics import first_and_last, read_jsonl
from r1jax.models import began_from, first_weights, open_model, size, to_train, with_lora
from r1jax.published import tiny
from r1jax.sft import train

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
    if {"-h", "--help"} & set(args):
        return SFTConfig(model=tiny(), base="DIR", tokenizer="")
    check(folder is not None, "--model=DIR is needed")
    source = open_model(folder or "")
    return SFTConfig(
        model=to_train(source.config),
        base=source.base,
        tokenizer=source.files,
        conversation=source.conversation_name,
    )


def loss_line(first: float, last: float, steps: int) -> str:
    """One step has one loss."""
    moved = f"{first:.3f} → {last:.3f}" if steps > 1 else f"{last:.3f}"
    return f"loss                {moved} nats a token"


def main(args: list[str]) -> None:
    target = cli.take(args, "--export")
    cfg = with_lora(cli.parse(SFTConfig, starting_config(args), args, __doc__ or "", FLAGS))
    check(bool(cfg.data), "--data=FILE is needed")
    taken = target and Path(target).exists() and any(Path(target).iterdir())
    check(not taken, f"--export={target}: already exists, and is not empty")
    conversation = open_model(cfg.base).conversation(cfg.conversation)
    documents = read_documents(cfg, conversation)
    mesh = sharding.make_mesh(cfg.mesh)
    print(f"SFT: {size(cfg.model)}; {len(documents):,} documents, mesh {cfg.mesh}")
    run = train(
        cfg,
        documents,
        conversation.tokenizer.pad_id,
        mesh,
        lambda: first_weights(cfg.base, cfg.model, mesh),
    )
    losses = first_and_last(read_jsonl(run.folder / "metrics.jsonl"), "nll")
    if losses:
        print(loss_line(*losses, run.at))
    run.check_ended()
    if target:
        print(export(cfg.out, target, mesh))


if __name__ == "__main__":
    cli.run(main, trains=True)
