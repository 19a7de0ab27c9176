"""From a bare question to the prompt that the model reads."""

from collections.abc import Sequence

# DeepSeek-R1, arXiv 2501.12948v1, Table 1.
_R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant "
    "solves it. The assistant first thinks about the reasoning process in the mind and then "
    "provides the user with the answer. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process "
    "here </think> <answer> answer here </answer>. User: {prompt} Assistant:"
)


def r1_zero(prompt: str) -> str:
    """R1-Zero's prompt, for a base model that has seen no chat format.

    The paper prints `User: prompt. Assistant:`. Its full stop closes the question, so it is added
    only where the question has no closing mark of its own (no `?.`).
    """
    prompt = prompt.strip()
    if not prompt.endswith((".", "?", "!", "。", "？", "！")):
        prompt += "."
    # Not str.format: questions are full of LaTeX braces.
    return _R1_ZERO.replace("{prompt}", prompt)


def bare(prompt: str) -> str:
    """The prompt as it stands, for a model that goes on with a text."""
    return prompt


def exchange(prompt: str) -> str:
    """A question to whose reply a reward model gives a score: DeepSeek's plain chat form."""
    return f"User: {prompt.strip()}\n\nAssistant:\n\n"


def countdown_question(numbers: Sequence[int], target: int | str) -> str:
    """The embedded task's question, in the words that its tokenizer knows."""
    return f"use {' '.join(map(str, numbers))} to make {target}"


def opened(prompt: str) -> str:
    """The embedded task's prompt: the question, and the think block already open."""
    return f"{prompt} <think>"


# `opened` as a chat template, for an export. Behind the tag stands the blank that joins the reply's
# words to it.
OPENED = (
    "{%- if messages | length != 1 or messages[0]['role'] != 'user' -%}"
    "{{ raise_exception('this model is asked one question of the user') }}"
    "{%- endif -%}"
    "{%- set asked = messages[0]['content'] | trim -%}"
    "{{ asked }}{{ ' ' if asked.endswith('<think>') else ' <think> ' }}"
)
