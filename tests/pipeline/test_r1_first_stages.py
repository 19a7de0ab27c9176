"""The first stages and the evaluation, cut down: what they leave, and that stopping them changes
nothing. (All of them: test_r1_whole.py.)"""

import json

import pytest
import tiny_pipeline
from tiny_pipeline import Killed

from r1jax.checks import InputError
from r1jax.metrics import read_jsonl
from r1jax.pipeline import rows


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(the plan, the folder, how many steps and replies there were)."""
    folder = tmp_path_factory.mktemp("r1")
    plan, out = tiny_pipeline.inputs(folder), folder / "whole"
    tiny_pipeline.begin(out)
    with pytest.MonkeyPatch.context() as patch:
        calls = tiny_pipeline.counted(patch)
        tiny_pipeline.run(plan, out, "--until=cold_start")
        tiny_pipeline.run(plan, out, "--from=evaluate")
    return plan, out, dict(calls)


def test_a_stage_leaves_what_the_next_one_reads(first):
    _, out, _ = first
    for name in ("zero", "cold_start", "evaluate"):
        assert json.loads((out / name / "stage.json").read_text())["stage"] == name
    kept = read_jsonl(out / "cold_start" / "rows.jsonl")
    for row in kept:
        assert row["completion"].startswith("<think> check right </think> the answer is 1")
        assert row["drawn"] != row["completion"] and "says the answer" in row["changed"]
        assert {"id", "sample", "model", "weights", "seed", "reason"} <= set(row)
    dropped = read_jsonl(out / "cold_start" / "dropped.jsonl")
    assert {"wrong", "mixed language"} <= {row["reason"] for row in dropped}
    drawn = json.loads((out / "cold_start/drawn/counts.json").read_text())
    assert len(kept) + len(dropped) == drawn["replies"] == 8 * 7


def test_the_table_and_the_page_have_every_model_there_is(first):
    _, out, _ = first
    table = json.loads((out / "evaluate" / "table.json").read_text())
    assert table["models"] == ["Base", "Zero", "Dev1"]
    assert set(table["measures"]["reasoning"]["values"]) == set(table["models"])
    assert table["measures"]["followed"]["paper"]["R1"] == 83.3
    page = (out / "pipeline.html").read_text()
    assert all(name in page for name in table["models"])
    assert "<script" not in page and "src=" not in page and "href=" not in page
    assert "<mark>对</mark>" in page


def test_killed_at_random_it_ends_the_same(first, tmp_path, monkeypatch):
    plan, out, calls = first
    at = tiny_pipeline.moments(calls, 2, 2)
    tiny_pipeline.begin(tmp_path)
    tiny_pipeline.counted(monkeypatch, at)
    deaths = 0
    done = False
    while not done:
        try:
            tiny_pipeline.run(plan, tmp_path, "--until=cold_start", "--resume=auto")
            begun = (tmp_path / "evaluate").exists()
            tiny_pipeline.run(plan, tmp_path, *(["--resume"] if begun else ["--from=evaluate"]))
            done = True
        except Killed:
            deaths += 1
    assert deaths == len(at)
    assert tiny_pipeline.outcome(tmp_path) == tiny_pipeline.outcome(out)


def test_rows_of_ones_own_take_the_place_of_what_is_drawn(first, tmp_path):
    plan, _, _ = first
    tiny_pipeline.begin(tmp_path)
    mine = tmp_path / "mine.jsonl"
    row = {"prompt": "use 1 1 to make 2", "completion": "<think> check right </think> 1 + 1"}
    rows.write(mine, [row] * 20)
    flags = ("--from=cold_start", "--until=cold_start", f"--cold-start.data={mine}")
    with pytest.raises(InputError, match=r"stage cold_start needs .*/zero, and it is not there"):
        tiny_pipeline.run(plan, tmp_path, *flags)
    (tmp_path / "zero").mkdir()
    tiny_pipeline.run(plan, tmp_path, *flags)
    assert not (tmp_path / "cold_start" / "drawn").exists()
    config = json.loads((tmp_path / "cold_start" / "config.json").read_text())
    assert config["data"] == str(mine)
    mine.write_text('{"prompt": "use"}\n')
    with pytest.raises(InputError, match=r'stage cold_start: .*mine.jsonl:1: missing field "comp'):
        tiny_pipeline.run(plan, tmp_path, *flags)
