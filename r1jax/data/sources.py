"""Readers of problem files: each returns `list[Problem]` or raises one clear InputError."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from r1jax.config import InputError, check
from r1jax.data.problems import Problem

T = TypeVar("T")


def read_jsonl(path: str | Path, parse: Callable[[dict[str, Any], int], T]) -> list[T]:
    """`parse(row, line number)` of each line of a JSON-lines file; blank lines are skipped.

    Raises InputError: "file: ..." if it cannot be read or has no rows, "file:line: ..." for a
    line that is not a JSON object and for an InputError that `parse` raises.
    """
    path = Path(path)
    try:
        # Not splitlines(): a JSON string may hold a raw U+2028.
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            check(isinstance(row, dict), f"expected a JSON object, got {type(row).__name__}")
            rows.append(parse(row, number))
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: invalid JSON: {error}") from None
    check(bool(rows), f"{path}: no rows")
    return rows


def field(row: dict[str, Any], name: str, kind: type[T]) -> T:
    """row[name], which must be exactly of that type (JSON's true is no integer)."""
    check(name in row, f'missing field "{name}"')
    value = row[name]
    wanted, got = kind.__name__, type(value).__name__
    check(type(value) is kind, f'field "{name}" must be of type {wanted}, got {got}')
    return value


def read_gsm8k(path: str | Path) -> list[Problem]:
    """GSM8K (arXiv 2110.14168): {"question", "answer"}, the answer ending in `#### 1,234`."""
    stem = Path(path).stem

    def parse(row: dict[str, Any], line: int) -> Problem:
        question = field(row, "question", str)
        final = field(row, "answer", str).rpartition("####")[2].strip().replace(",", "")
        check(bool(question.strip()), 'field "question" is empty')
        check(
            "####" in row["answer"] and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", final) is not None,
            'field "answer" must end in "#### " and a number',
        )
        return Problem(f"gsm8k/{stem}/{line}", "math", question, final, source="gsm8k")

    return read_jsonl(path, parse)


def read_countdown(path: str | Path) -> list[Problem]:
    """Countdown: {"numbers": [3, 5, 7], "target": 22}, "id" optional; all integers."""
    stem = Path(path).stem

    def parse(row: dict[str, Any], line: int) -> Problem:
        numbers = field(row, "numbers", list)
        target = field(row, "target", int)
        # An expression has no way to write a negative operand (rewards/countdown.py).
        check(
            bool(numbers) and all(type(n) is int and n >= 0 for n in numbers),
            'field "numbers" must be a non-empty list of non-negative integers',
        )
        name = row.get("id", f"countdown/{stem}/{line}")
        check(type(name) in (str, int), 'field "id" must be a string or an integer')
        prompt = (
            f"Using the numbers {numbers}, make {target}. Use each number exactly once, "
            "with only +, -, *, / and parentheses."
        )
        return Problem(str(name), "countdown", prompt, str(target), tuple(numbers), "countdown")

    return read_jsonl(path, parse)
