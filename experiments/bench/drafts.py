"""What guessing tokens gives: how often guesses are right, how much faster replies are drawn.

    python -m experiments.bench.drafts
    python -m experiments.bench.drafts --layers=8 --slots=1,8

The model is made by the recipe of the embedded base, with a module of multi-token prediction
(minutes; kept in the user's cache), and asked held-out problems as its corpus asks them, half of
them under "puzzle", where it searches. Each way to guess draws the same requests, in turns; times
are the least of several, and the replies are compared.
"""

import dataclasses
import sys
import time
from typing import Literal

import jax
import numpy as np

from experiments import cli
from r1jax import sharding
from r1jax.base import cached, made
from r1jax.checks import check
from r1jax.config import DraftsName, SamplingConfig
from r1jax.data import countdown
from r1jax.data.templates import opened
from r1jax.data.tokenizer import Tokenizer
from r1jax.presets import tiny_base
from r1jax.published import tiny
from r1jax.sampling.engine import Completion, Engine, EngineStats, Request

REPEATS = 5
WORDS = Tokenizer.words(countdown.VOCABULARY)


@dataclasses.dataclass(frozen=True)
class DraftsConfig:
    layers: int = 2  # of the model
    hidden: Literal["unnormed", "normed"] = "unnormed"  # states that its module reads
    slots: str = "1,8,64"  # replies side by side; four times as many are drawn
    draft_tokens: str = "1,2,4"  # guessed a step
    temperature: float = 1.0


def requests_for(count: int) -> list[Request]:
    """Held-out problems, every second one under "puzzle"."""
    _, heldout = countdown.split(4)
    chosen = np.random.default_rng(0).permutation(len(heldout))[:count]
    texts = [heldout[i].prompt.removeprefix("use ") for i in chosen]
    prompts = [opened(f"{('use', 'puzzle')[i % 2]} {text}") for i, text in enumerate(texts)]
    return [Request(WORDS.encode(p), i, 0) for i, p in enumerate(prompts)]


class Bench:
    def __init__(self, cfg: DraftsConfig):
        model = dataclasses.replace(tiny(), layers=cfg.layers, mtp_depth=1, mtp_hidden=cfg.hidden)
        recipe = tiny_base(model=model)
        self.model, self.mesh, self.cfg = recipe.model, sharding.make_mesh("1"), cfg
        self.weights = made(recipe, self.mesh, cached(recipe).with_suffix(""))

    def compare(self, slots: int) -> None:
        counts = [int(n) for n in self.cfg.draft_tokens.split(",")]
        ways: list[tuple[DraftsName, int]] = [("none", 1)]
        ways += [(name, n) for name in ("lookup", "mtp") for n in counts]
        engines = [self.engine(slots, *way) for way in ways]
        asked = requests_for(4 * slots)
        best = [np.inf] * len(ways)
        drawn: list[tuple[list[Completion], EngineStats]] = []
        for turn in range(1 + REPEATS):  # the first compiles
            for i, engine in enumerate(engines):
                started = time.perf_counter()
                found = engine.generate(self.weights, asked, jax.random.key(0))
                if turn == 0:
                    drawn.append(found)
                else:
                    best[i] = min(best[i], time.perf_counter() - started)
        for way, seconds, (replies, used) in zip(ways, best, drawn, strict=True):
            self.show(slots, way, used, best[0] / seconds, replies, drawn[0][0])

    def engine(self, slots: int, drafts: DraftsName, count: int) -> Engine:
        sampling = SamplingConfig(
            self.cfg.temperature,
            max_prompt=12,
            max_tokens=176,
            slots=slots,
            refill=max(1, slots // 4),
            drafts=drafts,
            draft_tokens=count,
        )
        return Engine(self.model, sampling, self.mesh, [WORDS.eos_id])

    def show(self, slots: int, way, used: EngineStats, ratio: float, replies, want) -> None:
        name, count = way
        same = sum(np.array_equal(a.tokens, b.tokens) for a, b in zip(replies, want, strict=True))
        whole = f"{slots:3} slots  {name:6} {count if name != 'none' else ' '}  {ratio:5.2f}x"
        if used.drafts:
            at = ", ".join(f"{n / used.drafts:.0%}" for n in used.accepted_at)
            whole += (
                f"  {used.acceptance:6.1%} right ({at})  {used.tokens_a_step:.2f} tokens a step"
            )
            whole += f"  {same} of {len(replies)} replies the same"
        print(whole, flush=True)


def main(args: list[str]) -> None:
    cfg = cli.parse(DraftsConfig, DraftsConfig(), args, __doc__ or "")
    for name in ("slots", "draft_tokens"):
        value = getattr(cfg, name)
        good = all(part.isdigit() and int(part) for part in value.split(","))
        check(good, f"--{name.replace('_', '-')} must be numbers by commas, got {value!r}")
    bench = Bench(cfg)
    for slots in cfg.slots.split(","):
        bench.compare(int(slots))
    print("times relative to no guesses, the least of several in turns", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
