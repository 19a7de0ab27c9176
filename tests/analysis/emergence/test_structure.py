import itertools

import numpy as np
import pytest

from r1jax.analysis.emergence.structure import (
    countdown_structure,
    extracted_structure,
    plain_value,
    question_of,
)
from r1jax.config import CorpusConfig
from r1jax.data import countdown

SEARCH = (
    "<think> 9 + 5 = 14 - 4 = 10 + 2 = 12 check 12 = 8 wrong wait 9 + 5 = 14 - 4 = 10 - 2 = 8 "
    "check 8 = 8 right </think> <answer> 9 + 5 - 4 - 2 </answer>"
)


def test_a_search_is_read_to_the_letter():
    read = countdown_structure(SEARCH, (9, 5, 4, 2), 8)
    assert [(SEARCH[c.start : c.end], c.right) for c in read.candidates] == [
        ("9 + 5 = 14 - 4 = 10 + 2 = 12", False),
        ("9 + 5 = 14 - 4 = 10 - 2 = 8", True),
        ("<answer> 9 + 5 - 4 - 2 </answer>", True),
    ]
    assert [(v.says, v.holds) for v in read.verdicts] == [(False, False), (True, True)]
    assert read.reflects and read.chain_right and len(read.attempts) == 2 and read.slips == 0


def test_every_document_of_the_corpus_is_read_as_it_was_made():
    rng = np.random.default_rng(0)
    corpus = CorpusConfig(reflective=0.5, practice=0.2, goes_on=1.0)
    for problem in itertools.islice(countdown.problems(4), 0, None, 7):
        prompt, reply = countdown.document(problem, corpus, rng)
        assert question_of(prompt) == (problem.numbers, int(problem.answer))
        read = countdown_structure(reply, problem.numbers, int(problem.answer))
        assert len(read.attempts) == reply.count("wait") + 1
        assert len(read.verdicts) == reply.count("check") and read.slips == 0
        assert read.reflects == ("check" in reply)
        assert all(v.says == v.holds for v in read.verdicts)
        last = read.attempts[-1]
        assert (last.value == problem.answer) == last.right == read.candidates[-1].right


@pytest.mark.parametrize(
    "text, right, slips",
    [
        ("9 + 5 = 14 - 4 = 11 - 2 = 8 </think>", False, 2),  # two slips that cancel
        ("9 + 5 = 14 - 6 = 8 </think>", False, 0),  # other numbers
        ("9 - 4 = 5 + 5 = 10 - 2 = 8 </think>", True, 0),  # another order
        ("3 x 4 = 12 - 4 = 8 </think>", False, 0),
    ],
)
def test_an_attempt_is_right_if_every_step_and_every_number_is(text, right, slips):
    read = countdown_structure(text, (9, 5, 4, 2), 8)
    assert (read.candidates[0].right, read.slips, read.answered) == (right, slips, False)
    assert not read.reflects


def test_a_false_verdict_breaks_the_chain_though_the_answer_is_right():
    read = countdown_structure(SEARCH.replace("8 = 8 right", "8 = 8 wrong"), (9, 5, 4, 2), 8)
    assert read.candidates[-1].right and not read.chain_right


def test_multiplication_is_read():
    read = countdown_structure(
        "<think> 3 x 4 = 12 + 1 = 13 </think> <answer> 3 x 4 + 1 </answer>", (4, 3, 1), 13
    )
    assert [c.right for c in read.candidates] == [True, True]


@pytest.mark.parametrize(
    "text, values",
    [
        (r"so x = 12. Thus the answer is \boxed{12}.", ["12"]),
        ("2 + 2 = 5\nwait, that is wrong: 2 + 2 = 4\nThe answer is 4.", ["5", "4"]),
        (r"\boxed{\frac{1}{2}} but \boxed{0.5}", ["1/2"]),
        ("<answer>7</answer> Wait. <answer>8</answer>", ["7", "8"]),
        ("x = 3\ncheck: x = 3\n", ["3", "3"]),  # said again after a check: a second candidate
        ("no answer here", []),
        (r"cut: \boxed{1", []),
    ],
)
def test_candidates_are_extracted_in_order(text, values):
    assert [c.value for c in extracted_structure(text).candidates] == values


def test_grades_by_extraction_come_from_the_answer_and_from_references():
    text = "2 + 2 = 5\nwait, 2 + 2 = 4\nThe answer is 4."

    def grades(correct, references=()):
        return [c.right for c in extracted_structure(text, correct, references).candidates]

    assert grades(True) == [False, True]
    assert grades(False) == [None, False]
    assert grades(False, {"5"}) == [True, False]
    assert grades(None) == [None, None]
    assert extracted_structure(text, True).reflects
    assert not extracted_structure("The answer is 4.", True).reflects


def test_values_are_compared_in_lowest_terms():
    assert plain_value(r"\boxed{1,000}") == plain_value("$1000.0$") == "1000"
    assert plain_value("x + 1") == plain_value("x+1")
