"""The whole model: forward, gradients, log-probabilities, cached decoding, MTP."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tiny

from r1jax.architecture import GQAConfig, MLAConfig
from r1jax.model import attend, transformer
from r1jax.model.cache import init_cache
from r1jax.model.head import log_probs
from r1jax.model.mtp import mtp_log_probs
from r1jax.model.params import Weights

B, T = 2, 12
TOKENS = tiny.tokens(B, T)
V2_LITE_LIKE = tiny.config(
    router=tiny.SOFTMAX,
    attention=MLAConfig(heads=4, q_lora=None, kv_lora=16, nope_dim=10, rope_dim=8, v_dim=12),
)


@functools.cache
def expected(cfg):
    """The oracle's (hidden, load, balance) for TOKENS."""
    return oracle.forward(oracle.to_numpy(tiny.weights(cfg)), TOKENS, cfg)


@pytest.mark.parametrize("cfg", [tiny.CONFIG, V2_LITE_LIKE], ids=["v3", "v2-lite"])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_forward_is_the_oracle(cfg, scan_layers):
    out = tiny.forward(tiny.weights(cfg), TOKENS, replace(cfg, scan_layers=scan_layers))
    hidden, load, balance = expected(cfg)
    np.testing.assert_allclose(out.hidden_BTD, hidden, rtol=1e-4, atol=5e-5)
    np.testing.assert_array_equal(out.stats.load_E, load)
    np.testing.assert_allclose(out.stats.balance_B, balance, rtol=1e-5)
    assert out.cache is None


@pytest.mark.parametrize("dense_layers", [0, 3], ids=["all-moe", "all-dense"])
def test_one_kind_of_layer_only(dense_layers):
    cfg = tiny.config(dense_layers=dense_layers, layers=3 if dense_layers else 1)
    out = tiny.forward(tiny.weights(cfg), TOKENS[:1], cfg)
    want, _, _ = oracle.sequence(oracle.to_numpy(tiny.weights(cfg)), TOKENS[0], cfg)
    np.testing.assert_allclose(out.hidden_BTD[0], want, rtol=1e-4, atol=5e-5)
    assert (out.stats is None) == (dense_layers == 3)


def test_bfloat16_is_finite_and_close():
    cfg = tiny.config(dtype="bfloat16")
    hidden = tiny.forward(tiny.weights(cfg), TOKENS, cfg).hidden_BTD
    assert hidden.dtype == jnp.bfloat16
    assert np.isfinite(hidden).all()
    want = expected(tiny.CONFIG)[0]
    error_BT = np.linalg.norm(np.float64(hidden) - want, axis=-1) / np.linalg.norm(want, axis=-1)
    # Not the maximum: where two experts nearly tie, bfloat16 may rightly choose the other one.
    assert np.median(error_BT) < 0.02


@pytest.mark.parametrize("scan_layers", [True, False])
def test_given_experts_are_those_that_are_computed(scan_layers):
    """Of some tokens any, of the others their own choice: as the oracle, with the load of these."""
    cfg, rng = tiny.CONFIG, np.random.default_rng(2)
    layers, router = cfg.moe_layers, cfg.router
    given = rng.permuted(np.tile(np.arange(router.experts), (B, T, layers, 1)), axis=-1)
    given = given[..., : router.active].astype(np.int32)
    given[rng.random((B, T)) < 0.3] = -1
    out = tiny.forward(
        tiny.weights(cfg), TOKENS, replace(cfg, scan_layers=scan_layers), experts_BTLK=given
    )

    def of(row, i):
        return [None if e[0] < 0 else e.tolist() for e in given[row, :, i]]

    weights = oracle.to_numpy(tiny.weights(cfg))
    want = [
        oracle.sequence(weights, TOKENS[b], cfg, given=[of(b, i) for i in range(layers)])
        for b in range(B)
    ]
    np.testing.assert_allclose(out.hidden_BTD, [w[0] for w in want], rtol=1e-4, atol=5e-5)
    np.testing.assert_array_equal(out.stats.load_E, np.sum([w[1] for w in want], axis=0))
    chosen = np.moveaxis(out.stats.experts_BTK, 0, 2)
    np.testing.assert_array_equal(chosen[given >= 0], given[given >= 0])
    assert not np.any(np.asarray(out.stats.differs_BT)[:, given[:, :, 0, 0] < 0])


def gradient_of(**changes):
    """(weights, the gradient's function of parameters, biases and given experts)"""
    cfg = tiny.config(layers=2, dense_layers=0, experts_multiply="dense", logits_chunk=5, **changes)

    def loss(params, bias, given):
        out = transformer.forward(Weights(params, bias), TOKENS, cfg, experts_BTLK=given)
        logp, entropy = log_probs(params, out.hidden_BTD, TOKENS, cfg)
        value = jnp.mean(logp) + 0.1 * jnp.mean(entropy) + 0.1 * jnp.mean(out.stats.balance_B)
        return value, out.stats.experts_BTK

    return tiny.weights(cfg), tiny.jit(jax.grad(loss, has_aux=True))


@functools.cache
def gradients(**changes):
    weights, gradient = gradient_of(**changes)
    return gradient(weights.params, weights.router_bias_LE, None)[0]


HOW_IT_RUNS = {
    "dots": {"remat": "dots"},
    "full": {"remat": "full"},
    "unrolled": {"scan_layers": False},
    "unrolled-full": {"scan_layers": False, "remat": "full"},
}


@pytest.mark.parametrize("changes", HOW_IT_RUNS.values(), ids=HOW_IT_RUNS)
def test_gradients_do_not_depend_on_how_it_runs(changes):
    plain, other = gradients(), gradients(**changes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, other)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(plain))


@pytest.mark.parametrize("changes", [{"remat": "full"}, {"scan_layers": False}])
def test_its_own_choices_given_change_no_gradient(changes):
    """Not a bit of one, in one program; to rounding, beside the program without."""
    weights, gradient = gradient_of(**changes)
    none = np.full((B, T, 2, tiny.CONFIG.router.active), -1, np.int32)
    own, chosen = gradient(weights.params, weights.router_bias_LE, none)
    given = np.array(np.moveaxis(chosen, 0, 2))
    replayed, _ = gradient(weights.params, weights.router_bias_LE, given)
    jax.tree.map(np.testing.assert_array_equal, replayed, own)
    plain = gradients(**changes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), own, plain)
    other, _ = gradient(weights.params, weights.router_bias_LE, (given + 1) % 8)
    assert np.abs(other.embed_VD - own.embed_VD).max() > 1e-3


@pytest.mark.parametrize("scan_layers", [True, False])
def test_prefill_and_decoding_are_the_full_forward_at_every_position(scan_layers):
    """Rows of different prompt lengths: each is padded on the right, then goes on from its end,
    over the cache positions that its padding wrote."""
    cfg = tiny.config(scan_layers=scan_layers)
    weights, tokens = tiny.weights(cfg), tiny.tokens(3, T, seed=5)
    want = np.asarray(tiny.forward(weights, tokens, cfg).hidden_BTD)

    prompt = np.array([2, 5, 8])
    real = np.arange(prompt.max())[None, :] < prompt[:, None]
    out = tiny.forward(
        weights,
        np.where(real, tokens[:, : prompt.max()], 43),
        cfg,
        segments_BT=real.astype(np.int32),
        cache=init_cache(cfg, batch=3, length=T + 1),
    )
    assert out.stats.load_E.sum() == prompt.sum() * cfg.router.active * cfg.moe_layers
    got = np.full_like(want, np.nan)
    got[:, : prompt.max()][real] = np.asarray(out.hidden_BTD)[real]
    cache, rows = out.cache, np.arange(3)
    for step in range(T - prompt.min()):
        position = np.minimum(prompt + step, T - 1)  # a finished row writes its last token again
        token = tokens[rows, position][:, None]
        out = tiny.forward(weights, token, cfg, positions_BT=position[:, None], cache=cache)
        cache = out.cache
        got[rows, position] = np.asarray(out.hidden_BTD)[:, 0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_packed_segments_are_separate_sequences():
    cfg, lengths = tiny.CONFIG, (5, 4)
    weights = tiny.weights(cfg)
    segments = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12], np.int32)
    positions = np.array([[*range(5), *range(4), *range(3)], [*range(12)]], np.int32)
    out = tiny.forward(weights, TOKENS, cfg, positions_BT=positions, segments_BT=segments)
    parts = np.split(TOKENS[0], np.cumsum(lengths))[:2]
    alone = [oracle.sequence(oracle.to_numpy(weights), part, cfg) for part in parts]
    want = np.concatenate([hidden for hidden, _, _ in alone])
    np.testing.assert_allclose(out.hidden_BTD[0, :9], want, rtol=1e-4, atol=5e-5)
    other = oracle.sequence(oracle.to_numpy(weights), TOKENS[1], cfg)
    np.testing.assert_array_equal(
        out.stats.load_E, np.sum([loads for _, loads, _ in [*alone, other]], axis=0)
    )


@functools.cache
def mtp_case():
    """Two depths, over one whole row and one with two segments and padding."""
    cfg = tiny.config(layers=1, dense_layers=0, mtp_depth=2)
    weights = tiny.weights(cfg)
    segments = np.array([[1] * 12, [1] * 5 + [2] * 6 + [0]], np.int32)
    positions = np.array([[*range(12)], [*range(5), *range(6), 0]], np.int32)

    @tiny.jit
    def run(weights):
        hidden = transformer.forward(
            weights, TOKENS, cfg, positions_BT=positions, segments_BT=segments
        ).hidden_BTD
        return mtp_log_probs(weights, hidden, TOKENS, segments, positions, cfg)

    return cfg, oracle.to_numpy(weights), run(weights)


def test_mtp_is_the_oracle():
    cfg, weights, (logps, masks, stats) = mtp_case()
    assert len(logps) == len(masks) == len(stats) == 2
    loads = np.zeros((2, cfg.router.experts), int)
    for row, start, length in [(0, 0, 12), (1, 0, 5), (1, 5, 6)]:
        tokens = TOKENS[row, start : start + length]
        hidden, _, _ = oracle.sequence(weights, tokens, cfg)
        for k, (want, load) in enumerate(oracle.mtp(weights, hidden, tokens, cfg)):
            got = logps[k][row, start : start + len(want)]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
            loads[k] += load
    np.testing.assert_array_equal([s.load_E for s in stats], loads)


def test_mtp_mask_keeps_input_and_target_in_one_segment():
    _, _, (_, masks, _) = mtp_case()
    for k, mask_BT in enumerate(masks, start=1):
        whole = [1] * (11 - k) + [0] * (k + 1)
        packed = [1] * (4 - k) + [0] * (k + 1) + [1] * (5 - k) + [0] * (k + 1) + [0]
        np.testing.assert_array_equal(mask_BT, [whole, packed])


GQA_LIKE = GQAConfig(heads=6, kv_heads=2, head_dim=8, qk_norm=True)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("attention", [tiny.CONFIG.attention, GQA_LIKE], ids=["mla", "gqa"])
def test_a_long_cache_is_read_as_far_as_it_is_live(attention, queries, monkeypatch):
    """In parts, to the last that any row has: what lies behind, here NaN, is never looked at. The
    cache is no multiple of a part, and rows stand in different ones."""
    monkeypatch.setattr(attend, "LIVE", 4)
    cfg = tiny.config(attention=attention, layers=1, dense_layers=1)
    positions_BT = np.array([[1], [5]]) + np.arange(queries)[None]
    weights = tiny.weights(cfg)
    want = np.asarray(tiny.forward(weights, TOKENS, cfg).hidden_BTD)
    cache = transformer.forward(weights, TOKENS, cfg, cache=init_cache(cfg, B, T)).cache
    beyond = np.arange(T + 3) >= 8

    def spoilt(a):
        widths = [(0, 0)] * (a.ndim - 2) + [(0, 3), (0, 0)]
        return jnp.where(beyond[:, None], jnp.nan, jnp.pad(a, widths))

    with jax.numpy_rank_promotion("allow"):
        cache = jax.tree.map(spoilt, cache)
    rows_B1 = np.arange(B)[:, None]
    step = jax.jit(transformer.forward, static_argnames="cfg")  # not the one compiled elsewhere
    got = step(weights, TOKENS[rows_B1, positions_BT], cfg, positions_BT=positions_BT, cache=cache)
    np.testing.assert_allclose(got.hidden_BTD, want[rows_B1, positions_BT], rtol=1e-4, atol=1e-4)
