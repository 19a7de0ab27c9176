import multiprocessing
import os
import signal
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from r1jax.checks import InputError
from r1jax.data.problems import Problem
from r1jax.data.problems import Tests as ProgramTests
from r1jax.data.sources import READERS
from r1jax.rewards import grading
from r1jax.rewards.code import CodeVerdict
from r1jax.rewards.components import COMPONENTS, Component, each, language, overlong
from r1jax.rewards.grading import Grader
from r1jax.rewards.sandbox import Limits
from r1jax.rewards.shaping import overlong_penalty
from r1jax.rewards.workers import Job, WorkerDied, Workers

WEIGHTS = {"accuracy": 1.0, "format": 0.1}
COUNTDOWN = Problem("c", "countdown", "", "8", (3, 5))
MATH = Problem("m", "math", "", r"\frac{1}{2}")
CHOICE = Problem("q", "choice", "", "B", choices=("Rome", "Paris", "Bonn"))
WORDS = Problem("w", "words", "", "dog fire red")
CODE = Problem("p", "code", "", tests=ProgramTests(stdio=(("3", "6"),)))


def reply(answer):
    return f"<think>so</think> <answer>{answer}</answer>"


# Graders that misbehave, run in the workers; the answer of an item is its instruction.


def misbehave(answer, reference):
    word, _, rest = answer.partition(" ")
    if word == "die" or (word == "die-once" and first_time(rest)):
        os.kill(os.getpid(), signal.SIGKILL)
    while word == "wait" and not Path(rest).exists():
        time.sleep(0.02)
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
    monkeypatch.setitem(grading.SLOW, "math", (misbehave, "formulas"))
    return lambda *answers: workers.grade([MATH] * len(answers), [reply(a) for a in answers])


def worker_processes():
    return [c for c in multiprocessing.active_children() if c.name == "pebble_pool_worker"]


def kill_workers():
    for child in worker_processes():
        os.kill(child.pid, signal.SIGKILL)


def outcomes(grades):
    return [grade.outcome for grade in grades]


def test_countdown_without_workers():
    answers = ["3 + 5", "3 * 5", "3 + 5 equals", ""]
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
    assert outcomes(grades) == ["correct", "correct", "incorrect", "unparseable", "incorrect"]


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
    assert outcomes(grades) == ["failed"] * 3


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


def test_a_timeout_is_reported_and_not_tried_again(grade, tmp_path):
    grades = grade("right 1", "hang", "right 2", f"hang-once {tmp_path / 'file'}")
    assert outcomes(grades) == ["correct", "failed", "correct", "failed"]
    assert [g.graded for g in grades] == [True, False, True, False]
    assert grades[1].detail == "took over 2 s" and grades[1].seconds == 2
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


# --- Asking without waiting


@pytest.fixture
def submit(grade, workers):
    """`grade`, without waiting."""
    return lambda *answers: workers.submit([MATH] * len(answers), [reply(a) for a in answers])


def test_submit_returns_while_workers_work(submit, tmp_path):
    submit("right").result()  # they have started
    before = time.monotonic()
    pending = submit(f"wait {tmp_path / 'go'}", "right", "wrong")
    (tmp_path / "go").touch()  # so it has returned: they wait for this
    grades = pending.result()
    assert outcomes(grades) == ["incorrect", "correct", "incorrect"]
    assert pending.result() is grades
    assert all(0 <= grade.seconds < time.monotonic() - before for grade in grades)


def test_results_may_be_asked_for_in_any_order(submit, tmp_path):
    """The later batch waits for workers that the earlier one keeps busy, kills and hangs."""
    first = submit("hang", "die", "right 1", f"die-once {tmp_path / 'a'}", "wrong")
    second = submit("right 2", "wrong 2", f"die-once {tmp_path / 'b'}")
    assert outcomes(second.result()) == ["correct", "incorrect", "incorrect"]
    assert outcomes(first.result()) == ["failed", "failed", "correct", "incorrect", "incorrect"]


def test_a_batch_survives_the_loss_of_all_workers(submit):
    submit("right").result()
    first, second = submit("slow", "right 1"), submit("right 2", "wrong")
    kill_workers()
    assert outcomes(second.result()) == ["correct", "incorrect"]
    assert outcomes(first.result()) == ["incorrect", "correct"]


def test_a_job_that_its_pool_forgot():
    """As pebble leaves some behind when an idle worker is killed: never done."""
    lost = Workers(1, timeout_s=5.0, warm_up=os.getpid)
    pool = lost.submit(os.getpid).pool
    lost.close()
    start = time.monotonic()
    for forgotten in (pool, None):
        with pytest.raises(WorkerDied):
            lost.result(Job(Future(), forgotten, 5.0))
    assert time.monotonic() - start < 5


# --- Kinds


class Sandboxes:
    """Stands in for CodeGrader: programs say what becomes of them, each time they run."""

    def __init__(self, *options):
        self.runs, self.options = [], options

    def submit(self, tests, program):
        assert tests == CODE.tests
        self.runs.append(program)
        outcome = program.split("=")[1].strip().split(" then ")[self.runs.count(program) - 1]
        future = Future()
        died = outcome == "killed"
        found = "failed" if died else outcome
        future.set_result(CodeVerdict(found, f"it was {outcome}", 0.25, died))
        return future

    def close(self):
        self.runs.append("closed")


def test_a_real_program():
    """Unsandboxed, so that it runs on any host."""
    programs = ["print(2 * int(input()))", "print(int(input()) ** 2)"]
    with Grader(WEIGHTS, limits=Limits(wall_s=20), unsafe=True) as grader:
        grades = grader.grade([CODE] * 2, [f"```python\n{p}\n```" for p in programs])
    assert outcomes(grades) == ["correct", "incorrect"]
    assert grades[1].detail == "input 1: wrong output" and grades[0].check == "tests"


@pytest.fixture
def sandboxes(monkeypatch):
    made = []

    def make(*options):
        made.append(Sandboxes(*options))
        return made[-1]

    monkeypatch.setattr(grading, "CodeGrader", make)
    return made


def test_programs(sandboxes):
    """A sandbox that was killed is tried once more; what failed or came to an end is not."""
    programs = ["x = correct", "x = incorrect", "x = killed then correct", "x = killed then killed"]
    programs.append("x = failed then correct")
    replies = [f"```python\n{p}\n```" for p in programs]
    replies += [f"<think>t</think> <answer>\n{programs[0]}\n</answer>", "<think>no program", "?"]
    limits = Limits(wall_s=3)
    with Grader(WEIGHTS, 4, limits=limits, unsafe=True) as grader:
        assert grader.grade([COUNTDOWN], [reply("3 + 5")])[0].accuracy == 1 and not sandboxes
        grades = grader.grade([CODE] * len(replies), replies)
    expected = ["correct", "incorrect", "correct", "failed", "failed", "correct", "unparseable"]
    assert outcomes(grades) == [*expected, "unparseable"]
    words = ["incorrect", "correct", "killed", "failed"]
    assert [g.detail for g in grades[1:5]] == [f"it was {word}" for word in words]
    assert {g.seconds for g in grades[:6]} == {0.25}
    assert [g.format for g in grades] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert [s.options for s in sandboxes] == [(4, limits, True)]
    assert [run.strip() for run in sandboxes[0].runs] == [*programs, *programs[2:4], "closed"]


def test_a_program_without_tests_is_failed(sandboxes):
    (grade,) = Grader(WEIGHTS).grade([Problem("p", "code", "")], ["x = correct"])
    assert (grade.outcome, grade.detail) == ("failed", "ValueError: a program without tests")


def test_what_a_host_lacks_is_said_before_any_work(monkeypatch):
    def refuse(*_):
        raise InputError("cannot isolate programs here")

    monkeypatch.setattr(grading, "CodeGrader", refuse)
    monkeypatch.setattr(grading.gym.importlib.util, "find_spec", lambda name: None)
    before = len(worker_processes())
    with Grader(WEIGHTS) as grader:
        grader.require([COUNTDOWN, CHOICE, WORDS])
        assert len(worker_processes()) == before
        with pytest.raises(InputError, match="cannot isolate"):
            grader.require([COUNTDOWN, CODE])
        with pytest.raises(InputError, match="need reasoning-gym"):
            grader.require([Problem("g", "gym", "", "{}")])
        grader.require([MATH])
        assert len(worker_processes()) == before + 1


def test_choice_and_words():
    story = "A RED dog saw the fire."
    cases = [
        (CHOICE, reply("B"), "correct"),
        (CHOICE, reply("Paris"), "correct"),
        (CHOICE, "(B)", "correct"),
        (CHOICE, reply("A"), "incorrect"),
        (CHOICE, reply("B or C"), "unparseable"),
        (WORDS, story, "correct"),
        (WORDS, "A red dog saw the fires.", "incorrect"),
        (WORDS, reply(story), "correct"),
        (WORDS, " ", "unparseable"),
        (Problem("w", "words", "", " "), story, "failed"),
        (Problem("q", "choice", "", "7"), "A", "failed"),
    ]
    problems, replies, expected = zip(*cases, strict=True)
    grades = Grader({"accuracy": 1, "partial": 0}).grade(problems, replies)
    assert outcomes(grades) == list(expected)
    assert [g.format for g in grades] == [1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0]  # a story has no tags
    assert [g.components["partial"] for g in grades[4:8]] == pytest.approx([0, 1, 2 / 3, 1])


def test_a_bare_reply_is_its_own_answer(workers):
    grades = workers.grade([MATH, MATH, COUNTDOWN], ["0.5", r"so \boxed{\frac12}", "5 + 3"])
    assert outcomes(grades) == ["correct"] * 3
    assert [g.answer for g in grades] == ["0.5", r"\frac12", "5 + 3"]
    assert [g.format for g in grades] == [0, 0, 0]


def test_a_grade_says_what_it_was_checked_by(workers):
    problems = [COUNTDOWN, MATH, Problem("g", "math", "", "72"), CHOICE, WORDS, MATH]
    replies = [*map(reply, ["3 + 5", "x", "72", "B", "red"]), "<think>"]
    grades = workers.grade(problems, replies)
    checks = ["exact fractions", "formulas", "exact numbers", "letter", "whole words", ""]
    assert [g.check for g in grades] == checks
    assert [g.answer for g in grades] == ["3 + 5", "x", "72", "B", "red", None]
    assert all(g.seconds > 0 for g in grades[:5]) and grades[5].seconds == 0


# --- Components


def test_every_component_is_logged_and_only_weights_count():
    weights = {"accuracy": 1.0, "language": 0.5, "repetition": 2.0, "partial": 0.0}
    english, french = (
        "so we see that four times two is eight. ",
        "donc la réponse du problème est huit. ",
    )
    thought = 2 * english + 2 * french
    replies = [f"<think> {thought}</think> <answer>{a}</answer>" for a in ("3 + 5", "3 * 5")]
    for grade, right in zip(Grader(weights).grade([COUNTDOWN] * 2, replies), (1, 0), strict=True):
        c = grade.components
        assert list(c) == ["accuracy", "format", "language", "repetition", "partial"]
        assert (c["accuracy"], c["format"], c["partial"]) == (right, 1, right)
        assert c["language"] == 18 / 32 and c["repetition"] == pytest.approx(-12 / 35)
        assert grade.reward == pytest.approx(right + 0.5 * c["language"] + 2 * c["repetition"])


def test_language_is_that_of_the_thought():
    french = "Il faut que la somme des deux nombres soit égale à huit."
    cases = [
        (COUNTDOWN, f"<think>{french}</think><answer>so that is the answer</answer>", 1),
        (COUNTDOWN, f"<think>so that is the answer</think><answer>{french}</answer>", 0),
        (COUNTDOWN, f"<think>{french}", 0),  # cut: no thought is finished
        (COUNTDOWN, french, 0),  # no thought at all
        (WORDS, french, 1),
    ]
    grader = Grader({"language": 1}, components=COMPONENTS | {"language": language("fr")})
    grades = grader.grade([p for p, *_ in cases], [text for _, text, _ in cases])
    assert [g.reward for g in grades] == [share for *_, share in cases]
    with pytest.raises(InputError, match="language 'xx' is not known"):
        language("xx")


def test_a_component_may_score_a_whole_batch():
    """As a reward model on the device does: one call, with all that a rule may know, too."""
    calls = []

    def score(batch):
        calls.append([(c.problem.id, c.reply, c.outcome, c.credit, c.tokens) for c in batch])
        return [i / 4 for i in range(len(batch))]

    preference = Component(score)

    replies = [reply("3 + 5"), reply("3 * 5"), "?"]
    grader = Grader(
        {"accuracy": 1, "preference": 2}, components=COMPONENTS | {"preference": preference}
    )
    grades = grader.grade([COUNTDOWN] * 3, replies, [7, 8, 9])
    want = [("correct", 1.0, 7), ("incorrect", 0.0, 8), ("unparseable", 0.0, 9)]
    assert calls == [[("c", r, *w) for r, w in zip(replies, want, strict=True)]]
    assert [g.components["preference"] for g in grades] == [0, 0.25, 0.5]
    assert [g.reward for g in grades] == [1, 0.5, 1]


def test_a_component_that_breaks_stops_the_run():
    """It is no reward of 0; nor is a column that has lost a row."""
    broken = {"bug": Component(each(lambda checked: 1 / 0))}
    broken["short"] = Component(lambda batch: [0.0] * (len(batch) - 1))
    for name, error in (("bug", ZeroDivisionError), ("short", ValueError)):
        grader = Grader({name: 1}, components=COMPONENTS | broken)
        with pytest.raises(error):
            grader.grade([COUNTDOWN] * 2, ["", ""])


def test_overlong_is_of_the_tokens_that_were_drawn():
    components = COMPONENTS | {"overlong": overlong(100, 20)}
    grader = Grader({"accuracy": 1, "overlong": 0.5}, components=components)
    tokens = [10, 85, 100]
    grades = grader.grade([COUNTDOWN] * 3, [reply("3 + 5")] * 2 + [""], tokens)
    penalties = [overlong_penalty(n, 100, 20) for n in tokens]
    assert penalties == [0, -0.25, -1]
    assert [g.components["overlong"] for g in grades] == penalties
    assert [g.reward for g in grades] == [1, 0.875, -0.5]
    with pytest.raises(ValueError, match="overlong needs"):
        grader.grade([COUNTDOWN], [""])
    with pytest.raises(ValueError, match="1 problems but 2 replies"):
        grader.grade([COUNTDOWN], [""], [1, 2])


def test_references_that_cannot_be_read_are_said_before_any_work(workers):
    """By the ids of their problems; and it is an error if nothing can be graded."""
    good = [MATH, CHOICE, WORDS, COUNTDOWN, Problem("n", "math", "", "1,000")]
    bad = [
        Problem("file/17", "math", "", "x+"),
        Problem("file/18", "math", "", "x+"),  # the same reference again
        Problem("eight", "countdown", "", "eight", (3, 5)),
        Problem("letter", "choice", "", "7"),
        Problem("no words", "words", "", " "),
    ]
    said = []
    workers.require(good, said.append)
    assert said == []
    workers.require([*good, *bad], said.append)
    names = "file/17 ('x+'), file/18 ('x+'), eight ('eight'), letter ('7'), no words (' ')"
    assert said == [f"warning: of 10 references, 5 cannot be read: {names}"]
    with pytest.raises(InputError, match=r"of 2 references, 2 cannot be read: file/17 \('x\+'\)"):
        workers.require(bad[:2], said.append)


def test_the_references_of_published_data_can_be_read(workers, data_dir):
    problems = READERS["math"](data_dir / "math500" / "test.jsonl")
    workers.require(problems, pytest.fail)
