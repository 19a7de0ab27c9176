"""Which slots requests get, on a model of the cache that is a list of prompts."""

import types

import numpy as np

from r1jax.sampling.admission import assign


def admit(prompts, devices, per, running, prefix, held):
    """Assigns, and does to `held`, by slot, what the engine does to the cache. Returns what was
    found, and how many prompts were read."""
    found = assign(
        [types.SimpleNamespace(prefix=p) for p in prompts], devices, per, running, prefix
    )
    for d, moves in enumerate(found.shared):
        for at, to in moves:
            held[d * per + to] = held[d * per + at]
    for d, reads in enumerate(found.read):
        assert len({p for p, _ in reads}) == len(reads)
        for p, rows in reads:
            for row in rows:
                held[d * per + row] = p
    assert [r.prefix for r in found.slots.values()] == prompts
    assert not found.slots.keys() & set(running)
    for slot, request in found.slots.items():
        assert not request.prefix or held[slot] == request.prefix
    for slot, p in prefix.items():
        assert not p or held[slot] == p
    return found, sum(map(len, found.read))


def test_every_request_finds_its_prompt_in_its_slot():
    """Whatever came before it: slots that are read from and given away in the same admission."""
    rng = np.random.default_rng(0)
    for devices, per in [(1, 6), (2, 4), (4, 2)]:
        running, prefix, held = set(), {}, {}
        reads = asked = 0
        for _ in range(200):
            free = devices * per - len(running)
            some = [bytes([int(i)] * int(i)) for i in rng.integers(0, 5, rng.integers(0, free + 1))]
            found, read = admit(some, devices, per, running, prefix, held)
            reads, asked = reads + read, asked + len(some)
            running |= found.slots.keys()
            running -= {s for s in running if rng.random() < 0.5}
        assert reads < asked / 2


def test_a_prompt_is_read_once_and_spread_where_it_is_not_held():
    prefix, held = {}, {}
    found, read = admit([b"a"] * 3 + [b"b"] * 3, 2, 4, (), prefix, held)
    assert read == 2 and [len(reads) for reads in found.read] == [1, 1]
    # Later: in the slot that holds it; copied where that is taken; read where no slot is left.
    found, read = admit([b"a"], 2, 4, (), prefix, held)
    assert read == 0 and not any(found.shared)
    running = [s for s in held if held[s] == b"a"]
    found, read = admit([b"a"], 2, 4, running, prefix, held)
    assert read == 0 and sum(map(len, found.shared)) == 1
    found, read = admit([b"a"], 2, 4, range(4), prefix, held)
    assert read == 1
