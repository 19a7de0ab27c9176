"""The compiled step: against a plain one, and what must not change it.

P questions  G replies a question  R = P G rows  T tokens  L MoE layers  E experts
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from r1jax import optim
from r1jax.config import OptimConfig, RLConfig, SamplingConfig
from r1jax.optim import new_state, state_shardings
from r1jax.presets import RUNS
from r1jax.rl.algorithms import ALGORITHMS, settings
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
        graded_PG=np.ones((P, G), bool),
    )


def flat(a):
    return a.reshape(-1, *a.shape[2:])


@functools.cache
def reference_step(algorithm="grpo"):
    """(state, metrics) after one step from `policy()` on `rollout()`."""
    return step(policy(), rollout(), of(algorithm))


def of(algorithm: str, **changes) -> RLConfig:
    return dataclasses.replace(RL, algorithm=algorithm, **changes)


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
        clipped = jnp.clip(ratio, 1 - settings(RL).clip_low, 1 + settings(RL).clip_high)
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
    "4-micro-batches": lambda r: (r, dataclasses.replace(RL, microbatches=4)),
}


def assert_same_step(got, want):
    (state, metrics), (want_state, want_metrics) = got, want
    chex.assert_trees_all_equal_shapes_and_dtypes(state, want_state)
    close(state.train.weights, want_state.train.weights)
    assert {k: float(v) for k, v in metrics.items()} == pytest.approx(
        {k: float(v) for k, v in want_metrics.items()}, rel=1e-4
    )


@pytest.mark.parametrize("vary", VARIATIONS.values(), ids=VARIATIONS)
def test_update_does_not_change_with(vary):
    varied, rl = vary(rollout())
    assert_same_step(step(policy(), varied, rl), reference_step())


def on_mesh(mesh: str, r: Rollout, rl: RLConfig):
    """(state, metrics) of a step on a mesh, where the state stays sharded."""
    mesh = make_mesh(mesh)
    train = state_shardings(small.CONFIG, OPTIM, mesh)
    where = PolicyState(train, train.weights)
    with jax.set_mesh(mesh):
        state, metrics = step(jax.device_put(policy(), where), r, rl)
    jax.tree.map(lambda a, s: a.sharding.is_equivalent_to(s, a.ndim) or pytest.fail(), state, where)
    return jax.device_get((state, metrics))


@pytest.mark.parametrize("mesh", ["4x2", "8x1"])
def test_update_does_not_change_with_mesh_and_stays_sharded(mesh):
    assert_same_step(on_mesh(mesh, rollout(), RL), reference_step())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_update_of_no_algorithm_changes_with_all_of_these_at_once(algorithm):
    """A token mean is over the update, not over its micro-batches; a constant length is not the
    row's."""
    varied = doubled(permuted(rollout(T + 3), within=False))
    got = on_mesh("4x2", varied, of(algorithm, questions=2 * P, microbatches=4))
    assert_same_step(got, reference_step(algorithm))


def test_algorithms_differ():
    losses = sorted(float(reference_step(name)[1]["loss"]) for name in ALGORITHMS)
    assert min(np.diff(losses)) > 1e-3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_ungraded_reply_leaves_the_update_whatever_it_holds(algorithm):
    """Neither its reward, nor its tokens and log-probs; a question without grades is as if it had
    not been asked."""
    graded_PG = np.ones((P, G), bool)
    graded_PG[0], graded_PG[2, 1] = False, False
    r = rollout().replace(graded_PG=graded_PG)
    state, metrics = want = step(policy(), r, of(algorithm))

    out = ~graded_PG
    junk = r.replace(
        reward_PG=np.where(out, np.float32("nan"), r.reward_PG),
        tokens_PGT=np.where(out[..., None], 3, r.tokens_PGT),
        logp_PGT=np.where(out[..., None], np.float32(-50), r.logp_PGT),
    )
    got = step(policy(), junk, of(algorithm))
    assert_same_step(got, want)
    assert metrics["reward/ungraded"] == G + 1
    assert float(metrics["reward/mean"]) == pytest.approx(r.reward_PG[graded_PG].mean())

    rest = jax.tree.map(lambda a: a[1:], r)
    state_rest, metrics_rest = step(policy(), rest, of(algorithm, questions=P - 1))
    close(state.train.weights, state_rest.train.weights)
    for name in ("loss", "kl", "entropy", "grad_norm", "router/max_load", "reward/mean"):
        assert float(metrics[name]) == pytest.approx(float(metrics_rest[name]), rel=1e-4), name
    everything, _ = reference_step(algorithm)
    assert np.any(everything.train.weights.params.embed_VD != state.train.weights.params.embed_VD)


# Advantages, clipping, reference, metrics.


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_groups_of_equal_reward_leave_the_model_exactly_as_it_is(algorithm):
    """With the presets' settings, router's biases included, but for the pull of a KL term: that is
    there whatever the rewards."""
    run = RUNS["tiny"]()
    rl = of(algorithm, reference_every=run.rl.reference_every, kl_coef=0.0)
    assert run.rl.kl_coef is None
    policy_ = PolicyState(new_state(small.weights(), run.optim), small.weights())
    reward_PG = np.repeat(np.float32([0.1, 0, 0.7, 1.1]), G).reshape(P, G)
    r = on_policy(rollout())
    state, metrics = step(policy_, r.replace(reward_PG=reward_PG), rl, run.optim)
    assert metrics["grad_norm"] == 0 and metrics["groups/zero_std"] == 1
    chex.assert_trees_all_equal(state.train.weights, small.weights())
    policy_ = PolicyState(new_state(small.weights(), run.optim), small.weights())
    _, mixed = step(policy_, r, rl, run.optim)
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
    advantage_PG = np.asarray(ALGORITHMS["grpo"].advantages(r.reward_PG, r.graded_PG))
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


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropy_and_kl_are_means_over_reply_tokens_at_the_samplers_temperature(temperature):
    """The reference's distribution too: KL is between what is sampled."""
    r = rollout()
    policy_logp, ref_logp = (
        small.log_softmax(np.float64(small.logits(w, flat(r.tokens_PGT))[0]) / temperature)[:, :-1]
        for w in (policy().train.weights, policy().reference)
    )
    reply = flat(r.reply_PGT)[:, 1:]
    entropy = -np.sum(np.exp(policy_logp) * policy_logp, axis=-1)[reply]
    d = np.take_along_axis(ref_logp - policy_logp, flat(r.tokens_PGT)[:, 1:, None], axis=-1)[
        ..., 0
    ][reply]
    sampling = dataclasses.replace(SAMPLING, temperature=temperature)
    metrics = step(policy(), r, sampling=sampling)[1]
    assert float(metrics["entropy"]) == pytest.approx(entropy.sum() / entropy.size, rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(np.mean(np.exp(d) - d - 1), rel=1e-4)


@pytest.mark.parametrize("temperatures", [(1.0, 0.7), (0.7, 1.0)])
def test_sampler_and_trainer_agree_on_log_probs_at_their_temperature(temperatures):
    sampling, other = (dataclasses.replace(SAMPLING, temperature=t) for t in temperatures)
    engine = Engine(small.CONFIG, sampling, make_mesh("1"), stop=[0])
    requests = [Request(list(range(1, 2 + q)), q, i) for q in range(P) for i in range(G)]
    completions, _ = engine.generate(small.weights(), requests, KEY)
    reward = np.arange(P * G) % 3
    r = make_rollout([x.prompt for x in requests], completions, reward, [True] * (P * G), G, T)
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
    """RL does not run it: it has no gradient, its router no load, and nothing decays it."""
    model = small.config(mtp_depth=1)
    optim_cfg = dataclasses.replace(OPTIM, weight_decay=0.1)
    before = small.weights(model)
    state = PolicyState(new_state(before, optim_cfg), small.weights(model, seed=1))
    state, _ = grpo_step(
        state, rollout(), KEY, model=model, cfg=RL, optim_cfg=optim_cfg, sampling=SAMPLING
    )
    before, after = small.weights(model), state.train.weights
    chex.assert_trees_all_equal(after.params.mtp, before.params.mtp)
    moved = np.any(after.router_bias_LE != before.router_bias_LE, axis=1)
    np.testing.assert_array_equal(moved, [True, False])


R1_RATE = OptimConfig(lr=3e-6)


def low_precision(**dtypes):
    """What `grpo_step` takes, for parameters and computing of these types."""
    model = small.config(**dtypes)
    params = jax.tree.map(lambda a: a.astype(model.param_dtype), small.weights().params)
    state = new_state(small.weights().replace(params=params), R1_RATE)
    static = {"model": model, "cfg": RL, "optim_cfg": R1_RATE, "sampling": SAMPLING}
    return PolicyState(state, small.weights(seed=1)), rollout(), KEY, static


def test_bfloat16_computing_follows_float32_and_moves_float32_parameters_at_a_small_rate():
    def moves(**dtypes):
        *args, static = low_precision(**dtypes)
        state, metrics = grpo_step(*args, **static)
        change = jax.tree.map(jnp.subtract, state.train.weights.params, small.weights().params)
        return np.concatenate(jax.tree.leaves(jax.tree.map(np.ravel, change))), metrics

    moved, metrics = moves(dtype="bfloat16")
    wanted, full = moves()
    for name in ("loss", "kl", "entropy", "grad_norm"):
        assert float(metrics[name]) == pytest.approx(float(full[name]), rel=0.03), name
    assert np.mean(moved != 0) > 0.99 * np.mean(wanted != 0) > 0.5
    assert np.corrcoef(moved, wanted)[0, 1] > 0.9


def test_sums_of_gradients_and_moments_are_float32_where_parameters_are_bfloat16(monkeypatch):
    given, update = [], optim.update

    def spy(state, grads, *args, **kwargs):
        given.append(grads)
        return update(state, grads, *args, **kwargs)

    monkeypatch.setattr(optim, "update", spy)
    *args, static = low_precision(param_dtype="bfloat16")
    static["cfg"] = of("grpo", microbatches=4)
    state, _ = jax.eval_shape(lambda *args: grpo_step(*args, **static), *args)
    opt_state = args[0].train.opt_state
    chex.assert_trees_all_equal_dtypes(state.train.opt_state, opt_state)
    for tree in (given, optax.tree_utils.tree_get(opt_state, "nu")):
        assert {a.dtype for a in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    assert {a.dtype for a in jax.tree.leaves(state.train.weights.params)} == {jnp.dtype("bfloat16")}
