"""From files to the questions of a benchmark."""

import dataclasses
import datetime
import functools
import string
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from r1jax.checks import InputError, check, near
from r1jax.data import countdown
from r1jax.data.problems import Problem
from r1jax.data.rows import ENDINGS, Bad, Place, read_rows, warn
from r1jax.data.sources import READERS, RowReader, choice
from r1jax.evaluation.benchmarks import BENCHMARKS, EMBEDDED, Benchmark
from r1jax.rewards.instructions import check_instruction

Shuffle = Literal["published", "all", "none"]


class Question(NamedTuple):
    """A problem, and what its row says beside: "subject", "date" (ISO), "rating" of a problem."""

    problem: Problem
    meta: dict[str, Any]

    @property
    def id(self) -> str:
        return self.problem.id


@dataclasses.dataclass(frozen=True)
class Asked:
    """A benchmark as it is asked: its questions, and how many rows were left out, by reason."""

    name: str
    benchmark: Benchmark
    questions: Sequence[Question]
    left_out: dict[str, int]
    path: str = ""  # of its file; "" if it needs none


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which questions, and how: since, until: days (ISO) that dated ones must lie between. limit:
    evenly spaced ones of each benchmark; 0: all. shuffle: which options are put into an order that
    `seed` says: those of benchmarks that publish so (GPQA), all, or none."""

    since: str = ""
    until: str = ""
    limit: int = 0
    shuffle: Shuffle = "published"
    seed: int = 0
    bad_rows: Bad = "stop"
    tier: int = 4  # numbers of the embedded countdown's problems

    def __post_init__(self):
        for name in ("since", "until"):
            day = getattr(self, name)
            try:
                fits = not day or datetime.date.fromisoformat(day).isoformat() == day
            except ValueError:
                fits = False
            check(fits, f"--{name}={day}: expected a day, as 2024-08-01")


def evenly(total: int, count: int) -> list[int]:
    """`count` of `total` indices (all of them, if there are no more), evenly spaced from 0 on."""
    count = min(count, total)
    return [k * total // count for k in range(count)]


def named(benchmarks: str, data: str, flag: str = "--data") -> list[tuple[str, Benchmark, str]]:
    """(name, benchmark, path) of each part of "NAME[=FILE],...", where NAME is one of BENCHMARKS, a
    form of problems, or any other for problems of the user's own.

    Empty: those of BENCHMARKS that the folder `data` holds, or the embedded one without a folder.
    Raises InputError for a name that is not known, or a file that is not there. flag: of `data`.
    """
    check(not data or Path(data).exists(), f"{flag}={data}: no such folder")
    if not benchmarks and not data:
        return [(EMBEDDED, BENCHMARKS[EMBEDDED], "")]
    if not benchmarks:
        found = {name: _path_of(b, data) for name, b in BENCHMARKS.items()}
        held = [(name, BENCHMARKS[name], str(path)) for name, path in found.items() if path]
        check(bool(held), f"{flag}={data}: holds none of {', '.join(BENCHMARKS)}")
        return held
    parts = [_named(part, data) for part in benchmarks.split(",")]
    twice = [name for name, n in Counter(name for name, *_ in parts).items() if n > 1]
    check(not twice, f"--benchmarks={benchmarks}: {', '.join(twice)} twice")
    return parts


def _named(part: str, data: str) -> tuple[str, Benchmark, str]:
    name, sign, path = part.partition("=")
    if sign:
        check(bool(name and path), f"--benchmarks={part}: expected NAME=FILE")
        there = name == "gym" or Path(path).exists()  # a data set of reasoning-gym is made
        check(there, f"--benchmarks={part}: no such file: {path}")
        form: Any = name if name in READERS else "problems"
        return name, BENCHMARKS.get(name, Benchmark(name, form)), path
    if Path(part).is_file():
        return Path(part).name.partition(".")[0], Benchmark(part, "problems"), part
    hint = near(part, BENCHMARKS) or f"; there are {', '.join(BENCHMARKS)}, or NAME=FILE"
    check(part in BENCHMARKS, f"--benchmarks: no benchmark is called {part!r}{hint}")
    benchmark = BENCHMARKS[part]
    if part == EMBEDDED:
        return part, benchmark, ""
    check(bool(data), f"--benchmarks={part} needs --data=DIR, or {part}=FILE")
    found = _path_of(benchmark, data)
    if found is None:
        looked = " or ".join(f"{name}{{{','.join(ENDINGS)}}}" for name in benchmark.names)
        raise InputError(f"--benchmarks={part}: {data} has no {looked}, as a file or a folder")
    return part, benchmark, str(found)


def _path_of(benchmark: Benchmark, data: str) -> Path | None:
    for name in benchmark.names:
        for ending in ENDINGS:
            for file in (Path(data, name + ending), Path(data, f"{name}{ending}.gz")):
                if file.is_file():
                    return file
        folder = Path(data, name)
        if folder.is_dir() and (found := _in_folder(folder, benchmark.whole)):
            return found
    return None


def _in_folder(folder: Path, whole: bool) -> Path | None:
    """The folder, if it is read whole; else its test set, or the only file."""
    files = sorted(f for f in folder.rglob("*") if f.name.removesuffix(".gz").endswith(ENDINGS))
    if whole or len(files) < 2:
        return folder if whole and files else next(iter(files), None)
    for fits in (lambda stem: stem == "test", lambda stem: stem.startswith("test")):
        chosen = [f for f in files if fits(f.name.partition(".")[0])]
        if chosen:
            return chosen[0]
    names = ", ".join(f.name for f in files)
    raise InputError(f"{folder}: which of {names} is the test set? Give NAME=FILE")


def load(name: str, benchmark: Benchmark, path: str, how: Choice) -> Asked:
    """Raises InputError, "file:line: ...", for a row that is broken, and if no question is left."""
    left_out: Counter[str] = Counter()
    if not path:
        _, heldout = countdown.split(how.tier)
        questions = [Question(problem, {}) for problem in heldout]
    else:
        questions = _read(benchmark, path, how, left_out)
    check(bool(questions), f"{path}: no question of {benchmark.title} is left: {dict(left_out)}")
    count = Counter(question.id for question in questions)
    twice = next((name for name, n in count.items() if n > 1), None)
    check(twice is None, f"{path}: {count[twice or '']} questions have the id {twice!r}")
    if how.limit:
        questions = [questions[i] for i in evenly(len(questions), how.limit)]
    if how.shuffle == "all" or (how.shuffle == "published" and benchmark.shuffled):
        questions = [q._replace(problem=shuffled(q.problem, how.seed)) for q in questions]
    return Asked(name, benchmark, questions, dict(left_out), path)


def _read(benchmark: Benchmark, path: str, how: Choice, left_out: Counter[str]) -> list[Question]:
    reader = READERS[benchmark.form]
    if not isinstance(reader, RowReader):
        return [Question(problem, {}) for problem in reader(path, how.bad_rows)]

    def parse(row: dict[str, Any], place: Place) -> Question | None:
        meta = meta_of(row)
        why = benchmark.left_out(row) or _outside(meta, how)
        if why:
            left_out[why] += 1
            return None
        question = Question(reader.problem(row, place), meta)
        if question.problem.kind == "instructions":
            _check_instructions(row)
        return question

    found = read_rows(path, parse, how.bad_rows, warn, reader.columns)
    return [question for question in found if question is not None]


def _check_instructions(row: dict[str, Any]) -> None:
    for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        check_instruction(name, arguments)


# Under which of a row's fields stands what is told of a question.
_SUBJECT = ("subject", "category", "type", "Type", "Subdomain", "difficulty")
_DATE = ("contest_date", "date")


def meta_of(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, fields in (("subject", _SUBJECT), ("date", _DATE)):
        value = next((row[f] for f in fields if isinstance(row.get(f), str)), None)
        if value:
            found[key] = value
    rating = row.get("rating", row.get("cf_rating"))
    if isinstance(rating, int | float) and not isinstance(rating, bool) and rating > 0:
        found["rating"] = float(rating)
    return found


def _outside(meta: dict[str, Any], how: Choice) -> str:
    if not (how.since or how.until) or "date" not in meta:
        return ""
    day = meta["date"][:10]
    early, late = how.since and day < how.since, how.until and day > how.until
    return "outside the dates" if early or late else ""


def shuffled(problem: Problem, seed: int) -> Problem:
    """A multiple choice with its options in an order that only the seed and its id say. Others, and
    those whose options the prompt does not end with, stay as they are."""
    letters = string.ascii_uppercase
    listed = zip(letters, problem.choices, strict=False)
    block = "\n\n" + "\n".join(f"{letter}. {text}" for letter, text in listed)
    if problem.kind != "choice" or not problem.choices or not problem.prompt.endswith(block):
        return problem
    rng = np.random.default_rng([seed, zlib.crc32(problem.id.encode())])
    order = rng.permutation(len(problem.choices)).tolist()
    right = order.index(letters.index(problem.answer))
    options = [problem.choices[i] for i in order]
    again = choice(problem.id, problem.prompt.removesuffix(block), options, right)
    return dataclasses.replace(again, source=problem.source)


@functools.cache
def number_of(benchmark: str, id: str) -> int:
    """What the randomness of a question's replies comes from: the same whichever others are asked
    beside it."""
    return zlib.crc32(f"{benchmark}/{id}".encode()) & 0x7FFFFFFF
