"""Supervised fine-tuning of a model that exists: cold start, distillation, or a style of one's own.

    python -m experiments.sft --model=DIR --data=replies.jsonl
    python -m experiments.sft --model=DIR --data=... --mesh=2x4 --export=OUT
    python -m experiments.sft --resume                  # go on where it was stopped

DIR is a Hugging Face directory, or the folder of a run. A row of --data is {"prompt", "completion"}
or {"messages"}, of which the chat template makes the prompt and the last, the assistant's, is the
completion. Only completions are trained on. The run leaves metrics.jsonl, TensorBoard events and
checkpoints in --out; --export also writes the result as a Hugging Face directory, as
experiments.export does later.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from experiments import cli
from experiments.export import export
from r1jax import optim, sharding
from r1jax.checkpoint import Checkpoints, abstract_like
from r1jax.config import SFTConfig, check, load_config, save_config
from r1jax.data.chat import ChatTemplate, check_messages
from r1jax.data.packing import Document, Packed
from r1jax.data.pipeline import batches
from r1jax.data.rows import Place, field, read_rows
from r1jax.data.tokenizer import Tokenizer
from r1jax.metrics import MetricsLog, Progress, first_and_last, read_jsonl
from r1jax.model.params import weight_specs
from r1jax.models import open_model
from r1jax.optim import TrainState
from r1jax.sft import sft_step


def read_documents(cfg: SFTConfig, tokenizer: Tokenizer) -> list[Document]:
    """(prompt, completion and eos) tokens of each row. Raises InputError that names the line."""

    @functools.cache
    def template() -> ChatTemplate:
        return ChatTemplate.load(cfg.tokenizer)

    def parse(row: dict[str, Any], _: Place) -> Document:
        if "messages" in row:
            check_messages(row["messages"])
            *asked, last = row["messages"]
            check(last["role"] == "assistant", "the last message must be the assistant's")
            prompt = template().render(asked)
            completion = field(last, "content", str)
        else:
            prompt, completion = field(row, "prompt", str), field(row, "completion", str)
        return document(tokenizer, prompt, completion)

    return read_rows(cfg.data, parse)


def document(tokenizer: Tokenizer, prompt: str, completion: str) -> Document:
    """Encoded as one text, so that the tokens between the two are those that a model would draw;
    a token that holds the end of the prompt and the beginning of the completion is trained on."""
    before = tokenizer.encode_prompt(prompt)
    whole = [*tokenizer.encode_prompt(prompt + completion), tokenizer.eos_id]
    same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), None)
    cut = len(before) if same is None else same
    return whole[:cut], whole[cut:]


def abstract_state(cfg: SFTConfig, mesh: Mesh) -> dict[str, TrainState]:
    """Shapes and shardings of what a checkpoint holds; allocates nothing."""

    def create() -> TrainState:
        return optim.new_state(optim.init_weights(cfg.model, jax.random.key(0)), cfg.optim)

    placed = optim.state_shardings(cfg.model, cfg.optim, mesh)
    return {"train": abstract_like(jax.eval_shape(create), placed)}


def train(cfg: SFTConfig, documents: Sequence[Document], pad: int, mesh: Mesh) -> Path:
    """Runs cfg from its base, or from cfg.out's newest checkpoint with cfg.resume.

    A step is an update. Returns cfg.out. Raises InputError for an out folder that holds another
    run, for a document that is longer than a row, and for a batch that does not divide.
    """
    out, packed = Path(cfg.out), Packed(documents, cfg.length, pad)
    check(
        cfg.rows % mesh.size == 0,
        f"--mesh={cfg.mesh}: {cfg.rows} rows an update do not divide over {mesh.size} devices",
    )
    stream = batches(packed, cfg.rows, cfg.seed)
    to_devices = functools.partial(
        jax.make_array_from_process_local_data, sharding.batch_sharding(mesh)
    )
    steps = math.ceil(cfg.epochs * len(packed) / cfg.rows)
    if cfg.optim.schedule == "cosine":
        own = dataclasses.replace(cfg.optim, steps=max(steps, cfg.optim.warmup + 1))
        cfg = dataclasses.replace(cfg, optim=own)
    with Checkpoints(out / "checkpoints") as checkpoints, jax.set_mesh(mesh):
        first, newest = 0, checkpoints.newest()
        if newest is not None:
            check(cfg.resume, f"{out} already holds a run: resume it or choose another folder")
            first, state, _ = checkpoints.restore(abstract_state(cfg, mesh), cfg.model)
            state = state["train"]
            print(f"resumed from step {first}")
        else:
            state = _new_state(cfg, mesh)
        with (
            MetricsLog(_log_folder(out), resume_from=first - 1 if cfg.resume else None) as log,
            Progress(steps) as progress,
        ):
            save_config(dataclasses.replace(cfg, resume=False), _log_folder(out) / "config.json")
            started = time.perf_counter()
            for step in range(first, steps):
                batch = jax.tree.map(to_devices, stream[step])
                state, metrics = sft_step(state, batch, model=cfg.model, cfg=cfg.optim)
                if step % cfg.log_every == 0 or step + 1 == steps:
                    values = {name: float(value) for name, value in metrics.items()}
                    check(math.isfinite(values["loss"]), f"step {step}: the loss is not finite")
                    log.log(step, values | {"time": time.perf_counter() - started})
                    progress.update(step + 1, values)
                if (step + 1) % cfg.checkpoint_every == 0 or step + 1 == steps:
                    checkpoints.save(step + 1, {"train": state}, cfg.model, {})
    return out


def _new_state(cfg: SFTConfig, mesh: Mesh) -> TrainState:
    weights = open_model(cfg.base).weights(cfg.model, mesh)
    placed = optim.state_shardings(cfg.model, cfg.optim, mesh)
    create = jax.jit(
        lambda weights: optim.new_state(weights, cfg.optim),
        out_shardings=placed,
        donate_argnums=0,
    )
    return create(sharding.place(weights, placed.weights))


def _log_folder(out: Path) -> Path:
    return out / f"process_{jax.process_index()}" if jax.process_index() else out


def starting_config(args: list[str]) -> SFTConfig:
    """Of the model in --model=DIR; with --resume, that of the run in --out."""
    folder, out = cli.take(args, "--model"), cli.take(list(args), "--out") or "runs/sft"
    if "--resume" in args and (Path(out) / "config.json").exists():
        cfg = load_config(SFTConfig, Path(out) / "config.json")
        check(folder in (None, cfg.base), f"--model={folder}: {out} began from {cfg.base}")
        return cfg
    check(folder is not None or bool({"-h", "--help"} & set(args)), "--model=DIR is needed")
    source = open_model(folder or "")
    # Small updates would be lost in bfloat16 parameters.
    model = dataclasses.replace(source.config, param_dtype="float32")
    return SFTConfig(model=model, base=str(source.path), tokenizer=source.files)


def main(args: list[str]) -> None:
    target = cli.take(args, "--export")
    cfg = cli.parse(SFTConfig, starting_config(args), args, __doc__ or "")
    check(bool(cfg.data), "--data=FILE is needed")
    taken = target and Path(target).exists() and any(Path(target).iterdir())
    check(not taken, f"--export={target}: already exists, and is not empty")
    tokenizer = open_model(cfg.base).tokenizer()
    documents = read_documents(cfg, tokenizer)
    mesh = sharding.make_mesh(cfg.mesh)
    print(
        f"SFT: {sharding.count(weight_specs(cfg.model).params):,} parameters, "
        f"{len(documents):,} documents, mesh {cfg.mesh}"
    )
    out = train(cfg, documents, tokenizer.pad_id, mesh)
    losses = first_and_last(read_jsonl(_log_folder(out) / "metrics.jsonl"), "nll")
    if losses:
        print("loss                {:.3f} → {:.3f} nats a token".format(*losses))
    if target:
        print(export(str(out), target, mesh))


if __name__ == "__main__":
    cli.run(main)
