"""IFEval's instructions against cases by hand: (name, arguments, a text that follows, one not)."""

import json
from collections import Counter

import pytest

from r1jax.checks import InputError
from r1jax.data.problems import Problem
from r1jax.rewards.grading import Grader
from r1jax.rewards.instructions import INSTRUCTIONS, follows, loosely, sentences, share_followed

ENGLISH = "the weather in this town is nice and the people are always very friendly to us"
CASES = [
    ("keywords:existence", {"keywords": ["C++", "dog"]}, "A Dog writes c++.", "A dog writes C."),
    (
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": "at least"},
        "Cat and cat",
        "one cat",
    ),
    (
        "keywords:frequency",
        {"keyword": "cat", "frequency": 2, "relation": "less than"},
        "one cat",
        "Cat and cat",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "rocket", "the Rock."),
    (
        "keywords:letter_frequency",
        {"letter": "o", "let_frequency": 3, "let_relation": "at least"},
        "Oho, no",
        "no, so",
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        "#a #b",
        "#a b",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das Wetter ist heute sehr schön und wir gehen in den Garten.",
        ENGLISH,
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "Dr. Smith paid 3.5 dollars. He left!",
        "One. Two? Three!",
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        "one\n***\ntwo\n***",
        "one\n***\n***\ntwo",
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        "one two, three: four",
        "one two three",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Hello"},
        'First.\n\n"hello, you',
        "hello\n\nFirst.",
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        "[name] of [place]",
        "[name of place]",
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye. P. S. Hi", "Bye. PS Hi"),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        "Bye.\nP.P.S. Hi",
        "Bye. P.S. Hi",
    ),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b", "* a\n**b**"),
    ("detectable_format:constrained_response", {}, "So: My answer is no.", "No."),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*one* and **two**",
        "*one* and ** **",
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1 a SECTION 2 b",
        "Section 1 a SECTION 2 b",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<a poem>>\nof joy", "<< >> of joy"),
    ("combination:two_responses", {}, "yes\n******\nno", "yes\n******\nyes"),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say hello. "},
        " say hello. Hello!",
        "Hello! Say hello.",
    ),
    ("startend:end_checker", {"end_phrase": "The end. "}, 'So it goes. the END."', "The end. So."),
    ("startend:quotation", {}, ' "all of it" ', '"some" of it'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        "A well-KNOWN thing",
        "A WELL-KNOWN thing",
    ),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH, ENGLISH.title()),
    ("punctuation:no_comma", {}, "none here", "one, here"),
]


def test_every_instruction_of_the_benchmark_has_a_case():
    assert len(INSTRUCTIONS) == 25 and {name for name, *_ in CASES} == set(INSTRUCTIONS)


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES)
def test_by_hand(name, arguments, good, bad):
    assert follows(good, name, arguments) and loosely(good, name, arguments)
    assert not follows(bad, name, arguments)
    assert not follows("  \n", name, arguments)  # nothing follows nothing


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Hi", 1),
        ("Hi. You?", 2),
        ("It costs 2.50 at 3 p.m. today.", 2),
        ("J. Doe came.", 1),
    ],
)
def test_sentences(text, count):
    assert sentences(text) == count


def test_loosely_reads_a_reply_without_its_frame():
    framed = 'Sure, here it is:\n"**all** of it"'
    assert not follows(framed, "startend:quotation", {})
    assert loosely(framed, "startend:quotation", {})
    bold = "**P**.S. bye"
    assert not follows(bold, "detectable_content:postscript", {"postscript_marker": "P.S."})
    assert loosely(bold, "detectable_content:postscript", {"postscript_marker": "P.S."})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("keywords:rhyme", {}, "no instruction is called 'keywords:rhyme'"),
        ("startend:end_checker", {"end_phrase": None}, "missing argument end_phrase"),
        (
            "keywords:frequency",
            {"keyword": "a", "frequency": 1, "relation": "about"},
            '"less than" or',
        ),
    ],
)
def test_what_is_no_instruction(name, arguments, message):
    with pytest.raises(InputError, match=message):
        follows("text", name, arguments)


def test_the_grader_gives_a_share_and_calls_only_all_of_them_correct():
    """The thought does not count, and a reply that was cut follows nothing."""
    told = json.dumps([["punctuation:no_comma", {}], ["startend:quotation", {}]])
    problem = Problem("i", "instructions", "Say it.", told)
    assert share_followed('"so, so"', told) == 0.5
    replies = ['<think>a, b</think>\n\n"so"', "<think>a</think>so, so", "so", '"so"']
    with Grader({"accuracy": 1.0, "partial": 0.0}) as grader:
        grades = grader.grade([problem] * 4, replies, None, [False, False, False, True])
    assert Counter(g.outcome for g in grades) == {"correct": 1, "incorrect": 2, "unparseable": 1}
    assert [g.components["partial"] for g in grades] == [1, 0, 0.5, 0]
