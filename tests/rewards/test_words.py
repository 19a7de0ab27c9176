import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.rewards.words import share_of_words

STORY = "Once, a Dog saw the dogs' red-hot fire truck. It isn't Tim’s!"


@pytest.mark.parametrize(
    ("words", "share"),
    [
        ("dog", 1),
        ("DOG fire", 1),
        ("dogs", 1),  # the apostrophe ends the plural
        ("do", 0),  # no part of a word
        ("tim", 0),  # its inflections are other words
        ("tim's isn't", 1),
        ("isn’t", 1),
        ("red-hot", 1),
        ("red hot", 0),
        ("dog cat", 1 / 2),
        ("dog dog cat", 1 / 2),  # each word counts once
        ("dog fire cat", 2 / 3),
        ("cat", 0),
    ],
)
def test_share_of_words(words, share):
    assert share_of_words(STORY, words) == pytest.approx(share)


def test_composed_and_decomposed_letters_are_equal():
    assert share_of_words("A cafe\u0301.", "caf\u00e9") == 1


def test_no_words_is_an_error_not_a_success():
    with pytest.raises(ValueError, match="names no words"):
        share_of_words("a dog", "  ")


WORDS = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=4), min_size=1, max_size=6)


@given(WORDS, WORDS, st.randoms())
def test_against_sets(used, wanted, random):
    """Order, case and punctuation do not matter; more words never lower the share."""
    text = " ".join(random.choice((w, w.upper(), f"({w}),")) for w in used)
    share = share_of_words(text, " ".join(wanted))
    assert share == pytest.approx(len(set(used) & set(wanted)) / len(set(wanted)))
    assert share_of_words(text + " " + " ".join(wanted), " ".join(wanted)) == 1
