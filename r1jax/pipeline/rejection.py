"""Rejection sampling: k replies a problem, of which the right and readable ones are kept as rows
that fine-tuning reads (DeepSeek-R1, arXiv 2501.12948v1, section 2.3.3; distillation: 2.4).

    OUT/sampling.json   what was asked for; another request needs another folder
    OUT/replies.jsonl, grades.jsonl   (r1jax/evaluation/work.py: drawn, graded and resumed as there)
    OUT/kept.jsonl      {"prompt", "completion"} and where it is from: problem, sample, seed, model
    OUT/dropped.jsonl   the others, with the reason (r1jax/pipeline/filters.py)
    OUT/counts.json     how many, by reason

What is kept is a function of the replies: filters may be changed, and more replies asked for, in
the same folder. The rows are the same however often it was stopped and on however many processes.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r1jax import processes
from r1jax.checks import check
from r1jax.config import Long
from r1jax.data.decontamination import Grams
from r1jax.data.problems import Problem
from r1jax.evaluation.local import Replier
from r1jax.evaluation.protocol import Protocol
from r1jax.evaluation.questions import number_of
from r1jax.evaluation.replies import Key
from r1jax.evaluation.work import Job, Name, Work, check_same, identity_of, texts_of
from r1jax.files import replaced, write_whole
from r1jax.pipeline.filters import REASONS, FilterConfig, fault
from r1jax.pipeline.rows import line
from r1jax.rewards.grading import Grade, Grader

KEPT, DROPPED = "kept.jsonl", "dropped.jsonl"
NAME = "problems"  # what `Key` calls the benchmark here

# Why a problem is not asked.
TWICE, SHARES = "ask what another does", "share words with a benchmark"


@dataclasses.dataclass(frozen=True)
class RejectionConfig:
    """What is drawn, as `Protocol` has it, and what is kept of it."""

    k: int = 16  # replies to a problem
    keep: int = 4  # of one problem, at most, chosen by the seed; 0: all that are good
    filters: FilterConfig = dataclasses.field(default_factory=FilterConfig)
    unasked: Long = "stop"  # what a problem does that is too long, or of words it does not know
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    max_tokens: int = 32_768  # of a reply
    think: bool = True  # whether a reply is made to begin with <think>
    system: str = ""  # a system prompt, which no row repeats
    directives: bool = True  # whether a chat model is told how to give its answer
    seed: int = 0

    def __post_init__(self):
        check(self.k > 0, f"--k must be positive, got {self.k}")
        check(self.keep >= 0, f"--keep must not be negative, got {self.keep}")
        _ = self.protocol

    @property
    def protocol(self) -> Protocol:
        return Protocol(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Protocol)})


@dataclasses.dataclass(frozen=True)
class Counts:
    """problems: given, of which `left_out` were not asked, by reason. replies: drawn, of which
    `kept` and `dropped`, by reason, are all. solved: problems of which something is kept."""

    problems: int
    left_out: Mapping[str, int]
    replies: int
    kept: int
    dropped: Mapping[str, int]
    solved: int

    def __post_init__(self):
        if self.kept + sum(self.dropped.values()) != self.replies:
            raise ValueError(f"{self}: does not add up")

    @property
    def asked(self) -> int:
        return self.problems - sum(self.left_out.values())

    def lines(self) -> list[str]:
        """The table, for people."""

        def line(name: str, n: int, of: int, said: str = "") -> str:
            return f"{name:22}{n:>12,}{n / max(of, 1):>8.1%}  {said}".rstrip()

        found = [line("problems", self.problems, self.problems)]
        found += [line(f"  {why}", n, self.problems) for why, n in self.left_out.items()]
        found += [line("  asked", self.asked, self.problems)]
        found += [line("    something kept", self.solved, self.problems)]
        found += [line("replies", self.replies, self.replies)]
        found += [
            line(f"  {why}", n, self.replies, REASONS[why]) for why, n in self.dropped.items() if n
        ]
        return [*found, line("  kept", self.kept, self.replies)]


def sample(
    replier: Replier,
    problems: Sequence[Problem],
    grader: Grader,
    cfg: RejectionConfig,
    out: str | Path,
    *,
    against: Sequence[Problem] = (),
    share: tuple[int, int] = (0, 1),
    identity: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Counts:
    """Draws what is missing in the folder `out`, and writes what is kept and what is dropped.

    replier: asked by cfg.protocol. against: benchmarks: a problem, or a reply, that has 10 words in
    a row with one of theirs is left out, or dropped. share: (i, n): the i-th of n parts of the
    problems, for hosts that know nothing of each other; the parts' rows, in order, are those of the
    whole. identity: what else has to be the same for a folder to be gone on with, of which
    "weights" goes into every row. Every process of a pod must call it.

    Raises InputError for problems of one id, those that cannot be asked (by cfg.unasked) or graded,
    a folder that holds something else, and as the replier does, with all replies kept.
    """
    out, given = Path(out), dict(identity or {})
    (name, count), *_ = collections.Counter(p.id for p in problems).most_common(1) or [("", 1)]
    check(count == 1, f"{count} problems have the id {name!r}")
    grams = Grams(against) if against else None
    chosen, left_out = _asked(problems, grams, share)
    by_name: dict[Name, Problem] = {(NAME, p.id): p for p in chosen}
    texts, unasked = texts_of(by_name, replier, cfg.protocol, cfg.unasked == "drop", say)
    left_out += [(by_name.pop(name), why, "") for name, why in unasked.items()]
    keys = [Key(*name, i) for name in by_name for i in range(cfg.k)]

    def first() -> None:
        who = identity_of(replier, cfg.protocol, {**given, "share": list(share)})
        check_same(out, "sampling.json", "replies", who)

    with Job(replier, grader, out, texts, by_name, say).opened(first) as work:
        work.go_on(keys)
        reasons = _reasons(work, by_name, keys, cfg, grams)
        tally = collections.Counter(reason for reason, _ in reasons)
        counts = Counts(
            problems=len(by_name) + len(left_out),
            left_out=dict(collections.Counter(why for _, why, _ in left_out)),
            replies=len(keys),
            kept=tally[""],
            dropped={reason: tally[reason] for reason in REASONS},
            solved=len({k.id for k, (why, _) in zip(keys, reasons, strict=True) if not why}),
        )
        if jax.process_index() == 0:
            about = {"seed": cfg.seed, "model": replier.name, "form": replier.form}
            about |= {name: given[name] for name in ("weights",) if name in given}
            _write(out, left_out, _rows(work, by_name, keys, reasons, about))
            text = json.dumps(dataclasses.asdict(counts), indent=2)
            write_whole(out / "counts.json", text + "\n")
        return counts


LeftOut = list[tuple[Problem, str, str]]  # why it is not asked, and what was found


def _asked(
    problems: Sequence[Problem], grams: Grams | None, share: tuple[int, int]
) -> tuple[list[Problem], LeftOut]:
    """This share's problems, in two parts."""
    i, n = share
    check(0 <= i < n, f"share {i} of {n}: expected one of 0 to {n - 1}")
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.prompt, problem)
    chosen, left_out = [], []
    for problem in problems[len(problems) * i // n : len(problems) * (i + 1) // n]:
        shared = grams.match(problem) if grams else None
        if first[problem.prompt] is not problem:
            left_out.append((problem, TWICE, f"of {first[problem.prompt].id}"))
        elif shared is not None:
            left_out.append((problem, SHARES, f"with {shared.evaluation}: {shared.words}"))
        else:
            chosen.append(problem)
    return chosen, left_out


def _reasons(
    work: Work,
    problems: Mapping[Name, Problem],
    keys: Sequence[Key],
    cfg: RejectionConfig,
    grams: Grams | None,
) -> list[tuple[str, str]]:
    """(reason, what was found) of each reply; ("", "") of one that is kept."""

    def mine() -> list[tuple[str, str]]:
        return [
            fault(problems[key[:2]], work.reply(key), _graded(work, key), cfg.filters, grams)
            for key in processes.share(keys)
        ]

    found = [(reason, detail) for reason, detail in processes.gather(mine)]
    good: dict[str, list[int]] = collections.defaultdict(list)
    seen: dict[tuple[str, str], int] = {}
    for place, key in enumerate(keys):
        if found[place][0]:
            continue
        said = key.id, " ".join(work.reply(key).completion.split())
        if said in seen:
            found[place] = "duplicate", f"of sample {seen[said]}"
            continue
        seen[said] = key.sample
        good[key.id].append(place)
    for name, places in good.items():
        rng = np.random.default_rng([cfg.seed, number_of(NAME, name)])
        order = rng.permutation(len(places)).tolist()
        for i in order[cfg.keep :] if cfg.keep else ():
            found[places[i]] = "surplus", f"{len(places)} are good"
    return found


def _graded(work: Work, key: Key) -> Grade:
    grade = work.grade(key)
    if grade is None:
        raise ValueError(f"{key} has no grade")
    return grade


def _rows(
    work: Work,
    problems: Mapping[Name, Problem],
    keys: Sequence[Key],
    reasons: Sequence[tuple[str, str]],
    about: Mapping[str, Any],
) -> Iterable[tuple[bool, dict[str, Any]]]:
    """(whether it is kept, the row) of each reply."""
    for key, (reason, detail) in zip(keys, reasons, strict=True):
        reply = work.reply(key)
        row = {
            "id": key.id,
            "source": problems[key[:2]].source,
            "sample": key.sample,
            **about,
            "tokens": reply.tokens,
            "prompt": work.job.texts[key[:2]],
            "completion": reply.completion,
            "reason": reason or "correct",
        }
        yield not reason, row | ({"detail": detail} if detail else {})


def _write(out: Path, left_out: LeftOut, rows: Iterable[tuple[bool, dict[str, Any]]]) -> None:
    """Both files whole; of a problem that is not asked there is a row without a reply."""
    with (
        replaced(out / DROPPED) as dropped,
        replaced(out / KEPT) as kept,
        kept.open("wb") as good,
        dropped.open("wb") as bad,
    ):
        for problem, why, detail in left_out:
            row = {"id": problem.id, "source": problem.source, "prompt": problem.prompt}
            bad.write(line(row | {"reason": why, "detail": detail}))
        for is_kept, row in rows:
            (good if is_kept else bad).write(line(row))
