"""What a run leaves and says however it ends: on a full disk, by a signal before its first step,
after its last, while it writes, or inside what is made for it."""

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
import small

from r1jax.checkpoint import Checkpoints
from r1jax.checks import InputError
from r1jax.config import FolderConfig
from r1jax.run import Run, Stopped

STATE = {"a": np.arange(4.0)}


@dataclass(frozen=True, kw_only=True)
class Config(FolderConfig):
    checkpoint_every: int = 2
    log: str = ""
    checkpoint_minutes: float = 0.0


def run(out: Path, **changes) -> Run:
    return Run(Config(out=str(out), **changes), small.CONFIG, 3, say=lambda _: None)


def train(run: Run, state=STATE) -> None:
    for step in run.steps():
        run.log(step, {"loss": 1.0})
        run.end_step(state, {})


def status(out: Path) -> tuple[str, int]:
    value = json.loads((out / "run.json").read_text())
    return value["status"], value["step"]


def saved(out: Path) -> int | None:
    with Checkpoints(out / "checkpoints") as checkpoints:
        return checkpoints.newest()


def press(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def test_an_undisturbed_run_is_finished(tmp_path):
    with run(tmp_path / "run") as one:
        assert status(tmp_path / "run") == ("running", 0)
        train(one)
    assert status(tmp_path / "run") == ("finished", 3) and saved(tmp_path / "run") == 3


@pytest.fixture(autouse=True)
def collected():
    """What a test broke off is freed here: Orbax asks in a `__del__` whether its thread is alive,
    and Python 3.11 waits for ever if that runs while another thread is being started."""
    yield
    gc.collect()


@pytest.fixture
def disk(tmp_path):
    """Of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("every", [1, 3])  # found at the next checkpoint, or at the end
def test_a_run_that_a_full_disk_ended_is_not_running(disk, every):
    """Not even its status has room in a new file."""
    out = disk / "run"
    with pytest.raises(Exception, match="No space left"), run(out, checkpoint_every=every) as one:
        with pytest.raises(OSError), (disk / "full").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for _ in one.steps():
            one.end_step(STATE, {})
    assert status(out) == ("stopped", one.at) and one.at > 0
    assert not (out / "run.json.tmp").exists()


def test_ctrl_c_before_the_first_step_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    way_on = rf"Ctrl-C; none is saved; to go on: .* --resume=auto --out={out}$"
    with pytest.raises(Stopped, match=way_on), run(out):
        press()
    assert status(out) == ("stopped", 0)


def test_ctrl_c_in_the_last_evaluation_ends_it_with_what_is_saved(tmp_path):
    out = tmp_path / "run"
    way_on = rf"of step 3; to go on: .* --resume --out={out}$"
    with pytest.raises(Stopped, match=way_on) as ended, run(out) as one:
        train(one)
        press()
        pytest.fail("it went on")
    assert ended.value.by == signal.SIGINT
    assert status(out) == ("stopped", 3) and saved(out) == 3


def test_the_second_ctrl_c_ends_a_step_and_names_the_checkpoint_before_it(tmp_path):
    out = tmp_path / "run"
    way_on = "the newest checkpoint is of step 2; to go on"
    with pytest.raises(Stopped, match=way_on), run(out) as one:
        for step in one.steps():
            if step == 2:
                press()
                press()
            one.end_step(STATE, {})
    assert saved(out) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_while_the_last_checkpoint_is_written_lose_nothing(tmp_path, monkeypatch, number):
    """And the run is finished."""
    heard, close = [], Checkpoints.__exit__

    def closing(self, *error):
        press(number)
        press(number)
        close(self, *error)

    monkeypatch.setattr(Checkpoints, "__exit__", closing)
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with run(tmp_path / "run") as one:
            train(one)
        assert not heard
        press(number)
        assert heard == [number]  # afterwards it is the caller's again
    finally:
        signal.signal(number, before)
    monkeypatch.undo()
    assert status(tmp_path / "run") == ("finished", 3) and saved(tmp_path / "run") == 3


def test_a_folder_has_one_run_at_a_time(tmp_path):
    out = tmp_path / "run"
    with run(out) as one:
        holder = f"{out}: a run is under way in it: process {os.getpid()} on {socket.gethostname()}"
        for how in ("no", "auto"):
            with pytest.raises(InputError, match=f"^{re.escape(holder)}$"), run(out, resume=how):
                pytest.fail("it began")
        train(one)
        assert status(out) == ("running", 3)
    with run(out, resume="yes") as again:
        assert again.first == 3


def test_a_run_that_goes_on_with_changes_names_them(tmp_path):
    out, said = tmp_path / "run", []

    def again(**changes):
        cfg = Config(out=str(out), resume="yes", **changes)
        with Run(cfg, small.CONFIG, 3, say=said.append):
            pass
        return said

    with run(out) as one:
        train(one)
    assert not again()
    assert again(checkpoint_every=5) == [f"{out} goes on with changes: checkpoint_every 2 → 5"]


def test_a_run_keeps_its_first_command_beside_later_ones(tmp_path, monkeypatch):
    out, abstract = tmp_path / "run", {"a": jax.ShapeDtypeStruct((4,), np.float64)}
    for command in ("first", "second", "third"):
        monkeypatch.setattr(sys, "argv", ["train.py", command])
        with run(out, resume="auto") as one:
            one.restore(abstract)
            train(one)
    told = json.loads((out / "run.json").read_text())
    later = [(start["command"].split()[-1], start["step"]) for start in told["resumed"]]
    assert told["command"].endswith(" first") and later == [("second", 3), ("third", 3)]
    assert told["started"] <= told["resumed"][0]["started"] <= told["resumed"][1]["started"]


@pytest.mark.parametrize(
    ("step", "every", "advice"),
    [
        (0, 1, "none is saved. No step came before: look at the weights that it began with"),
        (1, 5, "none is saved. Start again with another --seed or --optim.lr"),
        (1, 1, "of step 1. The same step follows from --resume: change --seed or --optim.lr"),
    ],
)
def test_a_loss_that_is_not_finite_has_advice_that_can_be_followed(tmp_path, step, every, advice):
    out = tmp_path / "run"
    with pytest.raises(InputError, match=advice), run(out, checkpoint_every=every) as one:
        for at in one.steps():
            one.log(at, {"loss": 1.0 if at < step else np.nan})
            one.end_step(STATE, {})


def test_a_folder_without_a_name_is_refused():
    with pytest.raises(InputError, match=r"^--out= is empty: expected a folder$"):
        Run(Config(out=""), small.CONFIG, 3)


def test_a_state_that_is_not_saved_ends_the_run(tmp_path):
    """Orbax leaves out what is older than what it has, and says so by its result alone."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, STATE, small.CONFIG, {})
        with pytest.raises(InputError, match="step 4 was not saved; the newest there is of step 5"):
            checkpoints.save(4, STATE, small.CONFIG, {})


def test_stopped_at_its_last_step_a_run_has_its_last_evaluation_left(tmp_path):
    out = tmp_path / "run"
    with run(out) as one:
        for step in one.steps():
            if step == 2:
                press(signal.SIGTERM)
            one.end_step(STATE, {})
    assert one.stopped == signal.SIGTERM and status(out) == ("stopped", 3)


def test_a_run_whose_verdict_is_settled_ends_saves_and_says_so(tmp_path):
    out, asked = tmp_path / "run", []

    def settled(step):
        asked.append(step)
        return "it has risen" if step == 1 else ""

    with run(out) as one:
        for step in one.steps(settled):
            one.log(step, {"loss": 1.0})
            one.end_step(STATE, {})
        assert one.stopped is None and saved(out) is None
        one.save(STATE)
    assert asked == [0, 1] and status(out) == ("finished", 1) and saved(out) == 1
    assert one.settled == "after 1 of 3 steps: it has risen"
    assert json.loads((out / "run.json").read_text())["settled"] == one.settled

    with run(out, resume="yes") as one:  # goes on, if nobody asks
        one.restore({"a": jax.ShapeDtypeStruct((4,), np.float64)})
        train(one)
    assert status(out) == ("finished", 3)
    assert "settled" not in json.loads((out / "run.json").read_text())


def test_a_base_that_is_stopped_in_the_making_names_the_run_that_it_is_for(tmp_path):
    out, base = tmp_path / "run", tmp_path / "run" / "base"
    with pytest.raises(Stopped) as ended, run(out), run(base, resume="auto") as making:
        for _ in making.steps():
            press(signal.SIGTERM)
            making.end_step(STATE, {})
        making.check_ended()
    assert "stopped by SIGTERM after step 1 of 3; to go on: " in str(ended.value)
    assert str(ended.value).endswith(f"--resume=auto --out={out}")
