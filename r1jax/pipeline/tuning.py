"""Supervised fine-tuning from a file of rows to a trained run: what cold start, R1's third stage
and distillation are made of."""

from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from r1jax import sharding
from r1jax.config import SFTConfig
from r1jax.data.conversation import Conversation, make_conversation
from r1jax.data.countdown import VOCABULARY
from r1jax.data.documents import read_documents
from r1jax.data.tokenizer import Tokenizer
from r1jax.metrics import first_and_last, read_jsonl
from r1jax.model.params import Weights
from r1jax.models import first_weights, size, with_lora, with_vocab
from r1jax.run import Run
from r1jax.sft import train


def conversation_of(cfg: SFTConfig) -> Conversation:
    """How the model of `cfg` is asked."""
    tokenizer = Tokenizer.load(cfg.tokenizer) if cfg.tokenizer else Tokenizer.words(VOCABULARY)
    return make_conversation(tokenizer, cfg.tokenizer, cfg.conversation)


def fine_tune(
    cfg: SFTConfig,
    base: Callable[[Mesh], Weights] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Trains on the rows of cfg.data from cfg.base, or from `base(mesh)`.

    Raises InputError as `read_documents` and `sft.train` do, and Stopped if a signal ended it.
    """
    conversation = conversation_of(cfg)
    cfg = with_lora(with_vocab(cfg, conversation.tokenizer.vocab_size))
    documents = read_documents(cfg, conversation)
    mesh = sharding.make_mesh(cfg.mesh)
    say(f"SFT: {size(cfg.model)}; {len(documents):,} documents, mesh {cfg.mesh}")

    def begins() -> Weights:
        if base is not None:
            return base(mesh)
        return first_weights(cfg.base, cfg.model, mesh, cfg.seed, making=Path(cfg.out) / "base")

    run = train(cfg, documents, conversation.tokenizer.pad_id, mesh, begins, say)
    losses = first_and_last(read_jsonl(run.folder / "metrics.jsonl"), "nll")
    if losses:
        say(loss_line(*losses, run.at))
    say(f"run                 {run.folder}")
    run.check_ended()
    return run


def loss_line(first: float, last: float, steps: int) -> str:
    """One step has one loss."""
    moved = f"{first:.3f} → {last:.3f}" if steps > 1 else f"{last:.3f}"
    return f"loss                {moved} nats a token"
