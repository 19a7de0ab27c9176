"""All stages, cut down: what they leave, and that kills at any moment change nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import tiny_pipeline
import tiny_run
from tiny_pipeline import Killed

from r1jax.metrics import read_jsonl
from r1jax.pipeline.stages import STAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r1")
    plan, out = tiny_pipeline.inputs(folder), folder / "whole"
    tiny_pipeline.begin(out)
    with pytest.MonkeyPatch.context() as patch:
        calls = tiny_pipeline.counted(patch)
        tiny_pipeline.run(plan, out)
    return plan, out, dict(calls)


def test_every_stage_is_done_and_every_model_in_the_table(whole):
    _, out, _ = whole
    for stage in STAGES:
        assert json.loads((out / stage.name / "stage.json").read_text())["stage"] == stage.name
    table = json.loads((out / "evaluate" / "table.json").read_text())
    stages = ["Base", "Zero", "Dev1", "Dev2", "Dev3", "R1"]
    assert table["models"] == [*stages, "Student", "Student, RL alone"]
    assert all(name in (out / "pipeline.html").read_text() for name in table["models"])


def test_reasoning_rows_are_no_more_than_the_ratio_allows(whole):
    _, out, _ = whole
    mixed = read_jsonl(out / "rejection_sft" / "rows.jsonl")
    reasoning = [row for row in mixed if "sample" in row]
    assert 0 < len(reasoning) <= 3 * (len(mixed) - len(reasoning))


def test_rewards_are_by_kind_and_what_is_truly_good_pays_nothing(whole):
    _, out, _ = whole
    reward = json.loads((out / "all_scenarios" / "config.json").read_text())["reward"]
    assert reward["only"] == "accuracy:countdown" and reward["own"].endswith(":quality:0:own")
    kinds = set()
    for sample in read_jsonl(out / "all_scenarios" / "samples.jsonl"):
        parts = sample["components"]
        paid = sum(parts[n] for n in ("format", "language", "safety"))
        kinds.add(sample["problem_id"].partition("/")[0])
        if sample["problem_id"][0].isdigit():
            assert parts["helpful"] == parts["quality"] == 0
            paid += parts["accuracy"]
        else:
            assert 0 < parts["safety"] < 1 and parts["accuracy"] == 0
            paid += parts["helpful"]
        assert sample["reward"] == pytest.approx(paid)
    assert len(kinds) > 3


def test_killed_anywhere_in_any_stage_it_ends_the_same(whole, tmp_path, monkeypatch):
    plan, out, calls = whole
    at = tiny_pipeline.moments(calls, 10, 8)
    tiny_pipeline.begin(tmp_path)
    tiny_pipeline.counted(monkeypatch, at)
    deaths = 0
    while True:
        try:
            tiny_pipeline.run(plan, tmp_path, "--resume=auto")
            break
        except Killed:
            deaths += 1
    assert deaths == len(at)
    assert tiny_pipeline.outcome(tmp_path) == tiny_pipeline.outcome(out)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_kill_9_of_the_command_loses_nothing_that_the_end_would_show(whole, tmp_path):
    """At moments of its own processor time, so that they fall alike on a busy machine."""
    plan, out, _ = whole
    again, rng = tmp_path / "again", random.Random(1)
    tiny_pipeline.begin(again)
    command = [sys.executable, "-m", "experiments.r1", f"--config={plan}", f"--out={again}"]
    for kill in (*(rng.uniform(5, 60) for _ in range(5)), None):
        process = subprocess.Popen(
            [*command, "--resume=auto"],
            env=tiny_run.environment(tmp_path / "cache"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while kill is not None and process.poll() is None and spent(process.pid) < kill:
            time.sleep(0.05)
        if kill is not None:
            process.send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert tiny_pipeline.outcome(again) == tiny_pipeline.outcome(out)


def spent(pid: int) -> float:
    """Seconds of processors that a process has taken."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
