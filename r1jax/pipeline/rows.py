"""Rows of the stages' data sets: a JSON object a line, each file whole or not there."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from r1jax.files import replaced

Row = dict[str, Any]


def line(row: Mapping[str, Any]) -> bytes:
    """Also of a reply with half a character."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def write(path: Path, rows: Iterable[Row]) -> None:
    with replaced(path) as partial, partial.open("wb") as file:
        file.writelines(map(line, rows))
