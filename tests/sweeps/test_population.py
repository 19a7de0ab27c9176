"""Runs as one compiled program: their folders are those that each would have left alone."""

import dataclasses
import functools
import json
import os
import signal

import hlo
import jax
import numpy as np
import pytest
import tiny_run

from r1jax.config import RLConfig, RunConfig
from r1jax.config_file import load_config, with_fields
from r1jax.data.tasks import make_task
from r1jax.metrics import read_jsonl
from r1jax.pipeline.reinforcement import reinforce
from r1jax.presets import r1_zero_tiny
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import abstract_policy
from r1jax.rl.types import abstract_rollout, layout_of
from r1jax.run import Stopped
from r1jax.sampling.members import members_mesh, over_members
from r1jax.sharding import make_mesh
from r1jax.sweeps import population
from r1jax.sweeps.population import Population, _stepped, program_of, run_members

STEPS = 10
# Of three members; each is another program's for nothing that a program is of.
CHANGES = (
    {"seed": 1},
    {"seed": 2, "optim.lr": 3e-3, "reward.control": "random", "steps": STEPS},
    {"seed": 3, "rl.kl_coef": 0.05, "rl.clip_low": 0.1, "sampling.temperature": 0.9},
)


@pytest.fixture(scope="module")
def cfgs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    config = tiny_run.inputs(folder, steps=STEPS, checkpoint_every=4, evaluate_every=4, log="")
    one = load_config(RunConfig, config)
    return [
        dataclasses.replace(with_fields(one, changes), out=str(folder / f"together_{i}"))
        for i, changes in enumerate(CHANGES)
    ]


@pytest.fixture(scope="module")
def together(cfgs):
    """The run of all, what they said, and the population that it was."""
    made, said = [], []

    class Watched(Population):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "Population", Watched)
        found = run_members(cfgs, lambda folder, line: said.append((folder, line)),
                            jax.devices()[:1])  # fmt: skip
    assert found == [None] * 3
    return made[0], said


def folder_of(cfg):
    return tiny_run.Path(cfg.out)


@pytest.mark.slow
def test_members_leave_what_single_runs_leave(cfgs, together):
    """Same replies and rewards at every step, numbers to rounding, and ordinary folders."""
    for cfg in cfgs:
        alone = dataclasses.replace(cfg, out=cfg.out.replace("together", "alone"))
        reinforce(alone, make_task(alone), say=lambda _: None)
        out, want = folder_of(cfg), folder_of(alone)
        for name in ("replies.jsonl", "samples.jsonl"):
            assert read_jsonl(out / name) == read_jsonl(want / name)
        ours, theirs = (
            [{k: v for k, v in row.items() if k != "sampler/utilization"} for row in some]
            for some in (tiny_run.metrics(out), tiny_run.metrics(want))
        )
        assert [row["step"] for row in ours] == [*range(STEPS), STEPS]
        for got, row in zip(ours, theirs, strict=True):
            assert got.keys() == row.keys()
            for name, value in row.items():
                if value is None:
                    assert got[name] is None
                else:
                    np.testing.assert_allclose(got[name], value, rtol=2e-3, atol=1e-5, err_msg=name)
        assert json.loads((out / "run.json").read_text())["status"] == "finished"
        assert (out / "report.html").exists()
        (*at, state), (*want_at, want_state) = map(tiny_run.last_checkpoint, (out, want))
        assert at == want_at
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4), state, want_state
        )


@pytest.mark.slow
def test_all_of_it_is_compiled_once(together):
    (step,) = together[0]._steps.values()
    assert step._cache_size() == 1
    assert together[0]._engine._decode._cache_size() <= 2  # two numbers of slots


@pytest.mark.slow
def test_each_says_what_it_says_to_its_own_folder(cfgs, together):
    said = together[1]
    for cfg in cfgs:
        mine = [line for folder, line in said if folder == cfg.out]
        assert any("3 steps" in line or f"{STEPS} steps" in line for line in mine)
        assert any(line.startswith("time ") for line in mine)


@pytest.mark.slow
def test_a_member_that_fails_or_ends_leaves_the_others_as_they_are(cfgs, together, tmp_path):
    one, _, three = cfgs
    again = dataclasses.replace(three, out=str(tmp_path / "again"))
    taken = dataclasses.replace(one, out=one.out)  # its folder holds a run: refused at its start
    short = dataclasses.replace(one, out=str(tmp_path / "short"), steps=2)
    found = run_members([taken, short, again], lambda *_: None, jax.devices()[:1])
    assert "already holds a run" in str(found[0]) and found[1:] == [None, None]
    for cfg, want, last in ((again, three, STEPS), (short, one, 2)):
        mine = [r for r in read_jsonl(folder_of(cfg) / "replies.jsonl") if r["step"] < last]
        theirs = [r for r in read_jsonl(folder_of(want) / "replies.jsonl") if r["step"] < last]
        assert [r for r in mine if r["split"] == "train"] == [
            r for r in theirs if r["split"] == "train"
        ]


@pytest.mark.slow
def test_a_signal_ends_all_with_a_checkpoint_and_they_go_on(cfgs, together, tmp_path):
    some = [dataclasses.replace(c, out=str(tmp_path / c.out[-10:])) for c in cfgs[:2]]
    before = signal.getsignal(signal.SIGTERM)

    def say(folder, line):
        if line.startswith("base:"):  # of step 0
            os.kill(os.getpid(), signal.SIGTERM)

    found = run_members(some, say, jax.devices()[:1])
    assert all(isinstance(error, Stopped) for error in found)
    assert signal.getsignal(signal.SIGTERM) is before
    for cfg in some:
        assert json.loads((folder_of(cfg) / "run.json").read_text())["status"] == "stopped"
    on = [dataclasses.replace(cfg, resume="yes") for cfg in some]
    assert run_members(on, lambda *_: None, jax.devices()[:1]) == [None, None]
    for cfg, want in zip(on, cfgs, strict=False):
        assert read_jsonl(folder_of(cfg) / "replies.jsonl") == read_jsonl(
            folder_of(want) / "replies.jsonl"
        )


@pytest.mark.slow
def test_an_update_of_members_on_eight_devices_sends_nothing(cfgs):
    cfg, mesh = cfgs[0], members_mesh(jax.devices())
    compiled = over_members(mesh, functools.partial(_stepped, static_of(cfg)), 3)
    state = abstract_policy(cfg, make_mesh("1"))
    rollout = abstract_rollout(layout_of(cfg, 1), cfg.rl.questions)
    hyper = jax.eval_shape(lambda: jax.tree.map(np.float32, hyper_of(cfg)))

    def many(tree):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((8, *a.shape), a.dtype), tree)

    text = compiled.lower(many(state), many(rollout), many(hyper)).compile().as_text()
    assert "num_partitions=8" in text and hlo.largest(text) == 0


def test_what_is_compiled_decides_who_shares_a_program():
    cfg = r1_zero_tiny()
    program = program_of(cfg)
    assert program is not None
    for same in ({"seed": 5}, {"optim.lr": 0.0}, {"steps": 7}, {"corpus.depth": 2},
                 {"sampling.temperature": 0.7}, {"reward.accuracy": 0.0}):  # fmt: skip
        assert program_of(with_fields(cfg, same)) == program
    for other in ({"rl.group": 8}, {"rl.kl_coef": 0.0}, {"rl.algorithm": "gspo"},
                  {"optim.clip_norm": 2.0}, {"sampling.max_tokens": 90}):  # fmt: skip
        assert program_of(with_fields(cfg, other)) != program
    for alone in ({"mesh": "2"}, {"learn_from": "x"}, {"rl.max_draws": 3}):
        assert program_of(with_fields(cfg, alone)) is None
    assert program_of(dataclasses.replace(cfg, rl=RLConfig(routing_replay=True))) is None
