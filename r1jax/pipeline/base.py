"""The world's base model: how it is made, and the directory that the stages begin from.

The package ships one (`r1jax/assets/world.safetensors`), made by `recipe`; `make` makes it again.
`write_model` puts it down as a Hugging Face directory, with the world's words as a tokenizer and a
chat template that opens the thought, so that every command takes it as it takes a published model.
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
from r1jax.published import tiny

SHIPPED = Path(__file__).parents[1] / "assets" / "world.safetensors"
DOCUMENTS = 100_000


def model() -> ModelConfig:
    """The embedded model, with the world's words."""
    return dataclasses.replace(tiny(), vocab=len(world.vocabulary()))


def recipe(out: str = "runs/world_base") -> SFTConfig:
    """How the shipped base was made: as the embedded one (`presets.tiny_base`)."""
    return SFTConfig(
        model=model(),
        base="random",
        tokenizer="",
        out=out,
        resume="auto",
        steps=800,
        rows=32,
        length=192,
        log_every=20,
        checkpoint_every=200,
        optim=OptimConfig(
            lr=4e-3,
            schedule="cosine",
            warmup=50,
            steps=800,
            weight_decay=0.01,
            bias_rate=1e-3,
            balance_alpha=1e-4,
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


def write_model(folder: Path, mesh: Mesh, source: Path = SHIPPED) -> None:
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
    hub.save_model(
        load_weights(source, model()), model(), folder, words, "float32", special_tokens=special
    )
