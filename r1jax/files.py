"""Files that are written whole, under another name first; and a JSON object read from one."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1jax.checks import InputError, check


@contextlib.contextmanager
def replaced(path: Path, shared: bool = False) -> Iterator[Path]:
    """Where to write what takes the place of `path` at the end: a kill or an error leaves the old
    file or the new one. shared: other processes may be writing it too."""
    mine = f".{os.getpid()}" if shared else ""
    partial = path.with_name(f"{path.name}{mine}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_object(file: Path) -> dict[str, Any] | None:
    """A JSON file's object; None if there is no such file. Raises InputError that names it."""
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: invalid JSON: {error}") from None
    check(isinstance(value, dict), f"{file}: expected a JSON object")
    return value
