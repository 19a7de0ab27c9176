import json
import subprocess
import sys

import pytest

from r1jax.checks import InputError
from r1jax.data import gym
from r1jax.data.gym import gym_problems, score_gym
from r1jax.data.problems import Problem
from r1jax.data.sources import GYM_SIZE, READERS
from r1jax.rewards.grading import Grader

pytest.importorskip("reasoning_gym")


def reference(problem):
    return json.loads(problem.answer)["answer"]


@pytest.mark.parametrize("name", ["basic_arithmetic", "countdown", "maze", "sudoku", "word_ladder"])
def test_references_are_right_and_others_are_not(name):
    """Entries with tuples, sets of solutions and none of either."""
    problems = gym_problems(name, 3, seed=1)
    assert [p.id for p in problems] == [f"gym/{name}/1/{i}" for i in range(3)]
    assert {(p.kind, p.source) for p in problems} == {("gym", f"gym/{name}")}
    for problem in problems:
        assert problem.prompt == json.loads(problem.answer)["question"]
        assert score_gym(reference(problem), problem.answer) == 1
        assert score_gym("no idea", problem.answer) < 1


def test_problems_are_a_function_of_the_seed():
    assert gym_problems("chain_sum", 3, 5) == gym_problems("chain_sum", 3, 5)
    assert gym_problems("chain_sum", 3, 5) != gym_problems("chain_sum", 3, 6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arc_agi", r"gives 0.05 to '"),  # compares tuples with what JSON made lists
        ("game_of_life_halting", r"gives 1 to '\?'"),
        ("prime_factorization", r"breaks at '\?': ValueError"),
        ("rush_hour", "no reference answer"),
        ("composite", "at least one dataset"),
        ("chess", "no data set 'chess'$"),
        ("leg_countin", "no data set 'leg_countin': did you mean leg_counting"),
    ],
)
def test_data_sets_that_cannot_be_trusted_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        gym_problems(name, 5)


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.5])
def test_a_score_out_of_range_is_an_error(monkeypatch, score):
    (problem,) = gym_problems("chain_sum", 1)
    monkeypatch.setattr(gym, "_scorer", lambda name: lambda answer, entry: score)
    with pytest.raises(ValueError, match="gave a score of"):
        score_gym("1", problem.answer)


def test_size_must_be_positive():
    with pytest.raises(InputError, match="size must be positive, got 0"):
        gym_problems("chain_sum", 0)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(gym.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[gym\]'"):
        gym_problems("chain_sum", 1)
    with pytest.raises(InputError, match=r"pip install -e '\.\[gym\]'"):
        Grader({"accuracy": 1.0}).grade([Problem("g", "gym", "", "{}")], ["7"])


def test_the_package_is_imported_only_where_it_is_needed():
    code = "import sys, r1jax.rewards.grading; print('reasoning_gym' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_grades_with_partial_credit():
    (problem,) = gym_problems("word_sorting", 1)
    words = reference(problem).split(", ")
    (spelling,) = gym_problems("spell_backward", 1)
    backward = reference(spelling)
    cases = [
        (problem, f"<think>t</think> <answer>{', '.join(words)}</answer>", "correct"),
        (problem, ", ".join(words), "correct"),
        (problem, ", ".join(words[::-1]), "incorrect"),
        (problem, "<think>t</think>", "unparseable"),
        (spelling, backward, "correct"),
        (spelling, backward[:-1] + "?", "incorrect"),
        (Problem("g", "gym", "", "{}"), "7", "failed"),
    ]
    with Grader({"accuracy": 1.0, "partial": 0.5}, timeout_s=20) as grader:
        grades = grader.grade([p for p, *_ in cases], [reply for _, reply, _ in cases])
    assert [g.outcome for g in grades] == [outcome for *_, outcome in cases]
    for grade, (p, reply, _) in zip(grades[4:6], cases[4:6], strict=True):
        assert grade.components["partial"] == score_gym(reply, p.answer)
    assert 0 < grades[5].components["partial"] < 1
    assert grades[5].reward == grades[5].components["partial"] / 2
    assert grades[6].detail == "KeyError: 'metadata'"


def test_a_data_set_is_a_source_of_a_run():
    problems = READERS["gym"]("leg_counting")
    assert problems[:3] == gym_problems("leg_counting", 3)
    assert len({problem.id for problem in problems}) == len(problems) == GYM_SIZE
