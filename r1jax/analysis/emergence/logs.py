"""Rollouts that were logged, by this project or another system, as one kind of row.

    r1jax   a run's folder: replies.jsonl with every reply where there is one, else samples.jsonl
            (a few a step), and metrics.jsonl for what was counted over all of them
    trl     GRPOTrainer(log_completions=True): output_dir/completions/completions_00001.parquet, ...
            with step, prompt, completion, one column a reward function, advantage
    verl    trainer.rollout_data_dir or validation_data_dir: 1.jsonl, 2.jsonl, ... with input,
            output, gts, score, step, and what the reward function returned besides (acc)
    jsonl   any rows with step, prompt, reply, correct

TRL and verl number a step when it is done, from 1: what they log at 1 was drawn before the first
update. Where a log of theirs has no step 0 its steps are counted from 0 here.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from r1jax.checks import InputError, check, near
from r1jax.data.rows import read_rows
from r1jax.files import read_object
from r1jax.metrics import Row, read_jsonl

Format = Literal["r1jax", "trl", "verl", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
# Of TRL's columns those that are no reward.
_NO_REWARD = ("step", "prompt", "completion", "advantage", "mode", "images", "image")
_NAMES: dict[
    str, dict[str, tuple[str, ...]]
] = {  # in order of preference; the first is the one that messages name
    "trl": {"prompt": ("prompt",), "reply": ("completion",)},
    "verl": {"prompt": ("input",), "reply": ("output",)},
    "jsonl": {
        "prompt": ("prompt", "question", "input", "problem"),
        "reply": ("reply", "completion", "response", "output", "text"),
    },
}


@dataclasses.dataclass(frozen=True)
class Reply:
    """One reply. question: what its intervals are clustered by. correct, truncated: None where the
    log does not say. tokens: 0 where it does not. level: its difficulty, "" where not given."""

    step: int
    question: str
    prompt: str
    text: str
    correct: bool | None = None
    tokens: int = 0
    truncated: bool | None = None
    split: str = "train"
    level: str = ""
    references: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Log:
    """A run as it was logged.

    whole: `replies` are all of them; else a few, and `metrics` (rows of metrics.jsonl) count.
    config, run, member, baseline, intervention: objects of config.json, run.json, member.json,
    baseline.json and intervention.json, {} where there is none. offset: steps that were subtracted.
    """

    name: str
    replies: tuple[Reply, ...]
    whole: bool
    metrics: tuple[Row, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    member: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    baseline: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    intervention: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    offset: int = 0


def format_of(path: Path) -> Format:
    """What `path` looks like. Raises InputError if that cannot be told."""
    if (path / "metrics.jsonl").exists():
        return "r1jax"
    files = _files(path)
    if any(f.suffix == ".parquet" for f in files):
        return "trl"
    check(bool(files), f"{path}: neither a run's folder nor one of .jsonl or .parquet files")
    row = read_rows(files[0], lambda row, _: row)[0]
    if "completion" in row and "advantage" in row:
        return "trl"
    return "verl" if {"input", "output"} <= set(row) else "jsonl"


def read_log(path: Path, form: Format | None = None) -> Log:
    """The run at `path`. Raises InputError, which names the file and the line or the column, if it
    is not of that form, has columns missing or no reply."""
    path = Path(path)
    check(path.exists(), f"{path}: no such file or folder")
    form = form or format_of(path)
    return _read_run(path) if form == "r1jax" else _read_rollouts(path, form)


def find_runs(path: Path) -> list[Path]:
    """The folders of runs at or below `path`, by name; `path` itself if there are none."""
    if not path.is_dir() or (path / "metrics.jsonl").exists():
        return [path]
    found = [p.parent for p in path.rglob("metrics.jsonl")]  # not of a pod's other processes
    return sorted(p for p in found if not p.name.startswith("process_")) or [path]


def _read_run(path: Path) -> Log:
    for name in ("metrics.jsonl", "samples.jsonl"):
        check((path / name).exists(), f"{path} is not the folder of an RL run: no {name}")
    metrics = _rows_of(path / "metrics.jsonl")
    check(bool(metrics), f"{path} has no step to read: metrics.jsonl is empty")
    whole = (path / "replies.jsonl").exists()
    name = "replies.jsonl" if whole else "samples.jsonl"
    replies = []
    for i, row in enumerate(_rows_of(path / name), start=1):
        try:
            replies.append(_of_run(row))
        except (KeyError, TypeError) as error:
            raise InputError(f"{path / name}, row {i}: bad or missing field {error}") from error
    beside = _beside(path)
    return Log(path.resolve().name, tuple(replies), whole, tuple(metrics), **beside)


def _beside(folder: Path) -> dict[str, Any]:
    """The objects that lie in a run's folder, by their fields in Log."""
    names = ("config", "run", "member", "baseline", "intervention")
    found = {name: read_object(folder / f"{name}.json") for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _rows_of(path: Path) -> list[Row]:
    try:
        return read_jsonl(path)
    except ValueError as error:
        raise InputError(str(error)) from error


def _of_run(row: Row) -> Reply:
    return Reply(
        step=row["step"],
        question=row["problem_id"],
        prompt=row["prompt"],
        text=row["text"],
        correct=None if row["outcome"] == "failed" else row["outcome"] == "correct",
        tokens=row["tokens"],
        truncated=row["truncated"],
        split=row["split"],
        level=str(row.get("level", "")),
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    endings = (".jsonl", ".parquet", ".jsonl.gz")
    return sorted(p for p in path.rglob("*") if p.name.endswith(endings))


def _read_rollouts(path: Path, form: Format) -> Log:
    files = _files(path)
    wanted = {"trl": ".parquet", "verl": ".jsonl"}.get(form, "")
    some = [f for f in files if wanted in f.name] or files
    check(bool(some), f"{path}: no files of rollouts in it")
    rewards: dict[str, str] = {}

    def parse(row: dict[str, Any], place: object) -> Reply:
        return _PARSE[form](row, rewards)

    replies = [reply for file in some for reply in read_rows(file, parse)]
    first = min(reply.step for reply in replies)
    offset = 1 if form in ("trl", "verl") and first > 0 else 0
    moved = tuple(
        dataclasses.replace(r, step=r.step - offset)
        for r in sorted(replies, key=lambda reply: reply.step)
    )
    folder = path if path.is_dir() else path.parent
    return Log(path.resolve().stem, moved, whole=True, offset=offset, **_beside(folder))


def _common(row: Mapping[str, Any], form: str, correct: bool | None) -> Reply:
    names = _NAMES[form]
    prompt, text = (_text(row, names[part]) for part in ("prompt", "reply"))
    check("step" in row, f'missing field "step"{near("step", row)}')
    step = row["step"]
    whole = isinstance(step, int | float) and not isinstance(step, bool) and step == int(step)
    check(whole and step >= 0, f'field "step" must be a whole number from 0 on, got {step!r}')
    cut = row.get("truncated")
    return Reply(
        step=int(step),
        question=str(row.get("question_id", row.get("problem_id", prompt))),
        prompt=prompt,
        text=text,
        correct=correct,
        tokens=int(row.get("tokens") or row.get("response_length") or 0),
        truncated=None if cut is None else bool(cut),
        split=str(row.get("split", row.get("mode", "train"))),
        level=str(row.get("level", row.get("difficulty", ""))),
        references=tuple(str(row[k]) for k in ("gts", "answer", "solution") if row.get(k)),
    )


def _text(row: Mapping[str, Any], names: Sequence[str]) -> str:
    name = next((name for name in names if name in row), None)
    if name is None:
        raise InputError(f'missing field "{names[0]}"; it has {", ".join(map(str, row))}')
    value = row[name]
    if isinstance(value, list):  # a conversation: the content of its messages
        value = "\n".join(str(m.get("content", "")) for m in value if isinstance(m, Mapping))
    check(isinstance(value, str), f'field "{name}" must be text, got {type(value).__name__}')
    return value


def _truth(value: object, name: str) -> bool | None:
    """A grade: true or false, or a number that is above a half where the answer is right."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, bool | int | float):
        raise InputError(f'field "{name}" must be true, false or a number, got {value!r}')
    return value > 0.5


def _of_trl(row: dict[str, Any], rewards: dict[str, str]) -> Reply:
    """By the first reward whose name says accuracy or correct; else by the only one."""
    if not rewards:
        names = [n for n, v in row.items() if n not in _NO_REWARD and not isinstance(v, str | list)]
        of_answers = [n for n in names if "accura" in n or "correct" in n]
        chosen = (of_answers or (names if len(names) == 1 else []))[:1]
        check(
            bool(chosen),
            f"no column says which replies are right: none of {', '.join(names) or 'the columns'} "
            'has "accuracy" or "correct" in its name',
        )
        rewards["correct"] = chosen[0]
    name = rewards["correct"]
    check(name in row, f'missing field "{name}"')
    return _common(row, "trl", _truth(row[name], name))


def _of_verl(row: dict[str, Any], _: dict[str, str]) -> Reply:
    name = "acc" if "acc" in row else "score"
    check(name in row, 'missing field "score"')
    return _common(row, "verl", _truth(row[name], name))


def _of_jsonl(row: dict[str, Any], _: dict[str, str]) -> Reply:
    check("correct" in row, f'missing field "correct"{near("correct", row)}')
    return _common(row, "jsonl", _truth(row["correct"], "correct"))


_PARSE: dict[Format, Callable[[dict[str, Any], dict[str, str]], Reply]] = {
    "trl": _of_trl,
    "verl": _of_verl,
    "jsonl": _of_jsonl,
}
