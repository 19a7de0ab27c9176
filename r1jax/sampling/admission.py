"""Which slot a request gets, and where its prompt's part of the cache comes from."""

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any


@dataclasses.dataclass
class Admission:
    """Rows of the cache are numbered within their device."""

    slots: dict[int, Any]  # the requests by slot
    shared: list[list[tuple[int, int]]]  # of each device, (from, to) rows of the cache
    #: Of each device, prompts to be read, each with the rows that it goes to.
    read: list[list[tuple[bytes, list[int]]]]


def assign(
    batch: Sequence[Any], devices: int, per: int, running: Collection[int], prefix: dict[int, bytes]
) -> Admission:
    """Gives every request of `batch` (of a .prefix) a slot that is not in `running`; there must be
    enough of `devices` x `per`. `prefix` says what slots hold, and is updated.

    A request goes where its prompt is, if a slot is free there: to a free slot that holds it (no
    copy), else one that a copy is made to. Else the device with the most free slots reads it.
    """
    free = [[s for s in range(d * per, (d + 1) * per) if s not in running] for d in range(devices)]
    held: dict[tuple[int, bytes], list[int]] = collections.defaultdict(list)
    where: dict[bytes, set[int]] = collections.defaultdict(set)  # devices that have a prompt
    for s, one in prefix.items():
        held[s // per, one].append(s)
        where[one].add(s // per)
    read: list[dict[bytes, list[int]]] = [{} for _ in range(devices)]
    found = Admission({}, [[] for _ in range(devices)], [])
    for request in batch:
        p = request.prefix
        near = [d for d in where[p] if free[d]] or range(devices)
        d = max(near, key=lambda d: (len(free[d]), -d))
        holders = held[d, p]
        slot = next((s for s in holders if s in free[d]), None)
        if slot is None:
            slot = min(free[d], key=lambda s: s in prefix)  # first those that hold nothing
            if slot in prefix:
                lost = prefix[slot]
                held[d, lost].remove(slot)
                if not held[d, lost] and lost not in read[d]:
                    where[lost].discard(d)
            prefix[slot] = p
            where[p].add(d)
            if p and holders:
                found.shared[d].append((holders[0] % per, slot % per))
            elif p:
                read[d].setdefault(p, []).append(slot % per)
        free[d].remove(slot)
        found.slots[slot] = request
    found.read = [list(one.items()) for one in read]
    return found
