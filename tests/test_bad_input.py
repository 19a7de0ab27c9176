"""Bad input is one clear line and exit code 2; it overwrites nothing."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_run

from experiments import cli, generate, pretrain_base, r1_zero
from experiments.r1_zero import tiers_unread
from r1jax.base import save_weights
from r1jax.checks import InputError
from r1jax.config import RunConfig
from r1jax.config_file import save_config
from r1jax.metrics import read_jsonl
from r1jax.presets import RUNS
from r1jax.rewards import checks
from r1jax.rl.types import Rollout, Rows


@pytest.fixture
def folder(tmp_path):
    """With config.json, problems.jsonl and base.safetensors of a run that would do."""
    tiny_run.inputs(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return tiny_run.run(tiny_run.inputs(folder), folder / "run", "--steps=1")


@pytest.fixture
def error_of(monkeypatch, capfd):
    """error_of(*flags): the line on stderr that a command with these flags ends with."""

    def error_of(*flags, main=r1_zero.main) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.run(main)
        assert exit.value.code == 2
        error = capfd.readouterr().err
        assert error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1
        return error

    return error_of


def steps(out) -> list[dict]:
    path = out / "metrics.jsonl"
    return read_jsonl(path) if path.exists() else []


@pytest.fixture
def error_in(error_of, folder):
    """error_in(*flags): of the run in `folder` with these flags, which must leave no step."""

    def error_in(*flags) -> str:
        error = error_of(f"--config={folder}/config.json", f"--out={folder}/run", *flags)
        assert not steps(folder / "run")
        return error

    return error_in


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--flag=1"], "Unrecognized options: --flag=1"),
        (["--rl.questons=3"], "--rl.questons=3"),
        (["word"], "Unrecognized options: word"),
        (["--steps=many"], "--steps: invalid literal for int() with base 10: 'many'"),
        (["--steps=0"], "--steps must be positive, got 0"),
        (["--reward.accuracy=nan"], "--reward.accuracy must be finite, got nan"),
        (["--reward.accuracy=0", "--reward.format=0"], "every weight is 0, so there is no reward"),
        (["--reward.target-language=xx"], "language 'xx' is not known; expected one of ar, bg"),
        (["--reward="], "--reward= is empty: expected FILE.py:FUNCTION"),
        (["--reward=a.py:f", "--reward.own=a.py:g"], "--reward and --reward.own are the same"),
        (["--optim.bias-rate=nan"], "--optim.bias-rate must be finite and not negative, got"),
        (["--optim.lr=inf"], "--optim.lr must be finite"),
        (["--optim.weight-decay=-1"], "--optim.weight-decay must be finite and not negative"),
        (["--optim.b1=2"], "--optim.b1 must be less than 1, got 2.0"),
        (["--sampling.temperature=inf"], "--sampling.temperature must be finite"),
        (["--rl.kl-coef=-1"], "--rl.kl-coef must not be negative, got -1.0"),
        (["--rl.routing-replay=maybe"], "--rl.routing-replay=maybe: expected true or false"),
        (["--rl.overlong-weight=0.9"], "--rl.overlong-weight=0.9 weighs no penalty"),
        (["--tiers=5", "--data=a.jsonl"], "--tiers=5 is of the embedded countdown: not with task"),
        (["--rl.minibatches=3"], "--rl.minibatches=3 must divide"),
        (["--rl.critic-lr=1e-3"], "--rl.critic-lr=0.001: algorithm=grpo has no critic, only"),
        (["--rl.algorithm=ppo", "--rl.value-clip=0"], "--rl.value-clip must be positive, got"),
        (["--rl.algorithm=ppo", "--rl.gae-lambda=1.1"], "--rl.gae-lambda must lie in [0, 1]"),
        (["--rl.algorithm=ppo", "--rl.gamma=nan"], "--rl.gamma must lie in [0, 1], got nan"),
        (["--rl.algorithm=ppo", "--rl.critic-lr=inf"], "--rl.critic-lr must be finite"),
        (
            [
                "--rl.algorithm=ppo",
                "--model.param-dtype=bfloat16",
                "--optim.lr=0.1",
                "--rl.critic-lr=1e-6",
            ],
            "--model.param-dtype=bfloat16 cannot hold updates of --rl.critic-lr=1e-06",
        ),
        (["--sampling.slots=100"], "--sampling.refill=16 must divide --sampling.slots=100"),
        (["--sampling.top-p=0.9"], "RL needs temperature > 0, top_p = 1 and top_k = 0"),
        (["--task=chess"], "invalid choice 'chess'"),
        (["--task=gsm8k"], "--task=gsm8k needs --data=FILE"),
        (["--log=tensorbord"], "no log is called 'tensorbord', there are tensorboard, wandb"),
        (["--preset=huge"], "--preset=huge: expected one of tiny, tiny_dapo, tiny_student, small"),
        (["--mesh=3y"], "--mesh=3y: expected FSDPxEXPERT such as 8x8"),
        (["--config=/absent/config.json"], "/absent/config.json: No such file"),
        (["--tokenizer=/absent.json"], "/absent.json: no such file"),
        (["--heldout-share=0.0001"], "--heldout-share=0.0001 leaves 1,959 problems to train on"),
        (["--model.d-model=32"], "the embedded base was made with --model.d-model=64, not 32"),
        (["--model.vocab=50"], "tokenizer (embedded) has 108 tokens, but model.vocab is 50"),
    ],
)
def test_flags(error_of, tmp_path, flags, message):
    assert message in error_of(f"--out={tmp_path}/run", *flags)
    assert not steps(tmp_path / "run")
    assert "--log" not in flags[0] or not (tmp_path / "run").exists()


def test_switches_and_none_as_people_write_them():
    flags = ["--rl.routing-replay=True", "--rl.algorithm=ppo", "--rl.gamma=none"]
    cfg = cli.parse(RunConfig, RUNS["tiny"](), flags, "")
    assert cfg.rl.routing_replay and cfg.rl.gamma is None
    cfg = cli.parse(RunConfig, cfg, ["--rl.routing-replay=false", "--log-replies=false"], "")
    assert not cfg.rl.routing_replay and not cfg.log_replies


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--mesh=1x3", "8 experts do not divide over 3 expert-parallel devices"),
        ("--mesh=8x4", "--mesh=8x4 needs 32 devices, but there are 8 (cpu)"),
    ],
)
def test_meshes(error_in, flag, message):
    assert message in error_in(flag)


GOOD = {"numbers": [1, 1, 1, 1], "target": 2}


@pytest.mark.parametrize(
    "row, message",
    [
        ("{", "problems.jsonl:3: invalid JSON"),
        ("[]", "problems.jsonl:3: expected a JSON object"),
        ({"numbers": [1, 1, 1, 1]}, 'problems.jsonl:3: missing field "target"'),
        (GOOD | {"target": "2"}, 'problems.jsonl:3: field "target" must be of type int'),
        (GOOD | {"numbers": [1, 2]}, "countdown/problems/3: the embedded tokenizer knows 3 to 6"),
        (
            GOOD | {"target": 99},
            "numbers from 1 to 9, and targets of them, not 99",
        ),
        (GOOD, "--heldout-share=0.3 leaves 0 problems to train on and 2 held out"),
    ],
)
def test_data(error_in, folder, row, message):
    lines = [json.dumps(GOOD), "", row if isinstance(row, str) else json.dumps(row)]
    (folder / "problems.jsonl").write_text("\n".join(lines))
    assert message in error_in()


def test_data_that_is_not_there(error_in, folder):
    (folder / "problems.jsonl").unlink()
    assert f"{folder}/problems.jsonl: No such file or directory" in error_in()


def test_a_file_may_change_a_few_fields_of_a_preset(tmp_path):
    """In YAML, too, which reads 3e-6 as text; flags go on top."""
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\noptim: {lr: 3e-6}\nrl:\n  group: 8\n")
    args = [f"--config={file}", "--preset=tiny_dapo"]
    cfg = cli.starting_config(RUNS, "tiny", args)
    preset = RUNS["tiny_dapo"]()
    assert (cfg.steps, cfg.optim.lr, cfg.rl.group) == (7, 3e-6, 8) and not args
    changed = {"steps": preset.steps, "optim": preset.optim, "rl": preset.rl}
    assert dataclasses.replace(cfg, **changed) == preset
    assert dataclasses.replace(cfg.rl, group=16) == preset.rl
    file.write_text("model: {attention: {heads: 2, kv_heads: 1, head_dim: 4}}\n")
    assert cli.starting_config(RUNS, "tiny", [f"--config={file}"]).model.attention.kv_heads == 1


@pytest.mark.parametrize("resume", [["--resume"], ["--resume", "auto"], ["--resume=yes"]])
def test_what_a_run_was_started_with_is_kept(tmp_path, resume):
    """Its command goes on with --resume behind it, and nothing that is not said is lost."""
    args = [f"--out={tmp_path}", "--seed=3", "--rl.group=8"]
    started = cli.parse(RunConfig, RUNS["tiny_dapo"](), args, "")
    save_config(dataclasses.replace(started, resume="no"), tmp_path / "config.json")
    (tmp_path / "run.json").write_text('{"preset": "tiny_dapo"}')
    file = tmp_path / "mine.yaml"
    file.write_text("rl: {questions: 4}\n")

    def resumed(*flags):
        args = [f"--out={tmp_path}", *flags, *resume]
        return cli.parse(RunConfig, cli.starting_config(RUNS, "tiny", args), args, "")

    how = resumed().resume
    assert how == ("auto" if "auto" in resume else "yes")
    started = dataclasses.replace(started, resume=how)
    assert resumed() == resumed("--preset=tiny_dapo") == started
    rl = dataclasses.replace(started.rl, questions=4)
    assert resumed(f"--config={file}") == dataclasses.replace(started, rl=rl)
    with pytest.raises(
        InputError, match=r"^--preset=tiny: .* was started with tiny_dapo, and goes"
    ):
        resumed("--preset=tiny")


def test_a_base_that_never_read_what_is_asked_is_told():
    preset = RUNS["tiny"]()
    asked = dataclasses.replace(preset, tiers="3,4,5")
    told = "warning: --tiers=3,4,5: the base has read no problem of 3,5 numbers (--corpus.tiers=4)"
    assert tiers_unread(asked).startswith(told) and not tiers_unread(preset)
    corpus = dataclasses.replace(preset.corpus, tiers="3,4,5")
    read = dataclasses.replace(asked, base="train", corpus=corpus)
    assert not tiers_unread(read)
    other = dataclasses.replace(preset.corpus, tiers="3")
    assert tiers_unread(dataclasses.replace(preset, corpus=other))
    assert not tiers_unread(dataclasses.replace(preset, corpus=other, data="mine.jsonl"))
    assert not tiers_unread(dataclasses.replace(asked, base="runs/mine"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("steps: true\n", 'field "steps" - should be "int" instead of value "True"'),
        ("optim: {lr: true}\n", 'field "optim.lr" - should be "float" instead of value "True"'),
        ("optim: {lr: much}\n", 'field "optim.lr" - should be "float" instead of value "much"'),
        ("rl:\n  group: 4\n  seed: 1\n  group: 8\n", "mine.yaml: group is given 2 times"),
        ("rl.group: 8\n", "no field rl.group: write rl: {group: ...}"),
        ("tiers: true\n", 'field "tiers" - should be "str"'),
    ],
)
def test_yaml_is_taken_for_what_it_says(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        cli.starting_config(RUNS, "tiny", [f"--config={file}"])
    assert message in str(error.value)


def test_yaml_under_another_name_is_told_where_it_is_read(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("steps: 3\n")
    with pytest.raises(InputError, match=r"mine.txt: not JSON: .*; YAML is read from .yaml and"):
        cli.starting_config(RUNS, "tiny", [f"--config={file}"])


def test_numbers_in_yaml_are_texts_where_texts_are_wanted(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("tiers: 4\nmesh: 8\n")
    cfg = cli.starting_config(RUNS, "tiny", [f"--config={file}"])
    assert (cfg.tiers, cfg.mesh) == ("4", "8")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"color": 1}, "config.json: no field color"),
        ({"rl": {"groups": 1}}, "no field rl.groups: did you mean rl.group?"),
        ({"model": {"attention": {"head": 1}}}, "config.json: "),
        ({"steps": "3"}, 'wrong value type for field "steps" - should be "int"'),
        ({"steps": -3}, "RunConfig.steps must be positive, got -3"),
        ({"task": "chess"}, 'wrong value type for field "task"'),
        ("", "Expecting value"),
        ('{"steps": 3, "seed": 1, "steps": 4}', "steps is given 2 times"),
        ("[]", "expected an object of fields"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_config_files(error_in, folder, change, message):
    config = folder / "config.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(config.read_text()) | change)
    config.write_bytes(change if isinstance(change, bytes) else change.encode())
    error = error_in()
    assert message in error and str(config) in error


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--base=absent"], "--base=absent: neither embedded, train or random, nor a file"),
        (["--base={folder}"], "no checkpoints in this folder"),
        (["--base={folder}/config.json"], "config.json: Error while deserializing"),
        (["--model.d-model=18"], "embed_VD has shape (108, 16), this model (108, 18)"),
        (["--model.dense-layers=1", "--model.dense-ffn=9"], "params.dense.attention_norm_D is mis"),
        (
            ["--model.dense-layers=1", "--model.dense-ffn=9", "--rl.routing-replay"],
            "--rl.routing-replay: the model has no MoE layers, so there is no routing to replay",
        ),
    ],
)
def test_base_of_another_model(error_in, folder, flags, message):
    assert message in error_in(*(flag.format(folder=folder) for flag in flags))


@pytest.mark.slow
def test_a_run_that_never_began_leaves_its_folder_free(error_in, folder):
    error_in("--base=absent")
    out = tiny_run.run(folder / "config.json", folder / "run", "--steps=1")
    assert [row["step"] for row in steps(out)] == [0, 1]


def test_base_from_a_run_of_another_model(error_in, finished):
    error = error_in(f"--base={finished}", "--model.router.active=3")
    assert "checkpoint of another model: model.router.active is 2, this run has 3" in error


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--reward.models=safe=/absent:1", "--reward.models=safe=/absent: /absent/config.json: No"),
        ("--sampling.max-prompt=8", "more than --sampling.max-prompt=8 tokens; the longest"),
        ("--sampling.max-tokens=60", "--sampling.max-tokens=60 together exceed --model.context=32"),
    ],
)
def test_too_long(error_in, flag, message):
    assert message in error_in(flag)


def test_a_run_of_another_kind_is_no_reward_model(error_in, finished):
    error = error_in(f"--reward.models=safe={finished}")
    assert f"={finished}: {finished}: its config.json is of something else than a run of" in error


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lost", ["", "metrics.jsonl", "checkpoints"])
def test_a_folder_that_holds_a_run_is_left_as_it_is(error_of, finished, tmp_path, lost):
    """Also where a part of that run was moved away."""
    out = shutil.copytree(finished, tmp_path / "run")
    if lost:
        (out / lost).rename(tmp_path / lost)
    before = contents(out)
    error = error_of(f"--config={out}/config.json", f"--out={out}", "--seed=7")
    assert f"{out} already holds a run: resume it or choose another folder" in error
    assert contents(out) == before


def test_an_unwritable_folder(error_in, folder):
    """Below a file, where no one may write, not even root."""
    error = error_in(f"--out={folder}/problems.jsonl/run")
    assert "Not a directory" in error and f"{folder}/problems.jsonl/run" in error


def test_a_models_own_folder_is_not_written_to(error_in, folder):
    (folder / "run" / "model.safetensors").parent.mkdir()
    (folder / "run" / "model.safetensors").write_text("")
    (folder / "run" / "config.json").write_text("{}")
    assert f"--out={folder / 'run'}: a model stands there, model.safetensors" in error_in()
    assert (folder / "run" / "config.json").read_text() == "{}"


def test_a_loss_that_is_not_finite_saves_and_names_its_batch(error_in, folder):
    base = tiny_run.weights()
    bad = base.params.norm_D.at[3].set(np.nan)
    base = base.replace(params=base.params.replace(norm_D=bad))
    save_weights(base, folder / "base.safetensors", {})
    path = folder / "run" / "nan_step_0.npz"
    assert f"step 0: the loss is not finite; its batch is saved as {path}" in error_in()
    record = (folder / "run" / "flight_nan_step_0.txt").read_text()
    assert "the loss of step 0 is not finite" in record and f"batch     {path}" in record
    norms = record.partition("gradient norms")[2].partition("\n\n")[0].split("\n")[1:]
    layers = [f"moe.{i}" for i in range(tiny_run.CONFIG.model.moe_layers)]
    parts = sorted(line.partition(":")[0].strip() for line in norms)
    assert parts == sorted(["embed_VD", *layers, "norm_D", "head_DV"])
    assert all(line.endswith("nan") for line in norms)
    batch = np.load(path)
    rows = {f"rows.{field.name}" for field in dataclasses.fields(Rows)}
    rows -= {"rows.experts_BTLK"}  # of routing replay alone
    assert set(batch) == {f.name for f in dataclasses.fields(Rollout)} - {"rows"} | rows
    assert np.isnan(batch["rows.old_logp_BT"][batch["rows.reply_BT"]]).all()


def test_a_step_whose_graders_all_failed(error_in, monkeypatch):
    before = itertools.count()

    def broken(*_):
        if next(before) >= 6:  # the problems, whose references are tried before the run
            raise KeyError("a bug")
        return False

    monkeypatch.setattr(checks, "check_countdown", broken)
    error = error_in()
    assert "step 0: every reply's grader failed (" in error
    assert error.endswith("replies have an answer): KeyError: 'a bug'\n")


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--corpus.reflective=2", "--corpus.reflective must lie in [0, 1], got 2.0"),
        ("--steps=3", "Unrecognized options: --steps=3"),
        ("--mesh=x", "--mesh=x: expected FSDPxEXPERT"),
    ],
)
def test_pretrain_base(error_of, flag, message):
    assert message in error_of(flag, main=pretrain_base.main)


@pytest.mark.parametrize("module", ["experiments.r1_zero", "experiments.pretrain_base"])
@pytest.mark.slow
def test_the_commands_themselves(module):
    command = [sys.executable, "-m", module, "--flag"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: Unrecognized options: --flag\n"


def test_ctrl_c_while_a_command_is_imported_is_one_line(tmp_path):
    (tmp_path / "jax.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    # Shells have what they start in the background ignore it, tests and all.
    heard = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.executable, [sys.executable, '-m', 'experiments.r1_zero'])"
    )
    command = [sys.executable, "-S", "-c", heard]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"stopped by Ctrl-C\n")


def test_a_command_s_own_flag_is_named_for_the_field_that_it_sets(error_of):
    error = error_of("--model=embedded", "--prompt=use", "--draft-tokens=9", main=generate.main)
    assert error == "error: --draft-tokens must be at most 7, got 9\n"
