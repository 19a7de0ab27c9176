"""Published programming problems: what their rows ask for, and the tests that decide."""

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from r1jax.checks import InputError, check
from r1jax.data.problems import Problem, Tests
from r1jax.data.rows import field

MAX_TEST_BYTES = 2**30  # of one problem, decompressed; the largest published are below 2**28

# What is asked beside the published text.
COMPLETE = "Complete this Python function:"
COMPLETE_CODE = "Complete this code:"
MUST_PASS = "Your code should pass these tests:"
READ_AND_WRITE = "The Python program reads from standard input and writes to standard output."
ONCE = "Use each number exactly once, with only +, -, *, / and parentheses."  # countdown
PATCH = (
    "Solve this issue of the repository {repo}. Answer with one patch in unified diff format, in a "
    "```diff block."
)
PHRASES = (COMPLETE, COMPLETE_CODE, MUST_PASS, READ_AND_WRITE, ONCE)

# What LiveCodeBench's runner puts before every program (LiveCodeBench, lcb_runner/evaluation).
_MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "sys", "json",
)  # fmt: skip
LIVECODEBENCH_PRELUDE = "\n".join(
    [
        *(f"from {name} import *" for name in (*_MODULES, "builtins", "typing")),
        *(f"import {name}" for name in _MODULES),
        "sys.setrecursionlimit(50000)",
    ]
)


def humaneval(row: dict[str, Any]) -> Problem:
    """arXiv 2107.03374: {"task_id", "prompt", "entry_point", "test"}."""
    prompt = field(row, "prompt", str)
    tests = Tests(
        code=field(row, "test", str), function=field(row, "entry_point", str), prelude=prompt
    )
    asked = f"{COMPLETE}\n\n```python\n{prompt.strip()}\n```"
    return Problem(field(row, "task_id", str), "code", asked, tests=tests)


def mbpp(row: dict[str, Any]) -> Problem:
    """arXiv 2108.07732: {"task_id", "text", "test_list"}; "prompt" in the sanitized form.

    The task is given with its tests, as in the paper: they alone say what the function is called.
    Those of "challenge_test_list" are not shown.
    """
    text = field(row, "prompt" if "prompt" in row else "text", str).strip()
    shown, hidden = _texts(row, "test_list"), _texts(row, "challenge_test_list", optional=True)
    setup = [*_texts(row, "test_imports", optional=True), row.get("test_setup_code") or ""]
    check(bool(shown), 'field "test_list" is empty')
    prompt = f"{text} {MUST_PASS}\n\n" + "\n".join(shown)
    tests = Tests(code="\n".join([*filter(None, setup), *shown, *hidden]))
    return Problem(f"mbpp/{field(row, 'task_id', int)}", "code", prompt, tests=tests)


def livecodebench(row: dict[str, Any]) -> Problem:
    """arXiv 2403.07974: "question_id", "question_content", "starter_code", and test cases.

    "public_test_cases" is JSON of {"input", "output", "testtype"}; "private_test_cases" the same,
    or that text pickled, compressed and in base64. A LeetCode problem calls the function that
    "metadata" names: the lines of an input are its arguments.
    """
    question = field(row, "question_content", str).strip()
    starter = (row.get("starter_code") or "").rstrip()
    cases = _decoded(row, "public_test_cases") + _decoded(row, "private_test_cases")
    check(bool(cases), "there are no test cases")
    kinds = {case.get("testtype") for case in cases}
    check(len(kinds) == 1, f"test cases of several types: {sorted(map(str, kinds))}")
    (kind,) = kinds
    pairs = _pairs(cases)
    if kind == "functional":
        metadata = _json(field(row, "metadata", str), "metadata")
        check(isinstance(metadata, dict), 'field "metadata" must be a JSON object')
        function = field(metadata, "func_name", str)
        calls = [(_arguments(given), _canonical(expected)) for given, expected in pairs]
        tests = Tests(calls=tuple(calls), function=function, prelude=LIVECODEBENCH_PRELUDE)
        how = f"{COMPLETE_CODE}\n\n```python\n{starter}\n```"
    else:
        check(kind == "stdin", f'field "testtype" must be stdin or functional, got {kind!r}')
        tests = Tests(stdio=pairs, prelude=LIVECODEBENCH_PRELUDE)
        how = READ_AND_WRITE
    return Problem(field(row, "question_id", str), "code", f"{question}\n\n{how}", tests=tests)


def unfair(row: dict[str, Any]) -> str:
    """Why a problem of Codeforces cannot be judged by what a program prints; "" if it can."""
    if row.get("generated_checker"):
        return "it has a checker: its answers are not unique"
    if row.get("interaction_format"):
        return "it is interactive"
    mode = row.get("input_mode")
    return "" if mode in (None, "stdio") else f"its input_mode is {mode!r}"


def codeforces(row: dict[str, Any]) -> Problem:
    """open-r1's and DeepMind's collections of Codeforces problems (arXiv 2203.07814 the latter).

    "description" with "input_format", "output_format" and "note", and {"input", "output"} in
    "examples" and "official_tests"; or "description" alone, and {"input": [...], "output": [...]}
    in "public_tests", "private_tests" and "generated_tests". A problem whose answer is not unique
    (it comes with a checker), that is interactive or that uses files is refused: comparing what a
    program prints would not be fair to it.
    """
    check(not unfair(row), unfair(row))
    parts = [field(row, "description", str).strip()]
    for name, title in (("input_format", "Input"), ("output_format", "Output"), ("note", "Note")):
        if row.get(name):
            parts.append(f"{title}: {field(row, name, str).strip()}")
    shown = _cases(row, "examples", "public_tests")
    for given, expected in shown:
        parts.append(f"Example input:\n{given.strip()}\nExample output:\n{expected.strip()}")
    parts.append(READ_AND_WRITE)
    hidden = _cases(row, "official_tests", "private_tests", "generated_tests")
    pairs = tuple(dict.fromkeys([*shown, *hidden]))  # examples are often among the tests again
    check(bool(pairs), "there are no test cases")
    name = row.get("id") or row.get("name") or ""
    check(type(name) is str, 'field "id" must be a string')
    return Problem(name, "code", "\n\n".join(parts), tests=Tests(stdio=pairs))


def swebench(row: dict[str, Any]) -> Problem:
    """arXiv 2310.06770: {"instance_id", "repo", "base_commit", "problem_statement"}; "text" is the
    whole prompt, with files of the repository, in the sets that have it (SWE-bench_oracle, bm25).

    Its answer is a patch, which the official harness judges: here it has no grade of its own.
    """
    name, issue = field(row, "instance_id", str), field(row, "problem_statement", str)
    prompt = row.get("text") or f"{PATCH.format(repo=field(row, 'repo', str))}\n\n{issue.strip()}"
    check(type(prompt) is str, 'field "text" must be a string')
    return Problem(name, "own", prompt)


def read_tests(row: dict[str, Any]) -> Tests:
    """row["tests"]: an object of the fields of `Tests`, or in short

    text or a list of texts (asserts: MBPP), which may call row["entry_point"] as `check` does
    (HumanEval); a list of {"input", "output"} or pairs of them (standard input and output).
    """
    tests = row["tests"]
    if isinstance(tests, str):
        tests = {"code": tests}
    elif isinstance(tests, list) and all(type(test) is str for test in tests):
        tests = {"code": "\n".join(tests)}
    elif isinstance(tests, list):
        tests = {"stdio": tests}
    check(isinstance(tests, dict), f'field "tests" must be an object, got {type(tests).__name__}')
    known = {"stdio", "calls", "code", "function", "prelude"}
    check(set(tests) <= known, f'field "tests" has no field {sorted(set(tests) - known)}')
    texts = {"function": row.get("entry_point") or ""} | {
        name: field(tests, name, str) for name in ("code", "function", "prelude") if name in tests
    }
    stdio, calls = (_pairs(tests.get(name) or []) for name in ("stdio", "calls"))
    calls = tuple((_canonical(given), _canonical(expected)) for given, expected in calls)
    forms = [form for form in (stdio, calls, texts.get("code", "").strip()) if form]
    check(len(forms) == 1, 'field "tests" must have one of stdio, calls and code')
    check(not calls or bool(texts["function"]), 'field "tests" has calls but no function')
    for given, _ in calls:
        check(given.startswith("["), f"the arguments of a call must be a list, got {given:.40}")
    return Tests(stdio=stdio, calls=calls, **texts)


def _texts(row: dict[str, Any], name: str, optional: bool = False) -> list[str]:
    if optional and row.get(name) is None:
        return []
    found = field(row, name, list)
    check(all(type(text) is str for text in found), f'field "{name}" must be a list of strings')
    return found


def _pairs(cases: Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """(given, expected) of test cases that are {"input", "output"} or [given, expected]."""
    pairs = []
    for case in cases:
        if isinstance(case, dict):
            case = [case.get("input"), case.get("output")]
        ok = isinstance(case, list) and len(case) == 2
        check(ok and all(type(t) is str for t in case), "a test case must be two strings")
        pairs.append((case[0], case[1]))
    return tuple(pairs)


def _cases(row: dict[str, Any], *names: str) -> tuple[tuple[str, str], ...]:
    """The test cases of all these fields, where the row has them."""
    found: list[tuple[str, str]] = []
    for name in names:
        cases = row.get(name) or []
        if isinstance(cases, dict):
            given, expected = _texts(cases, "input"), _texts(cases, "output")
            check(len(given) == len(expected), f'field "{name}": inputs without outputs')
            cases = [list(pair) for pair in zip(given, expected, strict=True)]
        found += _pairs(cases)
    return tuple(found)


def _decoded(row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    text = field(row, name, str)
    if not text.lstrip().startswith("["):
        text = _unpacked(text, name)
    cases = _json(text, name)
    ok = isinstance(cases, list) and all(isinstance(case, dict) for case in cases)
    check(ok, f'field "{name}" must be a list of objects')
    return cases


def _unpacked(text: str, name: str) -> str:
    """Of base64 of zlib of a pickled string. Nothing is unpickled: its opcodes are read."""
    bad = f'field "{name}" is neither JSON nor base64 of zlib of a pickled string'
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), MAX_TEST_BYTES)
        check(not stream.unconsumed_tail, f'field "{name}" holds over {MAX_TEST_BYTES:,} bytes')
        check(stream.eof, f"{bad}: it is cut")
        found = [(opcode.name, value) for opcode, value, _ in pickletools.genops(data)]
    except InputError:
        raise
    except (binascii.Error, zlib.error, ValueError, LookupError) as error:
        raise InputError(f"{bad}: {error}") from None
    strings = [str(value) for name, value in found if "UNICODE" in name]
    harmless = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}
    others = [name for name, _ in found if name not in harmless and "UNICODE" not in name]
    check(not others, f"{bad}: it has the opcode {(others or [''])[0]}")
    check(len(strings) == 1, f"{bad}: it holds {len(strings)} strings")
    return strings[0]


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'field "{name}" is not JSON: {error}') from None


def _canonical(text: str) -> str:
    return json.dumps(_json(text, "output"))


def _arguments(text: str) -> str:
    """The lines of an input, each the JSON of an argument, as a JSON list."""
    lines: Sequence[str] = [line for line in text.split("\n") if line.strip()]
    return json.dumps([_json(line, "input") for line in lines])
