from r1jax.analysis.replies import before_during_after, early_middle_late


def reply(step, problem, text, correct, terms=0, split="tracked", number=0):
    return {
        "step": step, "problem_id": problem, "text": text, "split": split, "sample": number,
        "components": {"accuracy": float(correct)}, "reflective_terms": terms,
    }  # fmt: skip


def steps(story):
    return [(row["problem_id"], row["step"]) for row in story]


WHOLE = [
    reply(0, "b", "guess", False),
    reply(1, "b", "guess again", False),
    reply(2, "b", "wait", False, terms=1),
    reply(3, "b", "wait wait", True, terms=2),
    reply(4, "b", "check", True, terms=1),
]


def test_the_problem_with_the_whole_story_is_shown():
    right_at_once = [reply(step, "a", "4", True) for step in range(5)]
    never_right = [reply(step, "c", "wait" * step, False, terms=step) for step in range(5)]
    story = before_during_after([*right_at_once, *WHOLE, *never_right])
    assert steps(story) == [("b", 0), ("b", 2), ("b", 4)]
    # Without thoughts, terms mean nothing: during is where it was first solved.
    assert steps(before_during_after([*right_at_once, *WHOLE], thoughts=False))[1] == ("b", 3)


def test_during_is_in_words_of_its_own_where_it_can_be():
    jump = [("guess", 0), ("check", 1), ("wait", 2), ("check", 1)]
    rows = [reply(i, "a", text, terms > 0, terms) for i, (text, terms) in enumerate(jump)]
    assert steps(before_during_after(rows)) == [("a", 0), ("a", 2), ("a", 3)]


def test_tracked_replies_come_before_other_held_out_ones_and_training_never():
    others = [reply(row["step"], "z", row["text"], True, split="heldout") for row in WHOLE]
    training = [reply(row["step"], "t", row["text"], True, split="train") for row in WHOLE]
    tracked = [reply(step, "a", "4", True) for step in range(3)]
    assert steps(before_during_after([*training, *others, *tracked]))[0] == ("a", 0)
    assert steps(before_during_after([*training, *others]))[0] == ("z", 0)
    assert before_during_after(training) == []


def test_one_reply_a_step_and_no_story_of_one_step():
    twice = [reply(0, "a", "first", False), reply(0, "a", "second", True, number=1)]
    assert before_during_after(twice) == []
    story = before_during_after([reply(5, "a", "late", True), *twice])
    assert [row["text"] for row in story] == ["first", "late"]


def test_early_middle_and_late_are_of_the_other_splits():
    rows = [reply(step, "p", f"{step}", correct, split="train")
            for step in range(5) for correct in (False, True, True)]  # fmt: skip
    tracked = [reply(step, "q", "tracked", True) for step in range(9)]
    shown = early_middle_late([*tracked, *rows])
    assert [(row["step"], row["components"]["accuracy"]) for row in shown] == [
        (0, 1), (0, 0), (2, 1), (2, 0), (4, 1), (4, 0)
    ]  # fmt: skip
    assert early_middle_late(tracked) == []
