"""What travels between the sampler, the graders and the update.

P questions  G replies a question  T prompt and reply tokens
"""

from collections.abc import Sequence
from typing import Any

import chex
import einops
import flax.struct
import numpy as np

from r1jax.sampling.engine import Completion

Array = Any  # of NumPy when made, of JAX inside a compiled step


class Rollout(flax.struct.PyTreeNode):
    """Prompt and reply of every sample, left-aligned in rows of T, and what it earned."""

    tokens_PGT: Array  # int32
    valid_PGT: Array  # bool: prompt or reply, not padding
    reply_PGT: Array  # bool: drawn by the policy, so trained on
    logp_PGT: Array  # float32: of that token when it was drawn; 0 elsewhere
    reward_PG: Array  # float32
    graded_PG: Array  # bool: its grader did not fail; else the reward says nothing, and is not used


def make_rollout(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    rewards: Sequence[float],
    graded: Sequence[bool],
    group: int,
    length: int,
) -> Rollout:
    """Rows in order: the `group` samples of the first question, then of the second, ...

    graded: False for a reply whose grader failed, which is then trained on neither as right nor as
    wrong.
    """
    shape = (len(completions), length)
    tokens, logp = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    valid, reply = np.zeros(shape, bool), np.zeros(shape, bool)
    for i, (prompt, c) in enumerate(zip(prompts, completions, strict=True)):
        n, end = len(prompt), len(prompt) + len(c.tokens)
        tokens[i, :n], tokens[i, n:end] = prompt, c.tokens
        logp[i, n:end] = c.logps
        valid[i, :end] = True
        reply[i, n:end] = True

    def by_group(a):
        return einops.rearrange(a, "(p g) ... -> p g ...", g=group)

    reward, has_grade = np.asarray(rewards, np.float32), np.asarray(graded, bool)
    chex.assert_shape([reward, has_grade], (len(completions),))
    return Rollout(*(by_group(a) for a in (tokens, valid, reply, logp, reward, has_grade)))
