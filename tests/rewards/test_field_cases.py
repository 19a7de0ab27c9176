"""Inputs that public reports show being misread; each stands for a kind (data_dir/field_cases)."""

import json

import pytest

from r1jax.data.boxed import last_boxed
from r1jax.data.problems import Problem
from r1jax.data.sources import READERS
from r1jax.rewards.grading import Grader
from r1jax.rewards.math import grade_math, unreadable

# Conventions chosen the other way (contested rows), by reference and the end of the completion.
DECLINED = {
    (r"\frac{\pi}{3}", r"\boxed{60^\circ}"),  # degrees and radians are units: they differ
    ("5", r"\boxed{5g}"),  # a letter right behind a number is a variable
    ("3", r"\boxed{\log_2 x = 3}"),  # an equation still to be solved
    ("4", r"\boxed{x^2 = 4}"),
    (
        r"\begin{pmatrix}1\\2\\3\end{pmatrix}",
        r"\boxed{\mathbf{i}+2\mathbf{j}+3\mathbf{k}}",
    ),
    ("5", "<answer>The answer is 7. The answer is 5.</answer>"),  # the last one counts
}
# Labels held to be wrong: this one says that 1/2 is 10/9.
MISLABELLED = {r"Answer $ \frac{1}{2} \$ = \frac{10}{9} $"}


def problem(row):
    match row["area"]:
        case "math answer pair" | "math completion":
            return Problem("p", "math", "", row["reference"])
        case "choice":
            return Problem("p", "choice", "", row["reference"], choices=tuple(row["choices"]))
        case "countdown":
            return Problem("p", "countdown", "", str(row["target"]), tuple(row["numbers"]))
    return None


def test_field_cases(data_dir):
    files = [data_dir / "field_cases" / name for name in ("cases.jsonl", "labels.jsonl")]
    if not all(file.is_file() for file in files):
        pytest.skip("no field cases")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows = [row for row in rows if problem(row)]
    with Grader({"accuracy": 1.0}, workers=2) as grader:
        grades = grader.grade([problem(row) for row in rows], [row["completion"] for row in rows])
    wrong = {
        (row["reference"], row["completion"])
        for row, grade in zip(rows, grades, strict=True)
        if grade.outcome == "failed"
        or (grade.outcome == "correct") != (row["expected"] == "correct")
    }
    assert {pair for pair in wrong if pair[1] not in MISLABELLED} == DECLINED


def test_boxes_of_published_solutions(data_dir):
    rows = (data_dir / "field_cases" / "cases.jsonl").read_text().splitlines()
    solutions = [r["row"]["solution"] for r in map(json.loads, rows) if r["area"] == "reader math"]
    assert solutions and {last_boxed(solution) for solution in solutions} == {"3"}


@pytest.mark.parametrize("answer", ["(" * 150 + "1" + ")" * 150, "9^{9^{9^9}}"])
def test_what_would_take_for_ever_is_not_tried(answer):
    assert grade_math(answer, "7") is None


SETS = {"gsm8k": "gsm8k", "math500": "math", "aime24": "aime", "aime25": "aime", "amc23": "amc"}


@pytest.fixture(scope="module")
def problems(data_dir):
    found = [
        p for name, reader in SETS.items() for p in READERS[reader](data_dir / name / "test.jsonl")
    ]
    return list({p.answer: p for p in found}.values())


def test_every_reference_is_readable(problems):
    assert [(p.id, p.answer) for p in problems if unreadable(p.answer)] == []


def test_every_reference_is_its_own_answer(problems):
    """Bare, boxed, in prose, in bold, on its own line: never wrong, never "failed"."""
    hard = [p for p in problems if not p.answer.isdigit()] + problems[:100]
    forms = (
        "%s",
        r"So \boxed{%s}.",
        "The answer is $%s$.",
        "The answer is **%s**.",
        "**Final Answer:**\n\n\\[\n%s\n\\]\n",
        "The final answer is $%s$. I hope it is correct.",
    )
    cases = [(p, "<think>t</think> " + form % p.answer) for p in hard for form in forms]
    with Grader({"accuracy": 1.0}, workers=2) as grader:
        grades = grader.grade(*zip(*cases, strict=True))
    bad = [(p.answer, r) for (p, r), g in zip(cases, grades, strict=True) if g.outcome != "correct"]
    assert bad == []


@pytest.mark.parametrize(
    "reference", [r"\frac{1", "x +", r"\begin{pmatrix} 1", "(1, x+)", "3 + * 4", "", "y = x +"]
)
def test_unreadable(reference):
    assert unreadable(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "星期三",
        "12千米",
        "March 5",
        "14:30",
        "3:4",
        r"1, 2, \ldots, n",
        r"\textbf{(B)}\ 6",
        "5 N",
        r"12 \text{ R } 3",
        r"\mathbb{R} \setminus \{1\}",
        r"p=5,q=2;p=7,q=2",
        r"\text{None}",
    ],
)
def test_readable(reference):
    assert unreadable(reference) is None
    assert grade_math("997", reference) is not True  # and raises nothing
