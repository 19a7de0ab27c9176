import pytest

from r1jax.data.templates import countdown_question, opened, r1_zero


def test_r1_zero_is_the_papers():
    assert r1_zero("prompt") == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant "
        "solves it. The assistant first thinks about the reasoning process in the mind and then "
        "provides the user with the answer. The reasoning process and answer are enclosed within "
        "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning "
        "process here </think> <answer> answer here </answer>. User: prompt. Assistant:"
    )


@pytest.mark.parametrize(
    ("question", "end"),
    [
        ("What is 2+2?", "User: What is 2+2? Assistant:"),
        ("Find x.\n", "User: Find x. Assistant:"),
        (r"Find \frac{1}{2} {prompt}", r"User: Find \frac{1}{2} {prompt}. Assistant:"),
    ],
)
def test_r1_zero_closes_the_question_once(question, end):
    assert r1_zero(question).endswith(end)


def test_countdown_prompt():
    assert opened(countdown_question([3, 5, 7, 2], 22)) == "use 3 5 7 2 to make 22 <think>"
    assert opened(countdown_question((1, 2), -1)) == "use 1 2 to make -1 <think>"
