"""Files that are whole: written under another name first."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
