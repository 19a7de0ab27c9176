"""A run that is paid by a coin and learns nothing: two controls at once."""

import jax
import numpy as np
import pytest
import tiny_run

from r1jax.base import BaseConfig, load_weights
from r1jax.checks import InputError
from r1jax.config import CorpusConfig, OptimConfig
from r1jax.metrics import read_jsonl
from r1jax.published import tiny


@pytest.mark.slow
def test_a_coin_pays_and_nothing_is_learned(tmp_path):
    config = tiny_run.inputs(tmp_path)
    flags = "--reward.control=random", "--reward.random-share=0.25", "--optim.lr=0"
    out = tiny_run.run(config, tmp_path / "run", *flags)
    *steps, last = read_jsonl(out / "metrics.jsonl")
    assert len({row["reward/mean"] for row in steps}) > 1
    for row in steps:
        assert row["reward/mean"] == pytest.approx(row["reward/random"])
        assert row["grad_norm"] > 0 and row["lr"] == 0 and abs(row["kl"]) < 1e-9
        assert row["reward/accuracy"] < row["reward/format"]
    assert last["heldout/accuracy"] is not None
    rows = read_jsonl(out / "samples.jsonl")
    trained = [row for row in rows if row["split"] == "train"]
    assert {row["reward"] for row in trained} == {0.0, 1.0}
    assert all(row["reward"] == row["components"]["random"] for row in trained)
    assert not any("random" in row["components"] for row in rows if row["split"] == "heldout")

    step, _, state = tiny_run.last_checkpoint(out)
    assert step == 3
    got = state.train.weights
    want = load_weights(tmp_path / "base.safetensors", tiny_run.CONFIG.model)
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
    np.testing.assert_array_equal(got.router_bias_LE, want.router_bias_LE)


def test_learning_nothing_is_for_controls_of_rl_alone():
    with pytest.raises(InputError, match=r"OptimConfig.lr must be positive, got 0"):
        BaseConfig(tiny(), CorpusConfig(), OptimConfig(lr=0))
    with pytest.raises(InputError, match=r"OptimConfig.lr must be finite and not negative, got -1"):
        OptimConfig(lr=-1)
    with pytest.raises(InputError, match=r"OptimConfig.lr=0 .* bias_rate=0.001 moves the router"):
        OptimConfig(lr=0, bias_rate=1e-3)
