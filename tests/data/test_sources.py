"""Readers: the real files whole, the published forms, and one clear line for each bad row."""

import csv
import json
from collections import Counter
from typing import get_args

import pytest

from r1jax.checks import InputError
from r1jax.config import TaskName
from r1jax.data.problems import Problem
from r1jax.data.sources import READERS, read_countdown, read_gsm8k
from r1jax.data.tasks import EMBEDDED


def write(tmp_path, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_gsm8k(tmp_path):
    path = write(tmp_path, '{"question": "Q\u2028?", "answer": "So 1.\\n#### 1,234"}', "", "")
    (problem,) = read_gsm8k(path)
    assert (problem.kind, problem.prompt, problem.answer) == ("math", "Q\u2028?", "1234")
    assert (problem.id, problem.source) == ("gsm8k/rows/1", "gsm8k")


def test_all_of_gsm8k(data_dir):
    train = read_gsm8k(data_dir / "gsm8k" / "train.jsonl")
    test = read_gsm8k(data_dir / "gsm8k" / "test.jsonl")
    assert (len(train), len(test)) == (7_473, 1_319)
    assert train[0].answer == "72" and train[0].prompt.startswith("Natalia sold clips")
    assert len({problem.id for problem in train + test}) == 7_473 + 1_319


def test_countdown(tmp_path):
    path = write(
        tmp_path,
        '{"numbers": [3, 5, 7], "target": 22}',
        '{"id": 9, "nums": [1, 1], "target": 0}',
    )
    first, second = read_countdown(path)
    assert second.numbers == (1, 1)
    assert (first.kind, first.numbers, first.answer) == ("countdown", (3, 5, 7), "22")
    assert first.prompt.startswith("Using the numbers [3, 5, 7], make 22.")
    assert (first.id, second.id) == ("countdown/rows/1", "countdown/9")


GOOD = '{"numbers": [3], "target": 3}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "invalid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"target": 3}', 'missing field "numbers"'),
        ('{"numbers": [3]}', 'missing field "target"'),
        ('{"numbers": "3", "target": 3}', '"numbers" must be of type list, got str'),
        ('{"numbers": [3], "target": true}', '"target" must be of type int, got bool'),
        ('{"numbers": [3], "target": 3.0}', '"target" must be of type int, got float'),
        ('{"numbers": [3, true], "target": 3}', '"numbers" must be a non-empty list of non-neg'),
        ('{"numbers": [3, 1.5], "target": 3}', '"numbers" must be'),
        ('{"numbers": [-3], "target": 3}', '"numbers" must be'),
        ('{"numbers": [], "target": 3}', '"numbers" must be'),
        ('{"numbers": [3], "target": 3, "id": [1]}', '"id" must be'),
        (f'{{"numbers": [3], "target": {"9" * 5000}}}', "invalid JSON"),
        ("[" * 200_000, "invalid JSON"),
        (f'{{"numbers": {"[" * 980}{"]" * 980}, "target": 1}}', "invalid JSON|nested too deep|mus"),
    ],
)
def test_bad_countdown_rows_name_file_and_line(tmp_path, line, message):
    with pytest.raises(InputError, match=message) as error:
        read_countdown(write(tmp_path, GOOD, "", line))
    assert str(error.value).startswith(f"{tmp_path / 'rows.jsonl'}:3: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Q"}', 'missing field "answer"'),
        ('{"question": 1, "answer": "#### 1"}', '"question" must be of type str, got int'),
        ('{"question": " ", "answer": "#### 1"}', '"question" is empty'),
        ('{"question": "Q", "answer": "1"}', '"answer" must end in'),
        ('{"question": "Q", "answer": "#### "}', '"answer" must end in'),
        ('{"question": "Q", "answer": "#### one"}', '"answer" must end in'),
    ],
)
def test_bad_gsm8k_rows(tmp_path, line, message):
    with pytest.raises(InputError, match=f"rows.jsonl:1: .*{message}"):
        read_gsm8k(write(tmp_path, line))


@pytest.mark.parametrize("read", [read_gsm8k, read_countdown])
def test_bad_files(tmp_path, read):
    with pytest.raises(InputError, match=r"absent\.jsonl: No such file"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match=r"rows\.jsonl: no rows"):
        read(write(tmp_path, ""))
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"rows\.jsonl:1: not UTF-8"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "name, file, count, answers",
    [
        ("math", "math500/test.jsonl", 500, [r"\left( 3, \frac{\pi}{2} \right)", "p - q"]),
        ("aime", "aime24/test.jsonl", 30, ["204", "113"]),
        ("aime", "aime24/test_nemo.jsonl", 30, ["73", "236"]),
        ("aime", "aime25/test.jsonl", 30, ["70", "588"]),
        ("amc", "amc23/test.jsonl", 40, ["27", "36"]),
        ("svamp", "svamp/svamp.jsonl", 1000, ["51", "1"]),
        ("mmlu", "mmlu_stem/test.jsonl", 3018, ["C", "C"]),
    ],
)
def test_all_of_the_real_files(data_dir, name, file, count, answers):
    problems = READERS[name](data_dir / file)
    assert len(problems) == len({p.id for p in problems}) == count
    assert [p.answer for p in problems[:2]] == answers
    assert all(p.source == name and p.prompt.strip() for p in problems)


def test_two_copies_of_aime_agree(data_dir):
    one, other = (
        sorted(p.answer for p in READERS["aime"](data_dir / "aime24" / name))
        for name in ("test.jsonl", "test_nemo.jsonl")
    )
    assert one == other


def test_what_is_published_as_more_than_one_file(tmp_path):
    """MATH, of one file a problem, and MMLU, of one file a subject."""
    for name, answer in (("algebra/1", "2"), ("algebra/2", r"\frac{1}{2}"), ("geometry/1", "3")):
        (tmp_path / "math" / name).parent.mkdir(parents=True, exist_ok=True)
        row = {"problem": "?", "solution": rf"So \boxed{{1}}, no, $\boxed{{{answer}}}$."}
        (tmp_path / "math" / f"{name}.json").write_text(json.dumps(row))
    problems = READERS["math"](tmp_path / "math")
    assert [p.answer for p in problems] == ["2", r"\frac{1}{2}", "3"]
    assert problems[2].id == "math/geometry/1/1"
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "anatomy_test.csv").write_text('"Which, then?",w,x,"y, z",1,C\n')
    (problem,) = READERS["mmlu"](tmp_path / "mmlu")
    assert problem.prompt == "Which, then?\n\nA. w\nB. x\nC. y, z\nD. 1"
    assert (problem.id, problem.answer, problem.choices[2]) == ("mmlu/anatomy_test/1", "C", "y, z")


GPQA = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2")
GPQA += ("Incorrect Answer 3", "Record ID", "Explanation")


def gpqa(tmp_path, rows):
    path = tmp_path / "gpqa.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([GPQA, *rows])
    return READERS["gpqa"](path)


def test_gpqa_has_its_right_option_at_any_place_and_always_the_same(tmp_path):
    rows = [(f"Why\n{i}?", "right ", "a", "b", "c", f"rec{i}", "") for i in range(400)]
    problems = gpqa(tmp_path, rows)
    assert all(p.choices["ABCD".index(p.answer)] == "right" for p in problems)
    assert all(sorted(p.choices) == ["a", "b", "c", "right"] for p in problems)
    places = Counter(p.answer for p in problems)
    assert all(70 <= places[letter] <= 130 for letter in "ABCD")  # 3.5 deviations
    assert problems[0].id == "gpqa/rec0"
    again = gpqa(tmp_path, rows[::-1])[::-1]
    assert again == problems
    # Known once and for all: a change here would change every run's questions.
    assert "".join(p.answer for p in problems[:12]) == "ACABABDBCDBC"


def test_gpqa_whose_right_option_is_also_wrong(tmp_path):
    with pytest.raises(InputError, match=r"gpqa\.csv:2: the correct answer is among"):
        gpqa(tmp_path, [("Q", "a", "b", " a", "c", "", "")])


GENERIC = {"id": "x", "kind": "math", "prompt": "Q?", "answer": "1"}


@pytest.mark.parametrize(
    "changes, want",
    [
        ({}, Problem("x", "math", "Q?", "1")),
        ({"id": 7, "answer": 27.0, "source": "s"}, Problem("7", "math", "Q?", "27", source="s")),
        ({"answer": 0.5}, Problem("x", "math", "Q?", "0.5")),
        (
            {"kind": "countdown", "answer": "24", "numbers": [4, 6]},
            Problem("x", "countdown", "Q?", "24", (4, 6)),
        ),
        ({"kind": "choice", "answer": "B"}, Problem("x", "choice", "Q?", "B")),
        (
            {"kind": "choice", "answer": "B", "choices": ["m", "n"]},
            Problem("x", "choice", "Q?", "B", choices=("m", "n")),
        ),
        ({"kind": "words", "answer": "a b"}, Problem("x", "words", "Q?", "a b")),
        ({"kind": "gym", "answer": {"a": 1}}, Problem("x", "gym", "Q?", '{"a": 1}')),
    ],
)
def test_problems_that_say_all_about_themselves(tmp_path, changes, want):
    path = write(tmp_path, json.dumps(GENERIC | changes))
    assert READERS["problems"](path) == [want]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"id": ""}, '"id" is empty'),
        ({"id": [1]}, '"id" must be a string or an integer'),
        (
            {"kind": "chess"},
            '"kind" must be one of countdown, math, choice, code, words, gym, instructions, own',
        ),
        ({"prompt": " "}, '"prompt" is empty'),
        ({"answer": None}, '"answer" must be of type str, got NoneType'),
        ({"answer": True}, '"answer" must be of type str, got bool'),
        ({"answer": float("nan")}, '"answer" must be a number, got nan'),
        ({"kind": "countdown"}, 'missing field "numbers"'),
        ({"kind": "countdown", "answer": 1.5, "numbers": [1]}, '"answer" must be an integer'),
        ({"kind": "choice", "answer": "C", "choices": ["m", "n"]}, "letter from A to B, got 'C'"),
        ({"kind": "choice", "answer": "AB"}, "letter from A to Z, got 'AB'"),
        ({"kind": "code"}, 'missing field "tests"'),
    ],
)
def test_bad_problems(tmp_path, changes, message):
    with pytest.raises(InputError, match=f"rows.jsonl:1: .*{message}"):
        READERS["problems"](write(tmp_path, json.dumps(GENERIC | changes)))


@pytest.mark.parametrize(
    "name, row, message",
    [
        ("math", {"problem": "?", "solution": "2"}, r"has no .boxed\{answer\}"),
        ("math", {"solution": r"\boxed{2}"}, 'missing field "problem"'),
        ("aime", {"problem": "?", "answer": "1000"}, "AIME's answers are 0 to 999, got 1000"),
        ("aime", {"problem": "?", "answer": "-3"}, "AIME's answers are 0 to 999"),
        ("aime", {"problem": "?"}, 'missing field "answer"'),
        ("amc", {"problem": "?", "answer": "x"}, '"answer" must be a number'),
        ("svamp", {"Body": "b", "Question": "q", "Answer": None}, '"Answer" must be a number'),
        ("mmlu", {"question": "?", "choices": ["a", "b"], "answer": 2}, "option 2 of 2"),
        ("mmlu", {"question": "?", "choices": ["a"], "answer": 0}, "a question of 1 options"),
        ("mmlu", {"question": "?", "choices": ["a", 1], "answer": 0}, "a list of strings"),
    ],
)
def test_bad_rows_of_published_forms(tmp_path, name, row, message):
    with pytest.raises(InputError, match=f"rows.jsonl:1: .*{message}"):
        READERS[name](write(tmp_path, json.dumps(row)))


def test_a_reader_goes_on_where_asked(tmp_path):
    said = []
    path = write(tmp_path, json.dumps(GENERIC), "{", json.dumps(GENERIC | {"id": "y"}))
    assert [p.id for p in READERS["problems"](path, "skip", said.append)] == ["x", "y"]
    assert said[0].startswith(f"skipped {path}:2: ") and said[1].endswith("skipped 1 of 3 rows")


def test_the_tasks_of_a_run_are_the_readers_and_the_embedded_ones():
    assert set(get_args(TaskName)) == set(READERS) | set(EMBEDDED)


def test_field_cases_of_boxed_solutions(data_dir, tmp_path):
    """Published MATH rows have a blank before the brace, \\fbox, or no braces."""
    file = data_dir / "field_cases" / "cases.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    rows = [row for row in rows if row["area"] == "reader math"]
    path = write(tmp_path, *(json.dumps(row["row"]) for row in rows))
    answers = [problem.answer for problem in READERS["math"](path)]
    assert answers == [row["expected"].removeprefix("answer ") for row in rows] and len(rows) == 3
