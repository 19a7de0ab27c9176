"""Chooses the problems to train on: none of an evaluation set, none that teaches nothing.

    python -m experiments.filter_data --task=gsm8k --data=train.jsonl --out=problems.jsonl \\
        --against=gsm8k=test.jsonl,math=math500.jsonl
    python -m experiments.filter_data --data=problems.jsonl --grades=grades.jsonl --out=chosen.jsonl

--data and --against name files as experiments.r1_zero does. With --against, problems that share
10 words in a row with an evaluation problem are dropped. With --grades (`experiments.grade --out`,
or a run's samples.jsonl), those that are always or never solved are. --out is of the form
"problems"; --dropped=FILE has a line {"id", "reason"} for each of the others.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from experiments import cli
from r1jax.checks import check
from r1jax.config import TaskName
from r1jax.data.decontamination import GRAM, SHORTEST, Grams, decontaminate
from r1jax.data.difficulty import by_difficulty, read_tallies
from r1jax.data.problems import Problem
from r1jax.data.sources import write_problems
from r1jax.data.tasks import parse_data, read_files

SHOWN = 10  # dropped problems that are printed, for each reason


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    task: TaskName = "problems"  # of files that do not say another
    data: str = ""  # [TASK=]FILE,...
    against: str = ""  # evaluation problems, in the same way
    grades: str = ""
    lowest: float = 0.0  # a share of correct replies at most this is never solved
    highest: float = 1.0  # and one at least this always
    min_samples: int = 4  # graded replies, below which a problem is kept, since it cannot be told
    out: str = ""
    dropped: str = ""
    bad_rows: Literal["stop", "skip"] = "stop"


def report(title: str, lines: Sequence[str]) -> None:
    more = len(lines) - SHOWN
    print(title, *(f"  {line}" for line in lines[:SHOWN]), sep="\n")
    if more > 0:
        print(f"  and {more:,} more")


def without_evaluation(
    problems: list[Problem], cfg: FilterConfig
) -> tuple[list[Problem], dict[str, str]]:
    """(kept, why each of the others was dropped)."""
    evaluation = read_files(cfg.against, cfg.task, cfg.bad_rows, "--against")
    grams = Grams(evaluation)
    kept, matches = decontaminate(problems, grams)
    reasons = {m.problem.id: f"shares with {m.evaluation}: {m.words}" for m in matches}
    report(
        f"dropped {len(matches):,} of {len(problems):,} problems, which share {GRAM} words in a "
        f"row (or a whole shorter text) with one of {len(evaluation):,} evaluation problems",
        [f"{name}: {reason}" for name, reason in reasons.items()],
    )
    if grams.too_short:
        print(f"{len(grams.too_short):,} evaluation problems have less than {SHORTEST} words")
    return kept, reasons


def of_use(problems: list[Problem], cfg: FilterConfig) -> tuple[list[Problem], dict[str, str]]:
    tallies = read_tallies(cfg.grades)
    known = {problem.id for problem in problems}
    found = by_difficulty(problems, tallies, cfg.lowest, cfg.highest, cfg.min_samples)
    reasons: dict[str, str] = {}
    for word, some in (("never", found.never), ("always", found.always)):
        solved = [(p, tallies[p.id]) for p in some]
        why = {p.id: f"{word} solved: {t.correct} of {t.graded}" for p, t in solved}
        report(
            f"dropped {len(some):,} problems that are {word} solved",
            [f"{name}: {reason}" for name, reason in why.items()],
        )
        reasons |= why
    print(f"kept {len(found.unknown):,} with less than {cfg.min_samples} graded replies")
    strangers = len(tallies.keys() - known)
    print(f"{strangers:,} graded problems are not among these") if strangers else None
    return found.kept, reasons


def check_files(cfg: FilterConfig) -> None:
    """Raises InputError if something is missing, or if a result would replace what is read."""
    for flag in ("data", "out"):
        check(bool(getattr(cfg, flag)), f"--{flag}=FILE is needed")
    check(bool(cfg.against or cfg.grades), "--against=FILE or --grades=FILE is needed")
    given = [path for data in (cfg.data, cfg.against) if data for _, path, _ in parse_data(data)]
    read = {Path(path).resolve() for path in (*given, cfg.grades) if path}
    for flag in ("out", "dropped"):
        if getattr(cfg, flag):
            path = cli.file_to_write(Path(getattr(cfg, flag)), f"--{flag}")
            check(path.resolve() not in read, f"--{flag}={path}: this file is read")
    check(cfg.out != cfg.dropped, f"--out and --dropped are the same file: {cfg.out}")


def main(args: list[str]) -> None:
    cfg = cli.parse(FilterConfig, FilterConfig(), args, __doc__ or "")
    check_files(cfg)
    problems = read_files(cfg.data, cfg.task, cfg.bad_rows)
    (name, count), *_ = Counter(problem.id for problem in problems).most_common(1)
    check(count == 1, f"--data={cfg.data}: {count} problems have the id {name!r}")
    kept = problems
    reasons: dict[str, str] = {}
    if cfg.against:
        kept, shared = without_evaluation(kept, cfg)
        reasons |= shared
    if cfg.grades:
        kept, useless = of_use(kept, cfg)
        reasons |= useless
    check(bool(kept), "no problem is left; nothing is written")
    write_problems(kept, Path(cfg.out))
    if cfg.dropped:
        rows = [{"id": name, "reason": reason} for name, reason in reasons.items()]
        Path(cfg.dropped).write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{cfg.out}: {len(kept):,} of {len(problems):,} problems")


if __name__ == "__main__":
    cli.run(main)
