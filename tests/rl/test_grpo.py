"""The compiled step: against a plain one, and what must not change it.

P questions  G replies a question  R = P G rows  T tokens  L MoE layers  E experts
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from r1jax.config import OptimConfig, RLConfig, SamplingConfig
from r1jax.optim import new_state, state_shardings
from r1jax.rl.algorithms import ALGORITHMS
from r1jax.rl.grpo import PolicyState, grpo_step
from r1jax.rl.types import Rollout, make_rollout
from r1jax.sampling.engine import Engine, Request
from r1jax.sharding import make_mesh

P, G, T = 4, 4, 10
RL = RLConfig(questions=P, group=G, minibatches=1, kl_coef=0.1, reference_every=2)
SAMPLING = SamplingConfig(max_prompt=4, max_tokens=6, slots=8, refill=4)
OPTIM = OptimConfig(lr=0.1, clip_norm=0.05, balance_alpha=0.05, bias_rate=0.01)
KEY = jax.random.key(5)


def step(state, rollout, rl=RL, optim_cfg=OPTIM, sampling=SAMPLING):
    return grpo_step(
        state, rollout, KEY,
        model=small.CONFIG, cfg=rl, optim_cfg=optim_cfg, sampling=sampling,
    )  # fmt: skip


def policy() -> PolicyState:
    """A state whose reference is another model, so that the KL is not zero, and whose second
    moments are not zero, or Adam's step would be the sign of the gradient and of its rounding."""
    train = new_state(small.weights(seed=0), OPTIM)
    seen = jax.tree.map(lambda a: np.full_like(a, 1e-6), train.weights.params)
    opt_state = optax.tree_utils.tree_set(train.opt_state, nu=seen)
    return PolicyState(train.replace(opt_state=opt_state), small.weights(seed=1))


def rollout(time: int = T) -> Rollout:
    """Prompts and replies of many lengths; noise, also at padding, wherever noise fits."""
    rng = np.random.default_rng(0)
    prompt_PG1 = np.repeat(rng.integers(1, 5, (P, 1, 1)), G, axis=1)
    end_PG1 = prompt_PG1 + rng.integers(1, 7, (P, G, 1))
    tokens = rng.integers(0, small.CONFIG.vocab, (P, G, T))
    logp = -2.7 + 0.4 * rng.normal(size=(P, G, T))
    reward = rng.integers(0, 3, (P, G)) + np.array([0, 0, 0.1, 0])[:, None]
    reward[1] = 1.1
    pad = np.random.default_rng(1).integers(0, small.CONFIG.vocab, (P, G, time - T))
    at = np.arange(time)
    return Rollout(
        tokens_PGT=np.int32(np.concatenate([tokens, pad], axis=2)),
        valid_PGT=at < end_PG1,
        reply_PGT=(at >= prompt_PG1) & (at < end_PG1),
        logp_PGT=np.float32(np.concatenate([logp, -pad], axis=2)),
        reward_PG=np.float32(reward),
    )


def flat(a):
    return a.reshape(-1, *a.shape[2:])


@functools.cache
def reference_step():
    """(state, metrics) after one step from `policy()` on `rollout()`."""
    return step(policy(), rollout())


def close(got, want, rtol=1e-4, atol=1e-5):
    """Equal trees, to float32 rounding at the scale of each array."""

    def one(a, b):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * np.abs(b).max(initial=1e-3))

    jax.tree.map(one, got, want)


# A plain step.


def plain_loss(params, state, tokens_RT, valid_RT, reply_RT, old_RT, advantage_R):
    """The printed objective, a reply at a time (DeepSeekMath, eq. 3 and 4), negated, plus V3's
    balance loss. Returns (loss, tokens sent to each expert)."""

    def log_probs(weights):
        logits_RTV, stats = small.plain_logits(weights, tokens_RT, segments_BT=valid_RT * 1)
        logp_RTV = jax.nn.log_softmax(logits_RTV[:, :-1])
        return jnp.take_along_axis(logp_RTV, tokens_RT[:, 1:, None], axis=2)[..., 0], stats

    def objective(pi_T, ref_T, old_T, reply_T, advantage):
        ratio = jnp.exp(pi_T - old_T)
        clipped = jnp.clip(ratio, 1 - RL.clip_low, 1 + RL.clip_high)
        surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
        kl = jnp.exp(ref_T - pi_T) - (ref_T - pi_T) - 1
        return jnp.sum(reply_T * (surrogate - RL.kl_coef * kl)) / jnp.sum(reply_T)

    pi_RT, stats = log_probs(state.train.weights.replace(params=params))
    ref_RT, _ = log_probs(state.reference)
    each_R = jax.vmap(objective)(pi_RT, ref_RT, old_RT[:, 1:], reply_RT[:, 1:], advantage_R)
    balance = jnp.mean(jnp.sum(stats.balance_B, axis=0))
    return -jnp.mean(each_R) + OPTIM.balance_alpha * balance, stats.load_E


@jax.jit
def plain_update(state: PolicyState, rows):
    """One update with optax as it comes. Returns (state, loss, norm of the gradient)."""
    weights = state.train.weights
    gradient_of = jax.value_and_grad(plain_loss, has_aux=True)
    (loss, load_LE), gradient = gradient_of(weights.params, state, *rows)
    tx = optax.chain(
        optax.clip_by_global_norm(OPTIM.clip_norm), optax.adamw(OPTIM.lr, b2=0.95, weight_decay=0)
    )
    updates, opt_state = tx.update(gradient, state.train.opt_state, weights.params)
    sign_LE = jnp.sign(jnp.mean(load_LE, axis=1, keepdims=True) - load_LE)
    weights = weights.replace(
        params=optax.apply_updates(weights.params, updates),
        router_bias_LE=weights.router_bias_LE + OPTIM.bias_rate * sign_LE,
    )
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
    train = state.train.replace(weights=weights, opt_state=opt_state)
    return state.replace(train=train), loss, norm


@pytest.mark.parametrize("minibatches", [1, 2])
def test_step_is_plain_updates_one_after_another(minibatches):
    r = rollout()
    got, metrics = step(policy(), r, dataclasses.replace(RL, minibatches=minibatches))

    mean_P1, std_P1 = (f(np.float64(r.reward_PG), axis=1, keepdims=True) for f in (np.mean, np.std))
    advantage_PG = (r.reward_PG - mean_P1) / np.where(std_P1 > 1e-6, std_P1, np.inf)
    fields = (r.tokens_PGT, r.valid_PGT, r.reply_PGT, r.logp_PGT, np.float32(advantage_PG))
    want, losses, norms = policy(), [], []
    for rows in np.split(np.asarray(jax.random.permutation(KEY, P * G)), minibatches):
        want, loss, norm = plain_update(want, [flat(a)[rows] for a in fields])
        losses.append(loss)
        norms.append(norm)

    close(got.train.weights, want.train.weights)
    assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(metrics["grad_norm"]) == pytest.approx(np.mean(norms), rel=1e-4)
    assert min(norms) > OPTIM.clip_norm  # so the clipping was put to the test
    assert got.train.step == minibatches


def test_later_minibatches_see_a_policy_that_has_moved():
    """On-policy, the first update has ratio 1 everywhere; the second has not."""
    r = on_policy(rollout())
    _, one = step(policy(), r)
    assert one["clip/low"] == one["clip/high"] == 0 and one["sampler/logp_diff"] < 1e-6
    _, two = step(policy(), r, dataclasses.replace(RL, minibatches=2))
    assert two["clip/low"] + two["clip/high"] > 0.01
    assert two["sampler/logp_diff"] < 1e-6  # of the first alone: the rest is no sampler's noise


# What must not change the update.


def permuted(r: Rollout, within: bool) -> Rollout:
    rng = np.random.default_rng(3)
    order_PG = np.stack([rng.permutation(G) for _ in range(P)])
    index = (np.arange(P)[:, None], order_PG) if within else rng.permutation(P)
    return jax.tree.map(lambda a: a[index], r)


def doubled(r: Rollout) -> Rollout:
    return jax.tree.map(lambda a: np.concatenate([a, a]), r)


VARIATIONS = {
    "row-order-in-groups": lambda r: (permuted(r, within=True), RL),
    "group-order": lambda r: (permuted(r, within=False), RL),
    "padding": lambda r: (rollout(T + 3), RL),
    "copies-of-groups": lambda r: (doubled(r), dataclasses.replace(RL, questions=2 * P)),
    "2-micro-batches": lambda r: (r, dataclasses.replace(RL, microbatches=2)),
    "4-micro-batches": lambda r: (r, dataclasses.replace(RL, microbatches=4)),
}


def assert_same_step(got, want):
    (state, metrics), (want_state, want_metrics) = got, want
    close(state.train.weights, want_state.train.weights)
    assert {k: float(v) for k, v in metrics.items()} == pytest.approx(
        {k: float(v) for k, v in want_metrics.items()}, rel=1e-4
    )


@pytest.mark.parametrize("vary", VARIATIONS.values(), ids=VARIATIONS)
def test_update_does_not_change_with(vary):
    varied, rl = vary(rollout())
    assert_same_step(step(policy(), varied, rl), reference_step())


def test_token_mean_is_over_the_update_not_over_its_microbatches():
    rl = dataclasses.replace(RL, algorithm="dapo")
    one = step(policy(), rollout(), rl)
    assert_same_step(step(policy(), rollout(), dataclasses.replace(rl, microbatches=4)), one)
    assert float(one[1]["loss"]) != pytest.approx(float(reference_step()[1]["loss"]), rel=1e-2)


@pytest.mark.parametrize("mesh", ["4x2", "8x1"])
def test_update_does_not_change_with_mesh_and_stays_sharded(mesh):
    mesh = make_mesh(mesh)
    train = state_shardings(small.CONFIG, OPTIM, mesh)
    where = PolicyState(train, train.weights)
    with jax.set_mesh(mesh):
        state, metrics = step(jax.device_put(policy(), where), rollout())
    jax.tree.map(lambda a, s: a.sharding.is_equivalent_to(s, a.ndim) or pytest.fail(), state, where)
    assert_same_step(jax.device_get((state, metrics)), reference_step())


# Advantages, clipping, reference, metrics.


def test_groups_of_equal_reward_leave_the_model_exactly_as_it_is():
    rl = dataclasses.replace(RL, kl_coef=0.0)
    optim_cfg = dataclasses.replace(OPTIM, balance_alpha=0.0, bias_rate=0.0)
    reward_PG = np.repeat(np.float32([0.1, 0, 0.7, 1.1]), G).reshape(P, G)
    state, metrics = step(policy(), rollout().replace(reward_PG=reward_PG), rl, optim_cfg)
    assert metrics["grad_norm"] == 0 and metrics["groups/zero_std"] == 1
    jax.tree.map(np.testing.assert_array_equal, state.train.weights, policy().train.weights)
    _, mixed = step(policy(), rollout(), rl, optim_cfg)
    assert mixed["grad_norm"] > 0.01 and mixed["groups/zero_std"] == 0.25


def on_policy(r: Rollout) -> Rollout:
    """With the log-probs that the policy itself gives its tokens."""
    logits, _ = small.logits(small.weights(), flat(r.tokens_PGT), segments_BT=flat(r.valid_PGT) * 1)
    logp = small.log_softmax(logits)[:, :-1]
    logp = np.take_along_axis(logp, flat(r.tokens_PGT)[:, 1:, None], axis=2)[..., 0]
    logp = np.pad(logp, ((0, 0), (1, 0))).reshape(r.logp_PGT.shape)
    return r.replace(logp_PGT=np.float32(np.where(r.reply_PGT, logp, 0)))


@pytest.mark.parametrize("shift, metric, sign", [(-1, "clip/high", 1), (1, "clip/low", -1)])
def test_ratio_is_to_the_log_probs_of_the_sampler(shift, metric, sign):
    """Were the old log-probs recomputed, or absent, the ratio would be 1 and nothing clipped."""
    r = on_policy(rollout())
    _, plain = step(policy(), r)
    _, shifted = step(policy(), r.replace(logp_PGT=r.logp_PGT + shift))
    advantage_PG = np.asarray(ALGORITHMS["grpo"].advantages(r.reward_PG))
    gone_PGT = (sign * advantage_PG[..., None] > 0) & r.reply_PGT
    other = {"clip/high": "clip/low", "clip/low": "clip/high"}[metric]
    assert float(shifted[metric]) == pytest.approx(gone_PGT.sum() / r.reply_PGT.sum(), rel=1e-6)
    assert shifted[other] == 0 and plain[metric] == 0
    assert float(shifted["sampler/logp_diff"]) == pytest.approx(1, rel=1e-5)
    assert abs(float(shifted["loss"] - plain["loss"])) > 0.05


def test_reference_is_replaced_every_so_many_updates_and_otherwise_kept():
    def same(a, b) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    states = [jax.device_get(policy())]
    for _ in range(3):
        states.append(jax.device_get(step(states[-1], rollout())[0]))
    first, one, two, three = states
    assert same(one.reference, first.reference) and not same(one.reference, one.train.weights)
    assert same(two.reference, two.train.weights)
    assert same(three.reference, two.reference) and not same(three.reference, three.train.weights)


def test_router_bias_moves_by_the_rate_from_the_counts_of_all_valid_tokens():
    r, before = rollout(), policy().train.weights
    _, stats = small.logits(before, flat(r.tokens_PGT), segments_BT=flat(r.valid_PGT) * 1)
    load_LE = np.float64(stats.load_E)
    assert load_LE.sum() == r.valid_PGT.sum() * small.CONFIG.router.active
    after = reference_step()[0].train.weights
    moved_LE = np.asarray(after.router_bias_LE - before.router_bias_LE)
    np.testing.assert_allclose(moved_LE, 0.01 * np.sign(load_LE.mean() - load_LE), atol=1e-7)
    assert moved_LE.min() < 0 < moved_LE.max()
    load = float(reference_step()[1]["router/max_load"])
    assert load == pytest.approx(load_LE.max() / load_LE.mean())


def test_entropy_and_kl_are_means_over_reply_tokens():
    r = rollout()
    policy_logp, ref_logp = (
        small.log_softmax(small.logits(w, flat(r.tokens_PGT))[0])[:, :-1]
        for w in (policy().train.weights, policy().reference)
    )
    reply = flat(r.reply_PGT)[:, 1:]
    entropy = -np.sum(np.exp(policy_logp) * policy_logp, axis=-1)[reply]
    d = np.take_along_axis(ref_logp - policy_logp, flat(r.tokens_PGT)[:, 1:, None], axis=-1)[
        ..., 0
    ][reply]
    metrics = reference_step()[1]
    assert float(metrics["entropy"]) == pytest.approx(entropy.sum() / entropy.size, rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(np.mean(np.exp(d) - d - 1), rel=1e-4)


@pytest.mark.parametrize("temperatures", [(1.0, 0.7), (0.7, 1.0)])
def test_sampler_and_trainer_agree_on_log_probs_at_their_temperature(temperatures):
    sampling, other = (dataclasses.replace(SAMPLING, temperature=t) for t in temperatures)
    engine = Engine(small.CONFIG, sampling, make_mesh("1"), stop=[0])
    requests = [Request(list(range(1, 2 + q)), q, i) for q in range(P) for i in range(G)]
    completions, _ = engine.generate(small.weights(), requests, KEY)
    reward = np.arange(P * G) % 3
    r = make_rollout([x.prompt for x in requests], completions, reward, G, T)
    assert r.reply_PGT.sum() == sum(len(c.tokens) for c in completions)
    _, metrics = step(policy(), r, sampling=sampling)
    assert metrics["sampler/logp_diff"] < 1e-5
    assert metrics["clip/low"] == metrics["clip/high"] == 0
    _, metrics = step(policy(), r, sampling=other)
    assert metrics["sampler/logp_diff"] > 0.05


GOLDEN = {
    "loss": 0.142692,
    "kl": 0.409218,
    "entropy": 2.514194,
    "grad_norm": 1.374606,
    "clip/low": 0.084746,
    "clip/high": 0.169492,
    "router/max_load": 2.728972,
    "moved/embed": 4.76354,
    "moved/experts": 1.89888,
    "moved/head": 2.66947,
}


def test_one_step_gives_the_numbers_it_always_gave():
    """After a change that is meant to change them, copy the numbers that the failure shows."""
    before = policy().train.weights.params
    state, metrics = reference_step()
    names = ("loss", "kl", "entropy", "grad_norm", "clip/low", "clip/high", "router/max_load")
    got = {name: round(float(metrics[name]), 6) for name in names}
    moved = jax.tree.map(lambda a, b: np.abs(a - b).sum(), state.train.weights.params, before)
    parts = {"embed": moved.embed_VD, "experts": moved.moe.ffn.down_EFD, "head": moved.head_DV}
    got |= {f"moved/{name}": round(float(total), 5) for name, total in parts.items()}
    assert got == pytest.approx(GOLDEN, rel=1e-4), f"new numbers:\nGOLDEN = {got}"


def test_a_model_with_an_mtp_module_trains_and_its_mtp_module_stays():
    """RL does not run it: it has no gradient, and its router no load."""
    model = small.config(mtp_depth=1)
    optim_cfg = dataclasses.replace(OPTIM, weight_decay=0.0)
    before = small.weights(model)
    state = PolicyState(new_state(before, optim_cfg), small.weights(model, seed=1))
    state, _ = grpo_step(
        state, rollout(), KEY, model=model, cfg=RL, optim_cfg=optim_cfg, sampling=SAMPLING
    )
    before, after = small.weights(model), state.train.weights
    jax.tree.map(np.testing.assert_array_equal, after.params.mtp, before.params.mtp)
    moved = np.any(after.router_bias_LE != before.router_bias_LE, axis=1)
    np.testing.assert_array_equal(moved, [True, False])
