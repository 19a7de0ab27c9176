"""Packing: every document whole, marked and in one row, or counted as left out."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from r1jax.checks import InputError
from r1jax.data.packing import Packed, best_fit, first_fit, pack
from r1jax.data.pipeline import batches

PAD = 99


def documents(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Distinct ones: each token appears once over all of them."""
    rng = np.random.default_rng(seed)
    token = iter(range(100, 10_000))
    return [
        tuple([next(token) for _ in range(n)] for n in (rng.integers(0, 4), rng.integers(1, 9)))
        for _ in range(count)
    ]


def unpack(batch) -> list[tuple[list[int], list[int]]]:
    """The (prompt, reply) pairs of all segments; checks that each is in one piece."""
    found = []
    for tokens, segments, positions, trained in zip(
        batch.tokens_BT, batch.segments_BT, batch.positions_BT, batch.trained_BT, strict=True
    ):
        numbers = list(dict.fromkeys(segments.tolist()))  # in order of appearance
        assert numbers == [*range(1, len(numbers) + (0 not in numbers)), *[0] * (0 in numbers)]
        for number in filter(None, numbers):
            at = np.flatnonzero(segments == number)
            n = len(at)
            assert at.tolist() == list(range(at[0], at[0] + n))
            assert positions[at].tolist() == list(range(n))
            prompt = n - int(trained[at].sum())
            assert trained[at].tolist() == [False] * prompt + [True] * (n - prompt)
            found.append((tokens[at[:prompt]].tolist(), tokens[at[prompt:]].tolist()))
        assert (tokens[segments == 0] == PAD).all() and not trained[segments == 0].any()
    return found


@pytest.mark.parametrize("seed", range(5))
def test_every_document_is_whole_once_or_left_out(seed):
    given = documents(40, seed)
    batch, left_out = pack(given, rows=12, length=16, pad=PAD)
    found = unpack(batch)
    assert all(d in given for d in found)
    assert len({str(d) for d in found}) == len(found) == len(given) - left_out
    assert left_out > 0 and batch.segments_BT.max() > 1


def test_what_fits_is_not_left_out():
    given = documents(40, seed=0)
    batch, left_out = pack(given, rows=40, length=11, pad=PAD)
    assert left_out == 0
    assert sorted(unpack(batch)) == sorted(given)


def test_a_batch_by_hand():
    given = [([1], [2]), ([3, 4], [5, 6]), ([7], [8, 9]), ([10], [11])]  # of 2, 4, 3, 2 tokens
    batch, left_out = pack(given, rows=2, length=6, pad=PAD)
    assert left_out == 0
    assert batch.tokens_BT.tolist() == [[3, 4, 5, 6, 1, 2], [7, 8, 9, 10, 11, PAD]]
    assert batch.segments_BT.tolist() == [[1, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 0]]
    assert batch.trained_BT.astype(int).tolist() == [[0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0]]


def by_hand(lengths, length, rows, choose):
    """Longest first, each where `choose` says among the rooms that suffice."""
    rows = len(lengths) if rows is None else rows
    rooms, plan, left_out = [], [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        some = [(room, row) for row, room in enumerate(rooms) if room >= lengths[i]]
        if some:
            row = choose(some)[1]
        elif lengths[i] <= length and len(rooms) < rows:
            row = len(rooms)
            rooms.append(length)
            plan.append([])
        else:
            left_out.append(i)
            continue
        rooms[row] -= lengths[i]
        plan[row].append(i)
    return plan, left_out, sorted(rooms)


lengths_of_documents = st.lists(st.integers(1, 14), max_size=60)


@over(lengths_of_documents, st.integers(1, 12), st.none() | st.integers(1, 20))
def test_fits_against_a_slow_one(lengths, length, rows):
    """Of equally full rows, which one best fit takes does not matter."""
    _, left_out, rooms = by_hand(lengths, length, rows, min)
    got, got_left_out = best_fit(lengths, length, rows)
    assert sorted(length - sum(lengths[i] for i in row) for row in got) == rooms
    assert got_left_out == left_out
    assert sorted(i for row in (*got, left_out) for i in row) == [*range(len(lengths))]
    first_row = by_hand(lengths, length, rows, lambda some: min(some, key=lambda r: r[1]))
    assert first_fit(lengths, length, rows) == first_row[:2]


def test_every_row_of_packed_documents_in_a_stream_shared_by_hosts():
    given = documents(50, seed=1)
    packed = Packed(given, length=16, pad=PAD)
    hosts = [batches(packed, 4, seed=3, host=h, hosts=2) for h in (0, 1)]
    epoch = len(packed)
    drawn = [hosts[i // 2 % 2][i // 4] for i in range(0, 4 * epoch, 2)]  # four epochs
    found = [str(d) for batch in drawn for d in unpack(batch)]
    assert Counter(found) == dict.fromkeys(map(str, given), 4)
    assert packed.fill == np.mean([packed[i].segments_BT > 0 for i in range(epoch)])


def test_a_document_that_no_row_can_hold_is_refused():
    with pytest.raises(InputError, match="1 of 2 documents are longer than a row of 3 tokens: doc"):
        Packed([([5], [6]), ([1, 2], [3, 4])], length=3, pad=PAD)


def test_a_document_longer_than_a_row_is_left_out_not_cut():
    batch, left_out = pack([([1, 2], [3, 4]), ([5], [6])], rows=2, length=3, pad=PAD)
    assert left_out == 1
    assert unpack(batch) == [([5], [6])]
