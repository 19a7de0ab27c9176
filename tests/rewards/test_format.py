import time

import pytest

from r1jax.rewards.format import Reply, extract_answer, last_boxed, parse_reply


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>b</answer>",
        " \n<think> a </think>\n\n<answer>\nb </answer> \n",
    ],
)
def test_good_replies(text):
    assert parse_reply(text) == Reply("a", "b")


def test_other_tags_and_lines_are_content():
    reply = parse_reply("<think>1 < 2\n<b>x</b></think><answer>y > 1\n2</answer>")
    assert reply == Reply("1 < 2\n<b>x</b>", "y > 1\n2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "<answer>b</answer>",
        "<think>a</think>",
        "<think>a</think> b",
        "a</think><answer>b</answer>",  # the forced <think> must be part of the reply
        "<think></think><answer>b</answer>",  # empty think block
        "<think> \n </think><answer>b</answer>",
        "<think>a</think><answer> </answer>",
        "<think>a</think><answer>b</answer> junk",
        "<think>a</think><answer>b</answer><eos>",
        "junk <think>a</think><answer>b</answer>",
        "<think>a</think> junk <answer>b</answer>",
        "<think>a</think><think>a</think><answer>b</answer>",  # repeated
        "<think>a</think><answer>b</answer><answer>b</answer>",
        "<think>a</think><answer>b</answer><think>a</think><answer>b</answer>",
        "<think><think>a</think></think><answer>b</answer>",  # nested
        "<think>a<answer>b</answer></think>",
        "<think>a</think><answer><answer>b</answer></answer>",
        "<think>a</think><answer><think>b</think></answer>",
        "<answer>b</answer><think>a</think>",
        "<think>a<answer>b</answer>",
        "<think>a</think><answer>b",
        "<think>a</think></answer>b<answer>",
        "<THINK>a</THINK><answer>b</answer>",
    ],
)
def test_bad_replies(text):
    assert parse_reply(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("junk <answer> 5 </answer> junk", "5"),
        ("<answer>5</answer> or <answer>6</answer>", "6"),
        ("<answer>5 <answer>6</answer>", "6"),
        ("<answer>5</answer> </answer>", "5"),
        ("<answer>5</answer> <answer>6", "5"),
        ("<answer>1 < 2\n</answer>", "1 < 2"),
        ("<answer></answer>", ""),
        ("<answer>5", None),
        ("5</answer>", None),
        ("</answer>5<answer>", None),
        ("5", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{5} and \boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a}} }", r"\text{a}"),
        (r"\boxed{5", None),
        (r"\boxed{\frac{1}{2}", None),
        ("5", None),
        ("{5}", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 100_000,
        "<answer>" * 100_000,
        "<answer>" + "<" * 500_000,
        " " * 500_000,
        "<think>a</think>" + "\n" * 500_000 + "x",
        r"\boxed{" * 100_000,
        r"\boxed{" + "{" * 500_000,
    ],
)
def test_hostile_text_takes_linear_time(text):
    start = time.perf_counter()
    assert parse_reply(text) is None
    assert extract_answer(text) is None
    assert last_boxed(text) is None
    assert time.perf_counter() - start < 2
