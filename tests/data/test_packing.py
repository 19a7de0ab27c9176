"""Packing: every document whole, marked and in one row, or counted as left out."""

import numpy as np
import pytest

from r1jax.data.packing import pack

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


def test_longest_come_first_each_into_the_first_row_with_room():
    given = [([1], [2]), ([3, 4], [5, 6]), ([7], [8, 9]), ([10], [11])]  # of 2, 4, 3, 2 tokens
    batch, left_out = pack(given, rows=2, length=6, pad=PAD)
    assert left_out == 0
    assert batch.tokens_BT.tolist() == [[3, 4, 5, 6, 1, 2], [7, 8, 9, 10, 11, PAD]]
    assert batch.segments_BT.tolist() == [[1, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 0]]
    assert batch.trained_BT.astype(int).tolist() == [[0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0]]


def test_a_document_longer_than_a_row_is_left_out_not_cut():
    batch, left_out = pack([([1, 2], [3, 4]), ([5], [6])], rows=2, length=3, pad=PAD)
    assert left_out == 1
    assert unpack(batch) == [([5], [6])]
