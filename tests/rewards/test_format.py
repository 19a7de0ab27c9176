import time

import pytest

from r1jax.data.boxed import last_boxed
from r1jax.rewards.format import Reply, extract_answer, final_answer, parse_reply


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


LONG = "We add the numbers. " * 40


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>a</think> <answer> 5 </answer>", "5"),
        ("<think>a</think> <answer> so 3 + 2 = \\boxed{5}. </answer>", "5"),
        ("<answer>5</answer>", "5"),
        ("<answer>4</answer> <answer>5</answer>", "5"),
        ("<think>6</think> no tags but 5", "no tags but 5"),
        ("<think>6</think> It is \\boxed{4}, no, \\boxed{5}.", "5"),
        # What was merely thought is never taken, however it is marked.
        ("<think>\\boxed{5}</think>", None),
        ("<think><answer>5</answer></think>", None),
        ("<think>#### 5</think> <answer> </answer>", None),
        ("<think>the answer is 6 </think> a </think> 5", "5"),
        ("<think>\\boxed{5}", None),
        ("<think>\\boxed{6}</think> <answer>5", None),  # cut off
        ("<think>\\boxed{6}</think> <think> \\boxed{5}", None),
        # Without tags, the whole text is the answer or has it.
        ("5", "5"),
        (" x + 1\n", "x + 1"),
        ("3 * 4 = 12\n#### 12", "12"),
        ("#### 11\n#### 1,200 \nDone.", "1,200"),
        (LONG + "#### 12", "12"),
        (LONG + "The answer is 12", "12"),
        (LONG + "**Final answer:** 12\nThank you!", "12"),
        (LONG + "Final answer:\n\n12", "12"),
        ("The answer is 4. Wait, the correct answer is: 5", "5"),
        ("The answer is", "The answer is"),
        (LONG, None),
        (LONG + "So 12.", "So 12."),
        (LONG + "Then 12.", None),
        ("", None),
        ("\n", None),
        ("<answer>\\boxed{}</answer>", None),
    ],
)
def test_final_answer(reply, answer):
    assert final_answer(reply, "math") == answer
    assert final_answer(reply, "choice") == answer


def test_other_kinds_keep_the_whole_answer():
    program = "x = r'\\boxed{1}'  # the answer is 5\n#### end"
    for kind in ("code", "words", "gym"):
        assert final_answer(f"<think>a</think><answer>\n{program}\n</answer>", kind) == program
        assert final_answer(program + LONG, kind) == (program + LONG).strip()
        assert final_answer("<think>a</think>", kind) is None


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
        "answer is" + " " * 500_000,
        "answer:" * 100_000,
        "#" * 500_000,
        "Answer\n" * 60_000,
        "answer is" + "*" * 300_000,
        "<|" * 200_000,
        ". " * 200_000,
    ],
)
def test_hostile_text_takes_linear_time(text):
    start = time.process_time()
    assert parse_reply(text) is None
    assert extract_answer(text) is None
    assert last_boxed(text) is None
    final_answer(text, "math")
    assert time.process_time() - start < 2
