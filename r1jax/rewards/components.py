"""What a reward is made of: functions by name, each logged apart.

A component scores a whole batch at once, and says where it runs (`Component.runs`). Each states
its range, unweighted, and what it does with a reply that was cut at max_tokens: such a reply has
no answer, so that accuracy, format and partial are 0; the others read the text that it wrote, so
that a loop without an end pays for its repetitions (r1jax/rewards/shaping.py).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from r1jax.checks import InputError, check, near
from r1jax.config import TaskName
from r1jax.data.chat import CLOSE, OPEN, split_thinking
from r1jax.data.problems import Kind, Problem
from r1jax.rewards.format import parse_reply
from r1jax.rewards.language import check_language, language_share
from r1jax.rewards.shaping import overlong_penalty, repetition_penalty

Outcome = Literal["correct", "incorrect", "unparseable", "failed"]
Runs = Literal["here", "workers", "together"]

PLAIN: tuple[Kind, ...] = ("words",)  # kinds whose reply is a text, with no thought and no tags
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Characters of replies that are one job of a worker: language_share takes 80 ms for them, handing
# them over a fraction of one. A batch with fewer is scored at once.
CHARACTERS = 100_000


@dataclass(frozen=True)
class Checked:
    """A reply and what the check of its answer found: all that a component may look at.

    outcome: None for a component that runs in workers, which does not wait for the check.
    credit: the check's partial credit in [0, 1], 1 where correct, 0 if there is no answer.
    tokens: of the reply as it was drawn; None where it was not drawn here.
    truncated: it was cut at max_tokens. `reply` is what was written until then.
    """

    problem: Problem
    reply: str
    outcome: Outcome | None
    credit: float
    tokens: int | None = None
    truncated: bool = False

    @property
    def cut(self) -> bool:
        """Has no end, so no answer and no form; the beginning of a plain text is a text."""
        return self.truncated and self.problem.kind not in PLAIN


Score = Callable[[Sequence[Checked]], Sequence[float]]


@dataclass(frozen=True)
class Component:
    """A part of the reward: `score` gives each reply of a batch its value, unweighted.

    runs: "here", in the process that grades, after the check; "workers", in the grader's worker
        processes, beside the check (`score` must pickle); "together", on the devices of all
        processes of a run, by `Grader.together`, when every process has all replies.
    kinds: of problem that it is for, by `Problem.kind` or `Problem.source`; empty: all. It is not
        asked about others, and is 0 there.
    characters: of replies that are scored as one job of a worker; a batch with fewer is scored
        here. 0: every reply is a job, so that one that hangs or raises costs no other its value.
    timeout_s: that a job may take; None: as long as the grader's checks.
    judges: its value is the verdict on problems of kind "own": 1 or more is correct, and less is
        partial credit.
    """

    score: Score
    runs: Runs = "here"
    kinds: tuple[str, ...] = ()
    characters: int = CHARACTERS
    timeout_s: float | None = None
    judges: bool = False

    def __post_init__(self):
        check(
            self.timeout_s is None or self.timeout_s > 0,
            f"Component.timeout_s must be positive, got {self.timeout_s}",
        )

    def is_for(self, problem: Problem) -> bool:
        return not self.kinds or problem.kind in self.kinds or problem.source in self.kinds


def check_kinds(name: str, component: Component, problems: Sequence[Problem]) -> None:
    """Raises InputError for a component that is for kinds or sources of which no problem is: it
    would never pay. One of several kinds may have none, if the kind is known."""
    found = {problem.kind for problem in problems} | {problem.source for problem in problems}
    known = found | {*get_args(Kind), *get_args(TaskName)}
    none = not found & set(component.kinds)
    wrong = [kind for kind in component.kinds if kind not in known or none]
    if problems and wrong:
        here = sorted(map(str, found - {""}))
        meant = "" if wrong[0] in known else near(wrong[0], known)
        raise InputError(
            f"reward {name}: no problem is of the kind {wrong[0]!r}{meant}; there "
            f"{'are' if len(here) > 1 else 'is'} {', '.join(here)}"
        )


def only(kinds: Sequence[str], component: Component) -> Component:
    """`component` for problems of these kinds or sources; 0 for the others, which it is not asked
    about. R1's general queries belong to the helpfulness or to the safety data, and get the reward
    of that model alone (Nature 645:633, "Methods")."""
    return dataclasses.replace(component, kinds=tuple(kinds))


@dataclass(frozen=True)
class _Each:  # a class, so that it pickles where `of` does
    of: Callable[[Checked], float]

    def __call__(self, batch: Sequence[Checked]) -> list[float]:
        return [float(self.of(checked)) for checked in batch]


def each(of: Callable[[Checked], float]) -> Score:
    """The score that looks at one reply at a time."""
    return _Each(of)


def in_format(checked: Checked) -> bool:
    """R1's template, and nothing else; for PLAIN kinds, a text that is not blank without tags."""
    if checked.problem.kind in PLAIN:
        return bool(checked.reply.strip()) and not any(tag in checked.reply for tag in TAGS)
    return not checked.cut and parse_reply(checked.reply) is not None


def in_chat_format(checked: Checked) -> bool:
    """A thought and then an answer, neither blank, with no other tag: what is asked of a chat
    model, whose template has no <answer> tags."""
    parts = split_thinking(checked.reply)
    whole = not checked.cut and all(part.strip() for part in parts)
    return whole and not any(tag in part for part in parts for tag in (OPEN, CLOSE))


def in_chat(components: Mapping[str, Component]) -> dict[str, Component]:
    """These components, for replies in a model's own chat template."""
    score = each(in_chat_format)
    return {**components, "format": dataclasses.replace(components["format"], score=score)}


def language(target: str = "en") -> Component:
    """The share of the thought's words that are in the target language, in [0, 1]: R1's language
    consistency (r1jax/rewards/language.py). 0 where no thought is finished: a reply that was cut
    in its thought; one that was cut after it keeps its share.

    Raises InputError for a language that is not known.
    """
    check_language(target)
    return Component(each(_LanguageOf(target)), "workers")


@dataclass(frozen=True)
class _LanguageOf:
    target: str

    def __call__(self, checked: Checked) -> float:
        return language_share(thought(checked), self.target)


def overlong(max_tokens: int, buffer: int) -> Component:
    """`overlong_penalty` of the reply's tokens, in [-1, 0]; -1 where it was cut at max_tokens."""

    def score(checked: Checked) -> float:
        if checked.tokens is None:
            raise ValueError("the component overlong needs the replies' numbers of tokens")
        return overlong_penalty(checked.tokens, max_tokens, buffer)

    return Component(each(score))


def thought(checked: Checked) -> str:
    """What stands before the last `</think>`; of a PLAIN kind, the whole text."""
    if checked.problem.kind in PLAIN:
        return checked.reply
    return checked.reply.rpartition("</think>")[0].replace("<think>", " ")


def _repetition(checked: Checked) -> float:
    return repetition_penalty(checked.reply)


# Their names are the fields of RewardConfig, too (tests/rewards/test_components.py).
COMPONENTS: dict[str, Component] = {
    # 0 or 1; of a reply that was cut, 0, whatever answer it may hold
    "accuracy": Component(each(lambda checked: checked.outcome == "correct")),
    "format": Component(each(in_format)),  # 0 or 1; 0 if cut
    "partial": Component(each(lambda checked: checked.credit)),  # in [0, 1]; 0 if cut
    "language": language("en"),  # in [0, 1]
    "repetition": Component(each(_repetition), "workers"),  # in (-1, 0], of all that was written
}
