import pytest

from r1jax.analysis.reflection import (
    REFLECTIVE_TERMS,
    count_terms,
    has_thoughts,
    reflection_metrics,
)


def test_terms_are_whole_words_in_any_case():
    counts = count_terms("Wait, WAIT: that is wrong. But—check it; butter, waiting, errors")
    assert {term: n for term, n in counts.items() if n} == {
        "wait": 2,
        "wrong": 1,
        "but": 1,
        "check": 1,
    }
    assert tuple(counts) == REFLECTIVE_TERMS


def test_metrics_are_normalised_per_response_and_per_1k_tokens():
    texts = ["check 3 wrong wait", "no such word", "wait"]
    counts = [count_terms(text) for text in texts]
    assert reflection_metrics(counts, [100, 50, 50]) == pytest.approx(
        {
            "reflection/per_response": 4 / 3,
            "reflection/per_1k_tokens": 20.0,
            "reflection/fraction": 2 / 3,
            "reflection/wait_per_1k_tokens": 10.0,
        }
    )


@pytest.mark.parametrize("replies, tokens", [(0, []), (1, [1, 2]), (1, [0])])
def test_metrics_reject_counts_that_do_not_fit(replies, tokens):
    with pytest.raises(ValueError, match="token counts"):
        reflection_metrics([count_terms("a")] * replies, tokens)


def test_stories_have_no_thoughts():
    assert [has_thoughts(task) for task in ("countdown", "gsm8k", "stories", "words")] == [
        True, True, False, False
    ]  # fmt: skip
