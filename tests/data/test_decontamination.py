"""Decontamination against a brute force, and on the real training and test sets."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.data.decontamination import GRAM, SHORTEST, Grams, decontaminate, split_words
from r1jax.data.problems import Problem
from r1jax.data.program_sources import PHRASES
from r1jax.data.sources import READERS


def problem(name, prompt) -> Problem:
    return Problem(str(name), "math", prompt)


def shares(text: str, evaluation: str) -> bool:
    """Plain strings instead of hashed grams; texts of a-z and blanks."""
    words = evaluation.split()
    if len(words) < SHORTEST:
        return False
    size = min(GRAM, len(words))
    grams = [f" {' '.join(words[i : i + size])} " for i in range(len(words) - size + 1)]
    return any(gram in f" {' '.join(text.split())} " for gram in grams)


# Two words only, so that long stretches are shared by chance.
texts = st.lists(st.sampled_from("ab"), max_size=24).map(" ".join)


@given(st.lists(texts, max_size=8), st.lists(texts, max_size=4))
@settings(max_examples=300)
def test_against_a_brute_force(training, evaluation):
    grams = Grams([problem(i, text) for i, text in enumerate(evaluation)])
    kept, dropped = decontaminate([problem(i, text) for i, text in enumerate(training)], grams)
    want = {i for i, t in enumerate(training) if any(shares(t, e) for e in evaluation)}
    assert {int(match.problem.id) for match in dropped} == want
    assert [int(p.id) for p in kept] == [i for i in range(len(training)) if i not in want]
    for match in dropped:
        assert shares(match.problem.prompt, evaluation[int(match.evaluation)])
        assert match.words in match.problem.prompt
    few = [p.id for p in grams.too_short]
    assert few == [str(i) for i, e in enumerate(evaluation) if len(e.split()) < SHORTEST]


WORDS = list(string.ascii_lowercase)


@pytest.mark.parametrize(
    "evaluation, training, dropped",
    [
        (" ".join(WORDS[:10]), " ".join(["x", *WORDS[:10], "x"]), True),
        (" ".join(WORDS[:11]), " ".join(WORDS[1:12]), True),
        (" ".join(WORDS[:11]), " ".join(WORDS[2:13]), False),  # nine in common
        ("What is the sum of A and B?", "so WHAT is\nthe_sum of “a” and b", True),
        ("What is the sum of A and B?", "what is the sum of a", False),
        ("one two three", "zero one two three four", True),
        ("one two", "one two", False),  # says too little
        (r"\frac{1}{2} + x = 3", "frac 1 2 x 3", True),
        ("求所有满足条件的正整数的个数", "请求所有满足条件的正整数的个数。", True),
        ("求所有满足条件的正整数的个数", "求所有满足条件的负整数的和", False),
        ("ｏｎｅ ｔｗｏ ｔｈｒｅｅ", "one two three", True),
        (f"{' '.join(WORDS[:4])} {PHRASES[2]}", f"{' '.join(WORDS[:3])} {PHRASES[2]}", False),
        (f"one. {PHRASES[3]}", f"two. {PHRASES[3]}", False),
    ],
)
def test_by_hand(evaluation, training, dropped):
    assert (Grams([problem(0, evaluation)]).match(problem(1, training)) is not None) == dropped


def test_words():
    assert split_words("Don't $3.50—数x") == [["don", "t", "3", "50", "数", "x"]]


def test_gsm8k_against_its_test_set_and_math(data_dir):
    train = READERS["gsm8k"](data_dir / "gsm8k" / "train.jsonl")
    test = READERS["gsm8k"](data_dir / "gsm8k" / "test.jsonl")
    math = READERS["math"](data_dir / "math500" / "test.jsonl")
    kept, dropped = decontaminate(train, Grams([*test, *math]))
    assert (len(kept), len(dropped)) == (7_462, 11)
    assert {match.evaluation.split("/")[0] for match in dropped} == {"gsm8k"}
    assert decontaminate(test, Grams(test))[0] == []
