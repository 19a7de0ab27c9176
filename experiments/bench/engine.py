"""What the engine pays for, as ratios within one run.

    python -m experiments.bench.engine

8 requests on an engine of 256 slots against one of 8; the prompt of 16 replies against that of
one; a rollout whose longest reply is at most a tenth of the budget against the same with the
smaller budget; a rollout on one engine and on one a core. The model is the embedded one, with a
context of 4,096. Times are the least of several, taken in turns; "cpu" counts all threads.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import cli
from r1jax import sharding
from r1jax.base import EMBEDDED, load_weights
from r1jax.config import SamplingConfig
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tokenizer import Tokenizer
from r1jax.presets import RUNS
from r1jax.sampling.engine import Engine, Request
from r1jax.sampling.lanes import Lanes, cores

REPEATS = 7
BUDGET, LONG_PROMPT = 2000, 300
WORDS = Tokenizer.words(VOCABULARY)
NEVER: list[int] = []  # without a stop token a reply is as long as it may be


def least(runs: dict[str, Callable[[], Any]]) -> dict[str, tuple[float, float]]:
    """(wall, cpu) seconds of each, after one that compiles: the least of REPEATS, in turns."""
    best = {name: (np.inf, np.inf) for name in runs}
    for run in runs.values():
        run()
    for _ in range(REPEATS):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            took = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = min(best[name][0], took[0]), min(best[name][1], took[1])
    return best


def show(title: str, times: dict[str, tuple[float, float]]) -> None:
    print(title)
    (base_wall, base_cpu) = next(iter(times.values()))
    for name, (wall, cpu) in times.items():
        print(
            f"  {name:28} {wall:8.4f} s ({wall / base_wall:5.2f}x)  "
            f"cpu {cpu:8.4f} s ({cpu / base_cpu:5.2f}x)",
            flush=True,
        )


class Bench:
    def __init__(self) -> None:
        self.model = dataclasses.replace(RUNS["tiny"]().model, context=4096)
        self.mesh = sharding.make_mesh("1")
        self.weights = load_weights(EMBEDDED, self.model)

    def engine(self, stop: list[int], **sampling: Any) -> Engine:
        return Engine(self.model, SamplingConfig(**sampling), self.mesh, stop)

    def run(
        self, engine: Engine | Lanes, prompts: list[list[int]], group: int = 1
    ) -> Callable[[], Any]:
        return self.run_of(
            engine, [Request(p, i, k) for i, p in enumerate(prompts) for k in range(group)]
        )

    def run_of(self, engine: Engine | Lanes, requests: list[Request]) -> Callable[[], Any]:
        return lambda: engine.generate(self.weights, requests, jax.random.key(0))

    def slots(self) -> None:
        prompts = [[3 + i, 5, 7, 9] for i in range(8)]
        sizes = {"max_prompt": 12, "max_tokens": 176}
        engines = {n: self.engine(NEVER, slots=n, refill=8, **sizes) for n in (8, 256)}
        runs = {f"8 requests, {n} slots": self.run(e, prompts) for n, e in engines.items()}
        show("slots (aim: 1.2x)", least(runs))

    def prompts(self) -> None:
        """Of replies of one token: nearly all is the prompt. A copy a slot is part of it."""
        prompt = np.random.default_rng(0).integers(3, 60, LONG_PROMPT).tolist()
        engine = self.engine(NEVER, max_prompt=LONG_PROMPT, max_tokens=1, slots=16, refill=16)
        one = self.engine(NEVER, max_prompt=LONG_PROMPT, max_tokens=1, slots=1, refill=1)
        runs = {"one reply": self.run(one, [prompt]), "16 replies": self.run(engine, [prompt], 16)}
        show(f"a prompt of {LONG_PROMPT} tokens (aim: 1.3x)", least(runs))

    def texts(self) -> list[list[int]]:
        """Prompts that the embedded model answers with replies of its own lengths."""
        rng = np.random.default_rng(0)
        numbers = [" ".join(map(str, rng.permutation(9)[:4] + 1)) for _ in range(160)]
        texts = [f"puzzle {n} to make {5 + i % 9} <think>" for i, n in enumerate(numbers)]
        return [WORDS.encode(text) for text in texts]

    def lengths(self) -> None:
        """Of these replies, those that fit a tenth of the budget."""
        requests = [Request(text, i, 0) for i, text in enumerate(self.texts())]
        sizes = {"max_prompt": 12, "slots": 64, "refill": 64}
        small, large = (
            self.engine([WORDS.eos_id], max_tokens=budget, **sizes)
            for budget in (BUDGET // 10, BUDGET)
        )
        drawn, _ = small.generate(self.weights, requests, jax.random.key(0))
        ended = [
            (r, len(c.tokens)) for r, c in zip(requests, drawn, strict=True) if not c.truncated
        ]
        some, longest = [r for r, _ in ended[:64]], max(length for _, length in ended[:64])
        runs = {
            f"budget of {engine.cfg.max_tokens} tokens": self.run_of(engine, some)
            for engine in (small, large)
        }
        show(f"{len(some)} replies, the longest of {longest} tokens", least(runs))

    def lanes(self) -> None:
        """A rollout as large as the main job's, on one engine and on one a core."""
        cfg, texts = RUNS["tiny"]().sampling, self.texts()[:16]
        args = self.model, cfg, self.mesh, [WORDS.eos_id]
        runs = {
            "one engine": self.run(Engine(*args), texts, group=16),
            f"{cores(self.mesh)} cores": self.run(Lanes(*args), texts, group=16),
        }
        show("256 replies on 128 slots", least(runs))


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """There are none."""


def main(args: list[str]) -> None:
    cli.parse(NoOptions, NoOptions(), args, __doc__ or "")
    bench = Bench()
    bench.slots()
    bench.prompts()
    bench.lengths()
    bench.lanes()


if __name__ == "__main__":
    cli.run(main)
