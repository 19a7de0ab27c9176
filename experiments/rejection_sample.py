"""Rejection sampling: k replies a problem, of which the right and readable ones are kept for SFT.

    python -m experiments.rejection_sample --model=runs/r1_zero --k=16      # the embedded problems
    python -m experiments.rejection_sample --model=DIR --data=gsm8k=train.jsonl --out=runs/traces
    python -m experiments.rejection_sample --model=http://HOST:8000/v1 --data=problems.jsonl
    python -m experiments.sft --model=STUDENT --data=runs/traces/kept.jsonl

R1's third stage (arXiv 2501.12948v1, section 2.3.3): replies are drawn at temperature 1; those are
dropped that are wrong, cut, out of form, of mixed language, with long paragraphs or code blocks in
the thought, or that repeat themselves, each limit a flag of --filters; with --against=[TASK=]FILE
also what shares 10 words in a row with a benchmark; then duplicates, and what goes beyond --keep
replies of a problem, which the seed chooses. --data names problems as experiments.r1_zero does;
without it, the embedded countdown's training problems of --tier numbers. --model as in
experiments.evaluate.

OUT/kept.jsonl is what experiments.sft reads; OUT/dropped.jsonl has the others, each with its
reason; both say of which problem, sample, seed and model a row is. Every reply is kept in
OUT/replies.jsonl as soon as it ends: the same command goes on where it was stopped, and may ask for
more replies or other filters. --shard=2/8 does the second of eight parts of the problems, on hosts
that know nothing of each other: the parts' kept.jsonl, one after another, are that of the whole.
"""

import dataclasses
import re
from pathlib import Path

import jax

from experiments import cli
from experiments.asking import Asking, grader_of, replier_of, said_at_stop
from r1jax.checks import check
from r1jax.config import TaskName
from r1jax.data import countdown
from r1jax.data.problems import Problem
from r1jax.data.tasks import read_files
from r1jax.evaluation.questions import evenly
from r1jax.pipeline.rejection import KEPT, RejectionConfig, sample


@dataclasses.dataclass(frozen=True)
class SampleConfig(RejectionConfig, Asking):
    data: str = ""  # [TASK=]FILE,...: problems
    task: TaskName = "problems"  # of files that do not say another
    tier: int = 4  # numbers of an embedded countdown problem
    against: str = ""  # [TASK=]FILE,...: benchmarks, of which nothing is to be learnt
    limit: int = 0  # evenly spaced problems; 0: all
    shard: str = "1/1"  # I/N: the I-th of N parts of the problems
    out: str = "runs/rejection"

    def __post_init__(self):
        Asking.__post_init__(self)
        super().__post_init__()
        check(self.limit >= 0, f"--limit must not be negative, got {self.limit}")
        check(3 <= self.tier <= 6, f"--tier must lie between 3 and 6, got {self.tier}")
        _ = self.share

    @property
    def share(self) -> tuple[int, int]:
        """(i, n), from 0."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", self.shard)
        i, n = (int(found[1]), int(found[2])) if found else (0, 0)
        check(0 < i <= n, f"--shard={self.shard}: expected I/N, such as 2/8")
        return i - 1, n

    def problems(self) -> list[Problem]:
        if not self.data:
            found, _ = countdown.split(self.tier)
        else:
            found = read_files(self.data, self.task, self.bad_rows)
        return [found[i] for i in evenly(len(found), self.limit or len(found))]


def draw(cfg: SampleConfig) -> None:
    """Raises InputError as `sample`, and if nothing is kept."""
    first = jax.process_index() == 0

    def say(line: str) -> None:
        if first:
            print(line, flush=True)

    problems = cfg.problems()
    against = read_files(cfg.against, cfg.task, cfg.bad_rows, "--against") if cfg.against else []
    replier, identity = replier_of(cfg, cfg.protocol, say)
    with grader_of(cfg, replier.form) as grader, said_at_stop(Path(cfg.out), say):
        counts = sample(
            replier,
            problems,
            grader,
            cfg,
            cfg.out,
            against=against,
            share=cfg.share,
            identity=identity,
            say=say,
        )
    for line in counts.lines():
        say(line)
    check(counts.kept > 0, f"{cfg.out}: nothing is kept: dropped.jsonl has the reasons")
    say(f"written to {Path(cfg.out) / KEPT}")


def main(args: list[str]) -> None:
    draw(cli.parse(SampleConfig, SampleConfig(), args, __doc__ or ""))


if __name__ == "__main__":
    cli.run(main)
