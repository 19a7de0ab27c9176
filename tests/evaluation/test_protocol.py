"""What the model reads, by the real templates."""

import pytest

from r1jax.checks import InputError
from r1jax.data.conversation import make_conversation
from r1jax.data.problems import Problem
from r1jax.data.tokenizer import Tokenizer
from r1jax.evaluation.benchmarks import BENCHMARKS
from r1jax.evaluation.evaluate import k_of
from r1jax.evaluation.protocol import Protocol, asked, prompt, r1, r1_0528
from r1jax.evaluation.questions import Asked

MATH = Problem("m", "math", "What is 1+1?", "2")


@pytest.fixture(scope="module")
def conversation(data_dir):
    """conversation(name, form): that of a published tokenizer."""

    def conversation(name, form="auto"):
        folder = data_dir / "tokenizers" / name
        return make_conversation(Tokenizer.load(folder), folder, form, "r1_zero")

    return conversation


def test_the_defaults_are_the_published_ones():
    p = r1()
    assert (p.temperature, p.top_p, p.max_tokens, p.think) == (0.6, 0.95, 32_768, True)
    assert p.system == ""
    p = r1_0528()
    assert (p.temperature, p.top_p, p.max_tokens, p.think, p.k) == (0.6, 0.95, 65_536, False, 16)
    k = {name: b.k for name, b in BENCHMARKS.items()}
    assert (k["aime24"], k["gpqa"], k["math500"], k["livecodebench"], k["codeforces"]) == (
        64, 64, 16, 8, 16
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "k"),
    [({}, 64), ({"k": 3}, 3), ({"temperature": 0}, 1), ({"temperature": 0, "k": 2}, 2)],
)
def test_how_often_a_question_is_asked(changes, k):
    assert k_of(Asked("aime24", BENCHMARKS["aime24"], [], {}), Protocol(**changes)) == k


def test_r1_is_made_to_think_and_0528_is_not(conversation):
    chat = conversation("deepseek_r1")
    text = prompt(asked(MATH, chat.form, r1()), chat, r1())
    assert text.count("<think>\n") == 1 and text.endswith("<｜Assistant｜><think>\n")
    assert r"What is 1+1?" "\n\nPlease reason step by step, and put your final answer" in text
    assert chat.opening(text) == "<think>\n"
    free = prompt(asked(MATH, chat.form, r1_0528()), chat, Protocol(think=False))
    assert text.startswith(free.removesuffix("<think>\n"))


def test_a_system_prompt_is_the_chat_templates(conversation):
    chat = conversation("deepseek_r1")
    text = prompt("Hi", chat, Protocol(system="Be brief."))
    assert text.index("Be brief.") < text.index("<｜User｜>Hi")
    with pytest.raises(InputError, match="--system: this model is asked by r1_zero"):
        prompt("Hi", conversation("deepseek_r1", "r1_zero"), Protocol(system="Be brief."))


def test_r1_zeros_prompt_and_a_plain_text(conversation):
    base = conversation("deepseek_r1", "r1_zero")
    assert asked(MATH, base.form, r1()) == MATH.prompt
    text = prompt(MATH.prompt, base, r1())
    assert text.endswith("User: What is 1+1? Assistant: <think>\n")
    assert prompt(MATH.prompt, base, Protocol(think=False)).endswith("Assistant:")
    assert prompt(MATH.prompt, conversation("deepseek_r1", "plain"), r1()) == MATH.prompt
