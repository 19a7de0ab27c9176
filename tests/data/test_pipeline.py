"""Streams: the same every time, whole in every pass, resumed from a position, shared by hosts."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_processes import JOINED, finish, start

from r1jax.checks import InputError
from r1jax.data.pipeline import batches, shard, stream


def sources(sizes) -> list[tuple[list[tuple[int, int]], float]]:
    """Items that say where they are from; the weights are not those of the sizes."""
    return [([(s, i) for i in range(n)], s + 1) for s, n in enumerate(sizes)]


def first(dataset, count: int, start: int = 0) -> list:
    return [dataset[i] for i in range(start, start + count)]


# Not many tiny ones: Grain's shuffle takes milliseconds an element below some hundred elements.
@pytest.mark.parametrize("sizes", [[1], [7], [200], [150, 1, 90]])
def test_each_source_is_passed_over_in_an_order_of_its_own(sizes):
    mixture, seed = sources(sizes), 2**31 + 5
    drawn = first(stream(mixture, seed), 3 * sum(sizes))
    assert drawn == first(stream(mixture, seed), 3 * sum(sizes))
    for s, (items, _) in enumerate(mixture):
        mine = [item for item in drawn if item[0] == s]
        passes = [mine[i : i + len(items)] for i in range(0, len(mine), len(items))]
        assert all(sorted(one) == items for one in passes[:-1])
        assert len(set(passes[-1])) == len(passes[-1])


def test_orders_differ_between_passes_seeds_and_sources():
    mixture = [(range(200), 1.0), (range(200), 1.0)]
    drawn = first(stream(mixture, seed=0), 800)
    orders = [tuple(drawn[start : start + 400 : 2]) for start in (0, 1, 400, 401)]
    orders.append(tuple(first(stream(mixture[:1], seed=1), 200)))
    assert len(set(orders)) == 5 and tuple(range(200)) not in orders


@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=4),
    st.integers(0, 5000),
    st.integers(1, 300),
)
@settings(max_examples=20, deadline=None)
def test_any_stretch_is_mixed_by_weight(weights, start, count):
    dataset = stream([([s] * 2000, w) for s, w in enumerate(weights)], seed=0)
    drawn = Counter(dataset[i] for i in range(start, start + count))
    for s, w in enumerate(weights):
        # Weights are rounded to a hundredth of the smallest.
        assert abs(drawn[s] - count * w / sum(weights)) <= 2 + 0.01 * count


MIXTURE = sources([300, 200])
WHOLE = 700


@pytest.fixture(scope="module")
def whole():
    return first(stream(MIXTURE, seed=9), WHOLE)


def read_by(hosts: int, start: int, stop: int) -> list:
    """These elements of the stream, each as the host whose turn it is reads it."""
    parts = [shard(stream(MIXTURE, seed=9), h, hosts) for h in range(hosts)]
    return [parts[i % hosts][i // hosts] for i in range(start, stop)]


@given(
    st.integers(0, (WHOLE - 24) // 12), st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 6])
)
@settings(max_examples=25, deadline=None)
def test_killed_at_any_point_and_resumed_by_other_hosts(whole, step, before, after):
    """The position is the number of elements that all hosts together have drawn."""
    killed = 12 * step
    got = read_by(before, max(0, killed - 8), killed) + read_by(after, killed, killed + 24)
    assert got == whole[max(0, killed - 8) : killed + 24]


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_hosts_share_the_rows_of_each_batch(hosts):
    rows, size, seed = np.arange(100), 6, 4
    whole = batches(rows, size, seed, 0, 1)
    parts = [batches(rows, size, seed, h, hosts) for h in range(hosts)]
    drawn = []
    for step in range(34):
        assert all(part[step].shape == (size // hosts,) for part in parts)
        together = np.concatenate([part[step] for part in parts])
        assert sorted(together) == sorted(whole[step])
        drawn += whole[step].tolist()
    assert sorted(drawn[:100]) == sorted(drawn[100:200]) == list(range(100))


@pytest.mark.parametrize(
    "mixture, message",
    [
        ([([], 1.0)], "a source of a mixture is empty"),
        ([([1], 1.0), ([2], 0.0)], "weight of a source must be positive, got 0"),
    ],
)
def test_bad_mixtures(mixture, message):
    with pytest.raises(InputError, match=message):
        stream(mixture, seed=0)


def test_bad_hosts():
    with pytest.raises(InputError, match="batch of 7 rows does not divide over 2 hosts"):
        batches([1, 2], 7, 0, 0, 2)
    with pytest.raises(InputError, match="host 2 of 2"):
        shard(stream([([1], 1.0)], 0), 2, 2)


PROCESS = """
import json
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from r1jax.data.pipeline import batches
mine = batches(np.arange(21), 6, seed=5)
rows = NamedSharding(Mesh(jax.devices(), "rows"), PartitionSpec("rows"))
seen = []
for step in range(*map(int, sys.argv[1:])):
    batch = jax.make_array_from_process_local_data(rows, mine[step])
    total = int(jax.jit(lambda b: b.sum())(batch))  # over both processes
    seen.append([mine[step].tolist(), batch.shape, total])
print(json.dumps(seen))
"""


def two_processes(first_step: int, last_step: int, cache: Path) -> list[list]:
    """What each of two processes of one mesh saw in these steps."""
    both = start(JOINED + PROCESS, [str(first_step), str(last_step)], cache, devices=1)
    return [json.loads(said.splitlines()[-1]) for said, _ in finish(both)]


@pytest.mark.slow
def test_two_processes_of_one_mesh_see_each_row_once_an_epoch(tmp_path):
    whole = batches(np.arange(21), 6, 5, 0, 1)
    # Stopped after step 3, and resumed.
    runs = [two_processes(*steps, tmp_path) for steps in ((0, 3), (3, 7))]
    zero, one = (runs[0][rank] + runs[1][rank] for rank in (0, 1))
    for step, ((mine, shape, total), (others, *same)) in enumerate(zip(zero, one, strict=True)):
        assert sorted(mine + others) == sorted(whole[step]) and shape == [6]
        assert [shape, total] == same and total == whole[step].sum()
    drawn = [row for step in range(7) for row in zero[step][0] + one[step][0]]
    assert Counter(drawn) == dict.fromkeys(range(21), 2)  # 7 x 6 = two epochs
