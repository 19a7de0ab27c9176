"""Reward functions of the user's own, from a file and from Python."""

import json
import os
import signal
import time

import pytest

from r1jax.checks import InputError
from r1jax.config import RewardConfig
from r1jax.data.problems import Problem
from r1jax.data.sources import READERS
from r1jax.rewards.components import COMPONENTS
from r1jax.rewards.grading import Grader
from r1jax.rewards.own import components_of, own

FILE = '''
import math, os, sys, time
from neighbour import LIMIT

from r1jax.rewards.format import final_answer


def sorted_right(problem, reply):
    """Are these the problem's words in order?"""
    answer = final_answer(reply, "own") or ""
    return answer.split() == sorted(problem.answer.split())


def short(problem, reply):
    return max(0.0, 1 - len(reply) / LIMIT)


def trouble(problem, reply):
    word = reply.split()[-1]
    if word == "hang":
        time.sleep(60)
    if word == "die":
        os._exit(1)
    if word == "raise":
        raise KeyError("no such thing")
    if word == "leave":
        sys.exit()
    odd = {"nan": math.nan, "none": None, "text": "1.0", "huge": -1e300, "yes": True}
    return odd.get(word, 0.25)


def one(problem):
    return 1.0


async def later(problem, reply):
    return 1.0


def each(problem, reply):
    yield 1.0


value = 3
'''
OWN = Problem("o", "own", "Sort: b a", "b a")
MATH = Problem("m", "math", "", "7", source="gsm8k")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "neighbour.py").write_text("LIMIT = 100\n")
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def reply(answer):
    return f"<think>so</think> <answer>{answer}</answer>"


def test_the_users_own_task_and_reward(file):
    """What the command line builds: the function is the check of its problems, and a part of the
    reward; another is a part of it everywhere."""
    cfg = RewardConfig(own=f"{file}:sorted_right:2:own,{file}:short:0.5")
    problems = [OWN, OWN, OWN, MATH, MATH]
    replies = [reply("a b"), reply("b a"), reply("a b"), reply("7"), reply("8")]
    with Grader(cfg.weights, components=components_of(cfg)) as grader:
        grader.require(problems)
        grades = grader.grade(problems, replies, None, [False, False, True, False, False])
    outcomes = ["correct", "incorrect", "unparseable", "correct", "incorrect"]
    assert [g.outcome for g in grades] == outcomes
    assert [g.components["sorted_right"] for g in grades] == [1, 0, 1, 0, 0]
    assert [g.accuracy for g in grades] == [1, 0, 0, 1, 0]
    short = [1 - len(text) / 100 for text in replies]
    assert [g.components["short"] for g in grades] == pytest.approx(short)
    want = [1 + 1 + 2, 0 + 1 + 0, 0 + 0 + 2, 1 + 1, 0 + 1]
    assert [g.reward for g in grades] == pytest.approx(
        [w + 0.5 * s for w, s in zip(want, short, strict=True)]
    )
    assert all(g.graded for g in grades)
    assert grades[0].check == "sorted_right"


def test_what_goes_wrong_is_failed_for_that_reply_alone(file):
    words = ["fine", "raise", "nan", "none", "text", "yes", "die", "leave", "huge", "fine"]
    cfg = RewardConfig(own=f"{file}:trouble")
    with Grader(cfg.weights, workers=2, components=components_of(cfg)) as grader:
        grades = grader.grade([MATH] * len(words), [f"7 {word}" for word in words])
    bad = {"raise", "nan", "none", "text", "die", "leave", "huge"}
    assert [g.graded for g in grades] == [word not in bad for word in words]
    assert {g.outcome for g in grades if not g.graded} == {"failed"}
    details = [g.detail for g in grades]
    lines = [line.strip() for line in file.read_text().splitlines()]
    raised, left = (
        1 + lines.index(line) for line in ('raise KeyError("no such thing")', "sys.exit()")
    )
    assert details[1] == f"trouble: KeyError: 'no such thing' (mine.py:{raised})"
    assert details[2] == "trouble: ValueError: trouble must return a finite number, got nan"
    assert "must return a number or a bool, got None" in details[3]
    assert "died" in details[6]
    # It was once the end of the run, with exit status 0.
    assert details[8].endswith("trouble must return a number between -1e+09 and 1e+09, got -1e+300")
    assert details[7] == f"trouble: trouble called sys.exit(None) (mine.py:{left})"
    assert [g.components["trouble"] for g in grades if g.graded] == [0.25, 1.0, 0.25]


def test_a_function_that_fails_at_every_reply_is_told_before_the_run(file):
    said: list[str] = []
    cfg = RewardConfig(own=f"{file}:trouble,{file}:short")
    problem = Problem("m", "math", "", "raise")
    with Grader(cfg.weights, components=components_of(cfg)) as grader:
        grader.require([problem], said.append)
    assert not said  # its last word is a tag
    (file.parent / "other.py").write_text("def wrong(problem, reply):\n    return problem.target\n")
    cfg = RewardConfig(own=f"{file.parent / 'other.py'}:wrong")
    with Grader(cfg.weights, components=components_of(cfg)) as grader:
        grader.require([problem], said.append)
    (line,) = said
    assert line.startswith("warning: wrong fails at '<think> raise </think>")
    assert line.endswith("AttributeError: 'Problem' object has no attribute 'target' (other.py:2)")


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("maht", "reward short: no problem is of the kind 'maht': did you mean math.; there are"),
        ("gsm8k+cod", "no problem is of the kind 'cod': did you mean code.; there are gsm8k, math"),
        ("code", "reward short: no problem is of the kind 'code'; there are gsm8k, math, own"),
        ("math+code", None),
        ("gsm8k+aime", None),
        ("own", None),
    ],
)
def test_a_kind_that_no_problem_has_is_refused(file, kinds, message):
    cfg = RewardConfig(own=f"{file}:sorted_right,{file}:short:1:{kinds}")
    with Grader(cfg.weights, components=components_of(cfg)) as grader:
        if message is None:
            return grader.require([OWN, MATH])
        with pytest.raises(InputError, match=message):
            grader.require([OWN, MATH])


def test_a_function_that_hangs_is_killed_and_not_tried_again(file):
    cfg = RewardConfig(own=f"{file}:trouble", own_seconds=1.0)
    with Grader(cfg.weights, workers=2, components=components_of(cfg)) as grader:
        grader.grade([MATH], ["7 fine"])  # has started
        started = time.monotonic()
        grades = grader.grade([MATH] * 3, ["7 fine", "7 hang", "7 fine"])
    assert time.monotonic() - started < 30  # it would sleep for 60
    assert [g.graded for g in grades] == [True, False, True]
    assert grades[1].detail == "trouble: took over 1 s"


def test_a_function_of_python_travels_by_value():
    scale = 0.5

    def closure(problem, text):
        return scale * len(text)

    components = COMPONENTS | {"closure": own(closure), "pid": own(lambda p, r: os.getpid())}
    with Grader({"closure": 1.0, "pid": 0.0}, components=components) as grader:
        (grade,) = grader.grade([MATH], ["1234"])
    assert grade.reward == 2.0 and grade.components["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{dir}/none.py:f", r"none.py: no such file"),
        ("{dir}/mine.py:missing", r"no function missing in the file; it has .*short, trouble"),
        ("{dir}/mine.py:value", r"mine.py:value: not a function"),
        ("{dir}/mine.py:one", r"must take \(problem, reply\), but with two arguments: too many"),
        ("{dir}/mine.py:later", r"mine.py:later: is async; a reward is returned, not awaited"),
        ("{dir}/mine.py:each", r"mine.py:each: yields; a reward is returned"),
        (
            "{dir}/broken.py:f",
            r"broken.py:2: cannot be imported: NameError: name 'x'",
        ),
        ("{dir}/syntax.py:f", r"syntax.py: cannot be imported: SyntaxError"),
        ("{dir}/leaves.py:f", r"leaves.py:2: cannot be imported: SystemExit: 3"),
        ("{dir}/text.txt:f", r"text.txt: not a Python file"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_the_run(file, place, message):
    folder = file.parent
    (folder / "broken.py").write_text("def g():\n    y = x\ng()\n")
    (folder / "syntax.py").write_text("def f(:\n")
    (folder / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "text.txt").write_text("f")
    with pytest.raises(InputError, match=message) as refusal:
        own(place.format(dir=folder))
    assert "\n" not in str(refusal.value)


def test_problems_of_ones_own_are_read(tmp_path, file):
    rows = [
        {"id": 1, "kind": "own", "prompt": "Sort: b a", "answer": "b a"},
        {"id": 2, "kind": "own", "prompt": "Sort", "answer": {"words": ["b"]}, "source": "sort"},
        {"id": 3, "kind": "own", "prompt": "Say something kind"},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = READERS["problems"](path)
    assert [p.answer for p in problems] == ["b a", '{"words": ["b"]}', ""]
    with pytest.raises(InputError, match="problem 1: no reward function is for its kind"):
        Grader({"accuracy": 1}).require(problems)
    cfg = RewardConfig(own=f"{file}:short:1:sort")
    with Grader(cfg.weights, components=components_of(cfg)) as grader:
        grader.require(problems[1:2])
        with pytest.raises(InputError, match="problem 1: no reward function"):
            grader.require(problems)
        (grade,) = grader.grade(problems[:1], ["x"])
    assert grade.outcome == "failed" and not grade.graded


def test_a_lost_worker_is_replaced_once(file, tmp_path):
    """A dead worker, unlike a time-out, may be none of the reply's doing."""
    flag = tmp_path / "flag"

    def dies_once(problem, text):
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    with Grader({"f": 1.0}, components=COMPONENTS | {"f": own(dies_once)}) as grader:
        (grade,) = grader.grade([MATH], ["7"])
    assert grade.graded and grade.reward == 1.0
