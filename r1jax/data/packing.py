"""Documents -> rows of packed, segment-marked tokens.

B rows  T tokens a row
"""

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np

from r1jax.checks import InputError

Array = Any  # of NumPy when made, of JAX inside a compiled step


class Batch(flax.struct.PyTreeNode):
    """Packed rows. Segment 0 is padding; positions restart with each document."""

    tokens_BT: Array  # int32
    segments_BT: Array  # int32
    positions_BT: Array  # int32
    trained_BT: Array  # bool: this token is to be predicted (replies, not prompts)


Document = tuple[Sequence[int], Sequence[int]]  # (prompt, reply) tokens
Plan = tuple[list[list[int]], list[int]]  # the documents of each row, and those left out
Fit = Callable[[Sequence[int], int, int | None], Plan]


def best_fit(lengths: Sequence[int], length: int, rows: int | None = None) -> Plan:
    """Packs documents, longest first, each into the row with the least room that suffices.

    A new row is begun where there is none, up to `rows` of them. In time O(n log n), but for
    keeping at most `length` numbers sorted.
    """
    plan: list[list[int]] = []
    left_out: list[int] = []
    by_room: dict[int, list[int]] = {}  # the rows that have just this much
    rooms: list[int] = []  # the keys of by_room, sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        n = lengths[i]
        at = bisect.bisect_left(rooms, n)
        if at < len(rooms):
            room = rooms[at]
            row = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        elif n <= length and (rows is None or len(plan) < rows):
            room, row = length, len(plan)
            plan.append([])
        else:
            left_out.append(i)
            continue
        plan[row].append(i)
        if room - n not in by_room:
            bisect.insort(rooms, room - n)
        by_room.setdefault(room - n, []).append(row)
    return plan, left_out


def first_fit(lengths: Sequence[int], length: int, rows: int | None = None) -> Plan:
    """As `best_fit`, each into the first row with room: by which the embedded base was made."""
    plan: list[list[int]] = []
    left_out: list[int] = []
    used = np.zeros(len(lengths) if rows is None else rows, int)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = np.flatnonzero(used + lengths[i] <= length)
        if room.size == 0:
            left_out.append(i)
            continue
        row = int(room[0])  # at most the one after those begun
        if row == len(plan):
            plan.append([])
        plan[row].append(i)
        used[row] += lengths[i]
    return plan, left_out


def pack(
    documents: Sequence[Document], rows: int, length: int, pad: int, fit: Fit = best_fit
) -> tuple[Batch, int]:
    """One batch of (prompt, reply) token pairs, and how many of them found no room."""
    plan, left_out = fit([sum(map(len, d)) for d in documents], length, rows)
    made = [make_row([documents[i] for i in row], length, pad) for row in plan]
    made += [make_row([], length, pad)] * (rows - len(plan))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *made), len(left_out)


def make_row(documents: Sequence[Document], length: int, pad: int) -> Batch:
    """Documents one after another, as a batch without its first axis."""
    tokens = np.full(length, pad, np.int32)
    segments, positions = np.zeros(length, np.int32), np.zeros(length, np.int32)
    trained = np.zeros(length, bool)
    start = 0
    for number, (prompt, reply) in enumerate(documents, start=1):
        n = len(prompt) + len(reply)
        here = slice(start, start + n)
        tokens[here] = [*prompt, *reply]
        segments[here] = number
        positions[here] = np.arange(n)
        trained[here] = np.arange(n) >= len(prompt)
        start += n
    return Batch(tokens, segments, positions, trained)


class Packed(Sequence[Batch]):
    """All documents in as few rows as best fit makes, each made when it is asked for.

    A row is an item of a stream (`r1jax.data.pipeline.batches`): what is drawn next depends on the
    position alone, and every document comes once an epoch, beside the same others. Raises
    InputError for a document that is longer than a row, since it would never be seen.
    """

    def __init__(self, documents: Sequence[Document], length: int, pad: int):
        self.documents, self.length, self.pad = documents, length, pad
        self.plan, left_out = best_fit([sum(map(len, d)) for d in documents], length)
        if left_out:
            n = sum(map(len, documents[left_out[0]]))
            raise InputError(
                f"{len(left_out)} of {len(documents)} documents are longer than a row of {length} "
                f"tokens: document {left_out[0]} has {n}"
            )

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, i):
        return make_row([self.documents[d] for d in self.plan[i]], self.length, self.pad)

    @property
    def fill(self) -> float:
        """The share of the rows that is not padding."""
        return sum(len(p) + len(r) for p, r in self.documents) / (len(self.plan) * self.length)
