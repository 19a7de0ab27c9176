r"""A hundred answers labelled before the grader saw them (third_batch.jsonl), and the kinds that it
got wrong, each beside one close to it. What is declined there: a reply that declares no answer and
whose last sentence no concluding word begins has none (r1jax/rewards/format.py).
"""

import json
from pathlib import Path

import pytest

from r1jax.data.problems import Problem
from r1jax.rewards.grading import Grader

ROWS = [
    json.loads(line)
    for line in Path(__file__).with_name("third_batch.jsonl").read_text().splitlines()
]
DECLINED = {
    "Three pens at $1.50 each. He pays $4.50.",
    "Of the 60 students, 35 take French, so 60 - 35 = 25 students do not.",
}
# (question, reference, a right reply, a wrong one)
# ruff: noqa: E501
# fmt: off
CLOSE = [
    ("Factor $x^2-9$.", "(x-3)(x+3)", r"\boxed{(x+3)(x-3)}", r"\boxed{x^2 - 9}"),
    (r"Which is larger, $2^{10}$ or $10^2$?", "2^{10}", r"\boxed{2^{10}}", r"\boxed{10^2}"),
    (r"Compute $3x^2$ at $x = 2$.", "x^2+8", r"\boxed{8 + x^2}", r"\boxed{3x^2}"),
    (r"Simplify \(\frac{6}{\sqrt{3}}\).", r"2\sqrt{3}", r"\boxed{\sqrt{12}}", r"\boxed{\dfrac{6}{\sqrt{3}}}"),
    ("Rank them from shortest to tallest.", "Ann, Bob, Cy", "The answer is Ann, Bob, Cy.", "The answer is Cy, Bob, Ann."),
    ("List the roots in increasing order.", "-1, 2", r"\boxed{-1, 2}", r"\boxed{2, -1}"),
    ("Find the roots.", "-1, 2", r"\boxed{2, -1}", r"\boxed{2, 1}"),
    ("", "12", "If we add them, the answer is 12.", "If the answer is 12, then 5 divides 12."),
    ("", "9", "Assume not. Hence the answer is 9.", "Assume that the answer is 9."),
    ("", "7", "The answer is 7 rather than 5.", "The answer is 5 rather than 7."),
    ("", "24", "\\boxed{20}. Wait, a mistake.\n\nAnswer: 24", "\\boxed{24}. Wait, a mistake.\n\nAnswer: 20"),
    ("", "24", "\\boxed{24}\n\nAnswer: as above.", "\\boxed{20}. Wait, so 24 fails."),
    ("", "7:45", r"\boxed{7{:}45}", r"\boxed{7{:}54}"),
    ("", "(2,3)", r"\boxed{\left\{\begin{array}{l}x=2\\y=3\end{array}\right.}", r"\boxed{\begin{cases}x=3\\y=2\end{cases}}"),
    ("", r"\frac{3}{4}", "答案是四分之三。", "答案是三分之四。"),
    ("", r"5\%", "答案是百分之五。", "答案是百分之五十。"),
    ("", "36", "因此，他一共花了 36 元。", "因此，他至少花了 36 元。"),
    ("", "36", "答案是三十六。", "答案是六十三。"),
    ("", "36", "所以小明有 36 本书。", "所以小明没有 36 本书。"),
    ("", "a=4, b=-1", "Answer:\n- $b=-1$\n- $a=4$", "Answer:\n- $a=-1$\n- $b=4$"),
    ("", r"20\%", "It rose by 20 per cent.", "It rose by less than 20 per cent."),
    ("", r"24\text{ cm}^2", "It covers 24 square centimeters.", "It covers 24 cubic centimeters."),
    ("", r"2k\pi, k\in\mathbb{Z}", r"\boxed{2n\pi, n \in \mathbb{Z}}", r"\boxed{n\pi, n \in \mathbb{Z}}"),
    ("", "5", "Answer: 5 ✅", "Answer: 5 ❌"),
]
# fmt: on


def outcomes(problems, replies):
    with Grader({"accuracy": 1.0}, workers=2) as grader:
        grades = grader.grade(problems, ["<think>t</think> " + reply for reply in replies])
    return [grade.outcome for grade in grades]


def test_third_batch():
    problems = [
        Problem(
            "p",
            "choice" if "choices" in row else "math",
            row["problem"],
            row["reference"],
            choices=tuple(row.get("choices", ())),
        )
        for row in ROWS
    ]
    found = outcomes(problems, [row["reply"] for row in ROWS])
    wrong = {
        row["reply"]
        for row, outcome in zip(ROWS, found, strict=True)
        if outcome == "failed" or (outcome == "correct") != (row["label"] == "right")
    }
    assert wrong == DECLINED


@pytest.mark.parametrize("right", [True, False])
def test_close_to_what_was_mended(right):
    problems = [Problem("p", "math", question, reference) for question, reference, _, _ in CLOSE]
    replies = [row[2 if right else 3] for row in CLOSE]
    found = outcomes(problems, replies)
    bad = [
        (reply, outcome)
        for reply, outcome in zip(replies, found, strict=True)
        if outcome == "failed" or (outcome == "correct") != right
    ]
    assert bad == []
