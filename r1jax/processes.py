"""What the processes of a pod tell each other on the host side: plain data, in one order, and
failures too, so that none waits for one that has given up."""

import hashlib
import itertools
import json
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # its store of keys has no public name
from jax.experimental import multihost_utils

from r1jax.checks import InputError

T = TypeVar("T")

_count, _index, _coordinator = 1, 0, ""
_exchanges = itertools.count()
COMPARING = 600  # seconds until all must have come to a comparison; a dead one is noticed before


def joined(count: int, index: int, coordinator: str = "") -> None:
    """Told by `start`, before JAX looks for devices."""
    global _count, _index, _coordinator
    _count, _index, _coordinator = count, index, coordinator


def count() -> int:
    """Processes of this pod. Unlike jax.process_count() it does not start JAX's devices, whose
    number may still have to be said."""
    return _count


def index() -> int:
    """This one's, from 0; it does not start JAX's devices."""
    return _index


def first_answers(seconds: float) -> bool:
    """Whether process 0 still takes connections; True where its address is not known."""
    host, _, port = _coordinator.rpartition(":")
    if not port:
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except OSError:
        return False
    return True


def store() -> Any:
    """The keys and values that process 0 holds for all (JAX's DistributedRuntimeClient); None in a
    process that is alone."""
    return distributed.global_state.client


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of what all have: the parts of all, in order, are the whole."""
    index, count = jax.process_index(), jax.process_count()
    return items[len(items) * index // count : len(items) * (index + 1) // count]


def gather(mine: Callable[[], list[Any]]) -> list[Any]:
    """The lists of JSON values that `mine()` gives in each process, joined in their order; the same
    in all of them. With one process it is `mine()`, called.

    Every process must call it. If `mine` raises in one, all raise InputError that names it.
    """
    if jax.process_count() == 1:
        return mine()
    try:
        message: dict[str, Any] = {"values": mine()}
    except Exception as error:  # told to all, and raised by all
        message = {"error": f"{type(error).__name__}: {error}"}
    found = [json.loads(text) for text in _all_texts(json.dumps(message))]
    for index, one in enumerate(found):
        if "error" in one:
            raise InputError(f"process {index}: {one['error']}")
    return [value for one in found for value in one["values"]]


def any_of(values: Sequence[int]) -> list[int]:
    """The largest that any process has of each number: a flag that one raises is up for all."""
    if jax.process_count() == 1:
        return list(values)
    return multihost_utils.process_allgather(np.array(values, np.int32)).max(axis=0).tolist()


def check_same(mine: Mapping[str, Any]) -> None:
    """Raises InputError in all processes if one has another value (of JSON) than process 0, and
    names its host and the field. One exchange, by way of process 0, without a device: of processes
    that differ, what JAX compiles may wait for ever."""
    if _count == 1:
        return
    keys, root = store(), f"r1jax/same/{next(_exchanges)}"
    told = {"host": socket.gethostname(), "fields": dict(mine)}
    keys.key_value_set(f"{root}/{_index}", json.dumps(told))
    if _index == 0:
        every = [_awaited(f"{root}/{i}", f"process {i}") for i in range(_count)]
        keys.key_value_set(f"{root}/verdict", _difference([json.loads(text) for text in every]))
    verdict = _awaited(f"{root}/verdict", "process 0")
    if verdict != SAME:
        raise InputError(verdict)


def digest(parts: Iterable[bytes]) -> str:
    """A short hash of these, one after another."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(len(part).to_bytes(8) + part)
    return found.hexdigest()


SAME = "the same"


def _awaited(key: str, whose: str) -> str:
    try:
        return store().blocking_key_value_get(key, 1000 * COMPARING)
    except RuntimeError as error:
        raise InputError(f"{whose} did not say within {COMPARING} s what it runs") from error


def _difference(every: Sequence[Mapping[str, Any]]) -> str:
    """SAME, or what the first process that differs from process 0 has, and where."""
    first = every[0]
    for index, other in enumerate(every):
        for name in [*first["fields"], *other["fields"]]:
            ours, theirs = (one["fields"].get(name) for one in (first, other))
            if ours != theirs:
                return (
                    f"process {index} on {other['host']} has {name} {_short(theirs)}, process 0 on "
                    f"{first['host']} has {_short(ours)}: all must run the same"
                )
    return SAME


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) < 80 else f"{text[:76]} ..."


def from_first(value: T) -> T:
    """The first process's value (a tree of NumPy arrays, of one shape in all), in all."""
    return value if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(value)


def _all_texts(text: str) -> list[str]:
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(mine.size, np.int32)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: mine.size] = mine
    rows = multihost_utils.process_allgather(padded)
    return [row[:n].tobytes().decode() for row, n in zip(rows, sizes, strict=True)]
