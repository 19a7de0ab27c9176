"""What the processes of a pod tell each other on the host side: plain data, in one order, and
failures too, so that none waits for one that has given up."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax.checks import InputError

T = TypeVar("T")


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
