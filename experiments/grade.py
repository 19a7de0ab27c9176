"""Grades a file of completions by the same code that training uses.

    python -m experiments.grade --data=problems.jsonl --completions=completions.jsonl
    python -m experiments.grade --data=... --completions=... --out=grades.jsonl
    python -m experiments.grade --data=... --completions=... --explain=ID
    python -m experiments.grade --data=gsm8k=test.jsonl --completions=replies.jsonl

--data names problems as experiments.r1_zero does, [TASK=]FILE,...; without a task a problem is a
line {"id", "kind", "prompt", "answer" or "tests"}. A completion is a line {"id", "completion"}, of
which a problem may have several; `experiments.generate --json` writes them, from the same --data.
One without tags is graded as a bare answer, and one whose "finish_reason" is "length" has none, as
in training. The format asked for is R1's <answer> tags; of a chat model, a thought and an answer as
its template has them: where lines say {"conversation": "chat"}, as generate's do, or with
--conversation=chat. A line of --out is {"id", "outcome", "correct",
"components", "seconds"}, in the order of the completions. Prints accuracy by source, outcomes, and
disagreements: between the completions of one problem, and with the "correct" or "outcome" that a
line of --completions may say itself.
--explain shows how the grades of one problem came about, and grades nothing else.
"""

import dataclasses
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import cli
from r1jax.checks import InputError, check
from r1jax.config import TaskName
from r1jax.data.problems import Problem
from r1jax.data.rows import field, read_jsonl
from r1jax.data.tasks import read_files
from r1jax.rewards.components import COMPONENTS, in_chat, language
from r1jax.rewards.format import RULES, read_answer
from r1jax.rewards.grading import Grade, Grader
from r1jax.rewards.sandbox import Limits

SHOWN = 20  # disagreements that are printed
WIDTH = 200  # characters of a text that are printed in a summary


@dataclasses.dataclass(frozen=True)
class GradeConfig:
    data: str = ""  # the problems: [TASK=]FILE,...
    task: TaskName = "problems"  # of files that do not say another
    bad_rows: Literal["stop", "skip"] = "stop"  # what a malformed row of data does
    completions: str = ""
    out: str = ""  # where the grades go, if anywhere
    explain: str = ""  # the id of a problem
    #: How the replies were asked for: r1_zero is R1's tags; auto: as the lines say, or else r1_zero
    conversation: Literal["auto", "r1_zero", "chat"] = "auto"
    language: str = "en"  # that a chain of thought should be in
    workers: int = 2
    timeout: float = 5.0  # seconds that the check of a formula or a puzzle may take
    limits: Limits = dataclasses.field(default_factory=Limits)  # of a program
    i_know_that_model_code_runs_unsandboxed: bool = False

    def __post_init__(self):
        check(self.workers > 0, f"--workers must be positive, got {self.workers}")
        check(self.timeout > 0, f"--timeout must be positive, got {self.timeout:g}")
        check(
            not (self.explain and self.out),
            "--explain grades one problem and writes nothing: leave out --out",
        )


class Completion(NamedTuple):
    id: str
    text: str
    claim: str | None  # the outcome that the file itself says: correct, not correct, ...
    line: int
    cut: bool  # before its end
    conversation: str | None = None  # how it was asked for, where the file says


def read_completions(path: str) -> list[Completion]:
    """Raises InputError with file:line for a line that is not {"id", "completion"}."""

    def parse(row: dict[str, Any], line: int) -> Completion:
        check("id" in row, 'missing field "id"')
        check(type(row["id"]) in (str, int), 'field "id" must be a string or an integer')
        claim = None
        if "outcome" in row:
            claim = field(row, "outcome", str)
        elif "correct" in row:
            claim = "correct" if field(row, "correct", bool) else "not correct"
        cut = row.get("finish_reason") == "length"
        asked = field(row, "conversation", str) if "conversation" in row else None
        return Completion(str(row["id"]), field(row, "completion", str), claim, line, cut, asked)

    return read_jsonl(path, parse)


def pair(
    problems: Sequence[Problem], completions: Sequence[Completion], cfg: GradeConfig
) -> list[tuple[Problem, Completion]]:
    """Each completion with its problem; only those of cfg.explain, where it names one."""
    by_id = {problem.id: problem for problem in problems}
    count = Counter(problem.id for problem in problems)
    for name in count:
        check(count[name] == 1, f"{cfg.data}: {count[name]} problems have the id {name!r}")
    for c in completions:
        if c.id not in by_id:
            raise InputError(
                f"{cfg.completions}:{c.line}: no problem in {cfg.data} has id {c.id!r}"
            )
    pairs = [(by_id[c.id], c) for c in completions if cfg.explain in ("", c.id)]
    check(bool(pairs), f"--explain={cfg.explain}: no line of {cfg.completions} has this id")
    return pairs


def are_chats(completions: Sequence[Completion], cfg: GradeConfig) -> bool:
    """Whether the replies are a chat model's. Raises InputError if some are and some are not."""
    if cfg.conversation != "auto" or not completions:
        return cfg.conversation == "chat"
    first = completions[0].conversation == "chat"
    other = next((c for c in completions if (c.conversation == "chat") != first), None)
    if other is not None:
        raise InputError(
            f"{cfg.completions}:{other.line}: of another conversation than line "
            f"{completions[0].line}: grade chats apart from others, or pass --conversation"
        )
    return first


def row(completion: Completion, grade: Grade) -> dict[str, Any]:
    """A line of --out."""
    return {
        "id": completion.id,
        "outcome": grade.outcome,
        "correct": grade.outcome == "correct",
        "components": grade.components,
        "seconds": grade.seconds,
    }


Graded = list[tuple[Problem, Completion, Grade]]


def by_source(graded: Graded) -> list[str]:
    """A table: of each source, how many completions have each outcome."""
    outcomes = ("correct", "incorrect", "unparseable", "failed")
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for problem, _, grade in graded:
        groups[problem.source or problem.kind].append((problem.id, grade.outcome))
    if len(groups) > 1:
        groups["all"] = [one for group in groups.values() for one in group]
    width = max(map(len, ("source", *groups))) + 2
    heads = ("problems", "completions", "accuracy", *outcomes)
    lines = ["source".ljust(width) + "".join(f"{head:>13}" for head in heads)]
    for source, found in groups.items():
        count = Counter(outcome for _, outcome in found)
        cells = [len({name for name, _ in found}), len(found)]
        accuracy = f"{count['correct'] / len(found):.1%}"
        numbers = "".join(f"{n:>13,}" for n in (count[outcome] for outcome in outcomes))
        lines.append(
            source.ljust(width) + "".join(f"{n:>13,}" for n in cells) + f"{accuracy:>13}" + numbers
        )
    return lines


def disagreements(graded: Graded, path: str) -> list[str]:
    """Problems whose completions differ in outcome, and lines that claim another outcome."""
    groups: dict[str, list[str]] = defaultdict(list)
    for problem, _, grade in graded:
        groups[problem.id].append(grade.outcome)
    mixed = [
        f"  {name}: " + ", ".join(f"{n} {outcome}" for outcome, n in Counter(group).items())
        for name, group in groups.items()
        if len(set(group)) > 1
    ]
    claims = [
        f"  {path}:{c.line}: {c.id}: the file says {c.claim}, graded {grade.outcome}: "
        f"{shorten(grade.answer)} for {shorten(problem.answer)}"
        for problem, c, grade in graded
        if c.claim is not None
        and c.claim != grade.outcome
        and not (c.claim == "not correct" and grade.outcome != "correct")
    ]
    several = sum(len(group) > 1 for group in groups.values())
    claimed = sum(c.claim is not None for _, c, _ in graded)
    return [
        f"completions that disagree: {len(mixed):,} of {several:,} problems with several",
        *_first(mixed),
        f"lines that say otherwise: {len(claims):,} of {claimed:,} that say anything",
        *_first(claims),
    ]


def failures(graded: Graded) -> list[str]:
    """What went wrong with graders, most frequent first."""
    count = Counter(grade.detail for *_, grade in graded if grade.outcome == "failed")
    return [f"failed {n:,} times: {shorten(detail)}" for detail, n in count.most_common(SHOWN)]


def explain(problem: Problem, completion: Completion, grade: Grade) -> list[str]:
    """How one grade came about."""
    answer = "none found" if grade.answer is None else repr(grade.answer)
    components = ", ".join(f"{name} {value:g}" for name, value in grade.components.items())
    return [
        f"completion at line {completion.line}, {len(completion.text):,} characters:",
        *(f"  | {line}" for line in completion.text.split("\n")),
        f"  answer read   {answer}",
        f"  read by       {_rule(problem, completion, grade)}",
        f"  checked by    {grade.check or 'nothing: there is no answer to check'}",
        f"  verdict       {grade.outcome}" + (f": {grade.detail}" if grade.detail else ""),
        f"  components    {components}",
        f"  seconds       {grade.seconds:.6f}",
    ]


def _rule(problem: Problem, completion: Completion, grade: Grade) -> str:
    """The rule of the extractor that found the answer, and what it says."""
    found = read_answer(completion.text, problem.kind)
    if found is None or grade.answer is None:
        return "no rule" + (": the reply was cut" if completion.cut else "")
    return f"{found.rule}: {RULES[found.rule]}"


def shorten(text: str | None) -> str:
    """As one line that is not too long."""
    shown = repr(text) if text is not None else "no answer"
    return shown if len(shown) <= WIDTH else f"{shown[:WIDTH]}..."


def _first(lines: Sequence[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"  and {more:,} more"] if more > 0 else [])]


def _reference(problem: Problem) -> str:
    if problem.tests is None:
        return shorten(problem.answer)
    tests = problem.tests
    forms = {"runs": len(tests.stdio), "calls": len(tests.calls), "characters": len(tests.code)}
    return "tests: " + ", ".join(f"{n:,} {name}" for name, n in forms.items() if n)


def main(args: list[str]) -> None:
    cfg = cli.parse(GradeConfig, GradeConfig(), args, __doc__ or "")
    for flag in ("data", "completions"):
        check(bool(getattr(cfg, flag)), f"--{flag}=FILE is needed")
    out = cli.file_to_write(Path(cfg.out)) if cfg.out else None
    problems = read_files(cfg.data, cfg.task, cfg.bad_rows)
    completions = read_completions(cfg.completions)
    pairs = pair(problems, completions, cfg)
    components = COMPONENTS | {"language": language(cfg.language)}
    if are_chats(completions, cfg):
        components = in_chat(components)
    weights = {"accuracy": 1.0} | dict.fromkeys(COMPONENTS, 0.0)
    with Grader(
        weights,
        cfg.workers,
        cfg.timeout,
        components,
        cfg.limits,
        cfg.i_know_that_model_code_runs_unsandboxed,
    ) as grader:
        started = time.perf_counter()
        replies, cut = [c.text for _, c in pairs], [c.cut for _, c in pairs]
        grades = grader.grade([problem for problem, _ in pairs], replies, truncated=cut)
        took = time.perf_counter() - started
    graded = [(problem, c, grade) for (problem, c), grade in zip(pairs, grades, strict=True)]
    if cfg.explain:
        problem = pairs[0][0]
        kind, reference = problem.kind, _reference(problem)
        print(f"problem {problem.id}, of kind {kind}:", *problem.prompt.split("\n"), sep="\n  ")
        print(f"  reference     {reference}")
        print("\n".join(line for one in graded for line in explain(*one)))
        return
    if out is not None:
        out.write_text("".join(json.dumps(row(c, grade)) + "\n" for _, c, grade in graded))
    lines = [*by_source(graded), *disagreements(graded, cfg.completions), *failures(graded)]
    print("\n".join(lines))
    silent = len({p.id for p in problems} - {p.id for p, _ in pairs})
    print(f"{silent:,} of {len(problems):,} problems have no completion") if silent else None
    print(f"graded in {took:.1f} s, {len(graded) / took:,.0f} a second, {cfg.workers} workers")
    if all(grade.outcome == "failed" for grade in grades):
        raise InputError(f"every grader failed: {grades[0].detail}")


if __name__ == "__main__":
    cli.run(main)
