"""Streams that never end, are the same in every process, and go on from any position.

A stream is a `grain.MapDataset` whose element i depends on i alone, so the number of elements
drawn is all that a checkpoint has to hold.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import grain
import jax
import numpy as np

from r1jax.checks import check

T = TypeVar("T")
Mixture = Sequence[tuple[Sequence[T], float]]  # sources, and the share of the draws of each


def stream(mixture: Mixture[T], seed: int) -> grain.MapDataset:
    """Every item of a source once in each pass over it, in an order of its own each pass.

    The sources take turns by their weights, as evenly as can be: one of a third of the weight
    gives one draw of three, whatever its size. With one source, an epoch is a pass.
    """
    for items, weight in mixture:
        check(len(items) > 0, "a source of a mixture is empty")
        check(weight > 0, f"the weight of a source must be positive, got {weight:g}")
    seeds = [seed, *map(int, np.random.SeedSequence(seed).generate_state(len(mixture)))]
    passes = [
        grain.MapDataset.source(items).seed(own).shuffle().repeat()
        for (items, _), own in zip(mixture, seeds, strict=False)
    ]
    if len(passes) == 1:
        return passes[0]
    return grain.MapDataset.mix(passes, [weight for _, weight in mixture])


def shard(dataset: grain.MapDataset, host: int | None = None, hosts: int | None = None):
    """What one process reads of a stream: every `hosts`-th element from `host` on; by default of
    JAX's processes. The first k elements of all of them are the first k * hosts of the stream."""
    host = jax.process_index() if host is None else host
    hosts = jax.process_count() if hosts is None else hosts
    check(0 <= host < hosts, f"host {host} of {hosts}")
    return dataset[host::hosts]


def batches(
    rows: Sequence[Any],
    size: int,
    seed: int,
    host: int | None = None,
    hosts: int | None = None,
) -> grain.MapDataset:
    """This host's part of each batch of `size` rows over all hosts, such as packed documents
    (`r1jax.data.packing.Packed`), stacked. Batch i of all hosts together is rows i * size to
    (i + 1) * size of the stream, however many hosts there are: the step is the position."""
    hosts = jax.process_count() if hosts is None else hosts
    check(size % hosts == 0, f"a batch of {size} rows does not divide over {hosts} hosts")
    return shard(stream([(rows, 1.0)], seed), host, hosts).batch(size // hosts)
