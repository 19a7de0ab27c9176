"""A sweep of two runs, killed twice, from the command line to the verdict."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import small
import tiny_run

from experiments import ablate_reflection
from r1jax import base
from r1jax.base import BaseConfig, cached, read_note
from r1jax.checks import InputError
from r1jax.config import CorpusConfig, OptimConfig
from r1jax.data import countdown
from r1jax.metrics import read_jsonl

STEPS = 60
GRID = """
config = "config.json"
seeds = 2
controls = []
[[configuration]]
name = "as it is"
rl.kl-coef = 0.0
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    tiny_run.inputs(folder, steps=STEPS, checkpoint_every=5, evaluate_every=100)
    (folder / "grid.toml").write_text(GRID)
    return folder, [f"--grid={folder / 'grid.toml'}", f"--out={folder / 'out'}", "--workers=2"]


def start(folder, *flags):
    command = [sys.executable, "-m", "experiments.ablate_reflection", *flags]
    return subprocess.Popen(
        command, env=tiny_run.environment(folder / "cache"), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rows(member):
    path = member / "metrics.jsonl"
    return read_jsonl(path) if path.exists() else []


def until(ready, process, seconds=600):
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def pid_in(member):
    return int((member / "lock").read_text().split()[1])


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_verdict(flags):
    folder, flags = flags
    members = [folder / "out" / f"as_it_is-seed_{seed}" for seed in (0, 1)]

    sweep = start(folder, *flags)
    until(lambda: all(len(rows(m)) > 6 for m in members), sweep)
    workers = [pid_in(m) for m in members]
    assert len(set(workers)) == 2
    sweep.kill()  # its workers save what they have, and end
    sweep.communicate()
    with pytest.raises(InputError, match="as_it_is-seed_0 already holds a run: --resume goes on"):
        ablate_reflection.main(flags)

    again = start(folder, *flags, "--resume")
    until(lambda: pid_in(members[0]) not in workers and len(rows(members[0])) > 12, again)
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    os.kill(pid_in(members[0]), signal.SIGKILL)
    said, errors = again.communicate(timeout=600)
    assert again.returncode == 2
    named = "1 not finished: as_it_is-seed_0: its process was ended by SIGKILL"
    assert named in errors and "failed: as_it_is-seed_0" in said
    assert "finished: as_it_is-seed_1" in said
    assert json.loads((members[1] / "run.json").read_text())["status"] == "finished"

    last = start(folder, *flags, "--resume")
    said, errors = last.communicate(timeout=600)
    assert last.returncode == 0, errors
    assert "existence" in said and (folder / "out" / "emergence" / "verdict.json").exists()
    for seed, member in enumerate(members):
        assert [row["step"] for row in rows(member)] == [*range(STEPS), STEPS]
        assert (member / "report.html").exists()
        note = json.loads((member / "member.json").read_text())
        assert (note["configuration"], note["seed"], note["control"]) == ("as it is", seed, None)
        assert note["axes"] == {"rl.kl_coef": 0.0}
    assert "resumed from step" in (members[0] / "log.txt").read_text()


def test_a_base_is_made_by_a_worker_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recipe = BaseConfig(
        model=small.config(vocab=len(countdown.VOCABULARY), context=176),
        corpus=CorpusConfig(depth=2),
        optim=OptimConfig(lr=4e-3, schedule="cosine", warmup=1, steps=2),
        seed=3,
        rows=4,
    )
    path = cached(recipe)
    order = json.loads(json.dumps({"base": dataclasses.asdict(recipe)}))
    order["folder"] = str(path.with_suffix(""))
    ablate_reflection.do(order)
    assert read_note(path)["digest"] == recipe.digest()
    assert not path.with_suffix("").exists()
    monkeypatch.setattr(base, "train_base", None)  # from here on, only what is there
    ablate_reflection.do(order)


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--grid=none.toml", "none.toml: No such file or directory"),
        ("--seeds=0", "no seeds"),
        ("--seeds=few", "--seeds=few: expected a number of seeds"),
        ("--shard=3/2", "--shard=3/2: i must lie between 1 and n"),
        ("--workers=none", "--workers=none: expected auto, compiled or how many"),
        ("--workers=compiled:1", "--workers=compiled:1: expected compiled:N, N at least 2"),
        ("--sedes=3", "Unrecognized options: --sedes=3"),
    ],
)
def test_bad_flags_are_one_line(tmp_path, flag, message):
    with pytest.raises(InputError) as refusal:
        ablate_reflection.main([f"--out={tmp_path / 'out'}", flag])
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
