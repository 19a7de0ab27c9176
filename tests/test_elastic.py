"""A run goes on with fewer processes, and with more: the same data in the same order, restored
bitwise, and the same numbers but for rounding."""

import json

import pytest
import tiny_run
from two_processes import R1_ZERO, finish, start

from r1jax.metrics import read_jsonl

pytestmark = pytest.mark.slow


def test_two_processes_then_one_then_four(tmp_path):
    changes = dict(mesh="4x2", steps=9, checkpoint_every=1, evaluate_every=4)
    config, cache = tiny_run.inputs(tmp_path, **changes), tmp_path / "cache"
    whole, out = tmp_path / "whole", tmp_path / "run"

    def run(count, out, *flags):
        args = [f"--config={config}", f"--out={out}", *flags]
        finish(start(R1_ZERO, args, cache, devices=8 // count, count=count))

    run(2, whole)
    states = []
    for count, steps in ((2, 3), (1, 6), (4, 9)):
        run(count, out, "--resume=auto", f"--steps={steps}")
        told = json.loads((out / "run.json").read_text())
        assert (told["processes"], told["step"], told["status"]) == (count, steps, "finished")
        states.append(tiny_run.last_checkpoint(out))
    assert [position for _, position, _ in states] == [3 * 4, 6 * 4, 9 * 4]
    last = max(row["step"] for row in read_jsonl(whole / "samples.jsonl"))
    for step in range(last + 1):  # what was asked, and what was drawn
        pair = [
            [(r["split"], r["problem_id"], r["text"]) for r in rows if r["step"] == step]
            for rows in (read_jsonl(one / "samples.jsonl") for one in (out, whole))
        ]
        assert pair[0] == pair[1], step
    tiny_run.assert_same_metrics(out, whole)
