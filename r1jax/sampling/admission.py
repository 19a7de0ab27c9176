"""Which slot a request gets, and where its prompt's part of the cache comes from."""

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

WORTH = 16  # tokens in common, from which on a prompt that is not there whole is read only in part


@dataclasses.dataclass
class Rest:
    """What a prompt has behind tokens that its first row holds: read there, and copied."""

    held: int  # tokens
    rows: list[int]


@dataclasses.dataclass
class Admission:
    """Rows of the cache are numbered within their device."""

    slots: dict[int, Any]  # the requests by slot
    cached: dict[int, int]  # of each slot, how many tokens of its prompt were there
    shared: list[list[tuple[int, int]]]  # of each device, (from, to) rows of the cache
    #: Of each device, prompts to be read, each with the rows that it goes to.
    read: list[list[tuple[bytes, list[int]]]]
    #: Of each device, prompts to be read from a place on, once rows are shared.
    rest: list[list[tuple[bytes, Rest]]]


def common(a: bytes, b: bytes) -> int:
    """How many int32 tokens two texts begin with alike."""
    n = min(len(a), len(b)) // 4
    same = np.frombuffer(a, np.int32, n) == np.frombuffer(b, np.int32, n)
    return n if same.all() else int(same.argmin())


def assign(
    batch: Sequence[Any],
    devices: int,
    per: int,
    running: Collection[int],
    prefix: dict[int, bytes],
    partly: bool = False,
) -> Admission:
    """Gives every request of `batch` (of a .prefix) a slot that is not in `running`; there must be
    enough of `devices` x `per`. `prefix` says what slots hold, the last used one last, and is
    updated. partly: what two prompts begin with alike is read once, too.

    A request goes where its prompt is, if a slot is free there: to a free slot that holds it (no
    copy), else one that a copy is made to. Else the device with the most free slots reads it. It
    takes the place of nothing, if it can, else of what was used longest ago.
    """
    free = [[s for s in range(d * per, (d + 1) * per) if s not in running] for d in range(devices)]
    held: dict[tuple[int, bytes], list[int]] = collections.defaultdict(list)
    where: dict[bytes, set[int]] = collections.defaultdict(set)  # devices that have a prompt
    for s, one in prefix.items():
        held[s // per, one].append(s)
        where[one].add(s // per)
    age = {s: i for i, s in enumerate(prefix, start=1)}
    before = dict(prefix) if partly else {}  # what slots hold that no request of this batch has
    read: list[dict[bytes, list[int]]] = [{} for _ in range(devices)]
    rest: list[dict[bytes, Rest]] = [{} for _ in range(devices)]
    found = Admission({}, {}, [[] for _ in range(devices)], [], [])
    for request in batch:
        p = request.prefix
        near: Sequence[int] = [d for d in where[p] if free[d]]
        source, n = None, 0
        if not near and before:
            source, n = _longest(p, {s: t for s, t in before.items() if free[s // per]})
            near = [source // per] if source is not None else []
        d = max(near or range(devices), key=lambda d: (len(free[d]), -d))
        holders = held[d, p]
        slot = next((s for s in holders if s in free[d]), None)
        here = slot is not None
        if slot is None and source in free[d] and n == len(before[source]) // 4:
            slot = source  # which goes on
        if slot is None:
            slot = min(free[d], key=lambda s: age.get(s, 0))
        if not here:
            if slot in prefix:
                lost = prefix.pop(slot)
                held[d, lost].remove(slot)
                if not held[d, lost] and lost not in read[d] and lost not in rest[d]:
                    where[lost].discard(d)
            where[p].add(d)
            if p and holders:
                found.shared[d].append((holders[0] % per, slot % per))
                n = len(p) // 4
            elif p in rest[d]:
                n = rest[d][p].held
                rest[d][p].rows.append(slot % per)
            elif source is not None:
                if source != slot:
                    found.shared[d].append((source % per, slot % per))
                if n < len(p) // 4:
                    rest[d][p] = Rest(n, [slot % per])
            elif p:
                read[d].setdefault(p, []).append(slot % per)
        else:
            n = len(p) // 4
            prefix.pop(slot)
        prefix[slot] = p
        before.pop(slot, None)
        free[d].remove(slot)
        found.slots[slot], found.cached[slot] = request, n
    found.read = [list(one.items()) for one in read]
    found.rest = [list(one.items()) for one in rest]
    return found


def _longest(p: bytes, held: dict[int, bytes]) -> tuple[int | None, int]:
    """(the slot that has most of `p`, the last used one of several, how many tokens); (None, 0) if
    none has enough to be worth a copy."""
    found, most = None, max(1, min(WORTH, len(p) // 4))
    for slot, text in held.items():
        if (n := common(p, text)) >= most:
            found, most = slot, n
    return (None, 0) if found is None else (found, most)
