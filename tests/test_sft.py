"""Supervised loss and step: cross-entropy of the trained tokens, in packed rows or alone.

B rows  T tokens  L MoE layers  E experts
"""

import functools
import json

import jax
import numpy as np
import optax
import pytest
import small

from experiments import sft
from r1jax.checks import InputError
from r1jax.config import OptimConfig, SFTConfig
from r1jax.config_file import load_config
from r1jax.data.packing import best_fit, pack
from r1jax.metrics import read_jsonl
from r1jax.model.mtp import mtp_log_probs
from r1jax.model.transformer import forward
from r1jax.optim import new_state, state_shardings
from r1jax.sft import passes, sft_loss, sft_step
from r1jax.sharding import make_mesh

B, T = 8, 14
OPTIM = OptimConfig(lr=0.01, balance_alpha=0.05, bias_rate=0.01, mtp_weight=0.3)
rng = np.random.default_rng(0)
# 20 documents of 1 to 9 tokens: whole, without a prompt, and of a single token.
DOCUMENTS = [
    tuple(rng.integers(1, 16, n).tolist() for n in (i % 4, 1 + int(rng.integers(6))))
    for i in range(20)
]

loss = jax.jit(sft_loss, static_argnames=("model", "cfg"))


def packed(pad=0):
    batch, left_out = pack(DOCUMENTS, B, T, pad)
    assert left_out == 0 and batch.segments_BT.max() > 1
    return batch


@functools.cache
def alone():
    """Each document in a row of its own: (tokens, segments, positions), [20, T]."""
    tokens, segments = np.zeros((2, len(DOCUMENTS), T), np.int32)
    for i, (prompt, reply) in enumerate(DOCUMENTS):
        n = len(prompt) + len(reply)
        tokens[i, :n], segments[i, :n] = [*prompt, *reply], 1
    return tokens, segments, np.broadcast_to(np.arange(T, dtype=np.int32), tokens.shape)


def trained(ahead: int):
    """(row of `alone`, position of target) of all reply tokens that have a token `ahead` of them
    to be predicted from."""
    return [
        (i, t)
        for i, (prompt, reply) in enumerate(DOCUMENTS)
        for t in range(max(len(prompt), ahead), len(prompt) + len(reply))
    ]


@functools.cache
def by_hand() -> tuple[float, float]:
    """Mean cross-entropy and entropy over all trained tokens, in float64."""
    tokens, segments, _ = alone()
    logp = small.log_softmax(small.logits(small.weights(), tokens, segments_BT=segments)[0])
    nll = [-logp[i, t - 1, tokens[i, t]] for i, t in trained(ahead=1)]
    entropy = [-np.exp(logp[i, t - 1]) @ logp[i, t - 1] for i, t in trained(ahead=1)]
    return float(np.mean(nll)), float(np.mean(entropy))


def test_loss_is_the_mean_cross_entropy_of_trained_tokens_and_the_balance_loss():
    batch = packed()
    total, (metrics, load_LE) = loss(small.weights(), batch, small.CONFIG, OPTIM)
    nll, entropy = by_hand()
    assert float(metrics["nll"]) == pytest.approx(nll, rel=1e-5)
    assert float(metrics["entropy"]) == pytest.approx(entropy, rel=1e-5)
    _, stats = small.logits(
        small.weights(), batch.tokens_BT,
        segments_BT=batch.segments_BT, positions_BT=batch.positions_BT,
    )  # fmt: skip
    balance = float(np.float64(stats.balance_B).mean())
    assert balance > 0.5
    assert float(total) == pytest.approx(nll + OPTIM.balance_alpha * balance, rel=1e-5)
    assert load_LE.sum() == (batch.segments_BT > 0).sum() * small.CONFIG.router.active


def test_every_log_prob_of_a_packed_token_is_that_of_its_document_alone():
    batch = packed()
    logp = small.log_softmax(
        small.logits(
            small.weights(), batch.tokens_BT,
            segments_BT=batch.segments_BT, positions_BT=batch.positions_BT,
        )[0]
    )  # fmt: skip
    tokens, segments, _ = alone()
    want = small.log_softmax(small.logits(small.weights(), tokens, segments_BT=segments)[0])
    plan, _ = best_fit([sum(map(len, d)) for d in DOCUMENTS], T, B)
    for row, members in enumerate(plan):
        start = 0
        for i in members:
            n = sum(map(len, DOCUMENTS[i]))
            np.testing.assert_allclose(logp[row, start : start + n], want[i, :n], atol=1e-5)
            start += n


def test_padding_has_no_influence():
    a, b = (loss(small.weights(), packed(pad), small.CONFIG, OPTIM) for pad in (0, 7))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("depth", [1, 2])
def test_mtp_loss_is_the_mean_over_depths_and_looks_ahead_within_a_document(depth):
    """V3, eq. 25: lambda / D sum_k L_k."""
    model = small.config(mtp_depth=depth)
    weights = small.weights(model)
    total, (metrics, load_LE) = loss(weights, packed(), model, OPTIM)
    tokens, segments, positions = alone()

    @jax.jit
    def log_probs(weights):
        hidden = forward(weights, tokens, model, segments_BT=segments).hidden_BTD
        return mtp_log_probs(weights, hidden, tokens, segments, positions, model)[0]

    depths = [np.float64(logp) for logp in log_probs(weights)]
    each = [
        -np.mean([logp[i, t - ahead] for i, t in trained(ahead)])
        for ahead, logp in enumerate(depths, start=2)
    ]
    assert len(each) == depth
    assert float(metrics["mtp_nll"]) == pytest.approx(np.mean(each), rel=1e-5)
    assert load_LE.shape == (1 + depth, 8)
    without_mtp = OptimConfig(mtp_weight=0.0, balance_alpha=OPTIM.balance_alpha)
    plain, _ = loss(weights, packed(), model, without_mtp)
    assert float(total - plain) == pytest.approx(0.3 * np.mean(each), rel=1e-4)


def state():
    """Its second moments are not zero, or Adam's first step would be the sign of rounding."""
    state = new_state(small.weights(), OPTIM)
    seen = jax.tree.map(lambda a: np.full(a.shape, 1e-6, np.float32), state.weights.params)
    return state.replace(opt_state=optax.tree_utils.tree_set(state.opt_state, nu=seen))


def test_steps_learn_the_batch_they_are_given():
    now, losses = state(), []
    for _ in range(30):
        now, metrics = sft_step(now, packed(), model=small.CONFIG, cfg=OPTIM)
        losses.append(float(metrics["nll"]))
    assert losses[0] == pytest.approx(by_hand()[0], rel=1e-5)
    assert losses[-1] < 0.5 * losses[0]
    assert now.step == 30


@pytest.mark.parametrize("mesh", ["4x2", pytest.param("fsdp=4,context=2", marks=pytest.mark.slow)])
def test_a_step_on_a_mesh_is_that_of_one_device_and_stays_sharded(mesh):
    one = jax.device_get(sft_step(state(), packed(), model=small.CONFIG, cfg=OPTIM))
    mesh = make_mesh(mesh)
    where = state_shardings(small.CONFIG, OPTIM, mesh)
    with jax.set_mesh(mesh):
        got = sft_step(jax.device_put(state(), where), packed(), model=small.CONFIG, cfg=OPTIM)
    jax.tree.map(
        lambda a, s: a.sharding.is_equivalent_to(s, a.ndim) or pytest.fail(), got[0], where
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, one)


def test_as_many_updates_as_are_asked_for(tmp_path, capsys):
    """More than the data has, which is said; and the cosine is as long."""
    reply = "<think> 9 + 5 = 14 </think> <answer> 9 + 5 </answer>"
    rows = [{"prompt": f"use 9 5 4 2 to make {n}", "completion": reply} for n in (2, 4, 6, 8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--data={tmp_path}/rows.jsonl", "--rows=2", "--length=32", f"--out={tmp_path}/run"]
    with pytest.raises(InputError, match=r"--steps must not be negative, got -1"):
        sft.main(["--model=embedded", *flags, "--steps=-1"])
    sft.main(["--model=embedded", *flags, "--steps=3"])
    assert "3 updates of 2 rows: 1.5 passes over the data (4 packed), so they repeat\n" in (
        capsys.readouterr().out
    )
    metrics = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2]
    cfg = load_config(SFTConfig, tmp_path / "run" / "config.json")
    assert (cfg.steps, cfg.base) == (3, "embedded")
    last = cfg.optim.lr * (
        cfg.optim.final + (1 - cfg.optim.final) * (1 + np.cos(2 / 3 * np.pi)) / 2
    )
    assert metrics[-1]["lr"] == pytest.approx(last, rel=1e-4)


@pytest.mark.parametrize("steps, said", [(1, "0.25 passes"), (4, "1 pass"), (10, "2.5 passes")])
def test_passes_over_the_data_are_told(steps, said):
    assert f" 2 rows: {said} over the data (8 packed), so " in passes(steps, 2, 8)
    seen = {1: "some are never seen", 4: "all are seen", 10: "they repeat"}[steps]
    assert passes(steps, 2, 8).endswith(seen)
