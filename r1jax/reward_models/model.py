"""Reward models: the transformer with a scalar head, and the reward components made of it.

DeepSeek-R1's last stage (Nature 645:633): a helpfulness model that reads only the final summary,
trained on pairs, and a safety model that reads the whole reply, trained on labels. How they are
trained is in r1jax/reward_models/losses.py.

Deviation: R1 adds the model's raw output to the reward. A raw output has no zero and no scale
(pairs only say differences), so that its weight beside a rule's 0 or 1 would mean nothing. Here a
component is a probability, in (0, 1).

B rows  T tokens  D d_model  L MoE layers  E experts
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.checks import check
from r1jax.data.tokenizer import Tokenizer
from r1jax.model.layers import rms_norm
from r1jax.model.moe import RouterStats
from r1jax.model.params import Leaf, Params, Weights, weight_specs
from r1jax.model.transformer import forward
from r1jax.rewards.components import Checked, Component
from r1jax.sharding import ParamSpec

Reads = Literal["summary", "reply"]


class RewardParams(flax.struct.PyTreeNode):
    trunk: Params
    head_D: Leaf


class RewardWeights(flax.struct.PyTreeNode):
    """As `Weights`: what the optimizer trains, and the router's selection biases."""

    params: RewardParams
    router_bias_LE: Leaf


def trunk(model: ModelConfig) -> ModelConfig:
    """`model` without what a reward does not come from: next-token head and MTP depths."""
    return dataclasses.replace(model, tied_head=True, mtp_depth=0)


def reward_specs(model: ModelConfig) -> RewardWeights:
    """The reward model as ParamSpecs. Its head starts as N(0, 1 / (D + 1)), so that first rewards
    are small ("Learning to summarize from human feedback", arXiv 2009.01325)."""
    base, d = weight_specs(trunk(model)), model.d_model

    def draw(key, shape, dtype):
        return (jax.random.normal(key, shape) * (d + 1) ** -0.5).astype(dtype)

    head = ParamSpec((d,), ("embed",), draw)
    return RewardWeights(RewardParams(base.params, head), base.router_bias_LE)


def with_head(weights: Weights, head_D: jax.Array) -> RewardWeights:
    """The weights of a `trunk`, and a head."""
    return RewardWeights(RewardParams(weights.params, head_D), weights.router_bias_LE)


def rewards(
    weights: RewardWeights, tokens_BT: jax.Array, length_B: jax.Array, model: ModelConfig
) -> tuple[jax.Array, RouterStats | None]:
    """The head's output at each row's last token, float32 [B], and the routing statistics.

    Rows are left-aligned; what stands after `length` tokens is padding and has no influence.
    """
    segments_BT = (jnp.arange(tokens_BT.shape[1])[None] < length_B[:, None]).astype(jnp.int32)
    base = Weights(weights.params.trunk, weights.router_bias_LE)
    out = forward(base, tokens_BT, trunk(model), segments_BT=segments_BT)
    last_B = jnp.maximum(length_B - 1, 0)
    last_BD = jnp.take_along_axis(out.hidden_BTD, last_B[:, None, None], axis=1)[:, 0]
    return scalars(weights.params, last_BD, model), out.stats


def scalars(params: RewardParams, hidden: jax.Array, model: ModelConfig) -> jax.Array:
    """The final norm and the head: [..., D] -> float32 [...]."""
    h = rms_norm(hidden, params.trunk.norm_D, model.norm_eps).astype(jnp.float32)
    head_D = params.head_D.astype(jnp.float32)
    return jnp.matmul(h, head_D, precision=jax.lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames="model")
def _rewards_to_hosts(weights, tokens_BT, length_B, model):
    """Every process gets every reward."""
    return sharding.constrain(rewards(weights, tokens_BT, length_B, model)[0], None)


def score_rows(
    weights: RewardWeights,
    rows: Sequence[Sequence[int] | np.ndarray],
    model: ModelConfig,
    mesh: Mesh,
    batch: int,
    length: int,
) -> np.ndarray:
    """Rewards of token rows, float32, `batch` rows of `length` tokens at a time: one compiled
    shape, however many there are."""
    found = [np.zeros(0, np.float32)]
    where = sharding.batch_sharding(mesh)
    for start in range(0, len(rows), batch):
        tokens_BT, length_B = padded(rows[start : start + batch], batch, length)
        placed = sharding.place((tokens_BT, length_B), (where, where))
        with jax.set_mesh(mesh):
            found.append(np.asarray(_rewards_to_hosts(weights, *placed, model)))
    return np.concatenate(found)[: len(rows)]


def padded(
    rows: Sequence[Sequence[int] | np.ndarray], count: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [count, length], lengths [count]): `rows`, then empty ones."""
    tokens, lengths = np.zeros((count, length), np.int32), np.zeros(count, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], lengths[i] = row, len(row)
    return tokens, lengths


def part_read(reply: str, reads: Reads) -> str | None:
    """The whole reply, or its summary: what stands after its last `</think>`. None if it has no
    summary: its thought is not finished, or nothing follows it. A reply without a thought is
    all summary.
    """
    if reads == "reply":
        return reply
    _, end, after = reply.rpartition("</think>")
    return after.strip() or None if end or "<think>" not in after else None


def row_of(
    tokenizer: Tokenizer, template: Callable[[str], str], prompt: str, text: str
) -> tuple[list[int], list[int]]:
    """What a reward model reads: the prompt; the text and the end of sequence, which gets the
    reward."""
    start = tokenizer.encode_prompt(template(prompt))
    return start, [*tokenizer.encode(text), tokenizer.eos_id]


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A trained reward model, ready to score.

    reads: all that it is given of a reply, beside the prompt.
    center: the mean reward of the replies it was tested on; 0 where rewards are log-odds of a
        label.
    template: a bare question -> what stands before the reply.
    batch, length: rows that are scored at a time, and their tokens.
    """

    weights: RewardWeights
    model: ModelConfig
    tokenizer: Tokenizer
    template: Callable[[str], str]
    mesh: Mesh
    reads: Reads
    center: float = 0.0
    batch: int = 64
    length: int = 8192

    def __post_init__(self):
        check(
            self.batch % self.mesh.size == 0,
            f"RewardModel.batch={self.batch} does not divide over {self.mesh.size} devices",
        )

    def component(self) -> Component:
        """The reward component `probabilities`, for `Grader.together`."""
        return Component(lambda batch: [float(p) for p in self.probabilities(batch)], "together")

    def probabilities(self, batch: Sequence[Checked]) -> np.ndarray:
        """sigmoid(reward - center) of each reply, in [0, 1].

        Of a model trained on pairs: how probably the reply is preferred to an average one
        (Bradley-Terry). Of one trained on labels: how probably it is safe. A reply that has
        nothing to read (no summary) gets 0, below any that has.
        """
        texts = [part_read(checked.reply, self.reads) for checked in batch]
        given = {i: text for i, text in enumerate(texts) if text is not None}
        score = self.score([batch[i].problem.prompt for i in given], list(given.values()))
        found = np.zeros(len(batch))
        found[list(given)] = 1 / (1 + np.exp(self.center - np.float64(score)))
        return found

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """Raw rewards, float32, of texts as they are (see `part_read`).

        A text that does not fit is cut at its end, and so has no end of sequence. Raises
        InputError if a prompt leaves it no room.
        """
        rows = []
        for prompt, text in zip(prompts, texts, strict=True):
            start, reply = row_of(self.tokenizer, self.template, prompt, text)
            check(
                len(start) < self.length,
                f"a prompt of {len(start)} tokens leaves no room for a reply; RewardModel.length="
                f"{self.length}",
            )
            rows.append([*start, *reply][: self.length])
        return score_rows(self.weights, rows, self.model, self.mesh, self.batch, self.length)
