"""A run that a signal ends at any moment of its life goes on as if it never had been ended: the
three kinds of training, as people start them and go on.

A moment is a share of the processor time that the process takes in all, so that it falls into the
same part of its life on a busy machine: imports, reading, compiling, training, evaluating, saving,
the report. One is drawn from each tenth of it.
"""

import importlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small
import tiny_run

from r1jax import hub
from r1jax.checkpoint import Checkpoints
from r1jax.config import OptimConfig
from r1jax.config_file import save_config
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tokenizer import Tokenizer
from r1jax.metrics import read_jsonl
from r1jax.reward_models.recipe import RewardModelConfig

MOMENTS = 10
COLD = 3, 6  # of them: the process compiles what the others find in a cache
CODES = {signal.SIGTERM: 0, signal.SIGINT: 130}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc"),
]


def rl(folder: Path) -> list[str]:
    config = tiny_run.inputs(folder, steps=8, checkpoint_every=5, evaluate_every=3)
    return ["experiments.r1_zero", f"--config={config}"]


def sft(folder: Path) -> list[str]:
    model, rows = folder / "hf", folder / "rows.jsonl"
    cfg = small.config(vocab=len(VOCABULARY))
    hub.save_model(small.weights(cfg), cfg, model, dtype="float32")
    Tokenizer.words(VOCABULARY).save(model)
    sums = [f"{a} + {b}" for a in (1, 2, 3, 4) for b in (1, 2, 3)] * 13
    lines = [{"prompt": one, "completion": f" <answer> {one} </answer>"} for one in sums]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = "--rows=4", "--length=16", "--epochs=2", "--checkpoint-every=15", "--optim.lr=1e-3"
    return ["experiments.sft", f"--model={model}", f"--data={rows}", *flags]


def reward_model(folder: Path) -> list[str]:
    cfg = RewardModelConfig(
        model=small.config(vocab=len(VOCABULARY), context=96, scan_layers=False),
        optim=OptimConfig(lr=0.01),
        base="random",
        made=200,
        batch=5,
        length=96,
        evaluate_every=9,
        checkpoint_every=15,
    )
    save_config(cfg, folder / "config.json")
    return ["experiments.reward_model", f"--config={folder / 'config.json'}"]


class Ended(NamedTuple):
    code: int
    said: list[str]
    errors: str
    seconds: float  # of processors, its own


def spent(pid: int) -> float:
    """Seconds of processors that a process has taken, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def end(command: list[str], cache: Path, by: signal.Signals | None = None, after=0.0) -> Ended:
    """Runs a command, in a group of its own as a shell would. Ctrl-C goes to the whole group, as
    from a terminal; SIGTERM to the process."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env=tiny_run.environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    seconds = 0.0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        seconds = spent(process.pid)
        if by is not None and seconds >= after:
            (os.killpg if by == signal.SIGINT else os.kill)(process.pid, by)
            break
        time.sleep(0.003)
    said, errors = process.communicate(timeout=300)
    return Ended(process.returncode, said.splitlines(), errors, seconds)


class Whole(NamedTuple):
    command: list[str]
    cache: Path
    out: Path
    cold: float  # seconds of a process that compiles, and of one that finds all compiled
    warm: float


@pytest.fixture(scope="module", params=[rl, sft, reward_model], ids=lambda make: make.__name__)
def whole(request, tmp_path_factory) -> Whole:
    """A run that nothing disturbed; and again, which must end the same."""
    make: Callable[[Path], list[str]] = request.param
    folder = tmp_path_factory.mktemp(make.__name__)
    command, cache = make(folder), folder / "cache"
    outs = folder / "whole", folder / "again"
    both = [end([*command, f"--out={out}"], cache) for out in outs]
    assert [one.code for one in both] == [0, 0], both
    assert_same_run(outs[1], outs[0])
    return Whole(command, cache, outs[0], both[0].seconds, both[1].seconds)


def newest(out: Path) -> tuple[int, dict]:
    """(step, state and note) of the newest checkpoint, as it is stored; (0, {}): none."""
    if not (out / "checkpoints").is_dir():
        return 0, {}
    with Checkpoints(out / "checkpoints") as checkpoints:
        step = checkpoints.newest()
    if step is None:
        return 0, {}
    with ocp.PyTreeCheckpointer() as reader:
        state = reader.restore(out / "checkpoints" / str(step) / "state")
    return step, {"state": state, "note": (out / f"checkpoints/{step}/note/metadata").read_text()}


def rate(name: str) -> bool:
    return name.endswith("_second")


def rows(out: Path) -> list[dict]:
    found = read_jsonl(out / "metrics.jsonl")
    return [
        {k: v for k, v in row.items() if k != "time" and not k.startswith("time/") and not rate(k)}
        for row in found
    ]


def assert_same_run(out: Path, whole: Path) -> None:
    """Weights, moments, step counts, position, metrics and samples: bit for bit."""
    assert rows(out) == rows(whole)
    assert read_jsonl(out / "samples.jsonl") == read_jsonl(whole / "samples.jsonl")
    (step, got), (want_step, want) = newest(out), newest(whole)
    assert step == want_step > 0
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert status(out) == "finished"


def status(out: Path) -> str:
    path = out / "run.json"
    return json.loads(path.read_text())["status"] if path.exists() else "absent"


@pytest.mark.parametrize("by", CODES, ids=lambda by: by.name)
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_it_goes_on_as_if_it_never_had_been_ended(whole, by, moment, tmp_path, monkeypatch):
    share = (moment + random.Random(f"{whole.command[0]} {by} {moment}").random()) / MOMENTS
    out, cold = tmp_path / "run", moment in COLD
    begun = [*whole.command, f"--out={out}"]
    after = share * (whole.cold if cold else whole.warm)
    one = end(begun, tmp_path / "cache" if cold else whole.cache, by, after)
    step, _ = newest(out)
    logged = [row["step"] for row in rows(out)] if (out / "metrics.jsonl").exists() else []
    last = one.said[-1] if one.said else ""
    print(
        f"{whole.command[0]} {by.name} at {share:.0%}{' cold' * cold}: {one.code}, {step}, {last}"
    )
    told = last.partition("to go on: python -m ")[2]
    if told:
        assert one.code == CODES[by]
        assert logged == list(range(step))  # nothing that was done is lost
        again = shlex.split(told)
    else:  # before there was a run, or after it
        assert one.code in (0, 130, -by) and "Error" not in one.errors
        assert one.code or share > 0.5  # it does not go on to its end
        assert status(out) in ("absent", "finished")
        again = [*begun, "--resume=auto"]
    # In this process, which has compiled it all after the first time, and without the figures.
    monkeypatch.setattr("r1jax.pipeline.reinforcement.write_report", lambda out: None)
    importlib.import_module(again[0]).main(again[1:])
    assert_same_run(out, whole.out)
