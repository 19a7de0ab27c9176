"""The world's base models: how they are made, and the directories that the stages begin from.

The package ships two, made by `recipe`: the one that becomes R1, and its smaller student.
`experiments.pretrain_world` makes them again. `write_model` puts one down as a Hugging Face
directory, with the world's words as a tokenizer and a chat template that opens the thought, so that
every command takes it as it takes a published model.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import checkpoint, hub, sft
from r1jax.architecture import ModelConfig
from r1jax.base import load_weights, save_weights
from r1jax.config import OptimConfig, SFTConfig
from r1jax.data import templates
from r1jax.data.packing import Document
from r1jax.data.tokenizer import Tokenizer
from r1jax.models import first_weights
from r1jax.pipeline import world
from r1jax.pipeline.corpus import Shares, document
from r1jax.published import tiny, tiny_student

ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED, SHIPPED_STUDENT = ASSETS / "world.safetensors", ASSETS / "world_student.safetensors"
DOCUMENTS = 100_000


def model() -> ModelConfig:
    """The embedded model, with the world's words."""
    return dataclasses.replace(tiny(), vocab=len(world.vocabulary()))


def student() -> ModelConfig:
    """The embedded student, with the world's words."""
    return dataclasses.replace(tiny_student(), vocab=len(world.vocabulary()))


def recipe(of: ModelConfig, out: str) -> SFTConfig:
    """How a shipped base was made: as the embedded one (`presets.tiny_base`), in more and smaller
    updates; the student's in half as many."""
    routed = of.router is not None
    steps = 1200 if routed else 600
    return SFTConfig(
        model=of,
        base="random",
        tokenizer="",
        out=out,
        resume="auto",
        steps=steps,
        rows=16,
        length=192,
        log_every=20,
        checkpoint_every=200,
        optim=OptimConfig(
            lr=3e-3,
            schedule="cosine",
            warmup=50,
            steps=steps,
            weight_decay=0.01,
            bias_rate=1e-3 if routed else 0.0,
            balance_alpha=1e-4 if routed else 0.0,
        ),
    )


def documents(count: int, shares: Shares, seed: int) -> list[Document]:
    """What the base reads, as (prompt, reply) tokens; the prompt ends in the opened thought."""
    tokenizer, rng = Tokenizer.words(world.vocabulary()), np.random.default_rng(seed)
    texts = (document(shares, rng) for _ in range(count))
    return [
        (tokenizer.encode(templates.opened(prompt)), [*tokenizer.encode(reply), tokenizer.eos_id])
        for prompt, reply in texts
    ]


def make(
    cfg: SFTConfig,
    mesh: Mesh,
    target: Path,
    count: int = DOCUMENTS,
    say: Callable[[str], None] = print,
) -> None:
    """Trains a base in cfg.out, from where it was stopped, and writes it to `target`."""
    pad = Tokenizer.words(world.vocabulary()).pad_id
    read = documents(count, Shares(), cfg.seed)

    def begin():
        return first_weights("random", cfg.model, mesh, cfg.seed)

    run = sft.train(cfg, read, pad, mesh, begin, say)
    run.check_ended()
    weights = jax.device_get(checkpoint.load_weights(Path(cfg.out), cfg.model, mesh))
    save_weights(weights, target, {"recipe": dataclasses.asdict(cfg), "documents": count})


def write_model(folder: Path, of: ModelConfig, source: Path) -> None:
    """A Hugging Face directory of the base in `source`; one that is there already stays."""
    if (folder / "config.json").exists():
        return
    words = folder.parent / "tokenizer"
    words.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.words(world.vocabulary())
    tokenizer.save(words)
    (words / "chat_template.jinja").write_text(templates.OPENED)
    special: dict[str, int | list[int] | None] = {
        "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id
    }  # fmt: skip
    hub.save_model(load_weights(source, of), of, folder, words, "float32", special_tokens=special)
