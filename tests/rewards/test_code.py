"""Grading of programs: real reference solutions are right, and mutants of them are wrong."""

import ast
import gzip
import json
import math
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from r1jax.data import problems
from r1jax.data.sources import READERS
from r1jax.rewards.code import CodeGrader, extract_program
from r1jax.rewards.inside.compare import same, same_output
from r1jax.rewards.inside.wire import decode, encode
from r1jax.rewards.sandbox import Limits

# A value of the same type that is surely different.
WRONG = """
def _wrong(x):
    for kind, wrong in {bool: lambda: not x, str: lambda: x + "?", list: lambda: x + [None],
                        tuple: lambda: x + (None,), dict: lambda: x | {None: None},
                        type(None): lambda: 0}.items():
        if type(x) is kind: return wrong()
    return x + abs(x) + 1 if isinstance(x, (int, float, complex)) else None
_right = NAME
def NAME(*args, **kwargs): return _wrong(_right(*args, **kwargs))
"""


MUTANTS_S = 2.0  # some never end

# Of the programs that this reads, not of the project.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")


@pytest.fixture(scope="module")
def grader(isolation):
    with CodeGrader(workers=2) as grader:
        yield grader


@pytest.fixture(scope="module")
def mutants_grader(grader):
    with CodeGrader(workers=2, limits=Limits(wall_s=MUTANTS_S)) as grader:
        yield grader


Row = tuple[str, problems.Tests, str, str]  # id, tests, reference, the function's name


def _humaneval(data_dir) -> Iterator[Row]:
    path = data_dir / "humaneval" / "HumanEval.jsonl.gz"
    with gzip.open(path, "rt") as file:
        rows = list(map(json.loads, file))
    for problem, row in zip(READERS["humaneval"](path), rows, strict=True):
        program = row["prompt"] + row["canonical_solution"]
        yield problem.id, problem.tests, program, row["entry_point"]


def _mbpp(data_dir) -> Iterator[Row]:
    for name in ("mbpp.jsonl", "sanitized-mbpp.json"):
        path = data_dir / "mbpp" / name
        text = path.read_text()
        rows = json.loads(text) if text[0] == "[" else list(map(json.loads, text.splitlines()))
        for problem, row in zip(READERS["mbpp"](path), rows, strict=True):
            if row["task_id"] == 123:  # takes over 20 s
                continue
            tree, tests = ast.parse(row["code"]), ast.parse(problem.tests.code)
            defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            called = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)}
            yield f"{problem.id}/{name}", problem.tests, row["code"], (defined & called).pop()


def _check_references(grader: CodeGrader, rows: list) -> None:
    right, wrong = {}, {}
    for name, tests, program, function in rows:
        right[name] = grader.submit(tests, program)
        mutant = program + WRONG.replace("NAME", function)
        wrong[name] = grader.submit(tests, mutant)
    for futures, expected in ((right, "correct"), (wrong, "incorrect")):
        verdicts = {name: future.result() for name, future in futures.items()}
        assert {n: v for n, v in verdicts.items() if v.outcome != expected} == {}
        print(f"{len(verdicts):,} programs of {len(rows):,} {expected}")


def test_references_are_right_and_mutants_wrong(grader, data_dir):
    _check_references(grader, [*_humaneval(data_dir)][::4] + [*_mbpp(data_dir)][::25])


@pytest.mark.slow
def test_every_reference_is_right_and_every_mutant_wrong(grader, data_dir):
    _check_references(grader, [*_humaneval(data_dir), *_mbpp(data_dir)])


class _Mutate(ast.NodeTransformer):
    """Changes the n-th comparison, operator or number; `count` is how many there are."""

    def __init__(self, n: int = -1):
        self.n, self.count = n, 0

    def _here(self) -> bool:
        self.count += 1
        return self.count - 1 == self.n

    def visit_Compare(self, node):
        self.generic_visit(node)
        if self._here():
            opposites = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
            node.ops[0] = opposites.get(type(node.ops[0]), ast.Eq)()
        return node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if self._here():
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return node

    def visit_Constant(self, node):
        if type(node.value) is int and self._here():
            return ast.Constant(node.value + 1)
        return node


NATIVE = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
program, tests = {{"__name__": "program"}}, {{"__name__": "tests"}}
exec({program!r}, program)
exec({prelude!r}, tests)
tests.update((name, value) for name, value in program.items()
             if name not in tests or name == {function!r})
exec({code!r}, tests)
if {function!r}:
    tests["check"](tests[{function!r}])
"""


def _runs_natively(tests: problems.Tests, program: str) -> bool:
    """The oracle: program and tests in one plain interpreter, which these programs don't attack.

    Helpers of the tests are the prelude's, not what a mutant made of them.
    """
    text = NATIVE.format(
        program=program, prelude=tests.prelude, code=tests.code, function=tests.function
    )
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-c", text], timeout=MUTANTS_S, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _mutant(program: str, name: str) -> str | None:
    """With one change, at a place that depends on the name; None if there is no place."""
    places = _Mutate()
    places.visit(ast.parse(program))
    if not places.count:
        return None
    n = zlib.crc32(name.encode()) % places.count
    return ast.unparse(_Mutate(n).visit(ast.parse(program)))


def _check_mutants(grader: CodeGrader, rows: list) -> None:
    jobs = {}
    for name, tests, program, _ in rows:
        if mutated := _mutant(program, name):
            jobs[name] = tests, mutated, grader.submit(tests, mutated)
    verdicts = {name: future.result() for name, (*_, future) in jobs.items()}
    expected = {name: _runs_natively(*job) for name, (*job, _) in jobs.items()}
    assert {n: v for n, v in verdicts.items() if (v.outcome == "correct") != expected[n]} == {}
    assert {v for v in expected.values()} == {True, False}  # some mutants are equivalent
    print(f"{len(jobs):,} mutants: {sum(expected.values()):,} pass, in plain Python as well")
    assert all(verdict.outcome != "failed" for verdict in verdicts.values())


def test_verdicts_on_mutants_agree_with_plain_python(mutants_grader, data_dir):
    rows = [*_humaneval(data_dir)][1::12] + [*_mbpp(data_dir)][3::100]
    _check_mutants(mutants_grader, rows)


@pytest.mark.slow
def test_verdicts_on_all_mutants_agree_with_plain_python(mutants_grader, data_dir):
    _check_mutants(mutants_grader, [*_humaneval(data_dir), *_mbpp(data_dir)])


DOUBLE = problems.Tests(
    code="def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0",
    function="double",
    prelude='from typing import List\n\ndef double(x: int) -> int:\n    """Twice x."""\n',
)
SORT = problems.Tests(calls=(("[[3, 1, 2]]", "[1, 2, 3]"), ("[[]]", "[]")), function="order")
HALVES = problems.Tests(stdio=(("1 2\n", "0.5 1.0\n"), ("3\n", "1.5\n")))
RIGHT = {
    "complete": (DOUBLE, "def double(x): return 2 * x"),
    "continuation": (DOUBLE, "    return 2 * x\n"),
    "uses the prelude": (DOUBLE, "def double(x: List) -> List: return x + x"),
    "prints": (DOUBLE, "print('x' * 10**6)\ndef double(x):\n    print(x)\n    return 2 * x"),
    "main guard": (DOUBLE, "def double(x): return 2 * x\nif __name__ == '__main__': input()"),
    "recursion": (DOUBLE, "def double(x): return 0 if x == 0 else 2 + double(x - 1)"),
    "lambda": (DOUBLE, "double = lambda x: 2 * x"),
    "callable": (DOUBLE, "class D:\n    def __call__(self, x): return 2 * x\ndouble = D()"),
    "integer enumeration": (
        DOUBLE,
        "import enum\nclass E(enum.IntEnum):\n    A = 0\n    B = 4\ndef double(x): return E(2 * x)",
    ),
    "data class": (
        DOUBLE,
        "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int\n"
        "def double(x): return D(2 * x).x",
    ),
    "solution": (SORT, "class Solution:\n    def order(self, xs): return sorted(xs)"),
    "function": (SORT, "def order(xs): return sorted(xs)"),
    "tuple": (SORT, "def order(xs): return tuple(sorted(xs))"),
    "standard input": (HALVES, "print(*[int(x) / 2 for x in input().split()])"),
    "white space": (HALVES, "for x in input().split(): print(int(x) / 2, end=' ')\nprint('\\n')"),
    "main": (
        HALVES,
        "import sys\ndef main():\n    print(*(int(x) / 2 for x in sys.stdin.read().split()))\n"
        "if __name__ == '__main__':\n    main()\n    exit(0)",
    ),
    "bytes of input": (
        HALVES,
        "import os, sys\nx = sys.stdin.buffer.read()\n"
        "sys.stdout.write(' '.join(str(int(i) / 2) for i in x.split()))",
    ),
    "a thread with a large stack": (
        HALVES,
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
        "def f(n): return n and f(n - 1)\n"
        "def main():\n    f(50_000)\n    print(*[int(x) / 2 for x in input().split()])\n"
        "t = threading.Thread(target=main)\nt.start()\nt.join()",
    ),
    "temporary file": (
        HALVES,
        "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n    f.write(input())\n"
        "    f.seek(0)\n    print(*[int(x) / 2 for x in f.read().split()])",
    ),
    "deep output": (problems.Tests(stdio=(("", "x" * 10**6),)), "print('x' * 10**6)"),
    "deep input": (
        problems.Tests(stdio=(("1\n" * 10**6, str(10**6)),)),
        "import sys\nprint(sum(map(int, sys.stdin)))",
    ),
    "ignored input": (problems.Tests(stdio=(("1\n" * 10**6, "7"),)), "print(7)"),
    "large integers": (
        problems.Tests(code="assert f(5000) == 10**5000", function="f"),
        "def f(n): return 10**n",
    ),
    "objects": (
        problems.Tests(
            code="root = Node(1)\nroot.left = Node(2)\nassert depth(root) == 2\n"
            "assert root.left.value == 2 and root.left is root.left and root != Node(1)\n"
            "assert depth([root, {'x': root}][1]['x']) == 2",
        ),
        "class Node:\n    def __init__(self, value): self.value, self.left = value, None\n"
        "def depth(node): return 1 + depth(node.left) if node else 0",
    ),
    "exceptions": (
        problems.Tests(
            code="import unittest\nt = unittest.TestCase()\n"
            "with t.assertRaises(ValueError): f(-1)\n"
            "with t.assertRaises(ZeroDivisionError): f(0)\nt.assertEqual(f(2), 0.5)",
            function="f",
        ),
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return 1 / x",
    ),
    "iterators": (
        problems.Tests(code="assert list(f(3)) == [0, 1, 2]\nassert sum(f(3)) == 3"),
        "def f(n):\n    for i in range(n): yield i",
    ),
    "subclasses of built-in types": (
        problems.Tests(code="assert f('aab') == {'a': 2, 'b': 1}\nassert g() == (1, 2)"),
        "from collections import Counter, namedtuple\nf = Counter\n"
        "def g(): return namedtuple('P', 'x y')(1, 2)",
    ),
    "types": (
        problems.Tests(code="assert f([1, 'a', 2], int) == [1, 2]"),
        "def f(xs, kind): return [x for x in xs if isinstance(x, kind)]",
    ),
    "a built-in function's name": (
        problems.Tests(code="assert sum(10, 15) == 6"),
        "def sum(a, b): return 6",
    ),
    "an unimported module": (
        problems.Tests(code="assert math.isclose(f(2), 0.5)"),
        "import math\ndef f(x): return 1 / x",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs(grader, name):
    verdict = grader.submit(*RIGHT[name]).result()
    assert verdict.outcome == "correct", verdict


@pytest.mark.parametrize(
    ("tests", "program", "reason"),
    [
        (DOUBLE, "def double(x): return x", r"line 2 \(assert candidate\(2\) == 4\): Assertion"),
        (DOUBLE, "def double(x): return undefined", "NameError: name 'undefined'"),
        (DOUBLE, "def double(x: return", "SyntaxError"),
        (
            problems.Tests(code="assert f(1)", function="f"),
            "x = 1",
            "NameError: the program does not define f",
        ),
        (SORT, "def order(xs): return xs", "call 1: wrong result"),
        (SORT, "def order(xs): return [1, 2, 3]", "call 2: wrong result"),
        (SORT, "x = 1", "NameError: the program does not define order"),
        (HALVES, "print(0.5, 1.0)", "input 2: wrong output"),
        (HALVES, "print(1 / 0)", "input 1: ended with status 1 ZeroDivisionError"),
        (HALVES, "print('0.5')\nprint(1.0)", "input 1: wrong output"),
    ],
)
def test_wrong_programs(grader, tests, program, reason):
    verdict = grader.submit(tests, program).result()
    assert verdict.outcome == "incorrect"

    assert re.search(reason, verdict.detail), verdict


def test_tests_that_cannot_run_are_failures(grader):
    for tests in (
        problems.Tests(),
        problems.Tests(calls=(("[1", "2"),), function="f"),
        problems.Tests(code="assert f(lambda: 1) == 1"),
    ):
        assert grader.submit(tests, "def f(x): return 1").result().outcome == "failed"


def test_equal_programs_get_equal_verdicts(grader):
    tests = problems.Tests(stdio=(("", "['a', 'c', 'b']"),))
    futures = [grader.submit(tests, "print(list({'a', 'b', 'c'}))") for _ in range(8)]
    assert len({future.result().outcome for future in futures}) == 1


def test_a_closed_grader_answers(isolation):
    grader = CodeGrader(limits=Limits(wall_s=1.0))
    futures = [grader.submit(HALVES, "while True: pass") for _ in range(200)]
    start = time.monotonic()
    grader.close()
    assert time.monotonic() - start < 50  # a second each, two at a time: 100
    assert {future.result(timeout=0).outcome for future in futures} <= {"incorrect", "failed"}
    assert futures[-1].result().detail == "the grader was closed"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.complex_numbers() | st.just(range(3, -5, -2)) | st.sampled_from([int, dict, object])
    | st.builds(bytearray, st.binary()) | st.text(st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
    | st.frozensets(st.integers() | st.text()) | st.sets(st.floats(allow_nan=False))
    | st.dictionaries(st.integers() | st.text() | st.tuples(st.booleans()), inner),
    max_leaves=20,
)  # fmt: skip


def in_order(value):
    """With sets as sorted lists, beside their types."""
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, value))
    if isinstance(value, dict):
        return {key: in_order(inner) for key, inner in value.items()}
    return type(value)(map(in_order, value)) if isinstance(value, (list, tuple)) else value


@given(plain)
@example([math.nan, frozenset({"1", "\n\x1f"})])  # whose order is another in each process
def test_values_cross_the_wire_unchanged(value):
    again = decode(encode(value, id), lambda handle: None)
    # The text of a value tells every type, -0.0, and a NaN, in it; but no order of a set.
    assert repr(in_order(again)) == repr(in_order(value))


@given(st.binary() | plain.map(lambda value: encode(value, id)[:-1]))
def test_bad_messages_are_refused(data):
    try:
        value = decode(data, lambda handle: None)
    except (LookupError, ValueError, TypeError, RecursionError, OverflowError):
        return
    decode(encode(value, id), lambda handle: None)


@pytest.mark.parametrize(
    ("got", "expected", "equal"),
    [
        ("1 2\n3", "1 2 \n3\n\n", True),
        ("1  2", "1 2", True),
        ("1\n2", "1 2", False),
        ("", "", True),
        ("", "0", False),
        ("yes", "YES", False),
        ("0.3333333", "0.333333333333", True),
        ("0.333", "0.333333333333", False),
        ("1", "1.0", True),
        ("1.0", "1", False),
        ("100000001", "100000000", False),
        ("100000001", "100000000.0", True),
        ("nan", "0.5", False),
        ("inf", "1e9", False),
        ("1\r\n2\r\n", "1\n2\n", True),
        ("1 2 3", "1 2", False),
    ],
)
def test_outputs(got, expected, equal):
    assert same_output(got, expected) is equal


def test_results():
    assert same((1, (2, 3)), [1, [2, 3]])
    assert same({"a": (1,)}, {"a": [1]})
    assert same(0.1 + 0.2, 0.3) and same(2, 2.0)
    assert not same([1], [1, 2]) and not same("12", ["1", "2"]) and not same({}, [])
    assert not same(math.nan, 1.0) and not same(None, 0) and not same(3, 2)
    assert not same({"a": 1}, {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("<think>```python\nx = 1\n```</think>So:\n```python\nx = 2\n```\nDone.", "x = 2"),
        ("```python\nx = 1\n```\nor better\n```py\nx = 2\n```\nprints\n```\n2\n```", "x = 2"),
        ("```\nx = 1\n```\nrun by\n```bash\npython x.py\n```", "x = 1"),
        ("```cpp\nint x;\n```", "int x;"),
        ("1. so:\n   ```python\n   if x:\n       y()\n   ```", "if x:\n    y()"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("```python\nx = 1\n```\n```python\nx = 2", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("```Python3\r\nx = 1\r\n```", "x = 1"),
        ("<think>x</think>\ndef f(): return 1\n", "def f(): return 1"),
        ("The answer is five.", None),
        ("", None),
        ("<think>\n```python\nx = 1\n```", None),
        ("<think>x</think> <answer>```python\nx = 1\n```</answer>", "x = 1"),
        ("<think>x</think><answer>\n```python\nx = 1\n```</answer>", "x = 1"),
        ("```python\n```", None),
        ("<think>x = 1</think>", None),
    ],
)
def test_extraction(reply, program):
    assert extract_program(reply) == program


@pytest.mark.parametrize(
    "reply", ["```" * 10**5, "```\n" * 10**5, "`" * 10**6, "x\n" * 10**6, " " * 10**6 + "`" * 10]
)
def test_extraction_takes_linear_time(reply):
    start = time.process_time()
    extract_program(reply)
    assert time.process_time() - start < 5.0


def test_a_program_on_many_inputs_has_one_limit_for_all(isolation):
    """A hundred inputs of almost wall_s each would otherwise keep a rollout waiting."""
    tests = problems.Tests(stdio=(("", "1\n"),) * 100)
    program = "import time; time.sleep(0.4); print(1)"
    with CodeGrader(limits=Limits(wall_s=3.0, total_s=4.0)) as grader:
        verdict = grader.submit(tests, program).result()
        few = problems.Tests(stdio=tests.stdio[:2])
        assert grader.submit(few, program).result().outcome == "correct"
    assert verdict.outcome == "incorrect" and verdict.seconds < 0.4 * 100
    assert "of 100: time limit of all" in verdict.detail
