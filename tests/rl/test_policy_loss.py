"""The GRPO loss and its gradient with respect to the log-probs, derived by hand.

B rows  T tokens  N draws
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.config import RLConfig
from r1jax.rl.algorithms import ALGORITHMS, settings
from r1jax.rl.grpo import BOUND, Token, policy_loss
from r1jax.rl.hyper import Hyper

B, T = 6, 7
START, END = np.array([[0, 2, 1, 6, 3, 0], [7, 5, 7, 7, 3, 1]])  # of each reply; one is empty
REPLY_BT = (np.arange(T) >= START[:, None]) & (np.arange(T) < END[:, None])


def loss_of(logp_BT, ref_BT, token: Token, cfg: RLConfig):
    """`policy_loss` with what a run of cfg has; the rest of Hyper is not the loss's."""
    hyper = Hyper(**settings(cfg)._asdict(), lr=0, reference_every=0, temperature=0, budget=0)
    return policy_loss(logp_BT, ref_BT, token, ALGORITHMS[cfg.algorithm], hyper)


loss_and_gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True), static_argnames="cfg")


def tokens(old_logp_BT, advantage_B, weight_BT, reply_BT=None) -> Token:
    """A reply a row."""
    old, weight = jnp.float32(old_logp_BT), jnp.float32(weight_BT)
    advantage = jnp.broadcast_to(jnp.float32(advantage_B)[:, None], old.shape)
    reply = jnp.ones(old.shape, bool) if reply_BT is None else jnp.asarray(reply_BT)
    return Token(reply, jnp.ones(old.shape, jnp.int32), old, advantage, weight, jnp.ones_like(old))


def case(seed=0):
    """(logp, reference's logp, rows), with ratios within and beyond the bounds."""
    rng = np.random.default_rng(seed)
    logp, ref, old = -1.5 + 0.4 * rng.normal(size=(3, B, T))
    old[3] = logp[3] - 0.6  # further than any bound, on average too
    advantage = np.array([1.5, -0.5, -2.0, 1.0, 1.0, 0.7])
    return (
        jnp.float32(logp),
        jnp.float32(ref),
        tokens(old, advantage, rng.uniform(0.1, 1, (B, T)) * REPLY_BT, REPLY_BT),
    )


def by_hand(logp_BT, ref_BT, rows, cfg):
    """(loss, gradient, sums of metrics), a reply at a time."""
    logp_BT, ref_BT, old_BT, weight_BT, advantage_B = (
        np.float64(a)
        for a in (logp_BT, ref_BT, rows.old_logp_BT, rows.weight_BT, rows.advantage_BT[:, 0])
    )
    low, high = 1 - cfg.clip_low, 1 + cfg.clip_high
    stops = cfg.algorithm not in ("rloo", "cispo")  # those never lose a token's gradient
    loss, gradient_BT = 0.0, np.zeros((B, T))
    metrics = ("kl", "clip/low", "clip/high")
    sums = dict.fromkeys((*metrics, "clip/bounded"), 0.0)
    for b, advantage in enumerate(advantage_B):
        reply = np.flatnonzero(rows.reply_BT[b])
        if not reply.size:
            continue
        logp, ref, old, weight = (a[b, reply] for a in (logp_BT, ref_BT, old_BT, weight_BT))
        ratio = np.exp(logp - old)
        if cfg.algorithm == "gspo":
            ratio = np.full(reply.size, np.exp(np.mean(logp - old)))
        too_low, too_high = (ratio < low) & (advantage < 0), (ratio > high) & (advantage > 0)
        used = np.where(too_low, low, np.where(too_high, high, ratio)) if stops else ratio
        if cfg.algorithm == "cispo":  # a constant weight of log pi, whatever the advantage's sign
            used, constant = np.clip(ratio, low, high) * logp, np.clip(ratio, low, high)
        k3 = np.exp(ref - logp) - (ref - logp) - 1
        loss += weight @ (cfg.kl_coef * k3 - used * advantage)
        # d ratio / d logp = ratio, and nothing where the bound is used instead.
        slope = weight * advantage * (constant if cfg.algorithm == "cispo" else ratio)
        slope = np.where((too_low | too_high) & stops, 0.0, slope)
        if cfg.algorithm == "gspo":  # every token moves the ratio of all, by 1/|o|
            slope = np.full(reply.size, slope.sum() / reply.size)
        gradient_BT[b, reply] = weight * cfg.kl_coef * (1 - np.exp(ref - logp)) - slope
        values = (k3, too_low, too_high)
        sums |= {name: sums[name] + v.sum() for name, v in zip(metrics, values, strict=True)}
    return loss, gradient_BT, sums


BOUNDS = {"symmetric": (0.2, 0.2), "clip-higher": (0.1, 0.4)}


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_loss_gradient_and_metrics_are_those_derived_by_hand(algorithm, bounds):
    cfg = RLConfig(algorithm=algorithm, clip_low=bounds[0], clip_high=bounds[1], kl_coef=0.3)
    logp, ref, rows = case()
    (loss, sums), gradient = loss_and_gradient(logp, ref, rows, cfg)
    want_loss, want_gradient, want_sums = by_hand(logp, ref, rows, cfg)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-4, atol=1e-6)
    assert {k: float(v) for k, v in sums.items()} == pytest.approx(want_sums, rel=1e-5)
    assert want_sums["clip/low"] > 0 and want_sums["clip/high"] > 0  # or the case says little


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_masked_tokens_have_no_influence(algorithm):
    cfg = RLConfig(algorithm=algorithm, kl_coef=0.3)
    logp, ref, rows = case()
    clean = loss_and_gradient(logp, ref, rows, cfg)
    nan = [jnp.where(REPLY_BT, a, jnp.nan) for a in (logp, ref, rows.old_logp_BT)]
    dirty = loss_and_gradient(nan[0], nan[1], rows._replace(old_logp_BT=nan[2]), cfg)
    chex.assert_trees_all_equal(clean, dirty)


def gradient_of(ratio: float, advantage: float, **bounds) -> tuple[float, dict]:
    """Of one token's loss with respect to its log-prob, without KL, and the metrics."""
    cfg = RLConfig(**{"kl_coef": 0.0} | bounds)
    logp = jnp.full((1, 1), -1.0)
    rows = tokens(logp - np.log(ratio), [advantage], [[1.0]])
    (_, sums), gradient = loss_and_gradient(logp, logp, rows, cfg)
    return float(gradient[0, 0]), {name: float(v) for name, v in sums.items()}


@pytest.mark.parametrize(
    "ratio, advantage, stopped_by",
    [
        (1.0, 2.0, None),
        (1.0, -2.0, None),
        (1.25, 2.0, "clip/high"),
        (1.25, -2.0, None),  # got likelier against its advantage: pushed back
        (0.75, 2.0, None),
        (0.75, -2.0, "clip/low"),
        (100.0, -2.0, None),  # no dual clip
    ],
)
def test_clip_stops_what_has_gone_far_enough(ratio, advantage, stopped_by):
    gradient, sums = gradient_of(ratio, advantage)
    assert gradient == (0.0 if stopped_by else pytest.approx(-ratio * advantage, rel=1e-5))
    fired = {name for name in ("clip/low", "clip/high") if sums[name]}
    assert fired == ({stopped_by} if stopped_by else set())


@pytest.mark.parametrize(
    "ratio, advantage, stopped", [(1e-3, -1.0, False), (10.5, 1.0, False), (11.5, 1.0, True)]
)
def test_epsilon_of_ten_bounds_only_above_and_at_eleven(ratio, advantage, stopped):
    gradient, sums = gradient_of(ratio, advantage, clip_low=10.0, clip_high=10.0)
    assert gradient == (0.0 if stopped else pytest.approx(-ratio * advantage, rel=1e-5))
    assert sums["clip/high"] == stopped and sums["clip/low"] == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("log_ratio", [-1e30, -200.0, -40.0, 40.0, 89.0, 1e30])
def test_ratios_at_extremes_are_bounded_and_counted(algorithm, log_ratio, advantage):
    """exp(89) is inf, and inf x 0 NaN; one token of exp(40) would be all that is left of a clipped
    gradient."""
    cfg = RLConfig(algorithm=algorithm, kl_coef=0.1)
    logp, zeros = jnp.full((2, 3), -1.0), jnp.zeros((2, 3))
    rows = tokens(logp.at[0].add(-log_ratio), [advantage, advantage], zeros + 1 / 6)
    (loss, sums), gradient = loss_and_gradient(logp, logp.at[1, 0].add(log_ratio), rows, cfg)
    chex.assert_tree_all_finite((loss, gradient))
    assert np.abs(loss) <= 1.1 * np.exp(BOUND)
    # CISPO's weight is bounded, and its token keeps it; of the others no gradient is left.
    kept = np.clip(np.exp(np.clip(log_ratio, -20, 20)), 0, 5) if algorithm == "cispo" else 0
    np.testing.assert_allclose(gradient[0], np.full(3, -advantage * kept / 6), rtol=1e-5)
    assert gradient[1, 0] == pytest.approx(-advantage / 6)  # of the ratio alone: no KL beyond it
    assert sums["clip/bounded"] == 4
    assert 0 <= sums["kl"] <= np.exp(BOUND)


def test_just_within_the_bound_nothing_is_changed():
    near = BOUND - 0.01
    gradient, sums = gradient_of(np.exp(near), -1.0)
    assert gradient == pytest.approx(np.exp(near), rel=1e-4) and sums["clip/bounded"] == 0


def test_gspo_clips_at_its_own_range():
    """Its ratios lie within 1e-3 of 1: a range of 0.2 would never clip."""
    for ratio, stopped in ((1.0003, False), (1.0005, True)):
        gradient, sums = gradient_of(ratio, 1.0, algorithm="gspo")
        assert (gradient == 0) == stopped == bool(sums["clip/high"])


POLICY, REFERENCE = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.2, 0.3, 0.4])
KL = np.sum(POLICY * np.log(POLICY / REFERENCE))
KL_ONLY = RLConfig(kl_coef=1.0)


def test_k3_is_never_negative_and_its_mean_is_the_kl():
    """20,000 draws from the policy: the loss of each is k3, whose mean is KL(policy || ref)."""
    draws_N = np.random.default_rng(0).choice(4, size=20_000, p=POLICY)
    logp, ref = (jnp.float32(np.log(p))[draws_N, None] for p in (POLICY, REFERENCE))
    rows = tokens(logp, np.zeros(draws_N.size), np.full((draws_N.size, 1), 1 / draws_N.size))
    loss, sums = loss_of(logp, ref, rows, KL_ONLY)
    d = np.log(REFERENCE / POLICY)
    each = np.exp(d) - d - 1
    assert (each > 0).all()
    error = np.sqrt(np.sum(POLICY * (each - KL) ** 2) / draws_N.size)
    assert abs(loss - KL) < 3 * error < 0.05 * KL
    np.testing.assert_allclose(sums["kl"] / draws_N.size, loss, rtol=1e-5)


def test_kl_has_a_gradient_and_it_pulls_the_policy_to_the_reference():
    """In expectation policy - reference with respect to the policy's logits (the gradient of
    KL(ref || policy)); k1 as a loss term would have none."""
    ref = jnp.float32(np.log(REFERENCE))[None]

    def expected_loss(logits):
        logp = jax.nn.log_softmax(logits)[None]
        rows = tokens(jax.lax.stop_gradient(logp), [0.0], POLICY[None])
        return loss_of(logp, ref, rows, KL_ONLY)[0]

    loss, gradient = jax.value_and_grad(expected_loss)(jnp.float32(np.log(POLICY)))
    np.testing.assert_allclose(loss, KL, rtol=1e-5)
    np.testing.assert_allclose(gradient, POLICY - REFERENCE, atol=1e-6)
