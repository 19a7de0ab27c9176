"""The sampler and the trainer in bfloat16, on the embedded base: the ratio that the update sees
before it has moved is noise, and that noise is small. What of it is routing, replay removes."""

import dataclasses
import functools

import jax
import numpy as np

from r1jax.base import EMBEDDED, load_weights
from r1jax.config import RLConfig, SamplingConfig
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tokenizer import Tokenizer
from r1jax.presets import r1_zero_tiny
from r1jax.rl.grpo import row_log_probs
from r1jax.rl.types import layout_of, make_rollout
from r1jax.sampling.engine import Engine, Request
from r1jax.sharding import make_mesh

SAMPLING = SamplingConfig(max_prompt=12, max_tokens=100, slots=64, refill=64)
PROMPTS = ("use 9 7 3 1 to make 4", "puzzle 8 6 5 2 to make 9", "use 5 4 2 1 to make 0")


MODEL = dataclasses.replace(r1_zero_tiny().model, dtype="bfloat16")


@functools.cache
def drawn():
    """(weights, rows of 64 replies with the experts that the sampler took)"""
    model, weights = MODEL, load_weights(EMBEDDED, MODEL)
    tokenizer = Tokenizer.words(VOCABULARY)
    prompts = [tokenizer.encode(f"{PROMPTS[q % 3]} <think>") for q in range(16)]
    requests = [Request(prompts[q], q, i, routing=True) for q in range(16) for i in range(4)]
    engine = Engine(model, SAMPLING, make_mesh("1"), [tokenizer.eos_id], routing=True)
    completions, _ = engine.generate(weights, requests, jax.random.key(0))
    run = dataclasses.replace(
        r1_zero_tiny(),
        sampling=SAMPLING,
        rl=RLConfig(questions=16, group=4, minibatches=1, rows=64, routing_replay=True),
    )
    n, layout = len(requests), layout_of(run, 1)
    rng = np.random.default_rng(0)
    prompted = [x.prompt for x in requests]
    r = make_rollout(prompted, completions, [0] * n, [True] * n, layout, rng)
    return weights, jax.tree.map(lambda a: a.reshape(-1, *a.shape[3:]), r.rows)


@functools.cache
def scored(replay: bool):
    """Log-probs; where experts differ from the sampler's in a layer, [B, T, L]; and where the
    trainer would have chosen others, [L, B, T]."""
    weights, rows = drawn()
    taken = rows.experts_BTLK
    rows = rows if replay else rows.replace(experts_BTLK=None)

    @jax.jit
    def score(weights, rows):
        logp_BT, _, stats = row_log_probs(weights, rows, MODEL, 1.0)
        return logp_BT, stats.experts_BTK, stats.differs_BT

    logp_BT, used_LBTK, own_LBT = jax.device_get(score(weights, rows))
    used_BTLK = np.moveaxis(used_LBTK, 0, 2)
    apart_BTL = np.any(np.sort(used_BTLK) != np.sort(taken), axis=-1)
    return logp_BT, apart_BTL & np.asarray(rows.routed_BT)[..., None], own_LBT


def test_replay_leaves_no_difference_in_routing():
    (plain, apart, _), (replayed, none, own) = scored(replay=False), scored(replay=True)
    assert 1e-4 < apart.mean() < 0.05 and not none.any()
    assert 0 < own.mean() < 0.05  # what it would have chosen itself is told all the same
    _, rows = drawn()
    # Tokens drawn from a position whose experts differed.
    moved_BT = np.pad(apart.any(axis=-1)[:, :-1], ((0, 0), (1, 0))) & rows.reply_BT
    before, after = (
        np.abs(logp_BT - rows.old_logp_BT)[moved_BT].mean() for logp_BT in (plain, replayed)
    )
    assert moved_BT.sum() > 10 and after < before, (moved_BT.sum(), before, after)


def test_log_probs_of_sampler_and_trainer_agree_on_average():
    _, rows = drawn()
    reply = rows.reply_BT
    difference = np.abs(scored(replay=False)[0] - rows.old_logp_BT)[reply]
    assert reply.sum() > 1000
    assert difference.mean() < 1e-3, f"mean {difference.mean():.2g} over {reply.sum()} tokens"
    assert difference.mean() > 1e-6  # it was computed in bfloat16
