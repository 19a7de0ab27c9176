r"""Readers of problems: rows that say all about themselves, and the published data sets.

`READERS[name](path)` reads a file or a folder in any form that `r1jax.data.rows` knows. Published
answers are brought into the form that `Problem` asks for; a published id is kept, behind the name
of its source, and a row without one is called by its file and line.
"""

import dataclasses
import hashlib
import json
import math
import re
import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from r1jax.checks import InputError, check
from r1jax.data import program_sources
from r1jax.data.boxed import last_boxed
from r1jax.data.gym import gym_problems
from r1jax.data.problems import Kind, Problem
from r1jax.data.rows import Bad, Place, field, read_jsonl, read_rows, warn
from r1jax.files import replaced

__all__ = ["READERS", "Reader", "field", "read_countdown", "read_gsm8k", "read_jsonl"]

GYM_SIZE = 1000
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class Reader(Protocol):
    """Raises InputError as `read_rows` does; so `bad` and `say`, too, are those of `read_rows`."""

    def __call__(
        self, path: str | Path, bad: Bad = "stop", say: Callable[[str], None] = warn
    ) -> list[Problem]: ...


@dataclasses.dataclass(frozen=True)
class RowReader:
    """The reader of a file of rows, each of which `problem` makes a problem of. columns: of a .csv
    that has no line of names."""

    problem: Callable[[dict[str, Any], Place], Problem]
    columns: Sequence[str] = ()

    def __call__(
        self, path: str | Path, bad: Bad = "stop", say: Callable[[str], None] = warn
    ) -> list[Problem]:
        return read_rows(path, self.problem, bad, say, self.columns)


def _published(
    source: str, parse: Callable[[dict[str, Any]], Problem], columns: Sequence[str] = ()
) -> RowReader:
    """The reader of a data set. `parse` may leave the id empty, and need not give the source."""

    def named(row: dict[str, Any], place: Place) -> Problem:
        problem = parse(row)
        name = problem.id or f"{place.name}/{place.number}"
        if not name.lower().startswith(source):
            name = f"{source}/{name}"
        return dataclasses.replace(problem, id=name, source=source)

    return RowReader(named, columns)


def _id(row: dict[str, Any], *names: str) -> str:
    """The first of these fields that the row has, else ""."""
    for name in names:
        if row.get(name) not in (None, ""):
            check(type(row[name]) in (str, int), f'field "{name}" must be a string or an integer')
            return str(row[name])
    return ""


def _text(row: dict[str, Any], *names: str) -> str:
    """The first of these fields that the row has, which must be text and not blank."""
    name = next((name for name in names if name in row), names[0])
    value = field(row, name, str)
    check(bool(value.strip()), f'field "{name}" is empty')
    return value


def _number(row: dict[str, Any], *names: str) -> str:
    """A number, or text that is one, as text without separators: 27.0 is "27", "073" "73"."""
    name = next((name for name in names if name in row), names[0])
    check(name in row, f'missing field "{name}"')
    value = row[name]
    if type(value) is float and math.isfinite(value):
        value = int(value) if value.is_integer() else value
    given = str(value).strip().replace(",", "") if type(value) in (str, int, float) else ""
    check(_NUMBER.fullmatch(given) is not None, f'field "{name}" must be a number, got {value!r}')
    whole, point, rest = given.removeprefix("-").partition(".")
    return "-" * given.startswith("-") + (whole.lstrip("0") or "0") + point + rest


def _gsm8k(row: dict[str, Any]) -> Problem:
    """arXiv 2110.14168: {"question", "answer"}, the answer ending in `#### 1,234`."""
    question = _text(row, "question")
    final = field(row, "answer", str).rpartition("####")[2].strip().replace(",", "")
    check(
        "####" in row["answer"] and _NUMBER.fullmatch(final) is not None,
        'field "answer" must end in "#### " and a number',
    )
    return Problem("", "math", question, final)


def _math(row: dict[str, Any]) -> Problem:
    r"""MATH (arXiv 2103.03874): {"problem", "solution"}, the last \boxed{} being the answer.

    MATH-500 (arXiv 2305.20050) adds "answer" and "unique_id". The first is also published as a
    folder of one file a problem.
    """
    answer = _text(row, "answer") if "answer" in row else last_boxed(_text(row, "solution"))
    if not answer:
        raise InputError(r'field "solution" has no \boxed{answer}')
    return Problem(_id(row, "unique_id"), "math", _text(row, "problem"), answer)


def _aime(row: dict[str, Any]) -> Problem:
    """{"problem" or "question", "answer" or "expected_answer"}, an integer from 0 to 999."""
    answer = _number(row, "answer", "expected_answer", "Answer")
    check(answer.isdigit() and int(answer) <= 999, f"AIME's answers are 0 to 999, got {answer}")
    return Problem(
        _id(row, "id", "ID"), "math", _text(row, "problem", "question", "Problem"), answer
    )


def _amc(row: dict[str, Any]) -> Problem:
    """The form of AIME; the answer is a number, written as a float: 27.0."""
    answer = _number(row, "answer", "expected_answer")
    return Problem(_id(row, "id"), "math", _text(row, "problem", "question"), answer)


def _svamp(row: dict[str, Any]) -> Problem:
    """arXiv 2103.07191: {"ID", "Body", "Question", "Answer"}, a number."""
    body, question = _text(row, "Body").strip(), _text(row, "Question").strip()
    # Not every body ends with its full stop.
    prompt = f"{body}{'' if body[-1] in '.,?!' else '.'} {question}"
    return Problem(_id(row, "ID"), "math", prompt, _number(row, "Answer"))


def choice(id: str, question: str, options: Sequence[str], right: int) -> Problem:
    """The question with its lettered options below, one a line; `right` counts from 0."""
    check(2 <= len(options) <= 26, f"a question of {len(options)} options")
    check(0 <= right < len(options), f"option {right} of {len(options)} is the answer")
    lettered = zip(string.ascii_uppercase, options, strict=False)
    prompt = "\n".join([question.strip(), "", *(f"{letter}. {text}" for letter, text in lettered)])
    return Problem(id, "choice", prompt, string.ascii_uppercase[right], choices=tuple(options))


def _mmlu(row: dict[str, Any]) -> Problem:
    """arXiv 2009.03300: {"question", "choices", "answer"}, which counts from 0.

    As first published, lines `question,A,B,C,D,letter` of a .csv file a subject.
    """
    question = _text(row, "question")
    if "choices" not in row:
        options = [field(row, letter, str).strip() for letter in "ABCD"]
        letter = field(row, "answer", str).strip()
        check(letter in ("A", "B", "C", "D"), f'field "answer" must be A to D, got {letter!r}')
        return choice("", question, options, "ABCD".index(letter))
    options = field(row, "choices", list)
    check(all(type(o) is str for o in options), 'field "choices" must be a list of strings')
    return choice("", question, options, field(row, "answer", int))


def _letter(row: dict[str, Any], name: str, options: int) -> int:
    """The place of the option that a field names by its letter, counted from 0."""
    letter = field(row, name, str).strip()
    known = string.ascii_uppercase[:options]
    check(
        len(letter) == 1 and letter in known,
        f'field "{name}" must be a letter from A to {known[-1]}, got {letter!r}',
    )
    return known.index(letter)


def _options(row: dict[str, Any], name: str) -> list[str]:
    options = field(row, name, list)
    fits = len(options) > 1 and all(type(o) is str for o in options)
    check(fits, f'field "{name}" must be a list of two strings or more')
    return options


def _mmlu_pro(row: dict[str, Any]) -> Problem:
    """arXiv 2406.01574: {"question_id", "question", "options", "answer"}, up to ten options and a
    letter."""
    options = _options(row, "options")
    right = _letter(row, "answer", len(options))
    return choice(_id(row, "question_id"), _text(row, "question"), options, right)


def flawed(row: dict[str, Any]) -> str:
    """What MMLU-Redux says is wrong with a question, so that no answer to it can be judged; "" if
    nothing, or only that MMLU names another option than the right one, which the row names."""
    error = row.get("error_type") or "ok"
    named = error == "wrong_groundtruth" and row.get("correct_answer") not in (None, "")
    return "" if error == "ok" or named else str(error)


def _mmlu_redux(row: dict[str, Any]) -> Problem:
    """arXiv 2406.04127: MMLU's fields with "error_type", and "correct_answer" (a letter, a number
    from 0 or the option's text) where MMLU's answer is wrong. Others that are flawed are refused.
    """
    wrong = flawed(row)
    check(not wrong, f'its "error_type" is {wrong}: no answer can be judged')
    if row.get("error_type", "ok") == "ok":
        return _mmlu(row)
    options, given = _options(row, "choices"), str(row["correct_answer"]).strip()
    places = [o.strip() for o in options], list("ABCDEFGHIJ"), [str(i) for i in range(10)]
    found = next((names.index(given) for names in places if given in names), len(options))
    check(found < len(options), f'field "correct_answer" names no option: {given!r:.60}')
    return _mmlu({**row, "answer": found})


def _ceval(row: dict[str, Any]) -> Problem:
    """arXiv 2305.08322: {"id", "question", "A", "B", "C", "D", "answer"}, a letter."""
    options = [_text(row, letter).strip() for letter in "ABCD"]
    # Ids count within a subject, of which each has a file.
    return choice("", _text(row, "question"), options, _letter(row, "answer", 4))


def _ifeval(row: dict[str, Any]) -> Problem:
    """arXiv 2311.07911: {"key", "prompt", "instruction_id_list", "kwargs"}; an argument that is
    null is not given."""
    names, arguments = field(row, "instruction_id_list", list), field(row, "kwargs", list)
    fits = len(names) == len(arguments) > 0
    check(fits, f'field "kwargs" has {len(arguments)} entries for {len(names)} instructions')
    check(all(type(a) is dict for a in arguments), 'field "kwargs" must be a list of objects')
    told = [
        [name, {key: value for key, value in given.items() if value is not None}]
        for name, given in zip(names, arguments, strict=True)
    ]
    answer = json.dumps(told, ensure_ascii=False)
    return Problem(_id(row, "key"), "instructions", field(row, "prompt", str), answer)


def _gpqa(row: dict[str, Any]) -> Problem:
    """arXiv 2311.12022: "Question", "Correct Answer", "Incorrect Answer 1" to 3, "Record ID".

    The right option comes first in the file. Here the options are in the order of their hashes,
    which is the same in every run, and tells nothing.
    """
    question = _text(row, "Question")
    right = _text(row, "Correct Answer").strip()
    wrong = [_text(row, f"Incorrect Answer {i}").strip() for i in (1, 2, 3)]
    check(right not in wrong, "the correct answer is among the incorrect ones")

    def digest(option: str) -> bytes:
        return hashlib.sha256(f"{question}\0{option}".encode()).digest()

    options = sorted([right, *wrong], key=digest)
    return choice(_id(row, "Record ID"), question, options, options.index(right))


def _countdown(row: dict[str, Any]) -> Problem:
    """{"numbers" or "nums": [3, 5, 7], "target": 22}, "id" optional; all integers."""
    numbers = _numbers(row if "numbers" in row or "nums" not in row else {"numbers": row["nums"]})
    target = field(row, "target", int)
    prompt = f"Using the numbers {list(numbers)}, make {target}. {program_sources.ONCE}"
    return Problem(_id(row, "id"), "countdown", prompt, str(target), numbers)


def _numbers(row: dict[str, Any]) -> tuple[int, ...]:
    numbers = field(row, "numbers", list)
    # An expression has no way to write a negative operand.
    check(
        bool(numbers) and all(type(n) is int and n >= 0 for n in numbers),
        'field "numbers" must be a non-empty list of non-negative integers',
    )
    return tuple(numbers)


def _problem(row: dict[str, Any], place: Place) -> Problem:
    """{"id", "kind", "prompt"} and "answer", or "tests" of code; "source" optional.

    "numbers" are a countdown problem's operands, and its answer, or "target", the target. "choices"
    are the options of a choice, which the prompt shows already, and its answer a letter. "tests"
    has the fields of `Tests`, or is one of the other forms that `program_sources.read_tests` knows.
    Of the kind "own", graded by the user's reward function, "answer" is optional and may be any
    JSON: the function gets text as it stands, and other values as JSON.
    """
    check("id" in row, 'missing field "id"')
    name, kind, prompt = _id(row, "id"), field(row, "kind", str), _text(row, "prompt")
    check(bool(name), 'field "id" is empty')
    kinds: tuple[Kind, ...] = get_args(Kind)
    check(kind in kinds, f'field "kind" must be one of {", ".join(kinds)}, got {kind!r}')
    problem = Problem(name, kind, prompt, source=_id(row, "source"))  # type: ignore[arg-type]
    if kind == "code":
        check("tests" in row, 'missing field "tests"')
        return dataclasses.replace(problem, tests=program_sources.read_tests(row))
    answer = row.get("answer")
    if kind == "countdown":
        answer = _number(row, "answer", "target")
        check("." not in answer, f'field "answer" must be an integer, got {answer}')
        return dataclasses.replace(problem, answer=answer, numbers=_numbers(row))
    if kind in ("gym", "instructions", "own") and isinstance(answer, (dict, list)):
        answer = json.dumps(answer)
    if kind == "own":  # nothing here reads it, so that it may be anything, or nothing
        return dataclasses.replace(problem, answer="" if answer is None else str(answer))
    if type(answer) in (int, float):
        answer = _number(row, "answer")
    answer = _text({**row, "answer": answer} if "answer" in row else row, "answer").strip()
    if kind != "choice":
        return dataclasses.replace(problem, answer=answer)
    options = field(row, "choices", list) if "choices" in row else []
    check(all(type(o) is str for o in options), 'field "choices" must be a list of strings')
    letters = string.ascii_uppercase[: len(options) or None]
    check(
        len(answer) == 1 and answer in letters,
        f'field "answer" must be a letter from A to {letters[-1]}, got {answer!r}',
    )
    return dataclasses.replace(problem, answer=answer, choices=tuple(options))


def write_problems(problems: Iterable[Problem], path: Path) -> None:
    """Writes what `read_problems` reads back; never half a file."""
    with replaced(path) as partial, partial.open("w", encoding="utf-8") as file:
        for problem in problems:
            file.write(json.dumps(problem_row(problem), ensure_ascii=False) + "\n")


def problem_row(problem: Problem) -> dict[str, Any]:
    """What `read_problems` makes this problem of."""
    row = {name: value for name, value in dataclasses.asdict(problem).items() if value}
    if problem.tests is not None:
        row["tests"] = {name: value for name, value in row["tests"].items() if value}
    return row


read_problems = RowReader(_problem)
read_gsm8k = _published("gsm8k", _gsm8k)
read_countdown = _published("countdown", _countdown)


def read_gym(
    path: str | Path, bad: Bad = "stop", say: Callable[[str], None] = warn
) -> list[Problem]:
    """GYM_SIZE problems of the data set of reasoning-gym that `path` names: made, not read."""
    return gym_problems(str(path), GYM_SIZE)


READERS: dict[str, Reader] = {
    "problems": read_problems,
    "countdown": read_countdown,
    "gsm8k": read_gsm8k,
    "math": _published("math", _math),
    "aime": _published("aime", _aime),
    "amc": _published("amc", _amc),
    "svamp": _published("svamp", _svamp),
    "mmlu": _published("mmlu", _mmlu, ("question", "A", "B", "C", "D", "answer")),
    "mmlu_pro": _published("mmlu_pro", _mmlu_pro),
    "mmlu_redux": _published("mmlu_redux", _mmlu_redux),
    "ceval": _published("ceval", _ceval),
    "gpqa": _published("gpqa", _gpqa),
    "ifeval": _published("ifeval", _ifeval),
    "humaneval": _published("humaneval", program_sources.humaneval),
    "mbpp": _published("mbpp", program_sources.mbpp),
    "livecodebench": _published("livecodebench", program_sources.livecodebench),
    "codeforces": _published("codeforces", program_sources.codeforces),
    "swebench": _published("swebench", program_sources.swebench),
    "gym": read_gym,
}
