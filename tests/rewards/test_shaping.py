import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.checks import InputError
from r1jax.rewards.shaping import overlong_penalty, repetition_penalty


@pytest.mark.parametrize(
    ("text", "n", "penalty"),
    [
        ("a b c d e", 3, 0),
        ("a b", 3, 0),
        ("", 3, 0),
        ("a b c a b c", 3, -1 / 4),  # abc bca cab abc
        ("a B c A b C", 3, -1 / 4),
        ("a a a a a", 3, -2 / 3),
        ("x " * 1000, 2, -998 / 999),
        ("a b a b", 1, -1 / 2),
        ("等等等等等", 3, -2 / 3),  # no blanks: each character is a word
        ("wait等wait等", 2, -1 / 3),
    ],
)
def test_repetition_penalty(text, n, penalty):
    assert repetition_penalty(text, n) == pytest.approx(penalty)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 5))
def test_against_counting_slowly(words, n):
    """Every n-gram that some earlier place has too is a repetition."""
    grams = [words[i : i + n] for i in range(len(words) - n + 1)]
    repeats = sum(gram in grams[:i] for i, gram in enumerate(grams))
    want = -repeats / len(grams) if grams else 0.0
    assert repetition_penalty(" ".join(words), n) == pytest.approx(want)


def test_a_loop_loses_more_than_prose():
    prose = "We add the two sides, then divide by three; so the answer must be seven apples."
    assert repetition_penalty(prose) == 0
    assert repetition_penalty(prose + " Wait, let me check." * 20) < -0.7


def test_time_is_linear():
    start = time.process_time()
    repetition_penalty("so " * 1_000_000)
    assert time.process_time() - start < 20


def test_n_must_be_positive():
    with pytest.raises(InputError, match="n must be positive, got 0"):
        repetition_penalty("a", 0)


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (100, -1.0), (101, -1.0), (1000, -1.0)],
)
def test_overlong_penalty(length, penalty):
    assert overlong_penalty(length, max_length=100, buffer=20) == pytest.approx(penalty)


def test_overlong_penalty_needs_a_buffer():
    with pytest.raises(InputError, match=r"buffer must be in 1\.\.100, got 0"):
        overlong_penalty(5, 100, 0)
