import pytest
from hand_made import BREAKS, CONFIRMS, CORRECTS, GUESS_RIGHT, GUESS_WRONG, REPEATS, reply

from r1jax.analysis.emergence.logs import Reply
from r1jax.analysis.emergence.table import make_table
from r1jax.analysis.reflection import REFLECTIVE_TERMS


def test_columns_say_what_replies_do():
    texts = [GUESS_WRONG, GUESS_RIGHT, CORRECTS, CONFIRMS, BREAKS, REPEATS]
    table = make_table([reply(text, question=str(i)) for i, text in enumerate(texts)])
    assert table.exact and not table.counted
    assert table.found["event"].tolist() == [False, False, True, True, True, True]
    assert table.found["word"].tolist() == table.found["event"].tolist()
    assert table.correct.tolist() == [0, 1, 1, 1, 0, 0]
    assert table.first_right.tolist() == [0, 1, 0, 1, 1, 0]
    assert table.chain_right.tolist() == [0, 1, 1, 1, 0, 0]
    assert table.attempts.tolist() == [1, 1, 2, 1, 2, 1]
    assert table.changes_N4.tolist()[2:] == [[0, 1, 0, 0], [0] * 4, [0, 0, 1, 0], [0] * 4]
    # right of right, right of wrong, wrong of right, wrong of wrong
    assert table.verdicts_N4.tolist()[2:] == [
        [1, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    named = dict(zip(REFLECTIVE_TERMS, table.terms_NW[2], strict=True))
    assert {k: v for k, v in named.items() if v} == {"wait": 1, "wrong": 1, "check": 2}


def test_by_extraction_right_answers_of_others_grade_a_candidate():
    texts = [("x = 4\nwait, so x = 5", False), ("The answer is 4", True)]
    table = make_table([Reply(0, "q", "x?", text, correct=c) for text, c in texts])
    assert table.first_right.tolist() == [1, 1] and table.changes_N4[0].tolist() == [0, 0, 1, 0]
    assert not table.exact and table.counted and table.tokens.tolist() == [9, 4]
    assert table.chain_right.tolist() == [-1, -1] and table.truncated.tolist() == [-1, -1]


def test_difficulty_is_given_or_read_off_or_from_accuracy():
    given = make_table([reply(GUESS_RIGHT, level="5"), reply(GUESS_RIGHT)])
    assert given.level.tolist() == ["5", ""]
    five = reply(GUESS_RIGHT, prompt="use 9 5 4 2 1 to make 8 <think>")
    assert make_table([reply(GUESS_RIGHT), five]).level.tolist() == ["4 numbers", "5 numbers"]
    graded = [
        reply(GUESS_RIGHT if i < right else GUESS_WRONG, question=str(right))
        for right in (0, 2, 4)
        for i in range(4)
    ]
    assert make_table(graded).level.tolist() == ["hard"] * 4 + ["middle"] * 4 + ["easy"] * 4


def test_replies_are_needed():
    with pytest.raises(ValueError, match="needs replies"):
        make_table([])
