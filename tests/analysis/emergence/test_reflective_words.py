from r1jax.analysis.emergence.words import by_third, in_context, phrases_of, strict_of, terms_of


def test_the_strict_set_leaves_conjunctions_and_counts_a_phrase_once():
    text = "But wait, however: check again. Re-examine the error; rechecked"
    assert [t.word for t in terms_of(text)] == ["but", "wait", "however", "check", "error"]
    assert [t.word for t in phrases_of(text)] == ["check again", "re-examine"]
    assert [t.word for t in strict_of(text)] == ["wait", "check again", "re-examine", "error"]


def test_a_word_is_in_context_between_two_derivations():
    text = "Wait. 3 + 4 = 8, wait, 3 + 4 = 7. No mistake there"
    assert [t.start for t in in_context(text, strict_of(text))] == [text.index("wait")]
    assert not in_context("wait, what is it? I wait", strict_of("wait, what is it? I wait"))
    far = "1 = 1 wait" + " " * 300 + "2 = 2"
    assert not in_context(far, strict_of(far))


def test_thirds_are_of_the_characters():
    assert by_third("wait.......wait.......wait", terms_of("wait.......wait.......wait")) == (
        1,
        1,
        1,
    )
    assert by_third("", []) == (0, 0, 0)
