"""Routing replay: an update of the experts that the sampler took.

P questions  G replies a question  T tokens  L MoE layers  K experts a token
"""

import dataclasses

import jax
import numpy as np
import pytest
import small
from steps import (
    RL,
    RUN,
    Drawn,
    assert_same_step,
    doubled,
    drawn,
    flat,
    of,
    on_mesh,
    packed,
    padded,
    permuted,
    policy,
    run_with,
    step,
)

from r1jax.checks import InputError
from r1jax.model.head import unembed
from r1jax.model.transformer import forward
from r1jax.rl.types import layout_of

MODEL = small.CONFIG
# With a correction, for which every reply is scored before it is trained on.
PLAIN = run_with(of("grpo", correction="tis"))
REPLAY = run_with(of("grpo", correction="tis", routing_replay=True))


def routed(d: Drawn, choose) -> Drawn:
    """With `choose(tokens)` -> [tokens, L, K] for all tokens of prompt and reply but the last."""
    completions = [
        dataclasses.replace(c, experts=np.uint8(choose([*p, *c.tokens])[:-1]))
        for p, c in zip(d.prompts, d.completions, strict=True)
    ]
    return d.replace(completions=completions)


def own(tokens: list[int]) -> np.ndarray:
    """What the policy chooses, read as a row of ten tokens."""
    row = np.array([tokens + [0] * (10 - len(tokens))])
    _, stats = small.logits(small.weights(), row)
    return np.moveaxis(np.asarray(stats.experts_BTK)[:, 0], 0, 1)[: len(tokens)]


def other(tokens: list[int]) -> np.ndarray:
    """What it might have chosen, half of the time."""
    rng, chosen = np.random.default_rng(tokens), own(tokens)
    drawn = np.array([rng.permutation(MODEL.router.experts)[: MODEL.router.active] for _ in tokens])
    return np.where(rng.random((len(tokens), 1, 1)) < 0.5, drawn[:, None], chosen)


def padded_and_routed(d: Drawn):
    """`padded`, with noise where nothing was recorded."""
    r = padded(d)
    shape = r.rows.tokens_BT.shape
    experts = np.random.default_rng(5).integers(0, 8, (*shape, 1, 2)).astype(np.uint8)
    by_reply = experts.reshape(-1, *experts.shape[3:])
    for i, c in enumerate(d.completions):
        by_reply[i, : len(c.experts)] = c.experts
    return r.replace(rows=r.rows.replace(experts_BTLK=experts))


def test_replay_of_its_own_choices_is_no_replay():
    d = routed(drawn(), own)
    got, metrics = step(policy(), packed(d, REPLAY), REPLAY)
    assert metrics.pop("sampler/routing_diff") == 0
    assert_same_step((got, metrics), step(policy(), packed(drawn()), PLAIN))


def test_an_update_of_other_experts_does_not_change_with_packing_order_and_mesh():
    """Nor is it that of the policy's own; the difference is told of the positions that reply tokens
    were drawn from."""
    d = routed(drawn(), other)
    got = step(policy(), padded_and_routed(d), REPLAY)
    assert_same_step(step(policy(), packed(d, REPLAY), REPLAY), got)
    cfg = run_with(dataclasses.replace(REPLAY.rl, questions=2 * RL.questions))
    assert_same_step(on_mesh("4x2", doubled(routed(permuted(False), other)), cfg), got)

    apart = [
        np.any(np.sort(c.experts) != np.sort(own([*p, *c.tokens])[:-1]), axis=-1)[len(p) - 1 :]
        for p, c in zip(d.prompts, d.completions, strict=True)
    ]
    share = np.mean(np.concatenate(apart))
    assert float(got[1]["sampler/routing_diff"]) == pytest.approx(share, rel=1e-6)
    assert 0.2 < share < 0.8
    plain, _ = step(policy(), packed(drawn()), PLAIN)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), got[0].train.weights, plain.train.weights
    )
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_a_correction_scores_with_the_samplers_experts():
    """And finds nothing to correct, where the sampler's log-probs are the policy's with these."""
    d = routed(drawn(), other)
    rows = flat(padded(d))
    given = np.full((*rows.tokens_BT.shape, 1, 2), -1, np.int32)
    for i, c in enumerate(d.completions):
        given[i, : len(c.experts)] = c.experts
    weights = small.weights()
    at = {"segments_BT": rows.segments_BT, "experts_BTLK": given}
    hidden = forward(weights, rows.tokens_BT, MODEL, **at).hidden_BTD
    logp_NTV = small.log_softmax(unembed(weights.params, hidden, MODEL))

    def scored(i, c):
        first = len(d.prompts[i]) - 1
        return np.float32(logp_NTV[i, first + np.arange(len(c.tokens)), c.tokens])

    _, metrics = step(policy(), packed(d.with_logps(scored), REPLAY), REPLAY)
    assert metrics["sampler/logp_diff"] < 1e-5 < metrics["sampler/routing_diff"]
    assert float(metrics["correction/weight"]) == pytest.approx(1, abs=1e-5)


def test_rows_hold_the_experts_of_their_tokens_and_only_where_they_are_replayed():
    d = routed(drawn(), other)
    rows = packed(d, REPLAY).rows
    assert rows.experts_BTLK.dtype == np.uint8
    assert packed(d).rows.experts_BTLK is None and layout_of(RUN, 1).routing is None
    found = 0
    flat_rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[3:]), rows)
    for b, segments in enumerate(flat_rows.segments_BT):
        for s in range(1, segments.max() + 1):
            here = np.flatnonzero(segments == s)
            c = d.completions[flat_rows.sample_BT[b, here[0]]]
            np.testing.assert_array_equal(flat_rows.experts_BTLK[b, here[:-1]], c.experts)
            np.testing.assert_array_equal(
                np.flatnonzero(np.asarray(flat_rows.routed_BT)[b] & (segments == s)), here[:-1]
            )
            found += 1
    assert found == len(d.completions)


def test_a_model_without_experts_has_nothing_to_replay():
    with pytest.raises(InputError, match=r"^--rl.routing-replay: the model has no MoE layers"):
        run_with(REPLAY.rl, model=small.config(dense_layers=1))
