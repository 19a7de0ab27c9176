"""Programming problems: the published forms, and tests that decide as they were meant to."""

import base64
import json
import pickle
import shutil
import zlib

import pytest

from r1jax.checks import InputError
from r1jax.data import problems, program_sources
from r1jax.data.sources import READERS
from r1jax.rewards.code import CodeGrader


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "name, file, count",
    [
        ("humaneval", "humaneval/HumanEval.jsonl.gz", 164),
        ("mbpp", "mbpp/mbpp.jsonl", 974),
        ("mbpp", "mbpp/sanitized-mbpp.json", 427),
    ],
)
def test_all_of_the_real_files(data_dir, name, file, count):
    found = READERS[name](data_dir / file)
    assert len(found) == len({p.id for p in found}) == count
    assert all(p.kind == "code" and p.tests.code and p.source == name for p in found)
    for problem in found:
        compile(problem.tests.code, problem.id, "exec")


def test_humaneval_and_mbpp(data_dir):
    first = READERS["humaneval"](data_dir / "humaneval" / "HumanEval.jsonl.gz")[0]
    assert first.id == "HumanEval/0" and first.tests.function == "has_close_elements"
    assert first.prompt.startswith("Complete this Python function:\n\n```python\nfrom typing")
    second = READERS["mbpp"](data_dir / "mbpp" / "mbpp.jsonl")[1]
    assert second.id == "mbpp/2" and second.tests.code.count("assert ") == 3
    assert second.tests.code in second.prompt
    sanitized = READERS["mbpp"](data_dir / "mbpp" / "sanitized-mbpp.json")
    assert any(p.tests.code.startswith("import math\n") for p in sanitized)


PUBLIC = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
PRIVATE = [{"input": "5 -7\n", "output": "-2\n", "testtype": "stdin"}]
CALLS = [{"input": '[1, 2]\n"b"', "output": '["1b", "2b"]', "testtype": "functional"}]


def packed(value) -> str:
    """As LiveCodeBench publishes its private test cases."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def livecodebench(**changes) -> dict:
    row = {
        "question_title": "Sum",
        "question_content": "Add two numbers.",
        "question_id": "abc301_a",
        "starter_code": "",
        "public_test_cases": json.dumps(PUBLIC),
        "private_test_cases": packed(json.dumps(PRIVATE)),
        "metadata": "{}",
    }
    return row | changes


LEETCODE = {
    "question_id": "3300",
    "starter_code": "class Solution:\n    def join(self, xs: List[int], y: str) -> List[str]:\n  ",
    "public_test_cases": json.dumps(CALLS),
    "private_test_cases": packed(json.dumps(CALLS)),
    "metadata": json.dumps({"func_name": "join"}),
}


def test_livecodebench(tmp_path):
    rows = livecodebench(), livecodebench(private_test_cases=json.dumps(PRIVATE))
    path = write(tmp_path, *rows, livecodebench(**LEETCODE))
    reads, plain, calls = READERS["livecodebench"](path)
    assert reads.id == "livecodebench/abc301_a" and reads.tests == plain.tests
    assert reads.tests.stdio == (("1 2\n", "3\n"), ("5 -7\n", "-2\n"))
    assert calls.tests.function == "join"
    assert calls.tests.calls == (('[[1, 2], "b"]', '["1b", "2b"]'),) * 2
    assert "def join(self" in calls.prompt and "standard input" in reads.prompt


class Evil:
    def __reduce__(self):
        return (print, ("this must never be printed",))


CUT = base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-6]).decode()


@pytest.mark.parametrize(
    "cases, message",
    [
        (packed(Evil()), "it has the opcode"),
        (packed(PRIVATE), "it has the opcode"),  # plain data, but not the published form
        (packed(b"[]"), "it has the opcode"),
        (packed(json.dumps({"input": ""})), "must be a list of objects"),
        (packed("[1]"), "must be a list of objects"),
        (packed("nonsense"), 'field "private_test_cases" is not JSON'),
        (base64.b64encode(zlib.compress(b"not a pickle")).decode(), "pickled string"),
        (base64.b64encode(zlib.compress(b"")).decode(), "pickled string"),
        (base64.b64encode(b"not compressed").decode(), "Error -3"),
        (CUT, "it is cut"),
        ("not base64!", "neither JSON nor base64"),
        (packed('[{"input": 1, "output": "", "testtype": "stdin"}]'), "must be two strings"),
        (json.dumps(CALLS), "test cases of several types"),
    ],
)
def test_private_cases_are_never_unpickled(tmp_path, capfd, cases, message):
    with pytest.raises(InputError, match=r"rows\.jsonl:1: ") as error:
        READERS["livecodebench"](write(tmp_path, livecodebench(private_test_cases=cases)))
    assert message in str(error.value)
    assert "never" not in capfd.readouterr().out


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle(tmp_path, protocol):
    text = json.dumps(PRIVATE)
    cases = base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()
    (problem,) = READERS["livecodebench"](write(tmp_path, livecodebench(private_test_cases=cases)))
    assert len(problem.tests.stdio) == 2


def test_a_decompression_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(program_sources, "MAX_TEST_BYTES", 10_000)
    row = livecodebench(private_test_cases=packed("[" + " " * 20_000 + "]"))
    with pytest.raises(InputError, match="holds over 10,000 bytes"):
        READERS["livecodebench"](write(tmp_path, row))


OPEN_R1 = {
    "id": "1/A",
    "description": "Add two numbers.",
    "input_format": "Two numbers.",
    "output_format": None,
    "examples": [{"input": "1 2", "output": "3"}],
    "official_tests": [{"input": "1 2", "output": "3"}, {"input": "5 -7", "output": "-2"}],
    "generated_checker": None,
    "input_mode": "stdio",
}
DEEPMIND = {
    "name": "1_A. Sum",
    "description": "Add two numbers.",
    "public_tests": {"input": ["1 2"], "output": ["3"]},
    "private_tests": {"input": ["5 -7"], "output": ["-2"]},
    "generated_tests": {"input": [], "output": []},
}


def test_codeforces(tmp_path):
    one, other = READERS["codeforces"](write(tmp_path, OPEN_R1, DEEPMIND))
    assert (one.id, other.id) == ("codeforces/1/A", "codeforces/1_A. Sum")
    assert one.tests == other.tests == problems.Tests(stdio=(("1 2", "3"), ("5 -7", "-2")))
    assert "Input: Two numbers." in one.prompt and "Example input:\n1 2\n" in other.prompt
    assert "5 -7" not in one.prompt + other.prompt


@pytest.mark.parametrize(
    "row, message",
    [
        (OPEN_R1 | {"generated_checker": "def check"}, "it has a checker: its answers are not"),
        (OPEN_R1 | {"interaction_format": "Ask."}, "it is interactive"),
        (OPEN_R1 | {"input_mode": "file"}, "its input_mode is 'file'"),
        (OPEN_R1 | {"examples": [], "official_tests": None}, "there are no test cases"),
        (OPEN_R1 | {"examples": [["a"]]}, "a test case must be two strings"),
        (DEEPMIND | {"public_tests": {"input": ["1"], "output": []}}, "inputs without outputs"),
    ],
)
def test_codeforces_that_comparing_outputs_cannot_judge(tmp_path, row, message):
    with pytest.raises(InputError, match=f"rows.jsonl:1: .*{message}"):
        READERS["codeforces"](write(tmp_path, row))


@pytest.mark.parametrize(
    "given, want",
    [
        ({"tests": "assert f() == 1"}, problems.Tests(code="assert f() == 1")),
        ({"tests": ["assert f()", "assert g()"]}, problems.Tests(code="assert f()\nassert g()")),
        (
            {"tests": "def check(c): ...", "entry_point": "f"},
            problems.Tests(code="def check(c): ...", function="f"),
        ),
        ({"tests": [{"input": "1", "output": "2"}]}, problems.Tests(stdio=(("1", "2"),))),
        ({"tests": [["1", "2"]]}, problems.Tests(stdio=(("1", "2"),))),
        ({"tests": {"stdio": [["1", "2"]]}}, problems.Tests(stdio=(("1", "2"),))),
        (
            {"tests": {"calls": [["[1]", "2"]], "function": "f", "prelude": "import os"}},
            problems.Tests(calls=(("[1]", "2"),), function="f", prelude="import os"),
        ),
    ],
)
def test_tests_of_the_generic_form(tmp_path, given, want):
    row = {"id": 1, "kind": "code", "prompt": "?"} | given
    (problem,) = READERS["problems"](write(tmp_path, row))
    assert problem.tests == want


@pytest.mark.parametrize(
    "tests, message",
    [
        (1, '"tests" must be an object, got int'),
        ([], "must have one of stdio, calls and code"),
        ({}, "must have one of stdio, calls and code"),
        ({"code": "assert 1", "stdio": [["", ""]]}, "must have one of stdio"),
        ({"cod": ""}, r"has no field \['cod'\]"),
        ({"code": 1}, '"code" must be of type str, got int'),
        ({"calls": [["[1]", "1"]]}, "has calls but no function"),
        ({"calls": [["1", "1"]], "function": "f"}, "arguments of a call must be a list"),
        ({"calls": [["[1]", "x"]], "function": "f"}, "is not JSON"),
        ([["1"]], "a test case must be two strings"),
    ],
)
def test_bad_tests(tmp_path, tests, message):
    row = {"id": 1, "kind": "code", "prompt": "?", "tests": tests}
    with pytest.raises(InputError, match=f"rows.jsonl:1: .*{message}"):
        READERS["problems"](write(tmp_path, row))


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_what_was_read_is_graded_as_meant(tmp_path):
    (reads, calls) = READERS["livecodebench"](
        write(tmp_path, livecodebench(), livecodebench(**LEETCODE))
    )
    (forces,) = READERS["codeforces"](write(tmp_path, OPEN_R1))
    add = "print(sum(map(int, input().split())))"
    # Uses List and a module without importing either, as LiveCodeBench lets it.
    join = """
class Solution:
    def join(self, xs: List[int], y: str) -> List[str]:
        return [str(x) + y for x in itertools.chain(xs)]
"""
    cases = [
        (reads, add, "correct"),
        (reads, add.replace("sum", "max"), "incorrect"),
        (forces, add, "correct"),
        (calls, join, "correct"),
        (calls, join.replace("+ y", "+ y + y"), "incorrect"),
    ]
    with CodeGrader(workers=2) as grader:
        verdicts = [grader.submit(problem.tests, program) for problem, program, _ in cases]
        outcomes = [verdict.result().outcome for verdict in verdicts]
    assert outcomes == [expected for *_, expected in cases]
