"""Every command says what it is, helps, and ends with one line where something is wrong."""

import errno
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import cli, errors, r1_zero, reward_model, sft
from experiments.__main__ import HERE, commands, main
from r1jax.checks import InputError
from r1jax.pipeline import tuning
from r1jax.presets import REWARD_MODELS, RUNS

MODULES = {
    "__init__",
    "__main__",
    "asking",
    "cli",
    "errors",
    "bench.__init__",
    "bench.dense_task",
    "bench.dense_trl",
    "bench.dense_tunix",
    "bench.rewrites",
}  # no commands


def test_all_commands_are_listed_with_a_line(capsys):
    main()
    out = capsys.readouterr().out
    for name, line in commands().items():
        assert name in out and line in out and len(line) > 20
    files = {".".join(p.relative_to(HERE).with_suffix("").parts) for p in HERE.rglob("*.py")}
    assert commands().keys() == {name.removesuffix(".__main__") for name in files - MODULES}


ONE = "r1_zero"  # each starts Python and JAX anew: the others are slow tests


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == ONE else [pytest.mark.slow]) for n in sorted(commands())],
)
def test_help_works(name):
    command = [sys.executable, "-m", f"experiments.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # What argparse and tyro print of a command that was started in this way.
    assert f"python -m experiments.{name}" in done.stdout


def help_of(main, capsys) -> str:
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [r1_zero, reward_model, sft])
def test_help_says_every_option_once(command, capsys):
    text = help_of(command.main, capsys)
    options = Counter(re.findall(r"^[│ ] (--[a-z][\w.-]*)", text, re.M))
    assert set(options.values()) == {1}
    assert {"--mesh", "--resume", "--distributed", "--seed", "--optim.lr"} <= options.keys()
    if command is not reward_model:
        assert "--model" in options
    if command is not sft:
        assert {"--preset", "--config"} <= options.keys()
        presets = RUNS if command is r1_zero else REWARD_MODELS
        assert all(re.search(rf"  {name}  +\w", text) for name in presets)


def test_a_remark_on_one_field_is_not_given_to_those_that_follow(capsys):
    text = " ".join(help_of(r1_zero.main, capsys).replace("│", " ").split())
    for remark in ("Which numbers are a pair", "Pairs that turn", "splits YaRN", "Of the penalty,"):
        assert text.count(remark) == 1
    assert "How it runs, not what it is" not in text and "--model.dtype" in text


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--stepz=3", "Unrecognized options: --stepz=3: did you mean --steps?"),
        ("--rl.questons=3", "--rl.questons=3: did you mean --rl.questions?"),
        ("--lr=1e-3", "--lr=1e-3: did you mean --optim.lr?"),
        ("--presett=tiny", "--presett=tiny: did you mean --preset?"),
        ("--task=gsmk8", "did you mean gsm8k?"),
        ("--flag", "Unrecognized options: --flag"),
        ("--rl.group=100000000", "RLConfig: questions x group = 1,600,000,000 replies a rollout"),
        ("--seed=-1", "--seed must lie between 0 and 2^32 - 1, got -1"),
        (f"--seed={'9' * 20}", "--seed must lie between 0 and 2^32 - 1, got 9999"),
    ],
)
def test_near_names_and_bad_numbers(flag, message):
    with pytest.raises(InputError) as error:
        r1_zero.main([flag])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert ("did you mean" in message) == ("did you mean" in str(error.value))


def wrapped(cause: BaseException, how: str) -> Exception:
    try:
        if how == "group":
            raise ExceptionGroup("writing", [KeyError("other"), cause])
        if how == "cause":
            raise RuntimeError("a future failed") from cause
        try:
            raise cause
        except type(cause):
            raise RuntimeError("while saving")  # noqa: B904
    except Exception as error:
        return error


def test_a_full_disk_is_found_behind_what_was_raised():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a/file")
    for how in ("group", "cause", "context"):
        line = errors.one_line(wrapped(full, how))
        assert line == "/runs/a/file: no space left on the disk; what was complete before is kept"
    theirs = ValueError('RESOURCE_EXHAUSTED: Failed writing: "/runs/a/d": No space left on device')
    assert errors.one_line(theirs).startswith("/runs/a/d: no space left on the disk")


def test_what_else_went_wrong_is_one_line_or_a_bug():
    assert errors.one_line(InputError("two\n lines")) == "two lines"
    assert errors.one_line(OSError(errno.EACCES, "Permission denied", "/a")) == (
        "/a: Permission denied"
    )
    assert errors.one_line(KeyError("bug")) is None


def test_threads_do_not_repeat_a_full_disk(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    monkeypatch.setattr("threading.excepthook", shown.append)
    logger = logging.getLogger("absl")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
    errors.quiet_when_full.__wrapped__()
    full, bug = OSError(errno.ENOSPC, "No space left on device"), KeyError("bug")
    for error in (full, RuntimeError("Event loop is closed"), bug):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert [what.exc_value for what in shown] == [bug]
    record = lambda error: logging.LogRecord(  # noqa: E731
        "absl", logging.ERROR, "", 0, "a thread failed", None, (type(error), error, None)
    )
    assert not logger.filter(record(full)) and logger.filter(record(bug))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_in_one_line(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        sizes = ["--evaluate-samples=16", "--final-samples=16", "--rl.questions=2", "--rl.group=8"]
        command = [sys.executable, "-m", "experiments.r1_zero", "--steps=1", f"--out={disk}/run"]
        done = subprocess.run([*command, *sizes], capture_output=True, text=True, timeout=300)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {disk}/run/") and done.stderr.count("\n") == 1
    assert "no space left on the disk" in done.stderr


def test_a_reader_that_has_enough_is_no_error():
    command = f"{sys.executable} -m experiments.sft --help | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("usage: ") and done.stderr == ""


@pytest.mark.parametrize("accelerators, kept", [(0, 1), (1, 0)])
def test_memory_is_kept_where_the_cpu_computes(monkeypatch, tmp_path, accelerators, kept):
    called = []
    monkeypatch.setattr(cli, "keep_memory", lambda: called.append(1))
    monkeypatch.setattr(cli, "ACCELERATORS", [str(tmp_path / "nvidia[0-9]")])
    monkeypatch.setattr(cli, "quiet_when_full", lambda: None)  # of this whole process
    config = SimpleNamespace(jax_platforms=None, update=lambda name, value: None)
    monkeypatch.setattr(cli, "jax", SimpleNamespace(config=config))
    (tmp_path / ("nvidia0" if accelerators else "null")).touch()
    cli.run(lambda args: None)
    assert len(called) == kept


def test_one_step_has_one_loss():
    assert tuning.loss_line(4.336, 4.336, 1).split() == ["loss", "4.336", "nats", "a", "token"]
    assert "4.336 → 2.000 nats" in tuning.loss_line(4.336, 2.0, 3)


def test_python_m_r1jax_says_where_the_commands_are():
    command = [sys.executable, "-m", "r1jax"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "python -m experiments" in done.stdout
    assert Path(HERE, "__main__.py").exists()
