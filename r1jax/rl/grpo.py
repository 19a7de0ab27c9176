"""Group Relative Policy Optimization and its kin: the loss, and the one compiled step.

DeepSeekMath, arXiv 2402.03300, section 4.1; DeepSeek-R1, arXiv 2501.12948, section 2.2.1.

Paper: J = mean over replies of 1/|o| sum_t min(r_t A, clip(r_t, 1 - e, 1 + e) A) - beta k3_t, with
r_t = pi(o_t) / pi_old(o_t). Code: its negation is the loss, with these differences. Log-ratios are
bounded at +-20, where no gradient is left (`clip/bounded` says how often). Log-probs are of the
sampler's distribution at its temperature. The old ones are those recorded when the tokens were
drawn, so a difference between sampler and trainer is seen by the ratio (and reported as
sampler/logp_diff), unless a correction keeps the two apart (`rl/correction.py`). With routing
replay (of the old policy's choices: GSPO, arXiv 2507.18071; of the sampler's: R3, arXiv 2510.11370)
the policy, but not the reference, takes the experts that the sampler took, in all updates of a
rollout; sampler/routing_diff is how often it would have taken others. A reply that no grader graded
leaves the update as if it had not been drawn (`reward/ungraded` counts them).

Replies come packed in rows (`rl/types.py`), and only the rows that hold some are computed: an
update costs what its replies are long, and not what they might have been, in one program for all.
A critic, where the algorithm has one (`rl/critic.py`), is scored and trained on the same rows.

P questions  G replies a question  N = P G replies  M updates  A micro-batches  B rows at once
T tokens  L MoE layers  E experts
"""

import functools
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import masked, optim
from r1jax.architecture import ModelConfig
from r1jax.config import AlgorithmName, CorrectionName, OptimConfig
from r1jax.model.adapters import without_adapters
from r1jax.model.head import log_probs
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import specs_of
from r1jax.model.transformer import forward
from r1jax.optim import TrainState
from r1jax.rl import critic
from r1jax.rl.algorithms import ALGORITHMS, Algorithm, centred
from r1jax.rl.correction import CORRECTIONS
from r1jax.rl.critic import Valued
from r1jax.rl.hyper import Hyper, Scalar
from r1jax.rl.microbatches import accumulate, score, with_balance
from r1jax.rl.types import Rollout, Rows

BOUND = 20.0  # of a log-ratio, in nats


class Frozen(flax.struct.PyTreeNode):
    """A reference that is no copy: the policy's own weights without their adapters."""


class PolicyState(flax.struct.PyTreeNode):
    """The policy in training, the frozen reference that a KL term holds it to, if there is one
    (without MTP modules, which RL does not run), and the critic, if the algorithm has one."""

    train: TrainState
    reference: Weights | Frozen | None
    critic: TrainState | None = None  # of RewardWeights


class Token(NamedTuple):
    """What the loss takes of each token beside its log-probs, all [B, T]. Anything may stand where
    `reply_BT` is false."""

    reply_BT: jax.Array
    segments_BT: jax.Array
    old_logp_BT: jax.Array  # of the trainer, where a correction is on; else of the sampler
    advantage_BT: jax.Array
    weight_BT: jax.Array  # sums to what the algorithm says over a whole update
    importance_BT: jax.Array  # of the correction, on the surrogate alone


def policy_loss(logp_BT, ref_logp_BT, token: Token, algorithm: Algorithm, hyper: Hyper):
    """Sum of weighted -min(r A, clip(r) A) + beta k3 (or another surrogate), and its parts.

    k3 = ref/pi - log(ref/pi) - 1 is an unbiased, never negative estimate of KL(pi || ref) whose
    gradient, unlike that of k1 as a loss, is not zero in expectation (Schulman, 2020). It grows as
    exp(log(ref/pi)): unbounded, one token of e^40 is all that is left of a clipped gradient.
    """
    chex.assert_equal_shape([logp_BT, *token])
    mask, advantage = token.reply_BT, token.advantage_BT
    difference = logp_BT - token.old_logp_BT
    log_ratio, far = _bounded(algorithm.log_ratios(difference, mask, token.segments_BT))
    ratio = jnp.exp(log_ratio)
    surrogate = algorithm.surrogate(
        log_ratio, jnp.where(mask, logp_BT, 0), advantage, hyper.clip_low, hyper.clip_high
    )
    loss_BT = -token.importance_BT * surrogate
    k3, ref_far = jnp.zeros_like(ratio), jnp.zeros_like(far)
    if ref_logp_BT is not None:
        log_ref_ratio, ref_far = _bounded(jnp.where(mask, ref_logp_BT - logp_BT, 0.0))
        k3 = jnp.exp(log_ref_ratio) - log_ref_ratio - 1
        loss_BT = loss_BT + hyper.kl_coef * k3
    loss = jnp.sum(jnp.where(mask, token.weight_BT * loss_BT, 0))
    sums = {  # over reply tokens; divided by their number once, at the end
        "kl": k3,
        "clip/low": (ratio < 1 - hyper.clip_low) & (advantage < 0),
        "clip/high": (ratio > 1 + hyper.clip_high) & (advantage > 0),
        "clip/bounded": far | ref_far,
    }
    return loss, {name: masked.total(value, mask) for name, value in sums.items()}


def _bounded(log_ratio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Within +-BOUND, and where that changed it: exp() of it is then neither 0 nor inf."""
    return jnp.clip(log_ratio, -BOUND, BOUND), jnp.abs(log_ratio) > BOUND


def row_log_probs(
    weights: Weights,
    rows: Rows,
    model: ModelConfig,
    temperature: Scalar,
    bias_V: jax.Array | np.ndarray | None = None,
):
    """Log-prob of each token given those before it in its segment, and the entropy it was drawn
    from, [B, T] (without meaning for a segment's first), and the routing statistics."""
    experts_BTLK = rows.experts_BTLK
    if experts_BTLK is not None:
        routed_BT11 = rows.routed_BT[:, :, None, None]
        experts_BTLK = jnp.where(routed_BT11, experts_BTLK.astype(jnp.int32), -1)
    out = forward(
        weights,
        rows.tokens_BT,
        model,
        positions_BT=rows.positions_BT,
        segments_BT=rows.segments_BT,
        experts_BTLK=experts_BTLK,
    )
    hidden_BTD, targets_BT = out.hidden_BTD[:, :-1], rows.tokens_BT[:, 1:]
    scored = log_probs(weights.params, hidden_BTD, targets_BT, model, temperature, bias_V=bias_V)
    logp_BT, entropy_BT = (jnp.pad(a, ((0, 0), (1, 0))) for a in scored)
    return logp_BT, entropy_BT, out.stats


class Known(NamedTuple):
    """Of every token before the first update, [B, T] of some rows or [M, A, B, T] of all. None
    where there is no correction, or no critic."""

    advantage: jax.Array
    trainer_logp: jax.Array | None = None  # that the policy gives it
    critic: Valued | None = None


def grpo_loss(
    weights: Weights,
    reference: Weights | None,
    rows: Rows,
    known: Known,
    weight_N: jax.Array,
    share: jax.Array,
    hyper: Hyper,
    *,
    model: ModelConfig,
    algorithm: AlgorithmName,
    correction: CorrectionName,
    optim_cfg: OptimConfig,
):
    """The loss of some rows of an update, whose tokens are 1 / `share`: losses and gradients of its
    micro-batches add up to those of the whole, however it is split.

    weight_N: of each token of a reply. Returns (loss, (sums, load_LE)).
    """
    policy = hyper.temperature, hyper.bias_V
    logp_BT, entropy_BT, stats = row_log_probs(weights, rows, model, *policy)
    ref_logp_BT = None
    if reference is not None:
        own = rows.replace(experts_BTLK=None)  # another model's choices would make it another one
        ref_logp_BT, _, _ = row_log_probs(reference, own, model, *policy)
        ref_logp_BT = jax.lax.stop_gradient(ref_logp_BT)
    mask, sampled_BT = rows.reply_BT, rows.old_logp_BT
    token = Token(
        reply_BT=mask,
        segments_BT=rows.segments_BT,
        old_logp_BT=sampled_BT,
        advantage_BT=known.advantage,
        weight_BT=weight_N[rows.sample_BT],
        importance_BT=jnp.ones_like(logp_BT),
    )
    corrected = {}
    if known.trainer_logp is not None:
        apart_BT = jnp.where(mask, known.trainer_logp - sampled_BT, 0)
        importance_BT = CORRECTIONS[correction](jnp.exp(_bounded(apart_BT)[0]))
        token = token._replace(old_logp_BT=known.trainer_logp, importance_BT=importance_BT)
        corrected["correction/weight"] = masked.total(importance_BT, mask)
        corrected["correction/masked"] = masked.total(importance_BT == 0, mask)
    loss, sums = policy_loss(logp_BT, ref_logp_BT, token, ALGORITHMS[algorithm], hyper)
    sums |= corrected | {
        "entropy": masked.total(entropy_BT, mask),
        "sampler/logp_diff": masked.total(jnp.abs(logp_BT - sampled_BT), mask),
    }
    if stats is not None and stats.differs_BT is not None:  # where a token was drawn from
        apart_BT = jnp.mean(stats.differs_BT, axis=0)[:, :-1]
        apart_BT = jnp.pad(apart_BT, ((0, 0), (1, 0)))
        sums["sampler/routing_diff"] = masked.total(apart_BT, mask)
    loss, load_LE = with_balance(loss, stats, rows, share, optim_cfg)
    return loss, (sums, load_LE)


@functools.partial(
    jax.jit,
    static_argnames=("model", "algorithm", "correction", "optim_cfg"),
    donate_argnames="state",
)
def grpo_step(
    state: PolicyState,
    rollout: Rollout,
    hyper: Hyper,
    *,
    model: ModelConfig,
    algorithm: AlgorithmName,
    correction: CorrectionName,
    optim_cfg: OptimConfig,
) -> tuple[PolicyState, dict[str, jax.Array]]:
    """All updates of one rollout: advantages, reference, ratios, KL, optimizer, router biases,
    critic.

    optim_cfg's own learning rate is not used: hyper's is. `hyper` and `static_of` make the
    arguments of a run's configuration.
    """
    rule = ALGORITHMS[algorithm]
    length_N, update_N = rollout.length_PG.reshape(-1), rollout.update_PG.reshape(-1)
    known = _before(state, rollout, hyper, model, rule, correction)

    def update(state: PolicyState, xs):
        number, filled, rows, known = xs
        length = jnp.where(update_N == number, length_N, 0)
        weight_N = rule.weights(length, hyper.budget)
        share = 1 / jnp.maximum(jnp.sum(rows.segments_BT > 0), 1)
        weights, kept = state.train.weights, state.reference
        reference = without_adapters(weights) if isinstance(kept, Frozen) else kept

        def loss_fn(part, micro):
            rows, known = micro
            params = optim.whole(part, weights.params, mtp=False)
            return grpo_loss(
                weights.replace(params=params), reference, rows, known, weight_N, share,
                hyper, model=model, algorithm=algorithm, correction=correction, optim_cfg=optim_cfg,
            )  # fmt: skip

        specs = specs_of(weight_specs(model), weights)
        params, specs = (optim.trained(w.params, mtp=False) for w in (weights, specs))
        grads, loss, sums, load_LE = accumulate(params, specs, (rows, known), filled, loss_fn)
        train, metrics = optim.update(
            state.train, grads, load_LE, optim_cfg, lr=hyper.lr, mtp=False
        )
        its_critic = state.critic
        if isinstance(kept, Weights):
            kept = jax.lax.cond(
                train.step % hyper.reference_every == 0,
                lambda: reference_of(train.weights),
                lambda: state.reference,
            )
        if its_critic is not None and hyper.critic is not None:
            its_critic, of_critic, more = critic.update(
                its_critic, rows, known.critic, filled, weight_N, share, hyper.critic,
                model=model, optim_cfg=optim_cfg,
            )  # fmt: skip
            metrics, sums = metrics | of_critic, sums | more
        tokens = jnp.maximum(jnp.sum(length), 1)
        metrics |= {name: value / tokens for name, value in sums.items()}
        if load_LE is not None:
            load = load_LE.astype(jnp.float32)
            mean_L = jnp.maximum(jnp.mean(load, axis=-1), 1)
            metrics["router/max_load"] = jnp.max(jnp.max(load, axis=-1) / mean_L)
        return PolicyState(train, kept, its_critic), {"loss": loss, **metrics}

    numbers_M = jnp.arange(rollout.filled_M.shape[0])
    state, per_update = jax.lax.scan(
        update, state, (numbers_M, rollout.filled_M, rollout.rows, known)
    )
    metrics = jax.tree.map(lambda values_M: jnp.mean(values_M, axis=0), per_update)
    # After the first update the policy is another one; only before it is the difference noise.
    for name in {"sampler/logp_diff", "sampler/routing_diff"} & metrics.keys():
        metrics[name] = per_update[name][0]
    metrics["lr"] = per_update["lr"][-1]
    graded_PG = rollout.graded_PG
    equal_P = jnp.all(centred(rollout.reward_PG, graded_PG) == 0, axis=1)
    metrics["groups/zero_std"] = jnp.mean(equal_P.astype(jnp.float32))
    metrics["reward/mean"] = masked.mean(jnp.where(graded_PG, rollout.reward_PG, 0), graded_PG)
    metrics["reward/ungraded"] = jnp.sum(~graded_PG).astype(jnp.float32)
    if known.critic is not None:
        explained = critic.explained_variance(known.critic, rollout.rows.reply_BT)
        metrics["critic/explained_variance"] = explained
    return state, metrics


def reference_of(weights: Weights) -> Weights:
    """What a reference keeps of the policy's weights."""
    return weights.replace(params=optim.trained(weights.params, mtp=False))


def _before(
    state: PolicyState,
    rollout: Rollout,
    hyper: Hyper,
    model: ModelConfig,
    rule: Algorithm,
    correction: CorrectionName,
) -> Known:
    """What is known before anything is updated."""

    def log_probs_of(rows: Rows) -> jax.Array:
        return row_log_probs(state.train.weights, rows, model, hyper.temperature, hyper.bias_V)[0]

    worth_N = rule.advantages(rollout.reward_PG, rollout.graded_PG).reshape(-1)
    known = Known(advantage=worth_N[rollout.rows.sample_BT])
    if correction != "none":
        known = known._replace(trainer_logp=score(rollout, log_probs_of))
    if hyper.critic is not None:
        assert state.critic is not None, "the state of another algorithm"
        advantage, valued = critic.assess(
            state.critic.weights, rollout, known.advantage, hyper.critic, model
        )
        known = known._replace(advantage=advantage, critic=valued)
    return known
