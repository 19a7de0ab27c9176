"""Components: where each runs, for which problems, and what it makes of a reply that was cut."""

import dataclasses
import json
import math
import os
import time

import pytest

from r1jax.checks import InputError
from r1jax.config import RewardConfig
from r1jax.data.problems import Problem
from r1jax.rewards.components import CHARACTERS, COMPONENTS, Component, each, only, overlong
from r1jax.rewards.grading import Grader
from r1jax.rewards.language import language_share
from r1jax.rewards.own import components_of
from r1jax.rewards.shaping import repetition_penalty

COUNTDOWN = Problem("c", "countdown", "", "8", (3, 5), source="numbers")
WORDS = Problem("w", "words", "", "dog fire red")
LOOP = "<think> wait, three and five is eight. </think> <answer> 3 + 5 </answer>" + " so it is" * 50


def test_a_cut_reply_has_no_answer_but_pays_for_what_it_wrote():
    """The answer is right, the form is right, and yet it has no end."""
    whole = "<think> so we see that three and five is eight </think> <answer> 3 + 5 </answer>"
    weights = dict.fromkeys(COMPONENTS, 1.0) | {"overlong": 1.0}
    components = COMPONENTS | {"overlong": overlong(10, 5)}
    grader = Grader(weights, components=components)
    problems, replies = [COUNTDOWN] * 4, [whole, whole, LOOP, LOOP]
    grades = grader.grade(problems, replies, [5, 10, 5, 10], [False, True, False, True])
    ended, cut, loop, cut_loop = (g.components for g in grades)
    assert [g.outcome for g in grades] == ["correct", "unparseable"] * 2
    for got in (cut, cut_loop):
        assert (got["accuracy"], got["format"], got["partial"], got["overlong"]) == (0, 0, 0, -1)
    assert (ended["accuracy"], ended["format"], ended["partial"], ended["overlong"]) == (1, 1, 1, 0)
    assert cut_loop["repetition"] == loop["repetition"] == repetition_penalty(LOOP) < -0.7
    assert cut["language"] == ended["language"] == 1
    assert grades[1].answer is None


def test_the_beginning_of_a_plain_text_is_a_text():
    (grade,) = Grader({"accuracy": 1, "partial": 1}).grade([WORDS], ["A red dog"], None, [True])
    assert grade.components == {"accuracy": 0, "format": 1, "partial": pytest.approx(2 / 3)}


def test_lengths_of_flags_must_agree():
    with pytest.raises(ValueError, match="1 problems but 2 replies"):
        Grader({"accuracy": 1}).grade([COUNTDOWN], [LOOP], None, [True, False])


def _pid(checked):
    return float(os.getpid())


def test_slow_components_run_in_workers_and_give_the_same_numbers():
    french = "Il faut que la somme des deux nombres soit égale à huit. "
    texts = [f"<think> {french * n} </think> {n}" for n in (1, 2000, 3, 1500, 5)]
    assert sum(map(len, texts)) > CHARACTERS
    components = COMPONENTS | {"pid": Component(each(_pid), "workers")}
    weights = {"language": 1, "repetition": 1, "pid": 0.0}
    with Grader(weights, workers=2, components=components) as grader:
        pending = grader.submit([COUNTDOWN] * 5, texts)
        grades = pending.result()
        few = grader.grade([COUNTDOWN], ["short"])
    here = float(os.getpid())
    assert all(g.components["pid"] != here for g in grades)
    assert few[0].components["pid"] == here  # not worth a job
    for grade, text in zip(grades, texts, strict=True):
        thought = text[len("<think>") : text.index("</think>")]
        assert grade.components["language"] == language_share(thought, "en")
        assert grade.components["repetition"] == repetition_penalty(text)


def test_the_caller_does_not_wait_for_slow_components():
    with Grader({"language": 1.0}) as grader:
        grader.grade([COUNTDOWN] * 2, ["<think> so it is </think>" * 5000] * 2)  # has started
        text = "<think> " + "so we see that four times two is eight. " * 20_000 + "</think>"
        started = time.perf_counter()
        pending = grader.submit([COUNTDOWN] * 2, [text] * 2)
        submitted = time.perf_counter() - started
        pending.result()
        assert submitted < 0.5 * (time.perf_counter() - started)


def test_components_by_kind_of_problem():
    """R1's last stage: rules where there is an answer, a model of preferences elsewhere."""
    asked = []

    def helpful(batch):
        asked.append([c.problem.id for c in batch])
        return [0.75] * len(batch)

    helpful = only(["words"], Component(helpful, "together"))
    components = COMPONENTS | {"helpful": helpful}
    components["repetition"] = only(["numbers"], COMPONENTS["repetition"])
    grader = Grader({"accuracy": 1, "repetition": 1, "helpful": 2}, components=components)
    problems, replies = [COUNTDOWN, WORDS, WORDS], [LOOP] * 3
    grades = grader.submit(problems, replies).result()
    assert asked == [] and "helpful" not in grades[0].components
    grades = grader.together(problems, replies, grades)
    assert asked == [["w", "w"]]
    assert [g.components["helpful"] for g in grades] == [0, 0.75, 0.75]
    assert [g.components["repetition"] < 0 for g in grades] == [True, False, False]
    assert [g.reward for g in grades] == [1 + repetition_penalty(LOOP), 1.5, 1.5]
    assert [g.reward for g in grader.grade(problems, replies)] == [g.reward for g in grades]


def test_a_grade_is_plain_data():
    """It travels between processes of a pod."""
    (grade,) = Grader({"accuracy": 1}).grade([COUNTDOWN], [LOOP])
    row = json.loads(json.dumps(dataclasses.asdict(grade)))
    assert type(grade)(**row) == grade and grade.graded


# --- Configuration


def test_the_names_of_the_built_in_components_are_the_fields():
    assert tuple(COMPONENTS) == RewardConfig.built_in()


def test_weight_0_is_logged_and_none_is_left_out():
    weights = RewardConfig(repetition=0.0).weights
    assert weights == {"accuracy": 1, "format": 1, "repetition": 0}
    (grade,) = Grader(weights).grade([COUNTDOWN], [LOOP])
    assert grade.components["repetition"] < 0 and grade.reward == 1  # right, but not in form
    assert "language" not in grade.components


def test_parts_are_read():
    cfg = RewardConfig(
        only="language:math+code",
        own="a.py:f,dir/b.py:g:0.5:own",
        models="helpful=runs/rm:0.5:words,safe=runs/safety:1,c=runs/c:words+own",
    )
    assert cfg.kinds_of == {"language": ("math", "code")}
    assert [tuple(part) for part in cfg.own_parts] == [
        ("f", "a.py", "f", 1.0, ()),
        ("g", "dir/b.py", "g", 0.5, ("own",)),
    ]
    assert [tuple(part) for part in cfg.model_parts] == [
        ("helpful", "runs/rm", "", 0.5, ("words",)),
        ("safe", "runs/safety", "", 1.0, ()),
        ("c", "runs/c", "", 1.0, ("words", "own")),
    ]
    assert cfg.weights == {
        "accuracy": 1, "format": 1, "f": 1, "g": 0.5, "helpful": 0.5, "safe": 1, "c": 1
    }  # fmt: skip
    models = {name: Component(each(lambda checked: 0.0), "together") for name in cfg.weights}
    components = components_of(dataclasses.replace(cfg, own=""), models)
    assert components["helpful"].kinds == ("words",) and components["safe"].kinds == ()
    assert components["language"].kinds == ("math", "code")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"own": "a.py"}, r"--reward=a.py: expected FILE.py:FUNCTION\[:WEIGHT\]\[:KIND\+KIND\]"),
        ({"own": "a.py:f,"}, r"--reward=: expected"),
        ({"own": "a.py:f:1:own:2"}, r"--reward=a.py:f:1:own:2: expected"),
        ({"own": "a.py:f:1:own+"}, "a kind of problem has no name"),
        ({"own": "a.py:f,b.py:f"}, "two components are called 'f'"),
        ({"own": "a.py:accuracy"}, "two components are called 'accuracy'"),
        ({"own": "a.py:f:nan"}, "RewardConfig.f must be finite, got nan"),
        ({"own_seconds": 0}, "own_seconds must be positive"),
        ({"models": "runs/rm"}, r"--reward.models=runs/rm: expected NAME=FOLDER"),
        ({"models": "a=x,a=y"}, "two components are called 'a'"),
        ({"only": "style:math"}, "--reward.only: no component 'style', only accuracy, format"),
        ({"only": "language"}, r"--reward.only=language: expected NAME:KIND\[\+KIND\]"),
        ({"accuracy": 0, "format": 0}, "every weight is 0"),
        ({"language": math.inf}, "RewardConfig.language must be finite"),
    ],
)
def test_bad_rewards_are_one_line(fields, message):
    with pytest.raises(InputError, match=message) as refusal:
        RewardConfig(**fields)
    assert "\n" not in str(refusal.value)
