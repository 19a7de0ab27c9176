r"""How often is the mathematics grader wrong?

    python -m experiments.bench.grader_rates --data=DIR      # or R1JAX_DATA

Every reference answer of GSM8K, MATH-500, AIME and AMC is rewritten in other spellings, which
must be accepted, and changed into other answers, which must be rejected (rewrites.py).
Prints the errors by rewriting and data set, the first few of them, and the rates. Aims: at most
0.5% false accepts and 2% false rejects.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import cli
from experiments.bench.rewrites import OTHER, SAME
from r1jax.checks import check, check_positive
from r1jax.data.problems import Problem
from r1jax.data.sources import READERS
from r1jax.rewards.asked import is_copied
from r1jax.rewards.grading import Grade, Grader

SETS = {"gsm8k": "gsm8k", "math500": "math", "aime24": "aime", "aime25": "aime", "amc23": "amc"}
MAX_FALSE_ACCEPTS, MAX_FALSE_REJECTS = 0.005, 0.02
SHOWN = 20  # errors that are printed


class Case(NamedTuple):
    problem: Problem
    rewrite: str
    answer: str
    right: bool  # must it be accepted?


def read_all(data: Path) -> list[Problem]:
    return [
        dataclasses.replace(problem, source=name)
        for name, reader in SETS.items()
        for problem in READERS[reader](data / name / "test.jsonl")
    ]


def make_cases(problems: Sequence[Problem]) -> list[Case]:
    """Every rewriting of every answer, without repeats. No wrong one reads like the reference, and
    no right one is the formula that the question asks to rewrite, which is no answer to it."""
    return [
        Case(problem, name, answer, right)
        for table, right in ((SAME, True), (OTHER, False))
        for name, rewrite in table.items()
        for problem in problems
        for answer in dict.fromkeys(rewrite(problem))
        if (
            not is_copied(answer, problem.prompt, problem.answer)
            if right
            else answer != problem.answer
        )
    ]


def grade(cases: Sequence[Case], grader: Grader) -> list[Grade]:
    replies = [f"<think> x </think> <answer> {case.answer} </answer>" for case in cases]
    return grader.grade([case.problem for case in cases], replies)


def is_error(case: Case, grade: Grade) -> bool:
    """A false accept or a false reject; a reference that failed to be graded is neither."""
    return grade.outcome != "failed" and (grade.outcome == "correct") != case.right


def rates(cases: Sequence[Case], grades: Sequence[Grade]) -> tuple[float, float]:
    """(false accepts / wrong answers, false rejects / right answers)."""
    graded = list(zip(cases, grades, strict=True))
    accepts, rejects = (
        [is_error(case, grade) for case, grade in graded if case.right is right]
        for right in (False, True)
    )
    return sum(accepts) / len(accepts), sum(rejects) / len(rejects)


def table(cases: Sequence[Case], grades: Sequence[Grade]) -> str:
    """Errors / answers of each rewriting, by data set."""
    lines = [f"{'':24}" + "".join(f"{name:>12}" for name in (*SETS, "failed"))]
    for rewrites, title in ((SAME, "must be accepted"), (OTHER, "must be rejected")):
        lines.append(f"{title} (wrong / all)")
        for name in rewrites:
            mine = [(c, g) for c, g in zip(cases, grades, strict=True) if c.rewrite == name]
            row = f"  {name:22}"
            for source in SETS:
                here = [(c, g) for c, g in mine if c.problem.source == source]
                wrong = sum(is_error(c, g) for c, g in here)
                row += f"{f'{wrong} / {len(here)}' if here else '':>12}"
            lines.append(row + f"{sum(g.outcome == 'failed' for _, g in mine):>12}")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class RatesConfig:
    data: str = ""  # a folder with gsm8k/test.jsonl, math500/test.jsonl, ...; empty: R1JAX_DATA
    workers: int = 2  # processes that grade

    def __post_init__(self):
        check_positive(self, "workers")


def main(args: list[str]) -> None:
    cfg = cli.parse(RatesConfig, RatesConfig(), args, __doc__ or "")
    data = cfg.data or os.environ.get("R1JAX_DATA", "")
    check(bool(data), "--data=DIR: no directory of problems is given, nor is R1JAX_DATA")
    cases = make_cases(read_all(Path(data)))
    with Grader({"accuracy": 1.0}, workers=cfg.workers) as grader:
        started = time.perf_counter()
        grades = grade(cases, grader)
        took = time.perf_counter() - started
    print(table(cases, grades))
    errors = [(c, g) for c, g in zip(cases, grades, strict=True) if is_error(c, g)]
    errors += [(c, g) for c, g in zip(cases, grades, strict=True) if g.outcome == "failed"]
    for case, found in errors[:SHOWN]:
        print(
            f"{found.outcome}: {case.answer!r} for {case.problem.answer!r} ({case.rewrite}, "
            f"{case.problem.id}) {found.detail}"
        )
    graded = list(zip(cases, grades, strict=True))
    for name in (*SETS, "all"):
        here = [(c, g) for c, g in graded if name in ("all", c.problem.source)]
        accepts, rejects = rates(*zip(*here, strict=True))
        failed = sum(g.outcome == "failed" for _, g in here)
        print(
            f"{name:8} {len(here):7,} answers: false accepts {accepts:.2%} (aim "
            f"{MAX_FALSE_ACCEPTS:.1%}), false rejects {rejects:.2%} (aim {MAX_FALSE_REJECTS:.1%}), "
            f"failed {failed}"
        )
    print(f"{len(cases) / took:,.0f} grades a second on {cfg.workers} workers, {took:.0f} s in all")


if __name__ == "__main__":
    cli.run(main)
