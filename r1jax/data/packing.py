"""Documents -> rows of packed, segment-marked tokens.

B rows  T tokens a row
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import numpy as np

Array = Any  # of NumPy when made, of JAX inside a compiled step


class Batch(flax.struct.PyTreeNode):
    """Packed rows. Segment 0 is padding; positions restart with each document."""

    tokens_BT: Array  # int32
    segments_BT: Array  # int32
    positions_BT: Array  # int32
    trained_BT: Array  # bool: this token is to be predicted (replies, not prompts)


def pack(
    documents: Sequence[tuple[Sequence[int], Sequence[int]]], rows: int, length: int, pad: int
) -> tuple[Batch, int]:
    """Packs (prompt, reply) token pairs, longest first, each into the first row with room.

    Returns the batch and how many documents found no room.
    """
    tokens = np.full((rows, length), pad, np.int32)
    segments = np.zeros((rows, length), np.int32)
    positions = np.zeros((rows, length), np.int32)
    trained = np.zeros((rows, length), bool)
    used, count = np.zeros(rows, int), np.zeros(rows, int)
    left_out = 0
    for prompt, reply in sorted(documents, key=lambda d: -len(d[0]) - len(d[1])):
        n = len(prompt) + len(reply)
        room = np.flatnonzero(used + n <= length)
        if room.size == 0:
            left_out += 1
            continue
        row = room[0]
        here = slice(used[row], used[row] + n)
        count[row] += 1
        tokens[row, here] = [*prompt, *reply]
        segments[row, here] = count[row]
        positions[row, here] = np.arange(n)
        trained[row, here] = np.arange(n) >= len(prompt)
        used[row] += n
    return Batch(tokens, segments, positions, trained), left_out
