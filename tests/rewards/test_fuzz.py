"""Whatever a policy writes, every extractor and checker returns, in time, and raises nothing."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1jax.data.boxed import last_boxed
from r1jax.data.problems import Problem
from r1jax.data.problems import Tests as ProgramTests
from r1jax.rewards.choice import check_choice, chosen_letter
from r1jax.rewards.code import CodeGrader, extract_program
from r1jax.rewards.components import COMPONENTS, Checked
from r1jax.rewards.countdown import check_countdown
from r1jax.rewards.format import extract_answer, final_answer, parse_reply
from r1jax.rewards.grading import Grader
from r1jax.rewards.groups import group, interval
from r1jax.rewards.language import language_share
from r1jax.rewards.rational import compare_numbers
from r1jax.rewards.spelling import tidy
from r1jax.rewards.units import quantity
from r1jax.rewards.words import share_of_words

KINDS = ("countdown", "math", "choice", "code", "words", "gym")
LIMIT_S = 5.0  # of the wall: others may use the machine as well

# Text that looks like replies, since uniformly random characters reach no branch.
PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", r"\boxed{", "####", "the answer is", "\n"),
    *(r"\frac", "{", "}", "(", ")", "[", "]", r"\{", r"\}", "$", r"\(", r"\)", r"\left", r"\right"),
    *("1", "07", "3.5", ".", ",", "1,000", "x", "pi", r"\pi", "i", "e", "+", "-", "*", "/", "^"),
    *(
        "=",
        "<",
        ">",
        r"\leq",
        r"\in",
        r"\cup",
        r"\pm",
        "%",
        r"\%",
        r"\$",
        "°",
        r"^\circ",
        "_",
        "_8",
    ),
    *(r"\sqrt", r"\text{", r"\text{ cm}^2", " and ", " or ", " not ", "cm", "A", "(B)", "**", "|"),
    *(
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        "&",
        "!",
        "√",
        "½",
        "٣",
        "\0",
        "\u2028",
        " ",
        ":",
    ),
]
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
    st.text(max_size=60),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 500)).map(lambda pair: pair[0] * pair[1]),
)
# And formulas that parse, so that what compares them is reached as well.
SIGNS = ["+", "-", "*", "/", "^", "=", "<", r"\leq ", r"\neq ", r"\in ", r"\cup ", ", ", " or "]
formulas = st.recursive(
    st.sampled_from(
        ["0", "1", "2", "-3", "0.5", "x", "y", r"\pi", "i", r"\infty", "e", r"\emptyset"]
    ),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from(SIGNS), part).map("".join),
        st.tuples(part, part).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
        st.tuples(part, part).map(lambda pair: f"({pair[0]}, {pair[1]}]"),
        st.sampled_from(
            [r"\sqrt{%s}", "(%s)", r"\{%s\}", "|%s|", r"\sin %s", r"\log %s", "%s!"]
        ).flatmap(lambda form: part.map(lambda text: form % text)),
    ),
    max_leaves=4,
)
quick = settings(max_examples=400, deadline=5_000, derandomize=True, database=None)


@quick
@given(texts)
def test_extractors(text):
    reply = parse_reply(text)
    assert reply is None or (reply.think and reply.answer)
    for kind in KINDS:
        answer = final_answer(text, kind)
        assert answer is None or (answer.strip() == answer != "" and answer in text)
    for found in (extract_answer(text), last_boxed(text)):
        assert found is None or found in text
    assert (
        final_answer(f"<think>{text}", "math") is None or "</think>" in text or "<answer>" in text
    )
    assert final_answer(f"<think>{text}</think>", "math") is None


@quick
@given(texts.map(str.strip).filter(bool))
def test_an_answer_is_found_behind_any_thought(text):
    """A strict reply's answer is what the lenient reading finds as well."""
    reply = parse_reply(f"<think>{text}</think><answer>{text}</answer>")
    if reply is not None:
        assert final_answer(f"<think>{text}</think><answer>{text}</answer>", "code") == text


@quick
@given(texts, st.lists(st.integers(0, 99), max_size=4), st.integers(-9, 99))
def test_countdown(text, numbers, target):
    assert check_countdown(text, numbers, target) in (True, False, None)


@quick
@given(texts, st.lists(st.sampled_from(["Paris", "x", "1", "the cat", r"$\pi$"]), max_size=5))
def test_choice(text, choices):
    letter = chosen_letter(text, choices)
    assert letter is None or letter in "ABCDE"[: len(choices)] or not choices
    if choices:
        assert check_choice(text, choices, "A") in (True, False, None)
        assert check_choice(text, choices, "A") is (None if letter is None else letter == "A")


@pytest.fixture(scope="module")
def detector():
    """Of languages, which takes half a second to load."""
    language_share("so that is the answer to all of it", "en")


@quick
@given(texts, st.sampled_from(KINDS), st.sampled_from(["correct", "incorrect", "unparseable"]))
def test_components(detector, text, kind, outcome):
    checked = Checked(Problem("p", kind, ""), text, outcome, 0.5, len(text))
    for name, component in COMPONENTS.items():
        ((value,), (low, high)) = (
            component.score([checked]),
            (-1, 0) if name == "repetition" else (0, 1),
        )
        assert type(value) is float and low <= value <= high, name


@quick
@given(texts)
def test_programs_and_words(text):
    program = extract_program(text)
    assert program is None or program.strip()
    assert 0 <= share_of_words(text, "dog fire red") <= 1


@given(st.lists(texts, min_size=30, max_size=30))
@settings(quick, max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
def test_running_any_text_gives_a_verdict(isolation, texts):
    """On programs, as on all else: never "failed"."""
    sets = ProgramTests(stdio=(("", "7"),)), ProgramTests(code="assert f(1) == 2", function="f")
    with CodeGrader(workers=2) as grader:
        futures = [grader.submit(tests, text) for text in texts for tests in sets]
        assert {future.result().outcome for future in futures} == {"incorrect"}


@quick
@given(texts | formulas)
def test_texts_of_answers(text):
    neat = tidy(text)
    assert isinstance(quantity(neat).value, str)
    for items in (group(neat), interval(neat)):
        assert items is None or items.items
    assert compare_numbers(text, "7") in (True, False, None)
    assert compare_numbers("7", text) in (True, False, None)


@pytest.fixture(scope="module")
def grader():
    with Grader({"accuracy": 1.0}, workers=2, timeout_s=LIMIT_S) as grader:
        yield grader


REFERENCES = (
    "7",
    r"\frac{x}{2}",
    "(1,2]",
    r"\text{even}",
    "y = 2x + 3",
    r"x \ne 2",
    r"5 \text{ cm}^2",
)


@given(st.lists(texts.map(lambda text: text[:40]) | formulas, min_size=20, max_size=20))
@settings(quick, max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_math(grader, texts):
    """Only a time-out may keep a text from its verdict: no exception escapes the checker."""
    problems = [Problem("m", "math", "", reference) for reference in REFERENCES for _ in texts]
    replies = [f"<think>t</think><answer>{text}</answer>" for text in texts] * len(REFERENCES)
    for reply, grade in zip(replies, grader.grade(problems, replies), strict=True):
        assert grade.outcome != "correct" or r"\infty" not in reply, reply  # in no reference
        assert grade.outcome != "failed" or grade.detail.startswith("took over"), (reply, grade)
