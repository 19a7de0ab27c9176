"""Reward models in use: what they read, that nothing else has an influence, and as a component.

B rows  T tokens  D d_model
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec

from r1jax import sharding
from r1jax.checks import InputError
from r1jax.data.countdown import VOCABULARY
from r1jax.data.problems import Problem
from r1jax.data.tokenizer import Tokenizer
from r1jax.model.params import weight_specs
from r1jax.model.transformer import forward
from r1jax.reward_models.model import (
    RewardModel,
    part_read,
    reward_specs,
    rewards,
    row_of,
    score_rows,
    trunk,
    with_head,
)
from r1jax.rewards.components import COMPONENTS, Checked
from r1jax.rewards.grading import Grader

CONFIG = small.config(vocab=len(VOCABULARY))
T = 24
TOKENIZER = Tokenizer.words(VOCABULARY)
rng = np.random.default_rng(0)
ROWS = [rng.integers(1, 70, n).tolist() for n in (9, T, 9, T, 9, 9, 9, T, 9, 9, T)]


def reward_weights(cfg=CONFIG):
    head_D = jnp.asarray(np.random.default_rng(5).normal(size=cfg.d_model), jnp.float32)
    return with_head(small.weights(trunk(cfg)), head_D)


WEIGHTS = reward_weights()


def by_hand(weights, rows, cfg=CONFIG):
    """Each row alone, without padding; norm and head in float64."""
    params, found = weights.params, []
    base = small.weights(trunk(cfg))
    run = jax.jit(lambda tokens_BT: forward(base, tokens_BT, trunk(cfg)).hidden_BTD)
    for row in rows:
        h = np.float64(run(np.array([row]))[0, -1])
        h = h / np.sqrt(np.mean(h**2) + cfg.norm_eps) * np.float64(params.trunk.norm_D)
        found.append(h @ np.float64(params.head_D))
    return np.array(found)


def score(rows=ROWS, mesh="1", batch=8, weights=WEIGHTS):
    mesh = sharding.make_mesh(mesh)
    placed = jax.device_put(weights, sharding.shardings(reward_specs(CONFIG), mesh))
    return score_rows(placed, rows, CONFIG, mesh, batch, T)


def test_a_reward_is_the_head_at_the_last_token():
    got = score()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_hand(WEIGHTS, ROWS), rtol=1e-4, atol=1e-5)
    assert np.std(got) > 0.5


def test_a_reward_depends_on_its_row_only():
    """Neither on its place, nor on the others, nor on how many are scored at a time."""
    want = score()
    order = np.random.default_rng(1).permutation(len(ROWS))
    np.testing.assert_allclose(score([ROWS[i] for i in order]), want[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(score(batch=16), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(score(ROWS[:1]), want[:1], rtol=1e-5, atol=1e-6)
    assert score([]).shape == (0,)


def test_padding_has_no_influence():
    tokens, length = np.zeros((2, 8, T), np.int32), np.full(8, 5, np.int32)
    tokens[:, :, :5] = rng.integers(1, 70, 5)
    tokens[1, :, 5:] = rng.integers(1, 70, T - 5)
    run = jax.jit(rewards, static_argnames="model")
    (a, a_stats), (b, b_stats) = (run(WEIGHTS, t, length, CONFIG) for t in tokens)
    # Where padding itself was sent is its own affair.
    kept = (stats.replace(experts_BTK=None) for stats in (a_stats, b_stats))
    jax.tree.map(np.testing.assert_array_equal, *kept)
    np.testing.assert_array_equal(a, b)


def test_a_mesh_scores_as_one_device():
    np.testing.assert_allclose(score(mesh="2x4"), score(), rtol=1e-4, atol=1e-5)


def test_a_reward_model_is_the_base_without_its_heads_and_with_one_of_its_own():
    cfg = small.config(mtp_depth=1)
    base, specs = weight_specs(cfg), reward_specs(cfg)
    mtp = sharding.count(base.params.mtp)
    head = sharding.count(base.params.head_DV)
    assert mtp and head
    assert sharding.count(specs.params) == (sharding.count(base.params) - mtp - head + cfg.d_model)
    assert specs.router_bias_LE.shape == (1, 8)
    mesh = sharding.make_mesh("2x4")
    assert sharding.shardings(specs, mesh).params.head_D.spec == PartitionSpec(("fsdp", "context"))
    drawn = sharding.init(reward_specs(dataclasses.replace(cfg, d_model=4096)).params.head_D,
                          jax.random.key(0))  # fmt: skip
    assert np.std(drawn) == pytest.approx(4097**-0.5, rel=0.05)


@pytest.mark.parametrize(
    "reply, summary",
    [
        ("<think> a </think> b c", "b c"),
        ("<think> a </think> <answer> b </answer>", "<answer> b </answer>"),
        ("a </think> b </think> c", "c"),
        ("<think> a", None),
        ("<think> a </think> ", None),
        ("b c", "b c"),
    ],
)
def test_parts(reply, summary):
    assert part_read(reply, "summary") == summary
    assert part_read(reply, "reply") == reply


def model(reads="summary", **changes):
    mesh = sharding.make_mesh("1")
    return dataclasses.replace(
        RewardModel(
            WEIGHTS, CONFIG, TOKENIZER, lambda prompt: prompt, mesh, reads, 0.3, batch=8, length=T
        ),
        **changes,
    )


PROBLEM = Problem("c", "countdown", "use 9 5 to make 4", "4", (9, 5))
REPLIES = [
    "<think> 9 + 5 = 14 </think> <answer> 9 - 5 </answer>",
    "<think> check 4 = 4 right wait wait </think> <answer> 9 - 5 </answer>",
    "<think> 9 + 5 = 14 </think> <answer> 9 + 5 </answer>",
    "<think> 9 + 5 = 14",
]


def checked(replies=REPLIES):
    return [Checked(PROBLEM, reply, "incorrect", 0.0) for reply in replies]


def test_a_summary_s_score_is_the_same_bit_for_bit_whatever_was_thought():
    first, other_thought, other_answer, unfinished = model().probabilities(checked())
    assert first == other_thought
    assert abs(first - other_answer) > 1e-3
    assert unfinished == 0.0 < min(first, other_answer)


def test_a_whole_reply_s_score_depends_on_the_thought():
    first, other_thought, other_answer, unfinished = model("reply").probabilities(checked())
    assert len({first, other_thought, other_answer, unfinished}) == 4


def test_a_probability_is_the_sigmoid_of_the_reward_beside_the_center():
    text = part_read(REPLIES[0], "summary")
    start, reply = row_of(TOKENIZER, lambda prompt: prompt, PROBLEM.prompt, text)
    assert TOKENIZER.decode([*start, *reply]) == f"{PROBLEM.prompt} {text} <eos>"
    (reward,) = np.float64(score([[*start, *reply]]))
    (got,) = model().probabilities(checked(REPLIES[:1]))
    assert got == pytest.approx(1 / (1 + np.exp(0.3 - reward)), rel=1e-6)


def test_no_reply_has_anything_to_read():
    assert model().component().score(checked(REPLIES[3:] * 2)) == [0.0, 0.0]


def test_a_grader_uses_it_as_it_uses_a_rule():
    weights = {"accuracy": 1.0, "helpful": 0.5}
    components = COMPONENTS | {"helpful": model().component()}
    with Grader(weights, components=components) as grader:
        grades = grader.grade([PROBLEM] * 4, REPLIES)
    want = model().probabilities(checked())
    assert [g.outcome for g in grades] == ["correct", "correct", "incorrect", "unparseable"]
    for grade, helpful, accuracy in zip(grades, want, (1, 1, 0, 0), strict=True):
        assert grade.components["helpful"] == helpful
        assert grade.reward == accuracy + 0.5 * helpful


def test_a_text_that_does_not_fit_is_cut_at_its_end_and_a_prompt_never():
    fits = "1 " * (T - 7)  # 6 words of the prompt, and the end of sequence
    a, b, c = model().score([PROBLEM.prompt] * 3, [fits, fits + "2", fits + "2 3 4"])
    assert b == c != a
    with pytest.raises(InputError, match=f"a prompt of {T} tokens leaves no room"):
        model().score(["1 " * T], ["2"])


def test_a_batch_that_does_not_divide():
    with pytest.raises(InputError, match=r"RewardModel.batch=6 does not divide over 8 devices"):
        model(mesh=sharding.make_mesh("2x4"), batch=6)
