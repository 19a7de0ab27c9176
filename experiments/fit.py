"""Which model fits which card, at which precision and context.

    python -m experiments.fit --card=24GB                               # the six students
    python -m experiments.fit --card=24GB --model=deepseek-r1-distill-qwen-14b --context=32768
    python -m experiments.fit --card=12GB --model=DIR --rows=4
    python -m experiments.fit --card=8GB --model=deepseek-r1-distill-qwen-1.5b --compile

--model is a published model's name, a Hugging Face directory or a run's folder. Weights and cache
are exact. What is temporary is bounded by the largest arrays of a step, or with --compile what the
engine's programs hold when they are compiled for this host's device (on a CPU more than on a GPU,
since it multiplies in float32). 1 GiB of the card is left to its driver.
"""

import dataclasses
from pathlib import Path

from experiments import cli
from r1jax import fit
from r1jax.architecture import ModelConfig
from r1jax.checks import check
from r1jax.hub import is_hub_id
from r1jax.models import open_model
from r1jax.published import MODELS

PRECISIONS: tuple[fit.Precision, ...] = ("bf16", "int8", "int4")


@dataclasses.dataclass(frozen=True)
class FitConfig:
    card: str = "24GB"
    model: str = ""  # empty: all six students
    context: int = 8192  # tokens of prompt and reply together
    rows: int = 1  # replies side by side
    prompt: int = 1024  # tokens of a prompt that is read at once
    compile: bool = False

    def __post_init__(self):
        for name in ("context", "rows", "prompt"):
            value = getattr(self, name)
            check(value > 0, f"--{name} must be positive, got {value}")


def named(name: str) -> dict[str, ModelConfig]:
    if name in MODELS:
        return {name: MODELS[name]()}
    if name:
        known = Path(name).exists() or is_hub_id(name)
        check(known, f"--model={name}: neither a folder nor one of {', '.join(MODELS)}")
        return {name: open_model(name).config}
    return {n: MODELS[n]() for n in MODELS if "distill" in n}


def table(cfg: FitConfig) -> list[str]:
    """A Markdown table: a row a model and precision; and what was counted otherwise than asked."""
    card = fit.card_bytes(cfg.card)
    lines = [
        "| model | weights in | weights | cache | temporary | together | fits | longest context |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name, model in named(cfg.model).items():
        context = min(cfg.context, model.context)
        if context < cfg.context:
            notes.append(f"{name}: counted with its own context, {context:,} tokens.")
        for precision in PRECISIONS:
            kept, prompt = fit.kept(model, precision), min(cfg.prompt, context)
            need = fit.served(kept, context, cfg.rows, prompt, cfg.compile)
            fits = need.total + fit.RESERVED <= card
            longest = fit.longest_context(kept, card, cfg.rows, prompt)
            sizes = " | ".join(f"{n / 2**30:.2f}" for n in (*need, need.total))
            said = "yes" if fits else "no", f"{longest:,}" if longest else "-"
            lines.append(f"| {name} | {precision} | {sizes} | {' | '.join(said)} |")
    return lines + notes


def main(args: list[str]) -> None:
    cfg = cli.parse(FitConfig, FitConfig(), args, __doc__ or "")
    lines, how = table(cfg), "as compiled here" if cfg.compile else "at most"
    print(
        f"A card of {cfg.card}, context {cfg.context:,}, {cfg.rows} at a time, prompts of at most "
        f"{cfg.prompt:,} read at once; GiB; temporary {how}"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    cli.run(main)
