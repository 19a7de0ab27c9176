"""What travels between the sampler, the graders and the update.

P questions  G replies a question  N = P G replies  M updates  A micro-batches  B rows  T tokens
L MoE layers  K experts a token
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from r1jax import sharding
from r1jax.config import RunConfig
from r1jax.data.packing import best_fit
from r1jax.model.cache import expert_dtype
from r1jax.sampling.engine import Completion

Array = Any  # of NumPy when made, of JAX inside a compiled step
NO_UPDATE = -1


class Rows(flax.struct.PyTreeNode):
    """Packed rows: prompts with their replies, one after another. Segment 0 is padding.

    With routing replay they hold L x K bytes a position beside the 21 of the others: 464 of
    DeepSeek-V3, 8 x 58, padding included.
    """

    tokens_BT: Array  # int32
    segments_BT: Array  # int32: 1, 2, ... along a row, one a reply
    positions_BT: Array  # int32: from 0 in every segment
    reply_BT: Array  # bool: drawn by the policy, so trained on
    old_logp_BT: Array  # float32: of that token when it was drawn; 0 elsewhere
    sample_BT: Array  # int32: which of the N replies a token belongs to; 0 where it is padding
    #: With routing replay: the experts that the sampler sent a token to; without meaning for the
    #: last token of a segment, which it never read, and for padding.
    experts_BTLK: Array | None = None

    @property
    def routed_BT(self) -> Array:
        """Where the sampler read a token: there is a next one in its segment."""
        following = self.segments_BT[..., 1:] == self.segments_BT[..., :-1]
        last = [(0, 0)] * (self.segments_BT.ndim - 1) + [(0, 1)]
        return jnp.pad(following, last) & (self.segments_BT > 0)


class Rollout(flax.struct.PyTreeNode):
    """Every reply of a rollout and what it earned, in packed rows for each of its updates."""

    rows: Rows  # [M, A, B, T]
    filled_M: Array  # int32: how many of the A micro-batches hold anything; they come first
    reward_PG: Array  # float32
    graded_PG: Array  # bool: its grader did not fail; else the reward says nothing, and is not used
    length_PG: Array  # int32: tokens of the reply
    update_PG: Array  # int32: the update that it is part of; NO_UPDATE if it is in no row


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shape of a rollout's rows, which does not depend on what is drawn."""

    group: int
    updates: int
    microbatches: int  # as many as the longest replies would fill
    rows: int  # of a micro-batch
    length: int  # tokens of a row
    #: With routing replay: MoE layers, experts a token, and the type of their numbers.
    routing: tuple[int, int, np.dtype] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.updates, self.microbatches, self.rows, self.length


def layout_of(cfg: RunConfig, devices: int, context: int = 1) -> Layout:
    """Rows that hold the longest reply, and as many of them at once as divide over the devices that
    do not share rows; `context` devices share one."""
    rl, longest = cfg.rl, cfg.sampling.max_prompt + cfg.sampling.max_tokens
    length = max(rl.row_tokens, longest)
    if context > 1:
        length = 2 * context * _divided_up(length, 2 * context)
    replies = rl.questions * rl.group // rl.minibatches
    most = _divided_up(replies, length // longest)  # rows, whatever is drawn
    rows = devices * _divided_up(min(rl.rows, most), devices)
    routing, model = None, cfg.model
    if rl.routing_replay and model.router is not None:
        routing = model.moe_layers, model.router.active, expert_dtype(model)
    return Layout(rl.group, rl.minibatches, _divided_up(most, rows), rows, length, routing)


def _divided_up(a: int, b: int) -> int:
    return -(-a // b)


def abstract_rollout(layout: Layout, questions: int) -> Rollout:
    """Shapes and types of a rollout."""

    def rows(dtype, *more: int):
        return jax.ShapeDtypeStruct((*layout.shape, *more), dtype)

    def replies(dtype):
        return jax.ShapeDtypeStruct((questions, layout.group), dtype)

    return Rollout(
        rows=Rows(
            tokens_BT=rows(np.int32),
            segments_BT=rows(np.int32),
            positions_BT=rows(np.int32),
            reply_BT=rows(np.bool_),
            old_logp_BT=rows(np.float32),
            sample_BT=rows(np.int32),
            experts_BTLK=layout.routing and rows(layout.routing[2], *layout.routing[:2]),
        ),
        filled_M=jax.ShapeDtypeStruct((layout.updates,), np.int32),
        reward_PG=replies(np.float32),
        graded_PG=replies(np.bool_),
        length_PG=replies(np.int32),
        update_PG=replies(np.int32),
    )


def rollout_shardings(layout: Layout, mesh: Mesh) -> Rollout:
    """Rows over all devices; what is not of rows is whole on each."""
    of_rows = sharding.partition(layout.shape, (None, None, "batch", "time"), mesh)
    abstract = abstract_rollout(layout, 0)
    where = jax.tree.map(lambda _: sharding.replicated(mesh), abstract)
    return where.replace(rows=jax.tree.map(lambda _: NamedSharding(mesh, of_rows), abstract.rows))


def make_rollout(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    rewards: Sequence[float],
    graded: Sequence[bool],
    layout: Layout,
    rng: np.random.Generator,
) -> Rollout:
    """A rollout of host arrays. Replies come in order: the samples of the first question, then of
    the second, ...; `rng` draws which of them share an update (R1-Zero splits a rollout at random).

    graded: False for a reply whose grader failed, which is then trained on neither as right nor as
    wrong, and is in no row.
    """
    replies = len(completions)
    chex.assert_shape([np.asarray(rewards), np.asarray(graded)], (replies,))
    rows = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), abstract_rollout(layout, 0).rows)
    length = np.array([len(c.tokens) for c in completions], np.int32)
    whole = length + [len(p) for p in prompts]
    update = np.full(replies, NO_UPDATE, np.int32)
    filled = np.zeros(layout.updates, np.int32)
    for m, drawn in enumerate(np.split(rng.permutation(replies), layout.updates)):
        mine = [int(i) for i in drawn if graded[i]]
        update[mine] = m
        plan, _ = best_fit([int(whole[i]) for i in mine], layout.length)
        filled[m] = _divided_up(len(plan), layout.rows)
        for number, row in enumerate(plan):
            at, start = (m, *divmod(number, layout.rows)), 0
            for segment, k in enumerate(row, start=1):
                i = mine[k]
                reply, end = start + len(prompts[i]), start + int(whole[i])
                here = (*at, slice(start, end))
                rows.tokens_BT[here] = [*prompts[i], *completions[i].tokens]
                rows.segments_BT[here] = segment
                rows.positions_BT[here] = np.arange(end - start)
                rows.reply_BT[(*at, slice(reply, end))] = True
                rows.old_logp_BT[(*at, slice(reply, end))] = completions[i].logps
                rows.sample_BT[here] = i
                if rows.experts_BTLK is not None:
                    rows.experts_BTLK[(*at, slice(start, end - 1))] = completions[i].experts
                start = end

    def by_group(values, dtype) -> np.ndarray:
        return np.asarray(values, dtype).reshape(-1, layout.group)

    return Rollout(
        rows=rows,
        filled_M=filled,
        reward_PG=by_group(rewards, np.float32),
        graded_PG=by_group(graded, bool),
        length_PG=by_group(length, np.int32),
        update_PG=by_group(update, np.int32),
    )


def fill(rollout: Rollout) -> float:
    """The share of the positions computed in an update that hold a token; 0 where none is."""
    segments = rollout.rows.segments_BT
    computed = int(np.sum(rollout.filled_M)) * segments.shape[2] * segments.shape[3]
    return float(np.count_nonzero(segments)) / computed if computed else 0.0
