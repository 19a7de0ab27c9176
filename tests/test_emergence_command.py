"""python -m experiments.emergence, from the files to the lines."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "analysis" / "emergence"))
import planted
from hand_made import write_jsonl

from experiments import emergence
from r1jax.analysis.emergence import report
from r1jax.checks import InputError

RISE = 0.03 + 0.9 / (1 + np.exp(-(np.arange(16) - 7.0)))
FLAT = np.full(16, 0.03)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(report, "save_figures", lambda verdicts, *_: [{} for _ in verdicts])


def rollouts(share_T, seed=0, questions=8):
    return planted.log(share_T, seed, heldout=0, questions=questions).replies


def plain(share_T, seed=0):
    return [
        {"step": r.step, "prompt": r.prompt, "question_id": r.question, "reply": r.text,
         "correct": r.correct}
        for r in rollouts(share_T, seed)
    ]  # fmt: skip


def write_run(folder, share_T, seed=0, **config):
    replies = planted.log(share_T, seed).replies
    rows = [
        {"step": r.step, "split": r.split, "problem_id": r.question, "sample": 0,
         "prompt": r.prompt, "text": r.text, "tokens": r.tokens, "truncated": False,
         "outcome": "correct" if r.correct else "incorrect", "reward": 0.0, "components": {},
         "reflective_terms": 0}
        for r in replies
    ]  # fmt: skip
    write_jsonl(folder / "replies.jsonl", rows)
    write_jsonl(folder / "samples.jsonl", rows[:4])
    write_jsonl(folder / "metrics.jsonl", [{"step": t} for t in range(len(share_T))])
    (folder / "config.json").write_text(json.dumps({"seed": seed, "out": str(folder)} | config))
    return folder


def test_runs_with_a_control_are_judged_from_their_folders(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / "runs" / f"s{seed}", RISE, seed, base="train")
    write_run(tmp_path / "runs" / "none", np.zeros(16), 5, **NO_TRACE)  # by its corpus
    write_run(tmp_path / "random", FLAT, 6)
    emergence.main([str(tmp_path / "runs"), f"--control=random={tmp_path / 'random'}"])
    said = capsys.readouterr().out
    assert "existence           amplified" in said and "one seed only" not in said
    found = json.loads((tmp_path / "runs" / "emergence" / "verdict.json").read_text())
    assert [r["run"] for r in found["verdicts"][0]["runs"]] == ["s0", "s1"]
    kinds = {c["control"]: c["existence"]["verdict"] for c in found["controls"]}
    assert kinds == {"random": "unchanged", "no_trace": "absent"}
    assert (tmp_path / "runs" / "emergence" / "report.html").exists()


NO_TRACE = {"base": "train", "corpus": {"reflective": 0, "practice": 0}}
TREATED = {
    "base": "embedded",
    "corpus": {"reflective": 0.1, "practice": 0.1},
    "reward": {"accuracy": 1.0, "format": 1.0, "control": "none"},
    "optim": {"lr": 1e-3},
}


def changed(section, **fields):
    return TREATED | {section: TREATED[section] | fields}


@pytest.mark.parametrize(
    "kind, config, says",
    [
        ("random=", NO_TRACE, "it is a control of kind no_trace"),
        ("random=", changed("reward", control="shuffled"), "it is a control of kind shuffled"),
        ("random=", changed("optim", lr=0), "it is a control of kind no_update"),
        ("random=", TREATED, r"it is no control \(rewards are of answers\)"),
        ("no_trace=", TREATED, r"it is no control \(rewards are of answers\)"),
        ("format=", changed("reward", accuracy=0, format=0), "it is no control$"),
        ("", TREATED, r"it is no control \(rewards are of answers\)"),
    ],
)
def test_a_control_that_its_configuration_denies_is_refused(tmp_path, kind, config, says):
    run, other = write_run(tmp_path / "a", RISE), write_run(tmp_path / "b", FLAT, **config)
    with pytest.raises(InputError, match=f"^--control={kind}{other}: its config.json says {says}"):
        emergence.main([str(run), f"--control={kind}{other}"])
    assert not (run / "emergence").exists()


@pytest.mark.parametrize(
    "kind, config",
    [
        ("random=", {}),
        ("", {"architectures": ["Qwen2"], "reward": 1}),
        ("random=", changed("optim", lr=0) | {"reward": {"control": "random"}}),  # two at once
        ("format=", changed("reward", accuracy=0)),
        ("length=", TREATED),
        ("chance=", TREATED),
        ("no_trace=", TREATED | {"base": "bases/none.safetensors"}),
        ("", NO_TRACE),
    ],
)
def test_a_control_that_its_configuration_may_be_is_believed(tmp_path, kind, config):
    told = "no_trace" if config is NO_TRACE else "random"
    run, other = write_run(tmp_path / "a", RISE), write_run(tmp_path / "b", FLAT, **config)
    emergence.main([str(run), f"--control={kind}{other}"])
    (control,) = json.loads((run / "emergence" / "verdict.json").read_text())["controls"]
    assert control["control"] == (kind.rstrip("=") or told)


def test_verl_rollouts_are_judged(tmp_path, capsys):
    for step in range(16):
        rows = [
            {"input": r.prompt, "output": r.text, "gts": "8", "score": float(r.correct),
             "step": step + 1}
            for r in rollouts(RISE) if r.step == step
        ]  # fmt: skip
        write_jsonl(tmp_path / "rollouts" / f"{step + 1}.jsonl", rows)
    random = write_jsonl(tmp_path / "random.jsonl", plain(FLAT))
    emergence.main(["--format=verl", str(tmp_path / "rollouts"), f"--out={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "undecided: spurious or amplified" in said and "no baseline" not in said
    assert "--control=random=RUN" in said and "tokens are words" in said
    emergence.main([str(tmp_path / "rollouts"), f"--control={random}", f"--out={tmp_path / 'out'}"])
    assert "existence           amplified" in capsys.readouterr().out


def test_trl_completions_are_judged(tmp_path, capsys):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "completions"
    folder.mkdir()
    for step in range(16):
        rows = [
            {"step": step + 1, "prompt": r.prompt, "completion": r.text,
             "accuracy_reward": float(r.correct), "format_reward": 1.0, "advantage": 0.0}
            for r in rollouts(RISE) if r.step == step
        ]  # fmt: skip
        parquet.write_table(
            pyarrow.Table.from_pylist(rows), folder / f"completions_{step + 1:05}.parquet"
        )
    emergence.main([str(folder)])
    assert "undecided: spurious or amplified" in capsys.readouterr().out
    assert (folder / "emergence" / "verdict.json").exists()


def test_a_file_without_step_0_says_that_there_is_no_baseline(tmp_path, capsys):
    rows = [row for row in plain(RISE) if row["step"] > 0]
    emergence.main([str(write_jsonl(tmp_path / "r.jsonl", rows))])
    said = capsys.readouterr().out
    assert "no baseline" in said and "replies at step 0, before any update" in said
    assert (tmp_path / "r_emergence" / "report.html").exists()


@pytest.mark.parametrize("twice", [["{run}"], ["--control=random={run}"], ["{run}/.."]])
def test_a_run_counts_once(tmp_path, twice):
    run = write_run(tmp_path / "runs" / "one", RISE)
    with pytest.raises(InputError, match="one is given twice: a run counts once"):
        emergence.main([str(run), *(arg.format(run=run) for arg in twice)])


def test_copies_of_a_run_are_no_seeds(tmp_path, capsys):
    runs = [str(write_run(tmp_path / name, RISE, seed=3)) for name in ("a", "b")]
    emergence.main(runs)
    assert "seeds repeat" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, says",
    [
        (["--control=randon=x", "x"], "no kind is called 'randon': did you mean random?"),
        ([], "a run is needed"),
        (["--format=ver1", "x"], "--format=ver1: expected one of r1jax, trl, verl, jsonl"),
        (["--detector=judge", "x"], "--detector=judge: expected one of word, strict"),
        (["--control=", "x"], "--control= is empty"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["--sead=1", "x"], "Unrecognized options: --sead=1"),
    ],
)
def test_bad_input_is_one_line(args, says):
    with pytest.raises(InputError, match=says):
        emergence.main(args)


def test_a_run_that_was_read_is_not_changed(tmp_path):
    run = write_run(tmp_path / "run", RISE)
    before = {p: p.read_bytes() for p in run.iterdir()}
    (run / "report.html").write_text("the run's own")
    emergence.main([str(run)])
    assert all(p.read_bytes() == content for p, content in before.items())
    assert (run / "report.html").read_text() == "the run's own"
