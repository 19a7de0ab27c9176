"""Replies and their grades on disk: a line each, appended as soon as there is one.

A kill loses what was under way. A last line that a kill has cut is taken away when the file is
opened again; what comes before it stays as it is.
"""

import dataclasses
import json
from pathlib import Path
from typing import IO, Any, NamedTuple

from r1jax.checks import InputError, check
from r1jax.rewards.grading import Grade


class Key(NamedTuple):
    """Which reply it is: `sample` counts from 0 among those to a question."""

    benchmark: str
    id: str
    sample: int


@dataclasses.dataclass(frozen=True)
class Reply:
    """completion: the whole text, its `<think>` too. tokens: drawn. thinking_tokens: of the thought
    (of a server that does not say, by its share of the characters)."""

    completion: str
    tokens: int
    thinking_tokens: int
    finish_reason: str  # stop; length: cut at max_tokens

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


class Lines:
    """A file of lines {"benchmark", "id", "sample", ...}: `rows` are those that are there.

    writes: whether this process does; the others only keep what they are told. Raises InputError,
    "file:line: ...", for a line that is broken and not the last, or is of no reply.
    """

    def __init__(self, path: Path, writes: bool):
        self.path = path
        self.rows: dict[Key, dict[str, Any]] = {}
        self._file: IO[bytes] | None = None
        if not writes:
            return
        if path.exists():
            self._read()
        self._file = path.open("ab")

    def _read(self) -> None:
        with self.path.open("r+b") as file:
            whole = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # cut by a kill
                    break
                whole += len(line)
                try:
                    row = json.loads(line)
                    key = Key(row.pop("benchmark"), row.pop("id"), row.pop("sample"))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise InputError(f"{self.path}:{number}: not a reply: {error}") from None
                self.rows[key] = row
            file.truncate(whole)

    def add(self, key: Key, row: dict[str, Any]) -> None:
        self.rows[key] = row
        if self._file is not None:
            text = json.dumps({**key._asdict(), **row}, ensure_ascii=False)
            self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def reply_of(row: dict[str, Any], where: Path) -> Reply:
    """Raises InputError for a row that is no reply's."""
    names = {field.name for field in dataclasses.fields(Reply)}
    check(names <= row.keys(), f"{where}: a reply lacks {', '.join(sorted(names - row.keys()))}")
    return Reply(**{name: row[name] for name in names})


def grade_of(row: dict[str, Any], where: Path) -> Grade:
    """Raises InputError for a row that is no grade's."""
    try:
        return Grade(**{name: value for name, value in row.items() if name != "problem"})
    except TypeError as error:
        raise InputError(f"{where}: not a grade: {error}") from None
