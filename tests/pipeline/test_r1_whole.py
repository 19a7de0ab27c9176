"""All stages, in a cut-down pipeline: what they leave, and that stopping them changes nothing."""

import json
import random

import pytest
import tiny_pipeline

from experiments import r1
from r1jax.evaluation.replies import Lines
from r1jax.pipeline import rows
from r1jax.pipeline.stages import STAGES
from r1jax.run import Run


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r1")
    plan, out = tiny_pipeline.inputs(folder), folder / "whole"
    tiny_pipeline.begin(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r1jax.pipeline.runs.write_report", lambda out: None)  # figures take long
        calls = counted(patch)
        r1.main([f"--config={plan}", f"--out={out}"])
    return plan, out, dict(calls)


def counted(patch, kill_at=()):
    """Counts the steps that end and the replies that are kept; dies at some of them, before they
    are. kill_at: (name, number)."""
    calls = {"step": 0, "reply": 0}

    def counting(name, function):
        def wrapped(*args, **kwargs):
            calls[name] += 1
            if (name, calls[name]) in kill_at:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    patch.setattr(Run, "end_step", counting("step", Run.end_step))
    patch.setattr(Lines, "add", counting("reply", Lines.add))
    return calls


def test_every_stage_leaves_what_the_next_one_reads(whole):
    _, out, _ = whole
    for stage in STAGES:
        assert json.loads((out / stage.name / "stage.json").read_text())["stage"] == stage.name
    kept = rows.read(out / "cold_start" / "rows.jsonl")
    for row in kept:
        assert row["completion"].startswith("<think> check right </think> the answer is 1")
        assert row["drawn"] != row["completion"] and "says the answer" in row["changed"]
        assert {"id", "sample", "model", "weights", "seed", "reason"} <= set(row)
    dropped = rows.read(out / "cold_start" / "dropped.jsonl")
    assert {"wrong", "mixed language"} <= {row["reason"] for row in dropped}
    drawn = json.loads((out / "cold_start/drawn/counts.json").read_text())
    assert len(kept) + len(dropped) == drawn["replies"] == 8 * 7
    mixed = rows.read(out / "rejection_sft" / "rows.jsonl")
    reasoning = [row for row in mixed if "sample" in row]
    assert 0 < len(reasoning) <= 3 * (len(mixed) - len(reasoning))


def test_rewards_are_by_kind_and_what_is_truly_good_pays_nothing(whole):
    _, out, _ = whole
    reward = json.loads((out / "all_scenarios" / "config.json").read_text())["reward"]
    assert reward["only"] == "accuracy:countdown" and reward["own"].endswith(":quality:0:own")
    for sample in rows.read(out / "all_scenarios" / "samples.jsonl"):
        parts = sample["components"]
        paid = sum(parts[n] for n in ("format", "language", "safety"))
        if sample["problem_id"][0].isdigit():
            assert parts["helpful"] == parts["quality"] == 0
            paid += parts["accuracy"]
        else:
            assert 0 < parts["safety"] < 1 and parts["accuracy"] == 0
            paid += parts["helpful"]
        assert sample["reward"] == pytest.approx(paid)


def test_the_table_and_the_page_have_every_model(whole):
    _, out, _ = whole
    table = json.loads((out / "evaluate" / "table.json").read_text())
    stages = ["Base", "Zero", "Dev1", "Dev2", "Dev3", "R1"]
    assert table["models"] == [*stages, "Student", "Student, RL alone"]
    values = table["measures"]["reasoning"]["values"]
    assert set(values) == set(table["models"])
    assert table["measures"]["followed"]["paper"]["R1"] == 83.3
    page = (out / "pipeline.html").read_text()
    assert all(name in page for name in table["models"])
    assert "<script" not in page and "src=" not in page and "href=" not in page
    assert "<mark>对</mark>" in page


def test_killed_anywhere_in_any_stage_it_ends_the_same(whole, tmp_path, monkeypatch):
    plan, out, calls = whole
    rng, again = random.Random(0), tmp_path / "again"
    at = {("step", n) for n in rng.sample(range(1, calls["step"]), 8)}
    at |= {("reply", n) for n in rng.sample(range(1, calls["reply"]), 6)}
    tiny_pipeline.begin(again)
    monkeypatch.setattr("r1jax.pipeline.runs.write_report", lambda out: None)
    counted(monkeypatch, at)
    deaths = 0
    while True:
        try:
            r1.main([f"--config={plan}", f"--out={again}", "--resume=auto"])
            break
        except Killed:
            deaths += 1
    assert deaths == len(at)
    assert tiny_pipeline.outcome(again) == tiny_pipeline.outcome(out)
