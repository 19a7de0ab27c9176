"""The compiled step: against a plain one, and what must not change it.

P questions  G replies a question  N = P G replies  T tokens  L MoE layers  E experts
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
from steps import (
    BALANCED,
    OPTIM,
    RL,
    RUN,
    SAMPLING,
    Drawn,
    G,
    N,
    P,
    T,
    assert_same_step,
    close,
    doubled,
    drawn,
    flat,
    gradient_in,
    of,
    on_mesh,
    packed,
    padded,
    permuted,
    policy,
    run_with,
    step,
)

from r1jax import optim
from r1jax.config import OptimConfig, RunConfig
from r1jax.model.params import Weights
from r1jax.model.transformer import forward
from r1jax.optim import new_state
from r1jax.presets import RUNS
from r1jax.rl.algorithms import ALGORITHMS
from r1jax.rl.grpo import PolicyState, grpo_step, reference_of, row_log_probs
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import policy_shardings
from r1jax.rl.types import Rows
from r1jax.sampling.engine import Completion, Engine, Request
from r1jax.sharding import make_mesh

# A plain step.


def plain_loss(params, state, rows: Rows, advantage_R):
    """The printed objective, a reply at a time (DeepSeekMath, eq. 3 and 4), negated, plus V3's
    balance loss of rows. Returns (loss, tokens sent to each expert)."""

    def log_probs(weights):
        logits_RTV, stats = small.plain_logits(
            weights, rows.tokens_BT, segments_BT=rows.segments_BT
        )
        logp_RTV = jax.nn.log_softmax(logits_RTV[:, :-1])
        return jnp.take_along_axis(logp_RTV, rows.tokens_BT[:, 1:, None], axis=2)[..., 0], stats

    def objective(pi_T, ref_T, old_T, reply_T, advantage):
        ratio = jnp.exp(pi_T - old_T)
        clipped = jnp.clip(ratio, 1 - RL.clip_low, 1 + RL.clip_high)
        surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
        kl = jnp.exp(ref_T - pi_T) - (ref_T - pi_T) - 1
        return jnp.sum(reply_T * (surrogate - RL.kl_coef * kl)) / jnp.sum(reply_T)

    pi_RT, stats = log_probs(state.train.weights.replace(params=params))
    ref_RT, _ = log_probs(state.reference)
    old_RT, reply_RT = rows.old_logp_BT[:, 1:], rows.reply_BT[:, 1:]
    each_R = jax.vmap(objective)(pi_RT, ref_RT, old_RT, reply_RT, advantage_R)
    tokens_R = jnp.sum(rows.segments_BT, axis=1)
    balance = jnp.sum(jnp.sum(stats.balance_B, axis=0) * tokens_R) / jnp.sum(tokens_R)
    return -jnp.mean(each_R) + BALANCED.optim.balance_alpha * balance, stats.load_E


@jax.jit
def plain_update(state: PolicyState, rows: Rows, advantage_R):
    """One update with optax as it comes. Returns (state, loss, norm of the gradient)."""
    weights = state.train.weights
    gradient_of = jax.value_and_grad(plain_loss, has_aux=True)
    (loss, load_LE), gradient = gradient_of(weights.params, state, rows, advantage_R)
    tx = optax.chain(
        optax.clip_by_global_norm(OPTIM.clip_norm),
        optax.scale_by_adam(b2=0.95),
        optax.scale(-OPTIM.lr),
    )
    opt_state = (*state.train.opt_state[:2], optax.EmptyState())
    updates, opt_state = tx.update(gradient, opt_state, weights.params)
    sign_LE = jnp.sign(jnp.mean(load_LE, axis=1, keepdims=True) - load_LE)
    weights = weights.replace(
        params=optax.apply_updates(weights.params, updates),
        router_bias_LE=weights.router_bias_LE + BALANCED.optim.bias_rate * sign_LE,
    )
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
    train = state.train.replace(weights=weights, opt_state=opt_state)
    return state.replace(train=train), loss, norm


@pytest.mark.parametrize("minibatches", [1, 2])
def test_step_is_plain_updates_one_after_another(minibatches):
    """Of rows that hold one reply each, so that a row's balance loss is a reply's."""
    d = drawn()
    order = np.random.default_rng(4).permutation(N).reshape(minibatches, -1, RL.rows)
    r = padded(d)
    rows = jax.tree.map(lambda a: a[order], flat(r))
    update_N = np.empty(N, np.int32)
    update_N[order.reshape(-1)] = np.repeat(np.arange(minibatches), N // minibatches)
    r = r.replace(rows=rows, filled_M=np.full(minibatches, order.shape[1], np.int32))
    got, metrics = step(policy(), r.replace(update_PG=update_N.reshape(P, G)), BALANCED)

    mean_P1, std_P1 = (f(np.float64(d.reward_PG), axis=1, keepdims=True) for f in (np.mean, np.std))
    advantage_PG = (d.reward_PG - mean_P1) / np.where(std_P1 > 1e-6, std_P1, np.inf)
    want, losses, norms = policy(), [], []
    for m in range(minibatches):
        mine = jax.tree.map(lambda a, m=m: a[m].reshape(-1, T), rows)
        advantage_R = np.float32(advantage_PG).reshape(-1)[mine.sample_BT[:, 0]]
        want, loss, norm = plain_update(want, mine, advantage_R)
        losses.append(loss)
        norms.append(norm)

    close(got.train.weights, want.train.weights)
    assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(metrics["grad_norm"]) == pytest.approx(np.mean(norms), rel=1e-4)
    assert min(norms) > OPTIM.clip_norm  # so the clipping was put to the test
    assert got.train.step == minibatches


def test_later_minibatches_see_a_policy_that_has_moved():
    """On-policy, the first update has ratio 1 everywhere; the second has not."""
    d, two = on_policy(drawn()), run_with(dataclasses.replace(RL, minibatches=2))
    _, one = step(policy(), packed(d))
    assert one["clip/low"] == one["clip/high"] == 0 and one["sampler/logp_diff"] < 1e-6
    _, later = step(policy(), packed(d, two), two)
    assert later["clip/low"] + later["clip/high"] > 0.01
    assert later["sampler/logp_diff"] < 1e-6  # of the first alone: the rest is no sampler's noise


# What must not change the update.


@functools.cache
def reference_step(algorithm="grpo"):
    """(state, metrics) after one step from `policy()` on `padded(drawn())`."""
    return step(policy(algorithm), padded(drawn()), run_with(of(algorithm)))


VARIATIONS = {
    "packing": (drawn, RUN),
    "order-in-groups": (lambda: permuted(within=True), RUN),
    "order-of-groups": (lambda: permuted(within=False), RUN),
    "copies-of-groups": (lambda: doubled(drawn()), run_with(of("grpo", questions=2 * P))),
    "long-rows-one-at-a-time": (drawn, run_with(of("grpo", rows=1, row_tokens=37))),
}


@pytest.mark.parametrize("replies, cfg", VARIATIONS.values(), ids=VARIATIONS)
def test_update_does_not_change_with(replies, cfg):
    rollout = packed(replies(), cfg)
    assert np.max(rollout.rows.segments_BT) > 1
    assert_same_step(step(policy(), rollout, cfg), reference_step())


#: Those whose normalisation, ratio and critic are unlike; the others' compilations are as long.
UNLIKE = ("grpo", "gspo", "ppo")


@pytest.mark.parametrize(
    "algorithm",
    [a if a in UNLIKE else pytest.param(a, marks=pytest.mark.slow) for a in ALGORITHMS],
)
def test_update_of_no_algorithm_changes_with_packing_order_and_mesh_and_stays_sharded(algorithm):
    """A token mean is over the update, not over its micro-batches; a constant length is not the
    row's."""
    cfg = run_with(of(algorithm, questions=2 * P))
    got = on_mesh("8x1" if algorithm == "grpo" else "4x2", doubled(permuted(within=False)), cfg)
    assert_same_step(got, reference_step(algorithm))


def test_algorithms_differ():
    losses = sorted(float(reference_step(name)[1]["loss"]) for name in ALGORITHMS)
    assert min(np.diff(losses)) > 1e-3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_ungraded_reply_leaves_the_update_whatever_it_holds(algorithm):
    """Neither its reward, nor its tokens and log-probs; a question without grades is as if it had
    not been asked."""
    cfg = run_with(of(algorithm))
    graded_PG = np.ones((P, G), bool)
    graded_PG[0], graded_PG[2, 1] = False, False
    d = drawn().replace(graded_PG=graded_PG)
    state, metrics = want = step(policy(algorithm), packed(d, cfg), cfg)

    junk = d.replace(
        reward_PG=np.where(graded_PG, d.reward_PG, np.float32("nan")),
        completions=[
            c if graded else Completion(np.int32([3, 3]), np.float32([-50, 50]), False)
            for c, graded in zip(d.completions, graded_PG.reshape(-1), strict=True)
        ],
    )
    assert_same_step(step(policy(algorithm), packed(junk, cfg), cfg), want)
    assert metrics["reward/ungraded"] == G + 1
    assert float(metrics["reward/mean"]) == pytest.approx(d.reward_PG[graded_PG].mean())

    everything, _ = reference_step(algorithm)
    assert np.any(everything.train.weights.params.embed_VD != state.train.weights.params.embed_VD)
    # Advantages of a group, of the whole rollout, and of an update's tokens.
    if algorithm in ("grpo", "reinforce++", "ppo"):
        fewer = run_with(of(algorithm, questions=P - 1))
        rest = packed(d.reordered(range(G, N)), fewer)
        state_rest, metrics_rest = step(policy(algorithm), rest, fewer)
        close(state.train.weights, state_rest.train.weights)
        close(state.critic, state_rest.critic)
        for name in ("loss", "kl", "entropy", "grad_norm", "router/max_load", "reward/mean"):
            assert float(metrics[name]) == pytest.approx(float(metrics_rest[name]), rel=1e-4), name


def test_a_step_without_a_graded_reply_moves_nothing():
    d = drawn().replace(graded_PG=np.zeros((P, G), bool))
    rollout = packed(d)
    assert rollout.filled_M.tolist() == [0]
    state = PolicyState(new_state(small.weights(), OPTIM, mtp=False), small.weights(seed=1))
    state, metrics = step(state, rollout)
    assert metrics["grad_norm"] == metrics["loss"] == 0 and metrics["reward/ungraded"] == N
    chex.assert_trees_all_equal(state.train.weights, small.weights())


# What is compiled once.


def test_lengths_and_hyperparameters_compile_nothing():
    """Not even a step of much shorter replies: what is traced is the number of filled rows."""
    short = drawn().replace(
        completions=[Completion(c.tokens[:1], c.logps[:1], False) for c in drawn().completions]
    )
    step(policy(), packed(drawn()))
    compiled = grpo_step._cache_size()
    rl = dataclasses.replace(RL, kl_coef=0.5, clip_high=0.3, clip_low=0.1, reference_every=7)
    other = run_with(
        rl,
        optim=dataclasses.replace(OPTIM, lr=0.2),
        sampling=dataclasses.replace(SAMPLING, temperature=0.7),
    )
    before, _ = step(policy(), packed(short))
    after, _ = step(policy(), packed(short, other), other)
    assert grpo_step._cache_size() == compiled
    assert np.any(before.train.weights.params.embed_VD != after.train.weights.params.embed_VD)


def test_biases_are_those_of_the_policy_and_compile_once():
    """Log-probs, entropy and gradient are of the distribution after them, as the sampler's are; a
    token that is banned never is in a reply."""
    bias_V = np.zeros(small.CONFIG.vocab, np.float32)
    bias_V[[1, 5]] = 2.0, -3.0
    rows = jax.tree.map(lambda a: a[0, 0], packed(drawn()).rows)
    weights, model = small.weights(), small.CONFIG
    logits_BTV, _ = small.plain_logits(weights, rows.tokens_BT, segments_BT=rows.segments_BT)
    scaled_BTV = (np.float64(logits_BTV)[:, :-1] + bias_V) / 0.7
    logp_BTV = scaled_BTV - np.log(np.exp(scaled_BTV).sum(-1, keepdims=True))
    want = np.take_along_axis(logp_BTV, np.asarray(rows.tokens_BT)[:, 1:, None], -1)[..., 0]
    logp_BT, entropy_BT, _ = row_log_probs(weights, rows, model, 0.7, bias_V)
    np.testing.assert_allclose(logp_BT[:, 1:], want, rtol=1e-4, atol=1e-5)
    entropy = -np.sum(np.exp(logp_BTV) * logp_BTV, -1)
    np.testing.assert_allclose(entropy_BT[:, 1:], entropy, rtol=1e-4, atol=1e-5)

    held = {t for c in drawn().completions for t in c.tokens.tolist()}
    banned_V = np.zeros_like(bias_V)
    banned_V[[t for t in range(len(bias_V)) if t not in held]] = -1e9
    one, metrics = step(policy(), packed(drawn()), bias_V=bias_V)
    compiled = grpo_step._cache_size()
    other, banned = step(policy(), packed(drawn()), bias_V=banned_V)
    assert grpo_step._cache_size() == compiled
    assert all(np.isfinite(float(v)) for told in (metrics, banned) for v in told.values())
    assert np.any(one.train.weights.params.embed_VD != other.train.weights.params.embed_VD)


def test_settings_of_a_critic_compile_nothing_either():
    cfg = run_with(of("ppo"))
    before, metrics = step(policy("ppo"), packed(drawn()), cfg)
    compiled = grpo_step._cache_size()
    told = run_with(of("ppo", critic_lr=0.0, gamma=0.9, gae_lambda=0.5, value_clip=0.01))
    after, others = step(policy("ppo"), packed(drawn()), told)
    assert grpo_step._cache_size() == compiled
    chex.assert_trees_all_equal(after.critic.weights, policy("ppo").critic.weights)
    assert np.any(before.critic.weights.params.head_D != after.critic.weights.params.head_D)
    assert metrics["critic/clipped"] == others["critic/clipped"] == 0  # before values have moved
    assert abs(float(metrics["loss"] - others["loss"])) > 1e-3


def plain_ppo(params, critic_params, state, rows: Rows, advantage_RT, target_RT):
    """PPO's clipped objective, a mean of tokens, and half the squared error of values."""
    old_RT, reply_RT = rows.old_logp_BT[:, 1:], rows.reply_BT[:, 1:]

    def of(weights):
        logits_RTV, _ = small.plain_logits(weights, rows.tokens_BT, segments_BT=rows.segments_BT)
        logp_RTV = jax.nn.log_softmax(logits_RTV[:, :-1])
        return jnp.take_along_axis(logp_RTV, rows.tokens_BT[:, 1:, None], axis=2)[..., 0]

    pi_RT, ref_RT = of(state.train.weights.replace(params=params)), of(state.reference)
    ratio = jnp.exp(pi_RT - old_RT)
    clipped = jnp.clip(ratio, 1 - RL.clip_low, 1 + RL.clip_high)
    surrogate = jnp.minimum(ratio * advantage_RT, clipped * advantage_RT)
    kl = jnp.exp(ref_RT - pi_RT) - (ref_RT - pi_RT) - 1
    error = (plain_values(critic_params, state, rows) - target_RT) ** 2 / 2

    def mean(x_RT):
        return jnp.sum(jnp.where(reply_RT, x_RT, 0)) / jnp.sum(reply_RT)

    loss, critic_loss = mean(RL.kl_coef * kl - surrogate), mean(error)
    return loss + critic_loss, (loss, critic_loss)


def plain_values(critic_params, state, rows: Rows):
    """[R, T - 1], of what stands before each token but the first."""
    weights = Weights(critic_params.trunk, state.critic.weights.router_bias_LE)
    model = small.config(tied_head=True)
    hidden = forward(weights, rows.tokens_BT, model, segments_BT=rows.segments_BT).hidden_BTD
    size = jnp.sqrt(jnp.mean(hidden**2, axis=-1, keepdims=True) + model.norm_eps)
    return (hidden / size @ (critic_params.trunk.norm_D * critic_params.head_D))[:, :-1]


def test_a_step_of_ppo_is_a_plain_one():
    """Advantages from values of before the update, and gradients of both networks."""
    d, rows, state = drawn(), flat(padded(drawn())), policy("ppo")
    params = state.train.weights.params, state.critic.weights.params
    reply_RT = rows.reply_BT[:, 1:]
    value_RT = np.float64(plain_values(params[1], state, rows))
    # With gamma and lambda of 1 an advantage is the reply's reward, less the value.
    target_RT = np.where(reply_RT, np.float64(d.reward_PG).reshape(-1, 1), 0)
    above = target_RT - value_RT
    mean, std = above[reply_RT].mean(), above[reply_RT].std()
    (_, losses), gradients = jax.jit(jax.value_and_grad(plain_ppo, (0, 1), has_aux=True))(
        *params, state, rows, np.float32((above - mean) / std), np.float32(target_RT)
    )
    got, metrics = reference_step("ppo")
    assert float(metrics["loss"]) == pytest.approx(float(losses[0]), rel=1e-4)
    assert float(metrics["critic/loss"]) == pytest.approx(float(losses[1]), rel=1e-4)
    explained = 1 - above[reply_RT].var() / target_RT[reply_RT].var()
    assert float(metrics["critic/explained_variance"]) == pytest.approx(explained, rel=1e-4)
    names = "grad_norm", "critic/grad_norm"
    for train, gradient, name in zip((got.train, got.critic), gradients, names, strict=True):
        norm = optax.tree.norm(gradient)
        assert float(metrics[name]) == pytest.approx(float(norm), rel=1e-4) and norm > 0.05
        want = jax.tree.map(lambda g, norm=norm: 0.1 * OPTIM.clip_norm / norm * g, gradient)
        close(gradient_in(train), want)
    assert got.train.step == got.critic.step == 1


def test_a_leading_axis_of_members_takes_each_members_own_step():
    """States, rollouts and hyperparameters; the number of filled rows is the largest of all."""
    runs = [RUN, dataclasses.replace(RUN, optim=dataclasses.replace(OPTIM, lr=0.3))]
    runs.append(run_with(dataclasses.replace(RL, kl_coef=0.7, clip_low=0.05, reference_every=1)))
    short = drawn().replace(
        completions=[Completion(c.tokens[:2], c.logps[:2], False) for c in drawn().completions]
    )
    rollouts = [packed(d, RUN, seed=i) for i, d in enumerate((drawn(), short, permuted(True)))]

    def stacked(trees):
        return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(a) for a in leaves]), *trees)

    filled = np.max([r.filled_M for r in rollouts], axis=0)
    together = stacked([r.replace(filled_M=filled) for r in rollouts]).replace(filled_M=filled)
    axes = jax.tree.map(lambda _: 0, together).replace(filled_M=None)
    static = static_of(RUN)

    def one(state, rollout, hyper):
        return grpo_step.__wrapped__(state, rollout, hyper, **static)

    members = jax.jit(jax.vmap(one, in_axes=(0, axes, 0)))
    states, metrics = members(
        stacked([policy()] * 3), together, stacked([hyper_of(cfg) for cfg in runs])
    )
    for i, (cfg, rollout) in enumerate(zip(runs, rollouts, strict=True)):
        got = jax.tree.map(lambda a, i=i: a[i], (states, metrics))
        assert_same_step(got, step(policy(), rollout, cfg))


# Advantages, clipping, reference, metrics.


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"reinforce++", "ppo"}))
def test_groups_of_equal_reward_leave_the_model_exactly_as_it_is(algorithm):
    """With the presets' settings, router's biases included, but for the pull of a KL term: that is
    there whatever the rewards."""
    run = RUNS["tiny"]()
    assert run.rl.kl_coef is None and run.optim.weight_decay == OPTIM.weight_decay
    assert run.optim.bias_rate == run.optim.balance_alpha == OPTIM.bias_rate == 0
    cfg, d = run_with(of(algorithm)), on_policy(drawn())
    reward_PG = np.repeat(np.float32([0.1, 0, 0.7, 1.1]), G).reshape(P, G)

    def fresh() -> PolicyState:
        return PolicyState(new_state(small.weights(), OPTIM, mtp=False), small.weights())

    state, metrics = step(fresh(), packed(d.replace(reward_PG=reward_PG)), cfg, kl_coef=0.0)
    assert metrics["grad_norm"] == 0 and metrics["groups/zero_std"] == 1
    chex.assert_trees_all_equal(state.train.weights, small.weights())
    _, mixed = step(fresh(), packed(d), cfg, kl_coef=0.0)
    assert mixed["grad_norm"] > 0.01 and mixed["groups/zero_std"] == 0.25


def test_without_a_kl_term_there_is_no_reference():
    cfg = run_with(of("grpo", kl_coef=0.0))
    state, metrics = step(policy().replace(reference=None), packed(drawn()), cfg)
    want, _ = step(policy(), packed(drawn()), kl_coef=0.0)
    assert state.reference is None and metrics["kl"] == 0
    close(state.train.weights, want.train.weights)
    assert policy_shardings(cfg, make_mesh("1")).reference is None


def scored(d: Drawn, weights, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(log-probs of all next tokens [N, T - 1, V], which of them are of replies [N, T - 1])."""
    rows = flat(padded(d))
    logits, _ = small.logits(weights, rows.tokens_BT, segments_BT=rows.segments_BT)
    return small.log_softmax(np.float64(logits) / temperature)[:, :-1], rows.reply_BT[:, 1:]


def on_policy(d: Drawn) -> Drawn:
    """With the log-probs that the policy itself gives its tokens."""
    logp_NTV, reply_NT = scored(d, small.weights())

    def of_reply(i, c: Completion):
        return np.float32(logp_NTV[i][reply_NT[i]][np.arange(len(c.tokens)), c.tokens])

    return d.with_logps(of_reply)


@pytest.mark.parametrize("shift, metric, sign", [(-1, "clip/high", 1), (1, "clip/low", -1)])
def test_ratio_is_to_the_log_probs_of_the_sampler(shift, metric, sign):
    """Were the old log-probs recomputed, or absent, the ratio would be 1 and nothing clipped."""
    d = on_policy(drawn())
    _, plain = step(policy(), packed(d))
    _, shifted = step(policy(), packed(d.with_logps(lambda i, c: c.logps + shift)))
    advantage_PG = np.asarray(ALGORITHMS["grpo"].advantages(d.reward_PG, d.graded_PG))
    gone_N = sign * advantage_PG.reshape(-1) > 0
    gone = sum(len(c.tokens) for c, g in zip(d.completions, gone_N, strict=True) if g)
    other = {"clip/high": "clip/low", "clip/low": "clip/high"}[metric]
    assert float(shifted[metric]) == pytest.approx(gone / d.tokens, rel=1e-6)
    assert shifted[other] == 0 and plain[metric] == 0
    assert float(shifted["sampler/logp_diff"]) == pytest.approx(1, rel=1e-5)
    assert abs(float(shifted["loss"] - plain["loss"])) > 0.05


@pytest.mark.parametrize("correction", ["tis", "icepop"])
def test_a_correction_takes_ratios_to_the_trainer_and_weighs_by_the_samplers(correction):
    """A sampler that gave every token e^2 times, or e^-2 times, the trainer's probability."""
    cfg = run_with(of("grpo", correction=correction))
    true = on_policy(drawn())
    none, _ = step(policy(), packed(true), kl_coef=0.0)
    same, metrics = step(policy(), packed(true), cfg, kl_coef=0.0)
    close(same.train.weights, none.train.weights)  # where the two agree
    assert float(metrics["correction/weight"]) == pytest.approx(1, rel=1e-5)

    apart = true.with_logps(lambda i, c: c.logps + np.float32(2 - 4 * (i % 2)))
    _, metrics = step(policy(), packed(apart), cfg, kl_coef=0.0)
    assert float(metrics["sampler/logp_diff"]) == pytest.approx(2, rel=1e-4)
    assert metrics["clip/low"] == metrics["clip/high"] == 0  # against the trainer, as yet unmoved
    if correction == "icepop":  # both are out of its bounds
        assert metrics["correction/masked"] == 1 and metrics["grad_norm"] == 0
    else:
        rare = sum(len(c.tokens) for c in true.completions[::2]) / true.tokens
        mean = rare * np.exp(-2) + (1 - rare) * 2
        assert float(metrics["correction/weight"]) == pytest.approx(mean, rel=1e-4)
        assert metrics["correction/masked"] == 0 and metrics["grad_norm"] > 0.01


def test_reference_is_replaced_every_so_many_updates_and_otherwise_kept():
    def same(a, b) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    states = [jax.device_get(policy())]
    for _ in range(3):
        states.append(jax.device_get(step(states[-1], packed(drawn()))[0]))
    first, one, two, three = states
    assert same(one.reference, first.reference) and not same(one.reference, one.train.weights)
    assert same(two.reference, two.train.weights)
    assert same(three.reference, two.reference) and not same(three.reference, three.train.weights)


def test_router_bias_moves_by_the_rate_from_the_counts_of_all_valid_tokens():
    rows, before = flat(packed(drawn())), policy().train.weights
    _, stats = small.logits(
        before, rows.tokens_BT, small.CONFIG, rows.segments_BT, rows.positions_BT
    )
    load_LE = np.float64(stats.load_E)
    assert load_LE.sum() == np.sum(rows.segments_BT > 0) * small.CONFIG.router.active
    state, metrics = step(policy(), packed(drawn()), BALANCED)
    moved_LE = np.asarray(state.train.weights.router_bias_LE - before.router_bias_LE)
    np.testing.assert_allclose(moved_LE, 0.01 * np.sign(load_LE.mean() - load_LE), atol=1e-7)
    assert moved_LE.min() < 0 < moved_LE.max()
    assert float(metrics["router/max_load"]) == pytest.approx(load_LE.max() / load_LE.mean())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropy_and_kl_are_means_over_reply_tokens_at_the_samplers_temperature(temperature):
    """The reference's distribution too: KL is between what is sampled."""
    d = drawn()
    policy_logp, reply_NT = scored(d, policy().train.weights, temperature)
    ref_logp, _ = scored(d, policy().reference, temperature)
    entropy = -np.sum(np.exp(policy_logp) * policy_logp, axis=-1)[reply_NT]
    drawn_NT1 = flat(padded(d)).tokens_BT[:, 1:, None]
    apart = np.take_along_axis(ref_logp - policy_logp, drawn_NT1, axis=-1)[..., 0][reply_NT]
    cfg = dataclasses.replace(RUN, sampling=dataclasses.replace(SAMPLING, temperature=temperature))
    metrics = step(policy(), packed(d), cfg)[1]
    assert float(metrics["entropy"]) == pytest.approx(entropy.mean(), rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(np.mean(np.exp(apart) - apart - 1), rel=1e-4)


@pytest.mark.parametrize("temperatures", [(1.0, 0.7), (0.7, 1.0)])
def test_sampler_and_trainer_agree_on_log_probs_at_their_temperature(temperatures):
    cfg, other = (
        dataclasses.replace(RUN, sampling=dataclasses.replace(SAMPLING, temperature=t))
        for t in temperatures
    )
    engine = Engine(small.CONFIG, cfg.sampling, make_mesh("1"), stop=[0])
    requests = [Request(list(range(1, 2 + q)), q, i) for q in range(P) for i in range(G)]
    completions, _ = engine.generate(small.weights(), requests, jax.random.key(5))
    reward_PG = np.float32(np.arange(N) % 3).reshape(P, G)
    d = Drawn([x.prompt for x in requests], completions, reward_PG, np.ones((P, G), bool))
    _, metrics = step(policy(), packed(d), cfg)
    assert metrics["sampler/logp_diff"] < 1e-5
    assert metrics["clip/low"] == metrics["clip/high"] == 0
    _, metrics = step(policy(), packed(d), other)
    assert metrics["sampler/logp_diff"] > 0.05


GOLDEN = {
    "loss": 0.31638,
    "kl": 0.710044,
    "entropy": 2.505258,
    "grad_norm": 1.085067,
    "clip/low": 0.136986,
    "clip/high": 0.054795,
    "router/max_load": 3.008265,
    "moved/embed": 5.00633,
    "moved/experts": 2.90503,
    "moved/head": 4.44663,
}


def test_one_step_gives_the_numbers_it_always_gave():
    """After a change that is meant to change them, copy the numbers that the failure shows."""
    before = policy().train.weights.params
    state, metrics = step(policy(), packed(drawn()), BALANCED)
    names = ("loss", "kl", "entropy", "grad_norm", "clip/low", "clip/high", "router/max_load")
    got = {name: round(float(metrics[name]), 6) for name in names}
    moved = jax.tree.map(lambda a, b: np.abs(a - b).sum(), state.train.weights.params, before)
    parts = {"embed": moved.embed_VD, "experts": moved.moe.ffn.down_EFD, "head": moved.head_DV}
    got |= {f"moved/{name}": round(float(total), 5) for name, total in parts.items()}
    assert got == pytest.approx(GOLDEN, rel=1e-4), f"new numbers:\nGOLDEN = {got}"


def test_a_model_with_an_mtp_module_trains_and_its_mtp_module_stays():
    """RL does not run it: it has no gradient, no moments, its router no load, and nothing decays
    it."""
    model = small.config(mtp_depth=1)
    decaying = dataclasses.replace(BALANCED.optim, weight_decay=0.1)
    cfg = dataclasses.replace(RUN, model=model, optim=decaying)
    train = new_state(small.weights(model), cfg.optim, mtp=False)
    assert not optax.tree_utils.tree_get(train.opt_state, "mu").mtp
    state = PolicyState(train, reference_of(small.weights(model, seed=1)))
    state, _ = step(state, packed(drawn()), cfg)
    before, after = small.weights(model), state.train.weights
    chex.assert_trees_all_equal(after.params.mtp, before.params.mtp)
    moved = np.any(after.router_bias_LE != before.router_bias_LE, axis=1)
    np.testing.assert_array_equal(moved, [True, False])


R1_RATE = OptimConfig(lr=3e-6)


def low_precision(**dtypes) -> tuple[PolicyState, RunConfig]:
    """A state and its run, for parameters and computing of these types."""
    model = small.config(**dtypes)
    params = jax.tree.map(lambda a: a.astype(model.param_dtype), small.weights().params)
    state = new_state(small.weights().replace(params=params), R1_RATE, mtp=False)
    reference = small.weights(seed=1)
    # RunConfig refuses bfloat16 parameters at this rate; the step must keep them all the same.
    rate = OPTIM if model.param_dtype == "bfloat16" else R1_RATE
    cfg = dataclasses.replace(RUN, model=model, optim=rate)
    return PolicyState(
        state, jax.tree.map(lambda a, b: a.astype(b.dtype), reference, state.weights)
    ), cfg


def test_bfloat16_computing_follows_float32_and_moves_float32_parameters_at_a_small_rate():
    def moves(**dtypes):
        state, cfg = low_precision(**dtypes)
        state, metrics = step(state, packed(drawn()), cfg)
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
    before, cfg = low_precision(param_dtype="bfloat16")
    state, _ = jax.eval_shape(lambda s, r: step(s, r, cfg), before, packed(drawn()))
    opt_state = before.train.opt_state
    chex.assert_trees_all_equal_dtypes(state.train.opt_state, opt_state)
    for tree in (given, optax.tree_utils.tree_get(opt_state, "nu")):
        assert {a.dtype for a in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    assert {a.dtype for a in jax.tree.leaves(state.train.weights.params)} == {jnp.dtype("bfloat16")}
