"""Group Relative Policy Optimization: the loss, and the one compiled step.

DeepSeekMath, arXiv 2402.03300, section 4.1; DeepSeek-R1, arXiv 2501.12948, section 2.2.1.

Paper: J = mean over replies of 1/|o| sum_t min(r_t A, clip(r_t, 1 - e, 1 + e) A) - beta k3_t, with
r_t = pi(o_t) / pi_old(o_t). Code: its negation is the loss, with these differences. Log-ratios are
bounded at +-20, where no gradient is left (`clip/bounded` says how often). Log-probs are of the
sampler's distribution at its temperature. The old ones are those recorded when the tokens were
drawn, not recomputed, so a difference between sampler and trainer is seen by the ratio (and
reported as sampler/logp_diff). A reply that no grader graded leaves the update as if it had not
been drawn (`reward/ungraded` counts them).

P questions  G replies a question  R = P G rows  M updates  A micro-batches  B rows at once
T tokens  L MoE layers  E experts
"""

import functools

import chex
import einops
import flax.struct
import jax
import jax.numpy as jnp

from r1jax import masked, optim, sharding
from r1jax.config import ModelConfig, OptimConfig, RLConfig, SamplingConfig
from r1jax.model.params import Weights
from r1jax.model.transformer import forward, log_probs
from r1jax.optim import TrainState
from r1jax.rl.algorithms import ALGORITHMS, settings
from r1jax.rl.types import Rollout

BOUND = 20.0  # of a log-ratio, in nats


class PolicyState(flax.struct.PyTreeNode):
    """The policy in training, and the frozen reference that the KL term holds it to."""

    train: TrainState
    reference: Weights


class Tokens(flax.struct.PyTreeNode):
    """Rows ready for the loss. All but `tokens` and `valid` are of token t given those before."""

    tokens_BT: jax.Array
    valid_BT: jax.Array
    reply_BT: jax.Array
    old_logp_BT: jax.Array
    advantage_B: jax.Array
    weight_BT: jax.Array  # sums to what the algorithm says over a whole update


def policy_loss(logp_BT, ref_logp_BT, rows: Tokens, cfg: RLConfig):
    """Sum of weighted -min(r A, clip(r) A) + beta k3, and its parts.

    k3 = ref/pi - log(ref/pi) - 1 is an unbiased, never negative estimate of KL(pi || ref) whose
    gradient, unlike that of k1 as a loss, is not zero in expectation (Schulman, 2020). It grows as
    exp(log(ref/pi)): unbounded, one token of e^40 is all that is left of a clipped gradient.
    """
    chex.assert_equal_shape([logp_BT, ref_logp_BT, rows.old_logp_BT, rows.weight_BT, rows.reply_BT])
    chex.assert_shape(rows.advantage_B, logp_BT.shape[:1])
    clip_low, clip_high, kl_coef = settings(cfg)
    mask = rows.reply_BT
    difference = logp_BT - rows.old_logp_BT
    log_ratio, far = _bounded(ALGORITHMS[cfg.algorithm].log_ratios(difference, mask))
    ratio = jnp.exp(log_ratio)
    advantage = rows.advantage_B[:, None]
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
    log_ref_ratio, ref_far = _bounded(jnp.where(mask, ref_logp_BT - logp_BT, 0.0))
    k3 = jnp.exp(log_ref_ratio) - log_ref_ratio - 1
    loss = jnp.sum(rows.weight_BT * (kl_coef * k3 - surrogate))
    sums = {  # over reply tokens; divided by their number once, at the end
        "kl": k3,
        "clip/low": (ratio < 1 - clip_low) & (advantage < 0),
        "clip/high": (ratio > 1 + clip_high) & (advantage > 0),
        "clip/bounded": far | ref_far,
        "sampler/logp_diff": jnp.abs(difference),
    }
    return loss, {k: jnp.sum(jnp.where(mask, v, 0).astype(jnp.float32)) for k, v in sums.items()}


def _bounded(log_ratio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Within +-BOUND, and where that changed it: exp() of it is then neither 0 nor inf."""
    return jnp.clip(log_ratio, -BOUND, BOUND), jnp.abs(log_ratio) > BOUND


def row_log_probs(weights: Weights, rows: Tokens, model: ModelConfig, sampling: SamplingConfig):
    """Log-prob of each reply token and the entropy it was drawn from, [B, T] (0 elsewhere), and
    the routing statistics.

    Logits are made for the window of each row that can hold its reply, not for its prompt.
    """
    segments_BT = rows.valid_BT.astype(jnp.int32)
    out = forward(weights, rows.tokens_BT, model, segments_BT=segments_BT)
    time = rows.tokens_BT.shape[1]
    window = min(sampling.max_tokens, time - 1)
    # A reply's first token is predicted from the prompt's last.
    start_B = jnp.clip(jnp.argmax(rows.reply_BT, axis=1) - 1, 0, time - 1 - window)

    def window_of(a_T, start):
        return jax.lax.dynamic_slice_in_dim(a_T, start, window)

    hidden_BWD = jax.vmap(window_of)(out.hidden_BTD, start_B)
    target_BW = jax.vmap(window_of)(rows.tokens_BT, start_B + 1)
    scored = log_probs(weights.params, hidden_BWD, target_BW, model, sampling.temperature)

    def back(a_W, start):
        return jax.lax.dynamic_update_slice_in_dim(jnp.zeros(time), a_W, start + 1, axis=0)

    logp_BT, entropy_BT = (jax.vmap(back)(a, start_B) for a in scored)
    return logp_BT, entropy_BT, out.stats


def grpo_loss(
    weights: Weights,
    reference: Weights,
    rows: Tokens,
    model: ModelConfig,
    cfg: RLConfig,
    optim_cfg: OptimConfig,
    sampling: SamplingConfig,
    update_rows: jax.Array,
):
    """The loss of some rows of an update of `update_rows` graded rows: losses and gradients of its
    micro-batches add up to those of the whole, however it is split.

    Returns (loss, (sums, load_LE)).
    """
    logp_BT, entropy_BT, stats = row_log_probs(weights, rows, model, sampling)
    ref_logp_BT = logp_BT
    kl_coef = settings(cfg).kl_coef
    if kl_coef:
        ref_logp_BT, _, _ = row_log_probs(reference, rows, model, sampling)
    loss, sums = policy_loss(logp_BT, jax.lax.stop_gradient(ref_logp_BT), rows, cfg)
    if not kl_coef:
        sums["kl"] = jnp.zeros(())  # no reference, nothing measured
    sums["entropy"] = jnp.sum(jnp.where(rows.reply_BT, entropy_BT, 0))
    load_LE = None
    if stats is not None:
        load_LE = stats.load_E
        balance = jnp.sum(stats.balance_B) / update_rows
        loss = loss + optim_cfg.balance_alpha * balance
    return loss, (sums, load_LE)


@functools.partial(
    jax.jit, static_argnames=("model", "cfg", "optim_cfg", "sampling"), donate_argnames="state"
)
def grpo_step(
    state: PolicyState,
    rollout: Rollout,
    key: jax.Array,
    *,
    model: ModelConfig,
    cfg: RLConfig,
    optim_cfg: OptimConfig,
    sampling: SamplingConfig,
) -> tuple[PolicyState, dict[str, jax.Array]]:
    """All updates of one rollout: advantages, reference, ratios, KL, optimizer, router biases.

    `key` draws which rows share a minibatch (R1-Zero splits a rollout at random).
    """
    algorithm = ALGORITHMS[cfg.algorithm]
    graded_PG = rollout.graded_PG
    advantage_PG = algorithm.advantages(rollout.reward_PG, graded_PG)
    updates = _split(
        rollout, advantage_PG, lambda mask: algorithm.weights(mask, sampling.max_tokens), key, cfg
    )

    def update(state: PolicyState, rows_AB: Tokens):
        grads, loss, sums, load_LE = _accumulate(state, rows_AB, model, cfg, optim_cfg, sampling)
        train, metrics = optim.update(state.train, grads, load_LE, optim_cfg, ran_mtp=False)
        replace = train.step % cfg.reference_every == 0
        reference = jax.tree.map(
            lambda new, old: jnp.where(replace, new, old), train.weights, state.reference
        )
        tokens = jnp.maximum(jnp.sum(rows_AB.reply_BT), 1)
        metrics |= {name: total / tokens for name, total in sums.items()}
        if load_LE is not None:
            load = load_LE.astype(jnp.float32)
            mean_L = jnp.maximum(jnp.mean(load, axis=-1), 1)
            metrics["router/max_load"] = jnp.max(jnp.max(load, axis=-1) / mean_L)
        return PolicyState(train, reference), {"loss": loss, **metrics}

    state, per_update = jax.lax.scan(update, state, updates)
    metrics = {name: jnp.mean(values) for name, values in per_update.items()}
    # After the first update the policy is another one; only before it is the difference noise.
    metrics["sampler/logp_diff"] = per_update["sampler/logp_diff"][0]
    metrics["lr"] = per_update["lr"][-1]
    no_signal_P = jnp.all(advantage_PG == 0, axis=1)
    metrics["groups/zero_std"] = jnp.mean(no_signal_P.astype(jnp.float32))
    metrics["reward/mean"] = masked.mean(jnp.where(graded_PG, rollout.reward_PG, 0), graded_PG)
    metrics["reward/ungraded"] = jnp.sum(~graded_PG).astype(jnp.float32)
    return state, metrics


def _split(rollout: Rollout, advantage_PG, weights, key, cfg: RLConfig) -> Tokens:
    """Shuffles the rows and lays them out as [M, A, B, ...]: updates, micro-batches, rows. An
    ungraded reply becomes a row of padding."""
    order_R = jax.random.permutation(key, advantage_PG.size)

    def rows(a_PG):
        a_R = einops.rearrange(a_PG, "p g ... -> (p g) ...")[order_R]
        a_MAB = einops.rearrange(
            a_R, "(m a b) ... -> m a b ...", m=cfg.minibatches, a=cfg.microbatches
        )
        return sharding.constrain(a_MAB, None, None, "batch", *(None,) * (a_MAB.ndim - 3))

    chex.assert_equal_shape_prefix(jax.tree.leaves(rollout), 2)
    graded_PG1 = rollout.graded_PG[..., None]
    reply_MABT = rows(rollout.reply_PGT & graded_PG1)
    weight_MXT = jax.vmap(weights)(einops.rearrange(reply_MABT, "m a b t -> m (a b) t"))
    return Tokens(
        tokens_BT=rows(rollout.tokens_PGT),
        valid_BT=rows(rollout.valid_PGT & graded_PG1),
        reply_BT=reply_MABT,
        old_logp_BT=rows(rollout.logp_PGT),
        advantage_B=rows(advantage_PG),
        weight_BT=einops.rearrange(weight_MXT, "m (a b) t -> m a b t", a=cfg.microbatches),
    )


def _accumulate(state: PolicyState, rows_AB: Tokens, model, cfg, optim_cfg, sampling):
    """Gradient, loss, metric sums and expert loads of one update, over its micro-batches. The sum
    is float32, whatever the parameters are: small parts would be lost in a bfloat16 one."""
    weights = state.train.weights
    update_rows = jnp.maximum(jnp.sum(jnp.any(rows_AB.valid_BT, axis=-1)), 1)

    def micro(rows: Tokens):
        def loss_fn(params):
            return grpo_loss(
                weights.replace(params=params),
                state.reference,
                rows,
                model,
                cfg,
                optim_cfg,
                sampling,
                update_rows,
            )

        (loss, (sums, load_LE)), grads = jax.value_and_grad(loss_fn, has_aux=True)(weights.params)
        return optim.float32(grads), loss, sums, load_LE

    first = micro(jax.tree.map(lambda a: a[0], rows_AB))
    if cfg.microbatches == 1:
        return first
    rest = jax.tree.map(lambda a: a[1:], rows_AB)
    total, _ = jax.lax.scan(
        lambda total, rows: (jax.tree.map(jnp.add, total, micro(rows)), None), first, rest
    )
    return total
