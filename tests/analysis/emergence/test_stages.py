import pytest
from hand_made import BREAKS, CONFIRMS, CORRECTS, GUESS_RIGHT, GUESS_WRONG, REPEATS, reply

from r1jax.analysis.emergence.stages import stage_of
from r1jax.analysis.emergence.table import make_table


@pytest.fixture(scope="module")
def stage():
    texts = [GUESS_WRONG, GUESS_RIGHT, CORRECTS, CORRECTS, CONFIRMS, BREAKS, REPEATS]
    replies = [reply(text, question=q) for q in ("a", "b") for text in texts]
    return stage_of(make_table([*replies, reply(GUESS_WRONG, question="c")]), "event")


def test_shares_counts_and_densities(stage):
    assert (stage.n, stage.questions) == (15, 3)
    assert stage.reflective.value == pytest.approx(10 / 15)
    assert stage.questions_with == pytest.approx(2 / 3)
    terms = 2 * (2 * 4 + 1 + 3 + 2)  # check wrong wait check, check, check wrong wait, check wrong
    assert stage.per_reply.value == pytest.approx(terms / 15)
    assert stage.per_1k.value == pytest.approx(1000 * terms / (15 * stage.length.value))
    assert sum(stage.terms_per_1k.values()) == pytest.approx(stage.per_1k.value)
    assert sum(stage.thirds) == pytest.approx(1)
    assert stage.per_attempt.value == pytest.approx(terms / (2 * 10 + 1))


def test_transitions_of_reflective_replies(stage):
    assert stage.changes == (2, 4, 2, 2)  # T→T, F→T, T→F, F→F
    assert stage.corrective.value == pytest.approx(4 / 6)
    assert stage.harmful.value == pytest.approx(2 / 4)
    assert stage.first_try.value == pytest.approx(6 / 15)
    assert stage.accuracy.value == pytest.approx(8 / 15)


def test_verdicts_err_either_way(stage):
    # Of right candidates: CORRECTS (twice), CONFIRMS, and BREAKS, which rejects it.
    assert stage.rejects_right.value == pytest.approx(1 / 4)
    assert stage.accepts_wrong.value == 0


def test_reflection_is_compared_within_questions(stage):
    # In a and b: reflective 3 of 5 right, others 1 of 2; c has no reflective reply.
    assert stage.within.difference.value == pytest.approx(0.1) and stage.within.difference.n == 2
    assert (stage.within.above, stage.within.below) == (2, 0)
    assert stage.within.p == pytest.approx(0.5)


def test_word_and_structure_agree_here(stage):
    assert stage.agreement == pytest.approx(1) and stage.differ == 0
    assert stage.length_correct.n == 8 and stage.length_incorrect.n == 7
