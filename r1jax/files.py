"""Files that are written whole, under another name first; and a JSON object read from one."""

import contextlib
import hashlib
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


def ends_of(file: Path) -> str:
    """Size and a few digits of its first and last MiB: tells weights from others of their shape,
    without reading all of them."""
    size, most = file.stat().st_size, 2**20
    found = hashlib.sha256()
    with file.open("rb") as f:
        found.update(f.read(most))
        f.seek(max(size - most, 0))
        found.update(f.read(most))
    return f"{size} {found.hexdigest()[:8]}"
