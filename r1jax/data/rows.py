"""Rows of the files that problems are published in, each named by its file and line."""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

from r1jax.checks import InputError, check

T = TypeVar("T")
Bad = Literal["stop", "skip"]  # what a bad row does to the run
ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
_UNREADABLE = (EOFError, zlib.error, csv.Error, ValueError)


class Place(NamedTuple):
    """Where a row stands."""

    file: Path
    name: str  # of the file without its ending, below the folder that was read
    number: int  # of the line that it begins in; of the row, in a form that has no lines

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


def warn(line: str) -> None:
    print(line, file=sys.stderr)


def read_rows(
    path: str | Path,
    parse: Callable[[dict[str, Any], Place], T],
    bad: Bad = "stop",
    say: Callable[[str], None] = warn,
    columns: Sequence[str] = (),
) -> list[T]:
    """`parse(row, place)` of each row of a file, or of all files below a folder, in order.

    .json is an array or one object (else lines of them), .csv has a line of names unless `columns`
    gives them, .parquet needs pyarrow; any other name is of JSON lines, of which blank ones are
    skipped. All but .parquet may be compressed (.gz).

    A row that is not an object, or for which `parse` raises InputError, is bad. With bad="stop"
    that raises InputError: "file:line: ..."; with "skip" it is said, and counted at the end.
    Raises InputError, "file: ...", if a file cannot be read or has no rows that are good.
    """
    good: list[T] = []
    skipped = 0
    for place, row in _rows(Path(path), columns):
        try:
            good.append(parse(_loaded(row), place))
        except InputError as error:
            check(bad == "skip", f"{place}: {error}")
            say(f"skipped {place}: {error}")
            skipped += 1
    if skipped:
        say(f"{path}: skipped {skipped:,} of {len(good) + skipped:,} rows")
    check(bool(good), f"{path}: no rows" + (" that are good" if skipped else ""))
    return good


def read_jsonl(path: str | Path, parse: Callable[[dict[str, Any], int], T]) -> list[T]:
    """`parse(row, line number)` of each line of a JSON-lines file; stops at a bad one."""
    return read_rows(path, lambda row, place: parse(row, place.number))


def field(row: dict[str, Any], name: str, kind: type[T]) -> T:
    """row[name], which must be exactly of that type (JSON's true is no integer)."""
    check(name in row, f'missing field "{name}"')
    value = row[name]
    wanted, got = kind.__name__, type(value).__name__
    check(type(value) is kind, f'field "{name}" must be of type {wanted}, got {got}')
    return value


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[Place, Any]]:
    """Each row as it is stored: what `_loaded` takes."""
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if _plain_name(p).endswith(ENDINGS))
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        name = name.removesuffix(".gz").removesuffix(Path(_plain_name(file)).suffix)
        try:
            with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
                for number, row in _stored(_plain_name(file), stream, columns):
                    yield Place(file, name, number), row
        except _UNREADABLE as error:
            reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
            raise InputError(f"{file}: {reason}") from None
        except OSError as error:
            raise InputError(f"{file}: {error.strerror or error}{_hub_hint(str(path))}") from None


def _hub_hint(path: str) -> str:
    """What to do about a data set's id where a file is expected, else ""."""
    if Path(path).exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        return ""
    if path.endswith((*ENDINGS, ".gz")):
        return ""
    return (
        "; if it is an id on the Hub: files are read, so fetch it first, `hf download --repo-type "
        f"dataset {path} --local-dir DIR`, and pass DIR or one of its files"
    )


def _plain_name(file: Path) -> str:
    return file.name.removesuffix(".gz")


def _stored(name: str, stream: Any, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    if name.endswith(".csv"):
        return _csv(stream, columns)
    if name.endswith(".parquet"):
        return _parquet(stream)
    if name.endswith(".json"):
        return _json(stream)
    return _lines(stream)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    # Lines of bytes end at \n only: a JSON string may hold a raw U+2028.
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield number, line


def _json(stream: BinaryIO) -> Iterator[tuple[int, Any]]:
    text = stream.read()
    array = text.lstrip().startswith(b"[")
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if array:
            raise ValueError(f"invalid JSON: {error}") from None
        yield from _lines(io.BytesIO(text))  # which say for themselves what is wrong
    else:
        yield from enumerate(whole if array else [whole], start=1)


def _csv(stream: BinaryIO, columns: Sequence[str]) -> Iterator[tuple[int, dict]]:
    lines = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""))
    names = columns or next(lines, [])
    number = lines.line_num + 1
    for row in lines:
        if row:
            fields: dict[str | None, Any] = dict(zip(names, row, strict=False))
            if len(row) != len(names):
                fields[None] = f"{len(row)} fields, {len(names)} have names"
            yield number, fields
        number = lines.line_num + 1


def _parquet(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(".parquet files need pyarrow: pip install -e '.[parquet]'") from None
    number = 0
    try:
        # In small batches: a row of tests can be megabytes.
        for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        raise OSError(f"not readable as parquet: {error}") from None


def _loaded(row: Any) -> dict[str, Any]:
    """A stored row as an object of text that can be written again; else raises InputError."""
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise InputError("not UTF-8 text") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"invalid JSON: {error}") from None
    check(isinstance(row, dict), f"expected a JSON object, got {type(row).__name__}")
    check(None not in row, f"{row.get(None)}")
    try:  # JSON can escape half of a character (a lone surrogate), which no tokenizer takes
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise InputError("holds half of a character (an unpaired surrogate)") from None
    except RecursionError:
        raise InputError("nested too deep") from None
    return row
