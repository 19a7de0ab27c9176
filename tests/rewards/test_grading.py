import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from r1jax.config import InputError
from r1jax.data.problems import Problem
from r1jax.rewards import grading
from r1jax.rewards.grading import Grader, overlong_penalty

WEIGHTS = {"accuracy": 1.0, "format": 0.1}
COUNTDOWN = Problem("c", "countdown", "", "8", (3, 5))
MATH = Problem("m", "math", "", r"\frac{1}{2}")


def reply(answer):
    return f"<think>so</think> <answer>{answer}</answer>"


# Graders that misbehave, run in the workers; the answer of an item is its instruction.


def misbehave(answer, reference):
    word, _, rest = answer.partition(" ")
    if word == "die" or (word == "die-once" and first_time(rest)):
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang" or (word == "hang-once" and first_time(rest)):
        time.sleep(60)
    if word == "raise":
        raise KeyError("a bug")
    return word == "right"


def first_time(path):
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.fixture(scope="module")
def workers():
    """One grader for the module: its workers take a second to start."""
    with Grader(WEIGHTS, workers=2, timeout_s=2.0) as grader:
        yield grader


@pytest.fixture
def grade(workers, monkeypatch):
    """Grades answers with `misbehave`: a list of outcomes."""
    monkeypatch.setattr(grading, "grade_math", misbehave)
    return lambda *answers: workers.grade([MATH] * len(answers), [reply(a) for a in answers])


def worker_processes():
    return [c for c in multiprocessing.active_children() if c.name == "pebble_pool_worker"]


def kill_workers():
    for child in worker_processes():
        os.kill(child.pid, signal.SIGKILL)


def outcomes(grades):
    return [grade.outcome for grade in grades]


def test_countdown_without_workers():
    answers = ["3 + 5", "3 * 5", "3 + 5 = 8", ""]
    before = worker_processes()
    with Grader(WEIGHTS) as grader:
        grades = grader.grade([COUNTDOWN] * 5, [*map(reply, answers), "<answer>3 + 5</answer>"])
        assert worker_processes() == before
    assert outcomes(grades) == ["correct", "incorrect", "unparseable", "unparseable", "correct"]
    assert [g.reward for g in grades] == pytest.approx([1.1, 0.1, 0.1, 0.0, 1.0])
    assert grades[4].components == {"accuracy": 1.0, "format": 0.0}
    assert (grades[4].accuracy, grades[4].format, grades[4].detail) == (1.0, 0.0, "")


def test_weights():
    replies = [reply("3 + 5"), "<answer>3 + 5</answer>"]
    with Grader({"format": 2.0}) as grader:
        grades = grader.grade([COUNTDOWN] * 2, replies)
    assert [g.reward for g in grades] == [2.0, 0.0]
    assert [g.accuracy for g in grades] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"style": 1.0}}, "unknown component 'style'"),
        ({"weights": {}}, "empty"),
        ({"weights": WEIGHTS, "workers": 0}, r"workers must be positive, got 0"),
        ({"weights": WEIGHTS, "timeout_s": 0.0}, r"timeout_s must be positive, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        Grader(**options)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 problems but 1 replies"):
        Grader(WEIGHTS).grade([COUNTDOWN] * 2, [reply("3 + 5")])
    assert Grader(WEIGHTS).grade([], []) == []


def test_math(workers):
    answers = [r"\boxed{\frac{2}{4}}", "0.5", "1/3", "x+", r"\boxed{1} or \boxed{0.5}"]
    grades = workers.grade([MATH] * 5, [reply(a) for a in answers])
    assert outcomes(grades) == ["correct", "correct", "incorrect", "unparseable", "correct"]


def test_unparseable_answers_shift_nothing(workers):
    """Mixed kinds and outcomes, quick and slow: each grade stays with its reply."""
    cases = [
        (MATH, reply(r"\frac12"), "correct"),
        (COUNTDOWN, reply("what?"), "unparseable"),
        (COUNTDOWN, reply("5 + 3"), "correct"),
        (MATH, "no tags at all", "unparseable"),
        (MATH, reply("x+"), "unparseable"),
        (COUNTDOWN, reply("5 - 3"), "incorrect"),
        (MATH, reply("1/2"), "correct"),
        (MATH, reply("x+"), "unparseable"),
        (Problem("g", "math", "", "72"), reply("72"), "correct"),
        (MATH, reply("2"), "incorrect"),
    ] * 3
    problems, replies, expected = zip(*cases, strict=True)
    assert outcomes(workers.grade(problems, replies)) == list(expected)


def test_order_is_that_of_the_replies(grade):
    answers = [word for i in range(20) for word in (f"right {i}", f"wrong {i}")]
    assert outcomes(grade(*answers)) == ["correct", "incorrect"] * 20


def test_equal_answers_are_graded_once(grade, tmp_path):
    # Graded twice, the second would find the file there and be "incorrect" at once.
    grades = grade(*[f"hang-once {tmp_path / 'file'}"] * 3)
    assert outcomes(grades) == ["incorrect"] * 3


def test_grader_bug_is_failed_not_incorrect(grade):
    grades = grade("raise", "right")
    assert outcomes(grades) == ["failed", "correct"]
    assert grades[0].detail == "KeyError: 'a bug'"
    assert (grades[0].accuracy, grades[0].format) == (0.0, 1.0)


def test_bug_of_a_quick_grader_is_failed():
    broken = Problem("c", "countdown", "", "eight", (3, 5))
    (grade,) = Grader(WEIGHTS).grade([broken], [reply("3 + 5")])
    assert grade.outcome == "failed" and grade.detail.startswith("ValueError: ")


def test_killed_worker_is_retried_then_reported(grade, tmp_path):
    grades = grade("right 1", "die", "right 2", f"die-once {tmp_path / 'file'}", "right 3")
    assert outcomes(grades) == ["correct", "failed", "correct", "incorrect", "correct"]
    assert "worker died" in grades[1].detail
    assert outcomes(grade("right 4", "wrong")) == ["correct", "incorrect"]


def test_timeout_is_retried_then_reported(grade, tmp_path):
    start = time.monotonic()
    grades = grade("right 1", "hang", "right 2", f"hang-once {tmp_path / 'file'}")
    assert outcomes(grades) == ["correct", "failed", "correct", "incorrect"]
    assert grades[1].detail == "took over 2 s"
    assert time.monotonic() - start < 30
    assert outcomes(grade("right 4", "wrong")) == ["correct", "incorrect"]


def test_killing_idle_workers_costs_nothing(grade):
    assert outcomes(grade("right")) == ["correct"]
    kill_workers()
    assert outcomes(grade("right 1", "wrong", "right 2")) == ["correct", "incorrect", "correct"]
    kill_workers()
    time.sleep(0.5)  # this time the pool has noticed
    assert outcomes(grade("right 3", "wrong")) == ["correct", "incorrect"]


def test_close_ends_the_workers(workers):
    workers.close()
    before = len(worker_processes())
    workers.grade([MATH], [reply("1/2")])
    assert len(worker_processes()) == before + 2
    workers.close()
    assert len(worker_processes()) == before


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (100, -1.0), (101, -1.0), (1000, -1.0)],
)
def test_overlong_penalty(length, penalty):
    assert overlong_penalty(length, max_length=100, buffer=20) == pytest.approx(penalty)


def test_overlong_penalty_needs_a_buffer():
    with pytest.raises(InputError, match=r"buffer must be in 1\.\.100, got 0"):
        overlong_penalty(5, 100, 0)
