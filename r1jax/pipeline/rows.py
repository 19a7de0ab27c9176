"""Rows of the stages' data sets: a JSON object a line, each file whole or not there."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r1jax.checks import InputError, check
from r1jax.files import replaced

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Raises InputError, "file:line: ...", for what is not a JSON object."""
    check(path.is_file(), f"{path}: no such file")
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not JSON: {error}") from None
        check(isinstance(row, dict), f"{path}:{number}: expected an object")
        rows.append(row)
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    with replaced(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
