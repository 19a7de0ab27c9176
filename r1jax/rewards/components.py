"""What a reward is made of: functions by name, each logged apart.

A component scores a whole batch at once, so that a reward model that runs on the device fits in
as well as a rule does. Each states its range, unweighted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from r1jax.data.problems import Kind, Problem
from r1jax.rewards.format import parse_reply
from r1jax.rewards.language import check_language, language_share
from r1jax.rewards.shaping import overlong_penalty, repetition_penalty

Outcome = Literal["correct", "incorrect", "unparseable", "failed"]

PLAIN: tuple[Kind, ...] = ("words",)  # kinds whose reply is a text, with no thought and no tags
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class Checked:
    """A reply and what the check of its answer found: all that a component may look at.

    credit: the check's partial credit in [0, 1], 1 where correct, 0 if there is no answer.
    tokens: of the reply as it was drawn; None where it was not drawn here.
    """

    problem: Problem
    reply: str
    outcome: Outcome
    credit: float
    tokens: int | None = None


Component = Callable[[Sequence[Checked]], Sequence[float]]


def each(score: Callable[[Checked], float]) -> Component:
    """The component that scores every reply by itself."""
    return lambda batch: [float(score(checked)) for checked in batch]


def in_format(checked: Checked) -> bool:
    """R1's template, and nothing else; for PLAIN kinds, a text that is not blank without tags."""
    if checked.problem.kind in PLAIN:
        return bool(checked.reply.strip()) and not any(tag in checked.reply for tag in TAGS)
    return parse_reply(checked.reply) is not None


def language(target: str = "en") -> Component:
    """The share of the thought's words that are in the target language, in [0, 1]: R1's language
    consistency (r1jax/rewards/language.py). 0 where no thought is finished.

    Raises InputError for a language that is not known.
    """
    check_language(target)
    return each(lambda checked: language_share(thought(checked), target))


def overlong(max_tokens: int, buffer: int) -> Component:
    """`overlong_penalty` of the reply's tokens, in [-1, 0]."""

    def score(checked: Checked) -> float:
        if checked.tokens is None:
            raise ValueError("the component overlong needs the replies' numbers of tokens")
        return overlong_penalty(checked.tokens, max_tokens, buffer)

    return each(score)


def thought(checked: Checked) -> str:
    """What stands before the last `</think>`; of a PLAIN kind, the whole text."""
    if checked.problem.kind in PLAIN:
        return checked.reply
    return checked.reply.rpartition("</think>")[0].replace("<think>", " ")


COMPONENTS: dict[str, Component] = {
    "accuracy": each(lambda checked: checked.outcome == "correct"),  # 0 or 1
    "format": each(in_format),  # 0 or 1
    "partial": each(lambda checked: checked.credit),  # in [0, 1]
    "language": language("en"),  # in [0, 1]
    "repetition": each(lambda checked: repetition_penalty(checked.reply)),  # in (-1, 0]
}
