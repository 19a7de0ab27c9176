"""One step of R1-Zero is the same on every mesh: replies, rewards, loss and gradients."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from hlo import collectives
from one_step import one_step

from r1jax.config import RLConfig, RunConfig
from r1jax.config_file import load_config

MODEL = tiny_run.CONFIG.model


def assert_same_step(got, want):
    assert got["replies"] == want["replies"]
    assert got["rewards"] == want["rewards"] and len(set(got["rewards"])) > 1
    assert got["metrics"].keys() == want["metrics"].keys()
    for name, value in want["metrics"].items():
        np.testing.assert_allclose(got["metrics"][name], value, 1e-4, 1e-6, err_msg=name)
    for a, b in zip(got["moments"], want["moments"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_4x2_takes_the_step_of_one_device(tmp_path):
    """With routing replay, whose experts are recorded where a slot's device is."""
    rl = dataclasses.replace(tiny_run.CONFIG.rl, routing_replay=True)
    cfg = load_config(RunConfig, tiny_run.inputs(tmp_path, rl=rl))
    want = one_step(cfg, "1")
    assert_same_step(one_step(cfg, "4x2"), want)
    assert want["metrics"]["sampler/routing_diff"] == 0  # in float32 they choose alike


@pytest.mark.slow
def test_rows_that_devices_share_take_the_step_of_one_device(tmp_path):
    """Packed rows, in blocks of a few tokens; replies are drawn with a row a device."""
    rl = dataclasses.replace(tiny_run.CONFIG.rl, routing_replay=True)
    model = dataclasses.replace(MODEL, attention_impl="blockwise")
    cfg = load_config(RunConfig, tiny_run.inputs(tmp_path, rl=rl, model=model))
    want = one_step(cfg, "1")
    assert_same_step(one_step(cfg, "fsdp=2,expert=2,context=2"), want)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A step on 64 devices and one on one of them, in a process of their own."""
    folder = tmp_path_factory.mktemp("wide")
    config = tiny_run.inputs(folder, rl=RLConfig(questions=8, group=8, minibatches=1))
    command = [sys.executable, Path(__file__).with_name("one_step.py"), config, "8x8", "1"]
    done = subprocess.run(command, env=tiny_run.environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_8x8_takes_the_step_of_one_device(wide):
    assert_same_step(wide["8x8"], wide["1"])


def test_on_8x8_experts_stay_and_tokens_travel(wide):
    """Tokens are reduce-scattered along the expert axis; no device gathers more than its own one
    of the eight experts, from the eight devices that share it. Nothing else is a multiple of the
    experts' width, 11."""
    hlo = wide["8x8"]["hlo"]
    rows = str(np.arange(64).reshape(8, 8).tolist())
    head = MODEL.d_model * MODEL.vocab  # its gradient comes home by either axis
    found = collectives(hlo, "reduce-scatter")
    scatters = [groups for size, groups in found if size not in (head // 8, head // 64)]
    assert len(scatters) >= 3
    braces = str.maketrans("[]", "{}", " ")
    by_name = "mesh['fsdp'=8,'expert'=8] {'expert'}"  # as jax 0.11 writes it
    assert set(scatters) <= {rows.translate(braces), "[8,8]<=[64]", by_name}
    gathered = {size for size, _ in collectives(hlo, "all-gather")}
    assert {size for size in gathered if size % 11 == 0} == {MODEL.d_model * MODEL.expert_ffn}
