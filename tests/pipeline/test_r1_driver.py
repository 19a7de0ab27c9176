"""The driver of the stages: what it runs, what it leaves alone, and what it says."""

import json
import signal

import pytest

from experiments import r1
from r1jax.checks import InputError
from r1jax.config_file import load_config
from r1jax.pipeline import driver, stages
from r1jax.pipeline.plan import R1Config
from r1jax.pipeline.stages import Stage
from r1jax.run import Stopped


@pytest.fixture
def ran(monkeypatch):
    """Three stages that write a file, and what they did; a stage raises what `fails` has for it."""
    did, fails = [], {}

    def stage(name, needs):
        def run(at):
            if name in fails:
                raise fails.pop(name)
            did.append(name)
            (at.out / name).mkdir(exist_ok=True)
            (at.out / name / "made.txt").write_text(f"{name} {at.cfg.seed}")

        return Stage(name, needs, run, f"what {name} does")

    names = {"zero": (), "cold_start": ("zero",), "reasoning_rl": ("cold_start",)}
    monkeypatch.setattr(stages, "STAGES", tuple(stage(*one) for one in names.items()))
    monkeypatch.setattr(stages, "prepare", lambda at: None)
    monkeypatch.setattr(driver, "write_page", lambda out: out)
    return did, fails


def run(out, *flags):
    r1.main([f"--out={out}", *flags])


def test_stages_run_in_order_and_once(ran, tmp_path):
    did, _ = ran
    run(tmp_path)
    assert did == ["zero", "cold_start", "reasoning_rl"]
    told = json.loads((tmp_path / "zero" / "stage.json").read_text())
    assert told["stage"] == "zero" and told["seconds"] >= 0
    with pytest.raises(InputError, match=f"{tmp_path} already holds a pipeline: --resume"):
        run(tmp_path)
    run(tmp_path, "--resume")
    assert len(did) == 3


def test_until_and_resume_go_on_with_the_configuration_of_the_start(ran, tmp_path):
    did, _ = ran
    run(tmp_path, "--until=zero", "--seed=5", "--zero.steps=7")
    assert did == ["zero"]
    run(tmp_path, "--resume")
    assert did == ["zero", "cold_start", "reasoning_rl"]
    assert (tmp_path / "reasoning_rl" / "made.txt").read_text() == "reasoning_rl 5"
    cfg = load_config(R1Config, tmp_path / "config.json")
    assert (cfg.zero.steps, cfg.seed, cfg.resume) == (7, 5, "no")


def test_from_moves_what_was_there_and_takes_other_flags(ran, tmp_path):
    did, _ = ran
    run(tmp_path)
    run(tmp_path, "--from=cold_start", "--seed=1")
    assert did[3:] == ["cold_start", "reasoning_rl"]
    assert (tmp_path / "before/1/cold_start/made.txt").read_text() == "cold_start 0"
    assert (tmp_path / "cold_start/made.txt").read_text() == "cold_start 1"
    run(tmp_path, "--from=reasoning_rl", "--until=reasoning_rl")
    assert did[5:] == ["reasoning_rl"]
    assert (tmp_path / "before/2/reasoning_rl").exists()


@pytest.mark.parametrize(
    "flag",
    ["heldout", "cold-start.data", "rejection-sft.data", "rejection-sft.general", "distill.data"],
)
def test_a_file_that_is_not_there_is_named_before_the_first_stage(ran, tmp_path, flag):
    with pytest.raises(InputError, match=f"--{flag}=nowhere: no such file"):
        run(tmp_path, f"--{flag}=nowhere")
    assert ran[0] == [] and not any(tmp_path.iterdir())


def test_a_stage_that_fails_is_named_and_is_the_next_to_run(ran, tmp_path):
    did, fails = ran
    fails["cold_start"] = InputError("rows.jsonl:3: broken")
    with pytest.raises(InputError, match=r"^stage cold_start: rows.jsonl:3: broken$"):
        run(tmp_path)
    fails["cold_start"] = Stopped("stopped by SIGTERM", signal.SIGTERM, "python -m other")
    with pytest.raises(Stopped, match=f"stage cold_start: .* --resume --out={tmp_path}$"):
        run(tmp_path, "--resume")
    run(tmp_path, "--resume")
    assert did == ["zero", "cold_start", "reasoning_rl"]


def test_a_folder_put_in_a_stages_place_is_taken(ran, tmp_path):
    did, _ = ran
    with pytest.raises(InputError, match=f"stage cold_start needs {tmp_path}/zero, and it is not"):
        run(tmp_path, "--from=cold_start")
    (tmp_path / "zero").mkdir()
    run(tmp_path, "--from=cold_start")
    assert did == ["cold_start", "reasoning_rl"]


def test_what_stands_behind_a_stage_that_is_made_is_made_anew(ran, tmp_path):
    did, _ = ran
    run(tmp_path, "--until=zero")
    (tmp_path / "cold_start").mkdir()
    run(tmp_path, "--from=reasoning_rl")
    run(tmp_path, "--resume")
    assert did == ["zero", "reasoning_rl", "cold_start", "reasoning_rl"]
    assert (tmp_path / "before/1/reasoning_rl/made.txt").exists()


def test_a_model_of_ones_own_is_given_and_a_refused_start_begins_nothing(ran, tmp_path):
    did, fails = ran
    fails["zero"] = InputError("no data")
    with pytest.raises(InputError, match="no data"):
        run(tmp_path)
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "model.safetensors").write_text("")
    run(tmp_path, "--from=cold_start", "--until=cold_start")
    run(tmp_path, "--resume")
    assert did == ["cold_start", "reasoning_rl"]


@pytest.mark.parametrize("flag", ["--zero.steps=7", "--zero.rl.group=2", "--seed=3"])
def test_a_stage_that_is_done_keeps_its_configuration(ran, tmp_path, flag):
    did, _ = ran
    run(tmp_path, "--until=zero")
    with pytest.raises(InputError, match=f"^{flag}: stage zero is done, with .*--from=zero {flag}"):
        run(tmp_path, "--resume", flag)
    run(tmp_path, "--resume", "--cold-start.limit=3", "--mesh=4x2")  # what is still to be done
    assert did == ["zero", "cold_start", "reasoning_rl"]
    run(tmp_path, "--from=zero", flag)
    assert did[3:] == ["zero", "cold_start", "reasoning_rl"]


def test_problems_to_be_held_out_are_read_before_anything_is_trained(ran, tmp_path):
    (folder := tmp_path / "problems").mkdir()
    with pytest.raises(InputError, match=f"^--heldout={folder}: holds none of"):
        run(tmp_path / "out", f"--heldout={folder}")
    (folder / "mine.jsonl").write_text("{bad\n")
    with pytest.raises(InputError, match=r"mine.jsonl:1: "):
        run(tmp_path / "out", f"--heldout={folder}")
    assert ran[0] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from=cold"], "^--from=cold: expected one of zero, cold_start, reasoning_rl"),
        (["--until=cold"], "^--until=cold: expected one of zero, cold_start, reasoning_rl"),
        (["--from=cold_start", "--until=zero"], "--from=cold_start comes after --until=zero"),
        (["--resume"], "--resume: .* holds no pipeline to go on with"),
        (["--zero.steps=0"], "--zero.steps must be positive, got 0"),
        (["--reasoning-rl.rl.group=1"], "--reasoning-rl.rl.group=1: a reply is compared"),
        (["--cold-start.epochs=2"], "did you mean --cold-start.sft.epochs"),
        (["--zero.seed=9"], r"--zero.seed=9: the pipeline's is every stage's: --seed"),
        (["--cold-start.sft.out=x"], r"--cold-start.sft.out=x: the pipeline's .*: --out"),
        (["--preset=huge"], "--preset=huge: expected one of tiny, paper"),
    ],
)
def test_what_cannot_be_is_one_line(ran, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, *flags)
    assert ran[0] == []
