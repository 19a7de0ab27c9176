"""python -m experiments.baseline, from a run's folder to what the verdict reads."""

import dataclasses
import json
import shutil

import pytest
import tiny_run

from experiments import baseline
from r1jax.architecture import LoraConfig
from r1jax.checks import InputError
from r1jax.config import RunConfig
from r1jax.config_file import load_config
from r1jax.model.adapters import has_adapters


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return tiny_run.run(tiny_run.inputs(folder), folder / "run", "--steps=1")


def test_it_counts_replies_at_every_temperature(run, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    capsys.readouterr()
    baseline.main([str(out), "--samples=3", "--temperatures=0.01,1"])
    told = json.loads((out / "baseline.json").read_text())
    assert set(told["by_temperature"]) == {"0.01", "1"}
    n = 3 * told["questions"]
    (cold, warm) = told["by_temperature"].values()
    assert cold[1] == warm[1] == n
    said = capsys.readouterr().out
    assert f"1       {warm[0]:,} of {n:,} replies reflect" in said
    perplexity = told["likelihood"]["perplexity"]
    assert perplexity["base"]["n"] == perplexity["run"]["n"] == n  # three of three samples
    assert 1 < perplexity["base"]["value"] < 108 and "perplexity under the base: base" in said
    assert set(told["competence"]) == {"base", "run"}
    assert told["competence"]["base"] != told["competence"]["run"]
    # Its hand-made base says "check" or "right" behind <think>, and "wait" behind "check".
    assert told["max_first_token_probability"] > 0.3
    with pytest.raises(InputError, match=r"baseline.json is there already: remove it, or give"):
        baseline.main([str(out)])


def test_the_base_of_a_run_with_adapters_is_the_model_they_stand_beside(run, tmp_path):
    cfg = load_config(RunConfig, run / "config.json")
    beside = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, lora=LoraConfig(rank=2)))
    asked = baseline.BaselineConfig(run=str(run), samples=1, questions=2)
    plain, adapted = (baseline.Look(asked, one) for one in (cfg, beside))
    assert has_adapters(adapted.weights.params)
    assert adapted.drawn(1.0, 0) == plain.drawn(1.0, 0)


def test_the_same_seed_finds_the_same(run, tmp_path):
    told = []
    for name in "ab":
        file = tmp_path / name
        baseline.main([str(run), "--samples=2", "--temperatures=1.2", f"--out={file}"])
        told.append(json.loads(file.read_text()))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "args, says",
    [
        ([], "a run is needed: python -m experiments.baseline runs/r1_zero"),
        (["nowhere"], "nowhere: no such folder"),
        (["x", "--samples=0"], "--samples must be positive, got 0"),
        (["x", "--likely-samples=-1"], "--likely-samples must not be negative, got -1"),
        (["x", "--questions=-1"], "--questions must not be negative, got -1"),
        (["x", "--temperatures=0,1"], "--temperatures=0,1: expected positive numbers by commas"),
        (["x", "--temperatures=warm"], "--temperatures=warm: expected positive numbers"),
        (["x", "--sample=3"], "Unrecognized options: --sample=3: did you mean --samples"),
    ],
)
def test_bad_input_is_one_line(args, says):
    with pytest.raises(InputError, match=says):
        baseline.main(args)
