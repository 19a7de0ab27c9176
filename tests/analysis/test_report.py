import json
import subprocess
import sys

import numpy as np
import pytest

from r1jax.analysis import report
from r1jax.analysis.figures import FIGURES, smooth
from r1jax.analysis.report import write_report
from r1jax.config import InputError
from r1jax.metrics import MetricsLog


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
    (out / "config.json").write_text(json.dumps(config or {"seed": 0}))
    return out


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
        sample(1, "never highlighted: correct without a term"),
        sample(5, "2 - 1 wrong Wait <b>3</b>", terms=2, prompt="<i>use</i>"),
        sample(11, "late reply"),
    ]
    config = {"out": "<img src=x>", "grpo": {"lr": 3e-4, "moe": {"experts": 8}}}
    out = write_run(tmp_path_factory.mktemp("run"), metrics, samples, config)
    page = write_report(out)
    return out, page.read_text()


def test_everything_is_written_and_self_contained(full_run):
    out, page = full_run
    figures = {path.stem for path in (out / "figures").glob("*.png")}
    assert figures == {draw.__name__ for draw in FIGURES}
    assert page.count('src="data:image/png;base64,') == len(FIGURES)
    for external in ('src="http', "src='http", "<link", "<script", "@import", "url("):
        assert external not in page


def test_text_of_the_model_and_the_user_is_escaped(full_run):
    page = full_run[1]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; <mark>check</mark> &amp; stop" in page
    assert "&lt;i&gt;use&lt;/i&gt;" in page and "&lt;img src=x&gt;" in page
    assert "<img src=x" not in page and "<b>3" not in page


def test_the_aha_sample_is_the_first_correct_reply_that_reflects(full_run):
    page = full_run[1]
    aha = page[page.index("sample</h2>") : page.index("Early, middle")]
    assert "step 5," in aha and "2 reflective terms" in aha
    assert "<mark>wrong</mark> <mark>Wait</mark> &lt;b&gt;3" in aha


def test_headline_table_and_configuration(full_run):
    page = full_run[1]
    assert "18.0% → 62.0%" in page and "25 → 36 <i>×1.4</i>" in page
    for part in ("late reply", '<td class="bad">wrong value</td>', "moe.experts", "accuracy</th>"):
        assert part in page


def test_a_run_of_one_step_without_evaluations_or_replies(tmp_path):
    page = write_report(write_run(tmp_path, [STEP])).read_text()
    assert "not measured" in page and "No replies were logged" in page
    assert "of the 0 replies logged, no correct one contains a reflective term" in page


def test_reflecting_before_any_update_is_said(tmp_path, full_run, monkeypatch):
    drawn = {path.stem: path for path in (full_run[0] / "figures").glob("*.png")}
    monkeypatch.setattr(report, "save_figures", lambda rows, folder: drawn)
    out = write_run(tmp_path, [STEP], [sample(0, "wait", terms=1)])
    assert "before any update" in write_report(out).read_text()


def test_the_module_regenerates_a_report_and_rejects_other_folders(full_run, tmp_path):
    def run(folder):
        command = [sys.executable, "-m", "r1jax.analysis.report", str(folder)]
        return subprocess.run(command, capture_output=True, text=True)

    (full_run[0] / "report.html").unlink()
    assert run(full_run[0]).returncode == 0 and (full_run[0] / "report.html").exists()
    with pytest.raises(InputError, match=r"config\.json"):
        write_report(tmp_path)
    failed = run(tmp_path)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1


def test_a_run_without_a_step_is_refused(tmp_path):
    with pytest.raises(InputError, match="no step"):
        write_report(write_run(tmp_path, []))


@pytest.mark.parametrize("n", [10, 11, 400])
def test_smoothing_keeps_constants_and_length(n):
    np.testing.assert_allclose(smooth(np.full(n, 3.0)), 3.0)
    assert len(smooth(np.arange(n))) == n
