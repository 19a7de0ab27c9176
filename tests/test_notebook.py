"""`import r1jax` in a program: the README's lines, and what they refuse."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import pytest

import r1jax
from r1jax import notebook
from r1jax.config import InputError
from r1jax.data.sources import read_problems
from r1jax.metrics import read_jsonl
from r1jax.presets import RUNS

ROOT = Path(__file__).parents[1]
ROWS = [
    {"id": "1", "kind": "own", "prompt": "Sort: pear fig apple", "answer": "apple fig pear"},
    {"id": "2", "kind": "own", "prompt": "Sort: dog cat", "answer": "cat dog"},
]


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


def test_the_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    """As they stand; the run is an ordinary one, and what was opened is still the user's."""
    (lines,) = blocks("README.md", "python")
    assert len(lines.strip().splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    exec(compile(lines, "README.md", "exec"), names)
    assert len(names["replies"]) == 6 and "correct" in capsys.readouterr().out
    assert names["replies"][0].startswith("<think>")

    rows = read_jsonl(tmp_path / "runs/brief/metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(0 <= row["reward/brief"] <= 1 for row in rows[:-1])
    assert (tmp_path / "runs/brief/checkpoints/3").is_dir()
    assert (tmp_path / "runs/brief/report.html").is_file()
    fresh = r1jax.open_model().weights.params
    chex.assert_trees_all_equal(names["model"].weights.params, fresh)
    for made in ("trained", "tuned"):
        assert (names[made].weights.params.embed_VD != fresh.embed_VD).any(), made


def test_to_import_it_opens_nothing():
    """Every command imports r1jax first."""
    code = (
        "import sys, r1jax; assert 'jax' not in sys.modules; assert not hasattr(r1jax, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_page_on_ones_own_task_says_what_is_so(tmp_path):
    problems, reward = (
        blocks("docs/your_own_task.md", "json"),
        blocks("docs/your_own_task.md", "python"),
    )
    (tmp_path / "rows.jsonl").write_text(problems[0])
    asked = read_problems(tmp_path / "rows.jsonl")
    names: dict = {}
    exec(reward[0], names)
    replies = [
        f"<think> x </think> <answer> {answer} </answer>" for answer in ("apple fig pear", "dog")
    ]
    by_problem = r1jax.grade(asked, replies, names["in_order"])
    assert [g.outcome for g in by_problem] == ["correct", "incorrect"]
    assert [g.components["in_order"] for g in by_problem] == [1, 0]
    assert r1jax.grade(ROWS, replies, names["in_order"]) == by_problem
    assert r1jax.grade(ROWS, replies, names["brief"])[1].components["brief"] == 1


def test_a_reward_that_raises_has_failed():
    def broken(problem, reply):
        raise KeyError("no")

    (grade,) = r1jax.grade(ROWS[:1], ["<answer> x </answer>"], broken)
    assert grade.outcome == "failed" and not grade.graded


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda out: r1jax.open_model("/nowhere"), r"/nowhere: no such directory"),
        (lambda out: r1jax.grade([{"id": "1"}], [""]), r'missing field "kind"|field "kind"'),
        (lambda out: r1jax.grade(ROWS, ["", ""], lambda reply: 1), r"must take \(problem, reply\)"),
        (
            lambda out: r1jax.train_sft("embedded", [], out=out),
            r"^rows: there is nothing to train on$",
        ),
        (
            lambda out: r1jax.train_rl("embedded", out=out, stepz=3),
            r"^RunConfig has no field 'stepz'; it has model, ",
        ),
        (
            lambda out: r1jax.train_rl("embedded", out=out, rl={"grup": 3}),
            r"^RLConfig has no field 'grup'; it has algorithm, ",
        ),
        (
            lambda out: r1jax.open_model().generate(["use 9"], max_tokens=10**6),
            r"exceed the model's context",
        ),
    ],
)
def test_bad_input_is_one_line(call, message, tmp_path):
    with pytest.raises(InputError, match=message) as raised:
        call(tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_other_rows_are_not_written_over_those_of_a_run(tmp_path):
    notebook._keep(ROWS, tmp_path / "rows.jsonl")
    notebook._keep(ROWS, tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match="holds other rows"):
        notebook._keep(ROWS[:1], tmp_path / "rows.jsonl")


def test_changes_reach_into_parts():
    cfg = notebook.changed(RUNS["tiny"](), {"steps": 7, "rl": {"group": 4}})
    assert (cfg.steps, cfg.rl.group) == (7, 4)
    assert dataclasses.replace(cfg, steps=50, rl=RUNS["tiny"]().rl) == RUNS["tiny"]()


def test_replies_are_of_their_seed_alone():
    model = r1jax.open_model()
    prompts = ["use 9 5 4 2 to make 8 <think>", "use 9 5 4 2 to make 10 <think>"]
    both = model.generate(prompts, n=2, max_tokens=32)
    assert both[:2] == model.generate(prompts[:1], n=2, max_tokens=32)
    assert both != model.generate(prompts, n=2, max_tokens=32, seed=1)


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
