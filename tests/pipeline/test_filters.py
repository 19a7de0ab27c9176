"""Each reason to drop a reply, at a reply that has no other, and on both sides of its limit."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from r1jax.checks import InputError
from r1jax.data.decontamination import Grams
from r1jax.data.problems import Problem
from r1jax.evaluation.replies import Reply
from r1jax.pipeline.filters import REASONS, RUN, FilterConfig, fault
from r1jax.rewards.grading import Grade

MATH = Problem("a", "math", "What is six times seven?", "42")
THOUGHT = "Six sevens are forty two, which I know by heart and need not check again."
GOOD = f"<think>\n{THOUGHT}\n</think>\n\nThe product is 42."


def graded(outcome="correct", form=1.0, answer="42"):
    return Grade(outcome, {"accuracy": float(outcome == "correct"), "format": form}, 0.0,
                 detail="no time" if outcome == "failed" else "", answer=answer)  # fmt: skip


def why(text=GOOD, grade=None, filters=None, grams=None, cut=False, problem=MATH):
    reply = Reply(text, len(text), 0, "length" if cut else "stop")
    return fault(problem, reply, grade or graded(), filters or FilterConfig(), grams)


def thinking(text):
    return GOOD.replace(THOUGHT, text)


def test_a_good_reply_has_none():
    assert why() == ("", "")


CASES = {
    "grader failed": {"grade": graded("failed")},
    "cut": {"grade": graded("unparseable"), "cut": True},
    "no answer": {"grade": graded("unparseable", answer=None)},
    "wrong": {"grade": graded("incorrect", answer="41")},
    "out of form": {"grade": graded(form=0.0)},
    "mixed language": {"text": thinking(f"{THOUGHT} 所以答案是四十二没有错")},
    "long paragraph": {"text": thinking(" ".join(f"and then {i} more words" for i in range(200)))},
    "code block": {"text": thinking(f"{THOUGHT}\n\n```python\nprint(6 * 7)\n```")},
    "repetition": {"text": thinking("\n\n".join([THOUGHT] * 9))},
    "contaminated": {"grams": Grams([Problem("b", "math", f"Prove it: {THOUGHT}", "0")])},
}


@pytest.mark.parametrize("reason", CASES)
def test_each_is_found(reason):
    assert why(**CASES[reason])[0] == reason


def test_all_that_one_reply_can_have_by_itself_are_here():
    assert [*CASES, "duplicate", "surplus"] == list(REASONS)


def test_the_first_that_applies_is_the_reason():
    """In the order of REASONS, whatever else is wrong with it."""
    everything = thinking("\n\n".join([THOUGHT, "所以答案是", "```x```", "word " * 600] * 9))
    names = ["wrong", "out of form", "mixed language", "long paragraph", "code block", "repetition"]
    off = FilterConfig(
        language="", max_paragraph=0, code_blocks=True, max_repetition=1.0, any_form=True
    )
    for i, name in enumerate(names):
        on = {f: getattr(FilterConfig(), f) for f in _fields_of(names[i:])}
        grade = graded("incorrect" if name == "wrong" else "correct", form=0.0)
        assert why(everything, grade, dataclasses.replace(off, **on))[0] == name
    assert why(everything, graded(form=0.0), off) == ("", "")


def _fields_of(names):
    fields = {
        "out of form": "any_form",
        "mixed language": "language",
        "long paragraph": "max_paragraph",
        "code block": "code_blocks",
        "repetition": "max_repetition",
    }
    return [fields[name] for name in names if name in fields]


def test_what_stands_behind_the_thought_may_be_code_and_of_any_language():
    text = GOOD + "\n\n```python\nprint(42)\n```\n\n所以答案是四十二没有错" + " long" * 19
    assert why(text) == ("", "")


@pytest.mark.parametrize(
    "foreign, limit, dropped", [(1, 0.5, False), (9, 0.5, True), (0, 1, False)]
)
def test_a_share_of_words(foreign, limit, dropped):
    text = "check the sum again and again " + "查" * foreign  # six words
    found = why(thinking(text), filters=FilterConfig(min_language=limit))
    assert (found[0] == "mixed language") == dropped == (limit * (6 + foreign) > 6)


def test_a_thought_of_numbers_is_not_mixed():
    assert why(thinking("9 + 6 = 15 - 5 = 10")) == ("", "")
    assert why(thinking("9 + 6 = 15"), filters=FilterConfig(language="zh")) == ("", "")
    assert why(filters=FilterConfig(language="zh"))[0] == "mixed language"


@pytest.mark.parametrize("extra", [0, 1])
def test_the_longest_paragraph_counts(extra):
    words = ["first " * 9, "y" * (400 + extra), "last " * 9]
    found = why(thinking("\n\n".join(words)), filters=FilterConfig(max_paragraph=400, language=""))
    assert found[0] == ("long paragraph" if extra else "")


def test_a_run_of_words_that_stands_there_before():
    """Beside a count of every run, under random texts that repeat some of themselves."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        text = thinking(" ".join(rng.permutation(60).astype(str)))
        words = text.split()
        start, n = int(rng.integers(10)), int(rng.integers(10, 60))
        text = thinking(" ".join([*words[1:-5], *words[1 + start : 1 + start + n]]))
        words = text.lower().split()
        runs = Counter(tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1))
        share = (sum(runs.values()) - len(runs)) / sum(runs.values())
        for limit in (share - 1e-9, share + 1e-9):
            if limit >= 0:
                found = why(text, filters=FilterConfig(max_repetition=limit))[0]
                assert found == ("repetition" if share > limit else ""), (share, limit)


def test_a_story_has_no_thought():
    """Its whole text is looked at, and is not out of form."""
    story = Problem("s", "words", "Once upon a time", "dog")
    assert why("Once there was a dog.", problem=story) == ("", "")
    assert why("Once there was a dog. 从前有一只狗", problem=story)[0] == "mixed language"


@pytest.mark.parametrize(
    "field, value", [("min_language", 1.5), ("max_repetition", -1), ("max_paragraph", -1),
                     ("language", "xx")],
)  # fmt: skip
def test_limits_that_are_none(field, value):
    with pytest.raises(InputError, match=field if field != "language" else "'xx' is not known"):
        FilterConfig(**{field: value})
