"""Benchmarks by R1's protocol, with errors, beside the published figures.

    python -m experiments.evaluate                                      # the shipped model
    python -m experiments.evaluate --model=DIR --data=DATA --benchmarks=aime24,math500,gpqa
    python -m experiments.evaluate --model=runs/r1_zero --k=16          # a run's newest weights
    python -m experiments.evaluate --model=http://HOST:8000/v1 --data=DATA --benchmarks=gsm8k
    python -m experiments.evaluate --model=DIR --benchmarks=gsm8k=test.jsonl,mine=problems.jsonl

R1's protocol is the default: temperature 0.6, top-p 0.95, as many replies to a question as the
paper drew, at most 32,768 tokens, a thought forced, no system prompt; --protocol=r1_0528 is that of
R1-0528, and every part is a flag. --data is a folder of benchmarks as they are published, NAME or
NAME.jsonl (.json, .csv, .parquet, .gz) each; without --benchmarks all that it holds. Of the
user's own: NAME=FILE with lines {"id", "kind", "prompt", "answer" or "tests"}; --reward=FILE.py:
FUNCTION judges the kind "own". A model is a Hugging Face directory or id, the folder of a run,
"embedded", or the URL of an OpenAI-compatible server, whose replies have the same graders.

Every reply is kept in OUT/replies.jsonl as soon as it ends: the same command goes on where it was
stopped. OUT/results.json has all figures (docs/evaluation.md).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from experiments import cli
from experiments.asking import Asking, grader_of, replier_of, said_at_stop
from r1jax.checks import check
from r1jax.data.tasks import read_files
from r1jax.evaluation.evaluate import Evaluation
from r1jax.evaluation.protocol import PROTOCOLS, Protocol, ProtocolName
from r1jax.evaluation.questions import Choice, Shuffle, load, named
from r1jax.evaluation.table import lines


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Asking):
    benchmarks: str = ""  # NAME[=FILE],...; all of --data, or the embedded countdown
    data: str = ""  # a folder of benchmarks
    out: str = "runs/evaluate"
    protocol: ProtocolName = "r1"
    k: int | None = None  # replies to a question; None, here and below: the protocol's
    temperature: float | None = None  # 0: greedy
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    think: bool | None = None  # whether a reply is made to begin with <think>
    system: str | None = None  # a system prompt
    directives: bool | None = None  # whether a chat model is told how to give its answer
    limit: int = 0  # evenly spaced questions of each benchmark; 0: all
    since: str = ""  # the first day of dated questions, as 2024-08-01
    until: str = ""  # and the last
    shuffle: Shuffle = "published"  # options in an order by the seed: GPQA's, all, none
    tier: int = 4  # numbers of an embedded countdown problem
    language: str = "en"  # that a thought should be in
    training: str = ""  # [TASK=]FILE,...: training data that questions are looked for in

    def __post_init__(self):
        super().__post_init__()
        self.asks()
        check(self.k is None or self.k > 0, f"--k must be positive, got {self.k}")
        check(self.limit >= 0, f"--limit must not be negative, got {self.limit}")
        check(3 <= self.tier <= 6, f"--tier must lie between 3 and 6, got {self.tier}")

    def asks(self) -> Protocol:
        named = ("k", "temperature", "top_p", "top_k", "max_tokens", "think", "system",
                 "directives")  # fmt: skip
        changes: dict[str, Any] = {n: getattr(self, n) for n in named}
        changes = {n: value for n, value in changes.items() if value is not None}
        return dataclasses.replace(PROTOCOLS[self.protocol](), seed=self.seed, **changes)


def main(args: list[str]) -> None:
    cfg = cli.parse(EvaluateConfig, EvaluateConfig(), args, __doc__ or "")
    first = jax.process_index() == 0

    def say(line: str) -> None:
        if first:
            print(line, flush=True)

    how = Choice(cfg.since, cfg.until, cfg.limit, cfg.shuffle, cfg.seed, cfg.bad_rows, cfg.tier)
    benchmarks = [load(*one, how) for one in named(cfg.benchmarks, cfg.data)]
    training = (
        read_files(cfg.training, "problems", cfg.bad_rows, "--training") if cfg.training else None
    )
    replier, identity = replier_of(cfg, cfg.asks(), say)
    identity |= {"shuffle": cfg.shuffle, "tier": cfg.tier}
    with grader_of(cfg, replier.form, cfg.language) as grader, said_at_stop(Path(cfg.out), say):
        found = Evaluation(
            replier,
            benchmarks,
            cfg.asks(),
            grader,
            Path(cfg.out),
            cfg.unasked == "drop",
            training,
            identity,
            say,
        ).run()
    for line in lines(found):
        say(line)
    say(f"written to {Path(cfg.out) / 'results.json'}")


if __name__ == "__main__":
    cli.run(main)
