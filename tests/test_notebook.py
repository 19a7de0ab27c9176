"""`import r1jax` in a program: the README's lines, the page on one's own task, and what is refused.

The page's commands and lines run as they stand, but for sizes that make them minutes shorter.
"""

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import chex
import llama
import numpy as np
import pytest
import tiny_run

import r1jax
from experiments import r1_zero
from r1jax import given
from r1jax.checks import InputError
from r1jax.metrics import read_jsonl
from r1jax.presets import RUNS
from r1jax.run import Stopped

ROOT = Path(__file__).parents[1]
ROWS = [
    {"prompt": "Sort: pear fig apple", "answer": "apple fig pear"},
    {"prompt": "Sort: dog cat", "answer": "cat dog"},
]
SMALL = {
    "steps": 2,
    "rl": {"questions": 2, "group": 4},
    "sampling": {"max_tokens": 64, "slots": 8, "refill": 8},
    "evaluate_samples": 8,
    "final_samples": 8,
    "evaluate_dense": 0,
}


def blocks(path: str, language: str) -> list[str]:
    found = re.findall(
        r"^```(\w*)\n(.*?)^```$", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE
    )
    return [text for name, text in found if name == language]


def in_order(problem, reply):
    return reply.split() == problem.answer.split()


def brief(problem, reply):
    return len(reply) < 9


def test_the_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    """As they stand; the run is an ordinary one, and what was opened is still the user's."""
    (lines,) = blocks("README.md", "python")
    assert len([line for line in lines.splitlines() if line]) <= 15
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    exec(compile(lines, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "4 updates of 2 rows: " in said
    graded = re.findall(r"^(\w+) [01]\.0 (<think>.*)$", said, re.MULTILINE)
    assert [reply for _, reply in graded] == names["replies"] and len(set(graded)) > 3

    rows = read_jsonl(tmp_path / "runs/brief/metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(0 <= row["reward/brief"] <= 1 for row in rows[:-1])
    assert (tmp_path / "runs/brief/checkpoints/3").is_dir()
    assert (tmp_path / "runs/brief/report.html").is_file()
    assert len(read_jsonl(tmp_path / "runs/tuned/metrics.jsonl")) == 4
    fresh = r1jax.open_model().weights.params
    chex.assert_trees_all_equal(names["model"].weights.params, fresh)
    before = fresh.embed_VD
    for made in ("trained", "tuned"):
        after = np.asarray(names[made].weights.params.embed_VD)
        assert (after != before).any(), made
        before = after


@pytest.mark.slow
def test_the_page_on_ones_own_task(data_dir, tmp_path, monkeypatch):
    """Its command and its lines, on a model that is no chat model."""
    (rows,), (file, lines) = (blocks("docs/your_own_task.md", name) for name in ("json", "python"))
    (command,) = blocks("docs/your_own_task.md", "")
    monkeypatch.chdir(tmp_path)
    folder = str(data_dir / "stories260k" / "hf")
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "sorting.py").write_text(file)
    names: dict = {"__name__": "__main__"}
    exec(file, names)

    assert lines.count('"DIR"') == lines.count("steps=20") == 1
    sizes = (
        "steps=1, rl=dict(questions=1, group=2, minibatches=1), final_samples=2, "
        "sampling=dict(max_tokens=16, slots=2, refill=2)"
    )
    exec(lines.replace('"DIR"', repr(folder)).replace("steps=20", sizes), names)
    assert [grade.graded for grade in names["grades"]] == [True, True]
    assert set(names["grades"][0].components) == {"accuracy", "format", "in_order", "brief"}
    # What was trained with R1-Zero's prompt is asked by it.
    assert names["trained"].conversation.form == "r1_zero"
    assert names["model"].conversation.form == "plain"

    program, *flags = command.replace("--model=DIR", f"--model={folder}").strip().split(" --")
    assert program == "python -m experiments.r1_zero"
    flags = shlex.split(" ".join(f"--{flag}" for flag in flags))
    r1_zero.main([*flags, "--steps=1", "--rl.questions=1", "--rl.group=2", "--rl.minibatches=1",
                  "--final-samples=2", "--sampling.max-tokens=16", "--sampling.slots=2",
                  "--sampling.refill=2", "--out=command"])  # fmt: skip
    ran = read_jsonl(tmp_path / "command/metrics.jsonl")[0]
    same = read_jsonl(tmp_path / "runs/sorting/metrics.jsonl")[0]
    assert ran.keys() == same.keys() and {"reward/in_order", "reward/brief"} <= ran.keys()
    assert (tmp_path / "command/checkpoints/1").is_dir()


def test_what_the_page_says_of_its_functions():
    names: dict = {}
    exec(blocks("docs/your_own_task.md", "python")[0], names)
    replies = [f"<think> x </think> <answer> {a} </answer>" for a in ("apple fig pear", "dog")]
    both = {names["in_order"]: 1.0, names["brief"]: 0.5, "format": 0.25}
    right, wrong = r1jax.grade(ROWS, replies, both)
    assert (right.outcome, wrong.outcome) == ("correct", "incorrect")
    assert (right.reward, wrong.reward) == (1 + 0.25 + 1 + 0.5, 0.25 + 0.5)
    rows = [{"id": str(i), "kind": "own", **row} for i, row in enumerate(ROWS, start=1)]
    problems = [r1jax.Problem(**row) for row in rows]
    for given_as in (rows, problems, [rows[0], problems[1]]):
        again = r1jax.grade(given_as, replies, both)
        assert [g.components for g in again] == [right.components, wrong.components]


def test_a_chat_models_replies_have_no_answer_tags():
    rows, reply = [{"kind": "math", "prompt": "2+2?", "answer": "4"}], "<think>\nhm\n</think>\n\n4"
    (tags,), (chat,) = (r1jax.grade(rows, [reply], chat=chat) for chat in (False, True))
    assert (tags.format, chat.format, tags.accuracy, chat.accuracy) == (0, 1, 1, 1)


def test_to_import_it_opens_nothing():
    """Every command imports r1jax first."""
    code = (
        "import sys, r1jax; assert 'jax' not in sys.modules; assert not hasattr(r1jax, 'nothing');"
        "assert {*r1jax.__all__, '__version__'} <= {*dir(r1jax)}; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_a_script_without_a_guard_grades_by_its_own_function(tmp_path):
    """The workers must not run the program that asks: it would begin again in each."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import r1jax\n"
        "print('begun')\n"
        "LONGEST = 3\n"
        "def brief(problem, reply):\n"
        "    return len(reply.split()) <= LONGEST\n"
        f"rows = {ROWS!r}\n"
        "print(*(g.outcome for g in r1jax.grade(rows, ['apple', 'b c d e'], brief)))\n"
    )
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
    )  # fmt: skip
    assert (run.stdout, run.stderr) == ("begun\ncorrect incorrect\n", "")


def test_a_reward_that_breaks_has_failed():
    def broken(problem, reply):
        return {"raise": lambda: 1 / 0, "none": lambda: None, "nan": lambda: math.nan,
                "text": lambda: "1", "fine": lambda: True}[reply]()  # fmt: skip

    replies = ["raise", "none", "nan", "text", "fine"]
    grades = r1jax.grade([ROWS[0]] * 5, replies, broken)
    assert [g.graded for g in grades] == [False] * 4 + [True]
    wanted = ("ZeroDivisionError", "a number or a bool, got None", "finite", "finite")
    for grade, said in zip(grades, wanted, strict=False):
        assert said in grade.detail and "broken" in grade.detail


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_it_never_had_been(tmp_path):
    """By Ctrl-C, which is what a notebook sends to a kernel."""
    flag, problems = tmp_path / "flag", [
        {"numbers": [9, 5, 4, 2], "target": target} for target in (2, 6, 8, 10)
    ]  # fmt: skip

    def once(problem, reply):
        tried = f"<answer> {problem.answer} <" in reply  # before the run
        if not tried and not flag.exists():
            flag.touch()
            os.kill(os.getppid(), signal.SIGINT)
        return len(reply) < 90

    def train(name, **more):
        out = tmp_path / name
        return r1jax.train_rl(
            "embedded", problems, {once: 0.5}, out=out, task="countdown", **SMALL, **more
        )

    again = 'to go on: call it again with resume="auto"'
    with pytest.raises(Stopped, match=f"^stopped by Ctrl-C after step 1 of 2; {again}$"):
        train("stopped", preset="tiny")
    with pytest.raises(InputError, match=r"stopped already holds a run"):
        train("stopped")
    resumed, whole = train("stopped", resume="yes"), train("whole")
    chex.assert_trees_all_equal(resumed.weights, whole.weights)
    found, want = (tiny_run.metrics(tmp_path / name) for name in ("stopped", "whole"))
    assert found == want and len(want) == 3
    # A run that goes on is of the preset that it began with.
    told = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("stopped", "whole")]
    assert [run.get("preset") for run in told] == ["tiny", None]
    problems[0] = {"numbers": [9, 5, 4, 2], "target": 16}
    with pytest.raises(InputError, match="holds the other rows of a run"):
        train("stopped", resume="yes")


def test_rows_that_were_wrong_can_be_corrected(tmp_path):
    """No run has begun in the folder that keeps them."""
    examples = [{"prompt": "use 9 5 4 2 to make 8", "completion": "9 + zebra"}]
    flags = {"out": tmp_path / "run", "steps": 1, "rows": 1, "length": 32}
    with pytest.raises(InputError, match=r"rows.jsonl:1: the word 'zebra' is not in"):
        r1jax.train_sft("embedded", examples, **flags)
    examples[0]["completion"] = "<think> 9 + 5 </think> <answer> 9 + 5 </answer>"
    made: list = []
    # Where no signal can be heard.
    thread = threading.Thread(
        target=lambda: made.append(r1jax.train_sft("embedded", examples, **flags))
    )
    thread.start()
    thread.join()
    assert repr(made[0]).startswith(f"<r1jax model {tmp_path}/run: 167,904 parameters, ")


def lacks_order(reply):
    return 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda _: r1jax.open_model("/nowhere"), r"^/nowhere: no such directory"),
        (lambda _: r1jax.grade(ROWS, ["", ""]), r'^problem 1: missing field "kind"$'),
        (
            lambda _: r1jax.grade([{"kind": "math", "prompt": "2+2?"}], [""]),
            r'^problem 1: missing field "answer"$',
        ),
        (
            lambda _: r1jax.grade([{"answer": "4"}], [""], brief),
            r'^problem 1: missing field "prompt"$',
        ),
        (lambda _: r1jax.grade([("2+2?", "4")], [""]), r"^problem 1: takes a dict of fields, got"),
        (lambda _: r1jax.grade(ROWS, [""], brief), r"^2 problems, but 1 replies"),
        (lambda _: r1jax.grade(ROWS, ["", ""], lacks_order), r"must take \(problem, reply\)"),
        (lambda _: r1jax.grade(ROWS, ["", ""], "brief"), r"^reward: takes a function of "),
        (lambda _: r1jax.grade(ROWS, ["", ""], {brief: "1"}), r"^reward: brief takes a number"),
        (
            lambda _: r1jax.grade(ROWS, ["", ""], {brief: 1, "formt": 0}),
            r"^RewardConfig has no field 'formt': did you mean format\?; it has ",
        ),
        (
            lambda _: r1jax.grade([{"prompt": "?", "answer": np.arange(3)}], [""], brief),
            r"^problem 1: Object of type ndarray is not JSON",
        ),
        (lambda _: r1jax.grade(ROWS, ["", ""], brief, task="gsm9k"), r"^task=gsm9k: must be one"),
        (
            lambda out: r1jax.train_sft("embedded", [], out=out),
            r"^examples: there is nothing to train on$",
        ),
        (
            lambda out: r1jax.train_rl("embedded", out=out, stepz=3),
            r"^RunConfig has no field 'stepz': did you mean steps\?; it has ",
        ),
        (
            lambda out: r1jax.train_rl("embedded", out=out, rl={"grup": 3}),
            r"^RLConfig has no field 'grup': did you mean group\?; it has algorithm, ",
        ),
        (lambda out: r1jax.train_rl("embedded", out=out, steps="3"), r"^RunConfig.steps takes an "),
        (
            lambda out: r1jax.train_rl("embedded", out=out, resume="yse"),
            r"^RunConfig.resume must be one of no, yes, auto, got 'yse'$",
        ),
        (lambda out: r1jax.train_rl("embedded", out=out, rl=3), r"^RunConfig.rl takes a dict of"),
        (
            lambda out: r1jax.train_rl("embedded", out=out, preset="smal"),
            r"^preset=smal: must be one of tiny, ",
        ),
        (
            lambda out: r1jax.train_rl("embedded", out=out, model={"d_model": 32}),
            r"^preset=, model: not the shape of embedded",
        ),
        (
            lambda out: r1jax.train_rl("embedded", ROWS, {brief: 1, lambda p, r: 1: 1,
                                                         lambda p, r: 2: 1}, out=out),
            r"already called '<lambda>'",
        ),
        (
            lambda _: r1jax.open_model().generate(["use 9"], max_tokens=10**6),
            r"exceed the model's context",
        ),
        (lambda _: r1jax.open_model().generate("use 9"), r"^prompts: takes a list of them"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(call, message, tmp_path):
    with pytest.raises(InputError, match=message) as raised:
        call(tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_changes_reach_into_parts_and_are_plain_data():
    cfg = given.changed(
        RUNS["tiny"](),
        {"steps": np.int64(7), "rl": {"group": 4, "clip_high": 1}, "out": Path("a/b")},
    )
    assert (cfg.steps, cfg.rl.group, cfg.rl.clip_high, cfg.out) == (7, 4, 1.0, "a/b")
    assert [type(v) for v in (cfg.steps, cfg.rl.clip_high, cfg.out)] == [int, float, str]
    back = given.changed(
        cfg, {f: getattr(RUNS["tiny"](), f) for f in ("steps", "out")} | {"rl": RUNS["tiny"]().rl}
    )
    assert back == RUNS["tiny"]()


@pytest.mark.slow
def test_replies_are_of_their_seed_alone():
    model = r1jax.open_model()
    prompts = ["use 9 5 4 2 to make 8", "use 9 5 4 2 to make 10"]
    both = model.generate(prompts, n=2, max_tokens=32)
    assert both[:2] == model.generate(prompts[:1], n=2, max_tokens=32)
    assert both != model.generate(prompts, n=2, max_tokens=32, seed=1)
    assert model.generate([]) == []


def test_a_text_begins_as_in_training(data_dir):
    """Behind the beginning-of-sequence token: as the oracle in NumPy goes on."""
    folder = data_dir / "stories260k" / "hf"
    model, prompt = r1jax.open_model(folder), "The"
    tokenizer = model.conversation.tokenizer
    ids = tokenizer.encode_prompt(prompt)
    assert ids == [tokenizer.bos_id, *tokenizer.encode(prompt)]
    want = tokenizer.decode(llama.greedy(folder, ids, 12, tokenizer.end_ids))
    assert model.generate([prompt], temperature=0, max_tokens=12) == [want]
