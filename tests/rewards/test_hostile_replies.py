"""Hostile replies: none passes, none takes longer than its limit, and the graders live on."""

import time

import pytest

from r1jax.data.problems import Problem
from r1jax.rewards.grading import Grader

LIMIT_S = 1.0

COUNTDOWN = Problem("c", "countdown", "", "8", (2, 3))
MATH = Problem("m", "math", "", r"\frac{\sqrt{2}}{x}")
NUMBER = Problem("n", "math", "", "72")
SET = Problem("s", "math", "", "(1, 2]")
CHOICE = Problem("q", "choice", "", "B", choices=("Rome", "Paris", "Bonn", "Oslo"))
WORDS = Problem("w", "words", "", "dog fire red")

# Formulas that keep a parser or an algebra system busy, or bring it down.
ENDLESS = [
    "9^{9^{9^{9^9}}}",
    "9**9**9**9",
    "x^{99999999}",
    "(1+x)^{9999}(1-y)^{9999}",
    r"\sum_{n=1}^{10^{12}} \frac{1}{n}",
    r"\int_0^{\infty} \frac{\sin(x^x)}{x} dx",
    "100000!!!!",
    r"\sqrt{" * 60 + "2" + "}" * 60,
    "(" * 190 + "1" + ")" * 190,
    r"\frac{1}{" * 50 + "2" + "}" * 50,
    r"\begin{pmatrix}" + "1 & " * 90 + r"\end{pmatrix}",
    "1," * 199,
    r"\{" * 100,
    r"2^{-1}^{2}_{3}",
    r"\lim_{x \to 0} \frac{1}{x}",
    r"\prod_{k=1}^{99999} k^k",
    "e^{e^{e^{e^{e^{e}}}}}",
    "0^{-1}",
]
# What published checkers accept, or break at.
ANSWERS = [
    *((COUNTDOWN, answer) for answer in (
        "2**3", "2^3", "2 ** 3", "3 << 1", "9**9**9", "8", "8 * 1", "2 + 3 + 3", "2 * 3 + 2",
        "02 * 4", "2 * 3 # 8", "2 * 3 == 8", "2 * 3 = 8", "2 * 3, 8", "(2 * 3) or 8",
        "2 * 3 if 0 else 8",
        "int('8')", "__import__('os').system('true')", "lambda: 8", "2_3", "0x8", "8.0", "٨",
        "2 / 0 + 3", "(" * 99 + "8" + ")" * 99, "-" * 199 + "8", "9" * 200, "2 *\n3", "2 3", "\0",
    )),
    *((NUMBER, answer) for answer in (
        "71 or 72", "1, 2, 72", "not 72", "72 73", "between 71 and 73", r"72 \pm 1", "7 2", "7.2e0",
        "72" * 200, "9" * 10_000, "0x48", "72!", "72 million", "> 71", "(72, 73)", "72i", "-72",
    )),
    *((SET, answer) for answer in ("[1, 2]", "(1, 2)", "1, 2", "(2, 1]", "(1, 2] and [1, 2]", "x")),
    *((CHOICE, answer) for answer in (
        "A, B, C, D", "A or B", "(A) (B)", "AB", "all of them", "B is wrong", "not B",
        "Paris or Rome", "Rome or Paris", "E", "b a", "B" * 1999,
    )),
    *((WORDS, answer) for answer in ("dogfirered", "dogs fires reds", "dog fire", "x" * 10**6)),
]  # fmt: skip
# Whole replies, with the right answer where it does not count.
REPLIES = [
    (NUMBER, "<think> 72 </think>"),
    (NUMBER, "<think> <answer> 72 </answer> </think> <answer> 71 </answer>"),
    (NUMBER, "<think> \\boxed{72}"),
    (NUMBER, "<think> so </think> <answer> 72 </answer> <answer> 71 </answer>"),
    (NUMBER, "<think> so </think> <answer> 72"),
    (NUMBER, r"\boxed{72} or rather \boxed{71}"),
    (NUMBER, "#### 72\n#### 71"),
    (NUMBER, r"\boxed{72" + "{" * 10**5),
    (NUMBER, "<answer>" * 10**5),
    (NUMBER, "<think>" * 10**5 + "72" + "</think>" * 10**5),
    (NUMBER, r"\boxed{" * 10**5 + "72"),
    (NUMBER, "answer is " * 10**5),
    (NUMBER, "the answer is" + " " * 10**6),
    (NUMBER, "#" * 10**6),
    (NUMBER, "72 " * 10**6),
    (NUMBER, "correct, reward: 1"),
    (NUMBER, ""),
    (NUMBER, "\0" * 10**6),
    (NUMBER, "\ud800"),
]


def wrapped(answer: str) -> str:
    return f"<think> so </think> <answer> {answer} </answer>"


CASES = [
    *((MATH, wrapped(answer)) for answer in ENDLESS),
    *((problem, wrapped(answer)) for problem, answer in ANSWERS),
    *REPLIES,
]


@pytest.fixture(scope="module")
def grader():
    with Grader({"accuracy": 1.0, "format": 1.0}, workers=2, timeout_s=LIMIT_S) as grader:
        grader.grade([MATH], [wrapped(f"{MATH.answer} + 1")])  # the workers start
        yield grader


def test_no_hostile_reply_passes(grader):
    """The slow ones are killed and reported as such; what follows them is graded all the same."""
    assert len(CASES) > 60
    problems, replies = zip(*CASES, (MATH, wrapped(MATH.answer)), strict=True)
    started = time.monotonic()
    *grades, last = grader.grade(problems, replies)
    took = time.monotonic() - started
    for (problem, reply), grade in zip(CASES, grades, strict=True):
        assert grade.outcome != "correct", (problem.id, reply[:200])
        assert grade.seconds < LIMIT_S + 0.5, (problem.id, reply[:200])
        if grade.outcome == "failed":
            assert grade.detail == f"took over {LIMIT_S:g} s", (problem.id, reply[:200])
    failed = [grade for grade in grades if grade.outcome == "failed"]
    assert failed and last.outcome == "correct"
    # Each is tried twice, on two workers, which take a while to start again on a busy machine.
    assert took < (LIMIT_S + 5) * (len(failed) + 2)


def test_the_pool_is_healthy_afterwards(grader):
    answers = [r"\frac{\sqrt2}{x}", r"\sqrt{2}/x", r"\frac{\sqrt3}{x}", "x+"] * 4
    grades = grader.grade([MATH] * 16, [wrapped(answer) for answer in answers])
    assert [g.outcome for g in grades] == ["correct", "correct", "incorrect", "unparseable"] * 4


@pytest.mark.parametrize(
    "reply",
    [
        "<think> a </think> <answer> 72 </answer> and more",
        "<think> a </think> <think> a </think> <answer> 72 </answer>",
        "<think> a </think> <answer> 72 </answer> <answer> 72 </answer>",
        "<think> </think> <answer> 72 </answer>",
        "<think> a </think> <answer> </answer>",
        "<answer> 72 </answer> <think> a </think>",
        "<think> <think> a </think> <answer> 72 </answer>",
        "x <think> a </think> <answer> 72 </answer>",
        "<think> a <answer> 72 </answer> </think>",
        "<think> a </think> so <answer> 72 </answer>",
        "<Think> a </Think> <answer> 72 </answer>",
        "<think> a </think> <answer> 72",
    ],
)
def test_no_such_reply_earns_the_format_reward(grader, reply):
    assert grader.grade([NUMBER], [reply])[0].format == 0
