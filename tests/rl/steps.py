"""A rollout drawn by hand, packed and padded, and what the tests of the compiled step share.

P questions  G replies a question  N = P G replies  T tokens
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

from r1jax.config import OptimConfig, RLConfig, RunConfig, SamplingConfig
from r1jax.optim import new_state
from r1jax.rl.algorithms import ALGORITHMS
from r1jax.rl.critic import critic_of
from r1jax.rl.grpo import PolicyState, grpo_step, reference_of
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import policy_shardings
from r1jax.rl.types import Rollout, Rows, layout_of, make_rollout
from r1jax.sampling.engine import Completion
from r1jax.sharding import make_mesh

P, G, T = 4, 4, 10
N = P * G
RL = RLConfig(
    questions=P, group=G, minibatches=1, rows=4, kl_coef=0.1, clip_low=0.2, clip_high=0.2,
    reference_every=2,
)  # fmt: skip
SAMPLING = SamplingConfig(max_prompt=4, max_tokens=6, slots=8, refill=4)
OPTIM = OptimConfig(lr=0.1, clip_norm=0.05)
RUN = RunConfig(model=small.CONFIG, sampling=SAMPLING, rl=RL, optim=OPTIM)
# The balance loss is of rows, so that it changes with what a row holds.
BALANCED = dataclasses.replace(
    RUN, optim=dataclasses.replace(OPTIM, balance_alpha=0.05, bias_rate=0.01)
)


def run_with(rl=RL, **changes) -> RunConfig:
    return dataclasses.replace(RUN, rl=rl, **changes)


def of(algorithm: str, **changes) -> RLConfig:
    return dataclasses.replace(RL, algorithm=algorithm, **changes)


def step(state, rollout, cfg: RunConfig = RUN, **hyper):
    """With `hyper` in place of cfg's own. Programs are few: what is alike in all but replies and
    hyperparameters shares one."""
    return grpo_step(state, rollout, hyper_of(cfg).replace(**hyper), **static_of(cfg))


def policy(algorithm: str = "grpo") -> PolicyState:
    """A state whose reference is another model, so that the KL is not zero, whose critic says
    something, and whose second moments are not zero, or Adam's step would be the sign of the
    gradient and of its rounding."""

    def moving(weights):
        train = new_state(weights, OPTIM)
        seen = jax.tree.map(lambda a: np.full_like(a, 1e-6), train.weights.params)
        return train.replace(opt_state=optax.tree_utils.tree_set(train.opt_state, nu=seen))

    critic = None
    if ALGORITHMS[algorithm].critic is not None:
        first = critic_of(small.weights(seed=2), small.CONFIG)
        head_D = jnp.float32(np.random.default_rng(2).normal(size=small.CONFIG.d_model))
        critic = moving(first.replace(params=first.params.replace(head_D=head_D)))
    return PolicyState(moving(small.weights(seed=0)), reference_of(small.weights(seed=1)), critic)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Prompts and replies of many lengths, and what they earned."""

    prompts: list[list[int]]
    completions: list[Completion]
    reward_PG: np.ndarray
    graded_PG: np.ndarray

    def reordered(self, order) -> "Drawn":
        """Replies in another order, which may repeat or leave out whole groups."""

        def by_group(a_PG):
            return a_PG.reshape(-1)[order].reshape(-1, G)

        return Drawn(
            [self.prompts[i] for i in order],
            [self.completions[i] for i in order],
            by_group(self.reward_PG),
            by_group(self.graded_PG),
        )

    def replace(self, **changes) -> "Drawn":
        return dataclasses.replace(self, **changes)

    def with_logps(self, of) -> "Drawn":
        """`of(i, completion)` gives the log-probs of reply i."""
        changed = [dataclasses.replace(c, logps=of(i, c)) for i, c in enumerate(self.completions)]
        return self.replace(completions=changed)

    @property
    def tokens(self) -> int:
        return sum(len(c.tokens) for c in self.completions)


@functools.cache
def drawn() -> Drawn:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 16, n).tolist() for n in rng.integers(1, 5, P) for _ in range(G)]
    completions = []
    for n in rng.integers(1, 7, N):
        logps = np.float32(-2.7 + 0.4 * rng.normal(size=n))
        completions.append(Completion(rng.integers(0, 16, n, dtype=np.int32), logps, False))
    reward_PG = rng.integers(0, 3, (P, G)) + np.array([0, 0, 0.1, 0])[:, None]
    reward_PG[1] = 1.1
    return Drawn(prompts, completions, np.float32(reward_PG), np.ones((P, G), bool))


def packed(d: Drawn, cfg: RunConfig = RUN, devices: int = 1, seed: int = 0) -> Rollout:
    """As a run makes it."""
    rewards, graded = d.reward_PG.reshape(-1), d.graded_PG.reshape(-1)
    layout, rng = layout_of(cfg, devices), np.random.default_rng(seed)
    return make_rollout(d.prompts, d.completions, rewards, graded, layout, rng)


def padded(d: Drawn) -> Rollout:
    """One update of a reply a row, in order, with noise at padding, wherever noise fits; in the
    shape of the packed one."""
    rng, n = np.random.default_rng(1), len(d.prompts)
    prompt_N1 = np.array([[len(p)] for p in d.prompts])
    length_N1 = np.array([[len(c.tokens)] for c in d.completions])
    at = np.arange(T)
    tokens = rng.integers(0, small.CONFIG.vocab, (n, T))
    logp = rng.normal(size=(n, T))
    for i, (p, c) in enumerate(zip(d.prompts, d.completions, strict=True)):
        tokens[i, : len(p) + len(c.tokens)] = [*p, *c.tokens]
        logp[i, len(p) : len(p) + len(c.tokens)] = c.logps
    rows = Rows(
        tokens_BT=np.int32(tokens),
        segments_BT=np.int32(at < prompt_N1 + length_N1),
        positions_BT=np.tile(np.int32(at), (n, 1)),
        reply_BT=(at >= prompt_N1) & (at < prompt_N1 + length_N1),
        old_logp_BT=np.float32(logp),
        sample_BT=np.tile(np.arange(n, dtype=np.int32)[:, None], T),
    )
    return Rollout(
        rows=jax.tree.map(lambda a: a.reshape(1, -1, RL.rows, T), rows),
        filled_M=np.int32([n // RL.rows]),
        reward_PG=d.reward_PG,
        graded_PG=d.graded_PG,
        length_PG=np.int32(length_N1.reshape(-1, G)),
        update_PG=np.zeros((n // G, G), np.int32),
    )


def flat(r: Rollout) -> Rows:
    """All rows, one after another."""
    return jax.tree.map(lambda a: np.asarray(a).reshape(-1, a.shape[-1]), r.rows)


def close(got, want, rtol=1e-4, atol=1e-5):
    """Equal trees, to float32 rounding at the scale of each array."""

    def one(a, b):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * np.abs(b).max(initial=1e-3))

    jax.tree.map(one, got, want)


def permuted(within: bool) -> Drawn:
    rng, order_PG = np.random.default_rng(3), np.arange(N).reshape(P, G)
    order_PG = rng.permuted(order_PG, axis=1) if within else rng.permutation(order_PG)
    return drawn().reordered(order_PG.reshape(-1))


def doubled(d: Drawn) -> Drawn:
    return d.reordered([*range(N), *range(N)])


def gradient_in(train):
    """What the first update clipped, a tenth of it."""
    return optax.tree_utils.tree_get(train.opt_state, "mu")


def assert_same_step(got, want):
    (state, metrics), (want_state, want_metrics) = got, want
    chex.assert_trees_all_equal_shapes_and_dtypes(state, want_state)
    close(state.train.weights, want_state.train.weights)
    close(gradient_in(state.train), gradient_in(want_state.train))
    if want_state.critic is not None:
        close(state.critic.weights, want_state.critic.weights)
        close(gradient_in(state.critic), gradient_in(want_state.critic))
    assert {k: float(v) for k, v in metrics.items()} == pytest.approx(
        {k: float(v) for k, v in want_metrics.items()}, rel=1e-4, abs=1e-7
    )


def on_mesh(mesh: str, d: Drawn, cfg: RunConfig):
    """(state, metrics) of a step on a mesh, where the state stays sharded."""
    mesh = make_mesh(mesh)
    where = policy_shardings(cfg, mesh)
    with jax.set_mesh(mesh):
        rollout = packed(d, cfg, mesh.size)
        state, metrics = step(jax.device_put(policy(cfg.rl.algorithm), where), rollout, cfg)
    jax.tree.map(lambda a, s: a.sharding.is_equivalent_to(s, a.ndim) or pytest.fail(), state, where)
    return jax.device_get((state, metrics))
