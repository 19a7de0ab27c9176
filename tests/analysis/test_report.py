"""Reports of small runs written by hand. Drawing takes seconds, so that only some runs draw."""

import dataclasses
import json
import subprocess
import sys

import pytest
import tiny_run

from experiments import report as command
from r1jax.analysis import report
from r1jax.analysis.figures import FIGURES
from r1jax.analysis.report import write_report
from r1jax.checks import InputError
from r1jax.metrics import MetricsLog
from r1jax.sharding import count


def sample(step, text="<think> 1 + 2 = 3 </think>", correct=True, terms=0, **fields):
    return {
        "step": step,
        "split": "train",
        "problem_id": "c-1",
        "sample": 0,
        "prompt": "use 1 2 to make 3",
        "text": text,
        "tokens": 9,
        "truncated": False,
        "outcome": "correct" if correct else "wrong value",
        "reward": 1.0 + correct,
        "components": {"accuracy": float(correct), "format": 1.0},
        "reflective_terms": terms,
    } | fields


def write_run(out, metrics, samples=(), config=None):
    with MetricsLog(out) as log:
        for step, row in enumerate(metrics):
            log.log(step, row, [row for row in samples if row["step"] == step])
    (out / "config.json").write_text(json.dumps(config or CONFIG))
    return out


CONFIG = json.loads(json.dumps(dataclasses.asdict(tiny_run.CONFIG)))
RUN = {
    "command": "python -m experiments.r1_zero --seed=0 '<b>'",
    "started": "2026-11-25T17:04:49+00:00",
    "resumed": [
        {"command": "one", "started": "2026-11-25T18:04:49+00:00", "step": 0},
        {"command": "two", "started": "2026-11-26T18:04:49+00:00", "step": 1},
    ],
    "preset": "tiny",
    "versions": {"jax": "0.10.2", "python": "3.11.2"},
    "devices": "1 x cpu",
    "status": "stopped",
    "step": 2,
    "steps": 3,
}
STEP = {
    "reward/mean": 0.3,
    "reward/accuracy": 0.2,
    "heldout/accuracy": None,
    "length/mean": 25.0,
    "length/correct": None,
    "reflection/fraction": 0.02,
    "reflection/per_response": 0.05,
    "kl": 0.0,
    "entropy": 0.5,
    "clip/low": 0.0,
    "clip/high": 0.0,
    "grad_norm": 0.4,
}


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    metrics = [
        STEP | {"length/mean": 25.0 + step, "heldout/accuracy": 0.18 + 0.04 * step}
        for step in range(12)
    ]
    samples = [
        sample(0, "<script>alert(1)</script> check & stop", correct=False, terms=1),
        sample(1, "never marked: correct without a term"),
        sample(5, "2 - 1 wrong Wait <b>3</b>", terms=2, prompt="<i>use</i>"),
        sample(11, "late reply"),
    ]
    config = CONFIG | {"out": "<img src=x>"}
    out = write_run(tmp_path_factory.mktemp("run"), metrics, samples, config)
    page = write_report(out)
    return out, page.read_text()


@pytest.fixture
def undrawn(monkeypatch):
    """No figures, and so no seconds: for what the page says in words."""
    seen = []  # the rows that would have been drawn

    def draw_nothing(rows, folder):
        seen.append(rows)
        return {}

    monkeypatch.setattr(report, "save_figures", draw_nothing)
    return seen


def section(page, title):
    """What stands under a heading."""
    start = page.index(f"{title}</h2>")
    return page[start : page.find("<h2>", start)]


def test_everything_is_written_and_self_contained(full_run):
    out, page = full_run
    drawn = {draw.__name__ for draw in FIGURES} - {"moment", "sources"}  # flat, and of one kind
    figures = {path.stem for path in (out / "figures").glob("*.png")}
    assert figures == drawn | {f"{name}_narrow" for name in drawn}
    assert page.count("data:image/png;base64,") == 2 * len(drawn)
    for external in ('src="http', "src='http", "<link", "<script", "@import", "url("):
        assert external not in page


def test_text_of_the_model_and_the_user_is_escaped(full_run):
    page = full_run[1]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; <mark>check</mark> &amp; stop" in page
    assert "&lt;i&gt;use&lt;/i&gt;" in page and "&lt;img src=x&gt;" in page
    assert "<img src=x" not in page and "<b>3" not in page


def test_the_aha_sample_is_the_first_correct_reply_that_reflects(full_run):
    aha = section(full_run[1], "sample")
    assert "step 5," in aha and "2 reflective terms" in aha
    assert "<mark>wrong</mark> <mark>Wait</mark> &lt;b&gt;3" in aha


def test_headline_table_and_configuration(full_run):
    page = full_run[1]
    assert "18.0% → 62.0%" in page and "25 → 36 <i>×1.4</i>" in page
    for part in (
        "late reply",
        '<td class="bad">wrong value</td>',
        "router.experts",
        "accuracy</th>",
    ):
        assert part in page


def test_tiles_say_whose_replies_they_are_of(tmp_path, undrawn):
    """Of those that the accuracy is of, where they were measured."""
    heldout = {"heldout/length": 30.0, "heldout/reflection": 0.25}
    for name, of, row in ("a", "Training", STEP), ("b", "Held-out", STEP | heldout):
        page = write_report(write_run(tmp_path / name, [row] * 2)).read_text()
        for label in (f"{of} length, tokens", f"{of} replies that reflect"):
            assert f">{label}</span>" in page
        assert ("30 → 30" in page and "25.0% → 25.0%" in page) == (of == "Held-out")
        assert "Training: terms a reply" in page


def test_the_head_says_which_run_it_is(tmp_path, undrawn):
    out = write_run(tmp_path, [STEP] * 2)
    (out / "run.json").write_text(json.dumps(RUN))
    page = write_report(out).read_text()
    head = page[page.index('<dl class="facts">') : page.index("</dl>")]
    parameters = count(tiny_run.small.weights(tiny_run.CONFIG.model).params)
    for label, value in (
        ("Status", "stopped at step 2 of 3"),
        ("Task", "countdown"),
        ("Model", f"{parameters:,} parameters, preset tiny, base embedded"),
        ("Algorithm", "GRPO, 4 questions x 4 replies a step"),
        ("Seed", "0"),
        ("Mesh", "1 on 1 x cpu"),
        ("Command", "<code>python -m experiments.r1_zero --seed=0 &#39;&lt;b&gt;&#39;</code>"),
        ("Started", "2026-11-25 17:04 UTC"),
        ("Resumed", "2 times, last from step 1, 2026-11-26 18:04 UTC: two"),
        ("Versions", "jax 0.10.2, python 3.11.2"),
    ):
        assert f"<dt>{label}</dt><dd>{value}</dd>" in head


@pytest.mark.parametrize(
    "steps, run, said",
    [
        (2, {}, "unfinished, at step 2 of 3"),
        (4, {}, "finished: 3 steps"),  # the last line, after the last update, is of step 3
        (2, RUN | {"status": "running", "step": 1}, "running or killed, at step 2 of 3"),
        (4, RUN | {"status": "finished", "step": 3}, "finished: 3 steps"),
    ],
)
def test_how_far_the_run_came(tmp_path, undrawn, steps, run, said):
    out = write_run(tmp_path, [STEP] * steps)
    if run:
        (out / "run.json").write_text(json.dumps(run))
    assert f"<dt>Status</dt><dd>{said}</dd>" in write_report(out).read_text()


@pytest.mark.parametrize("steps, last", [(3, "So far"), (4, "After")])  # of 3
def test_one_problem_before_during_and_after(tmp_path, undrawn, steps, last):
    samples = [
        sample(0, "a guess", correct=False, split="tracked"),
        sample(1, "wait", terms=1, split="tracked"),
        sample(2, "check", terms=1, split="tracked"),
    ]
    out = write_run(tmp_path, [STEP] * steps, samples)
    page = write_report(out).read_text()
    story = section(page, "before, during and after")
    order = ("Before: step 0", "a guess", "During: step 1", ">wait<", f"{last}: step 2", ">check<")
    assert sorted(map(story.index, order)) == list(map(story.index, order))
    assert "No replies are in samples.jsonl" in section(page, "late replies")  # of other splits


@pytest.mark.parametrize("task", ["countdown", "stories"])
def test_reflection_only_where_replies_have_thoughts(tmp_path, undrawn, task):
    samples = [sample(step, "a dog, but no cat", terms=1) for step in (0, 1)]
    out = write_run(tmp_path / "run", [STEP] * 2, samples, CONFIG | {"task": task})
    page = write_report(out).read_text()
    words = "a dog, <mark>but</mark> no cat" if task == "countdown" else "a dog, but no cat"
    assert words in page
    body = page[page.index("<body>") : page.index("Configuration</h2>")]
    found = [word for word in ("eflect", "aha”", "<mark>", "reflection") if word in body]
    assert len(found) == (4 if task == "countdown" else 0)
    assert any("reflection/fraction" in row for row in undrawn[-1]) == (task == "countdown")


def test_a_run_of_one_step_without_evaluations_or_replies(tmp_path, undrawn):
    page = write_report(write_run(tmp_path, [STEP])).read_text()
    assert "not measured" in page and "No replies are in samples.jsonl" in page
    assert "No held-out problem was asked at two steps yet" in page
    assert "of the 0 replies in samples.jsonl, no correct one contains a reflective term" in page


def test_reflecting_before_any_update_is_said(tmp_path, undrawn):
    out = write_run(tmp_path, [STEP], [sample(0, "wait", terms=1)])
    assert "before any update" in write_report(out).read_text()


def test_the_command_reports_on_a_run_that_was_killed(tmp_path, undrawn, capsys):
    runs = [write_run(tmp_path / name, [STEP] * 2, [sample(1)]) for name in ("a", "b")]
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (runs[0] / name).open("a") as file:
            file.write('{"step": 2, "hel')
    command.main([str(runs[0]), f"--run={runs[1]}"])
    said = capsys.readouterr().out
    for run in runs:
        assert str(run / "report.html") in said and (run / "report.html").exists()
        assert not list(run.glob("*.tmp"))
    assert "unfinished, at step 2 of 3" in (runs[0] / "report.html").read_text()


def test_the_command_says_in_one_line_what_is_no_run(tmp_path):
    line = [sys.executable, "-m", "experiments.report", str(tmp_path)]
    failed = subprocess.run(line, capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert "config.json" in failed.stderr


@pytest.mark.parametrize(
    "args, said",
    [([], "folder is needed"), (["--runs=x"], "--runs=x"), (["nowhere"], "nowhere is not the")],
)
def test_the_command_rejects_other_arguments(args, said):
    with pytest.raises(InputError, match=said):
        command.main(args)


def test_a_run_without_a_step_is_refused(tmp_path):
    with pytest.raises(InputError, match="no step"):
        write_report(write_run(tmp_path, []))


def test_a_file_that_is_not_what_a_run_writes_is_named(tmp_path, undrawn):
    out = write_run(tmp_path, [STEP])
    (out / "run.json").write_text("[]")
    with pytest.raises(InputError, match=r"run\.json: expected a JSON object"):
        write_report(out)
    (out / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: invalid JSON: Expecting"):
        write_report(out)
