"""What is measured of every stage's model, and what the paper reports of the same stages.

The published figures are of Nature 645:633, Table 2, whose benchmarks are other tasks than the
world's: all that can be compared is which way a stage moves them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from r1jax.data.problems import Problem
from r1jax.evaluation.replies import Reply
from r1jax.pipeline import judge, world
from r1jax.rewards.grading import Grade
from r1jax.rewards.language import language_share

Of = Callable[[Problem, Reply, Grade], float | None]  # None: not of this reply


class Measure(NamedTuple):
    """percent: a share. better: which way is, 1 up, -1 down, 0 neither. paper: of Zero, Dev1, Dev2,
    Dev3 and R1; `source` says what it is of, or in words what the paper says."""

    name: str
    label: str
    of: Of
    better: int = 1
    percent: bool = True
    paper: tuple[float, ...] = ()
    source: str = ""


def _right(problem: Problem, reply: Reply, grade: Grade) -> float:
    return float(grade.outcome == "correct")


def _only(sources: tuple[str, ...], of: Of) -> Of:
    def measured(problem: Problem, reply: Reply, grade: Grade) -> float | None:
        return of(problem, reply, grade) if problem.source in sources else None

    return measured


def _tier(numbers: int) -> Of:
    return _only((f"{numbers}_numbers",), _right)


REASONING = tuple(f"{tier}_numbers" for tier in world.TIERS)


def _thought(reply: Reply) -> str:
    return judge.parts(reply.completion)[0] or reply.completion.replace("<think>", " ")


def _language(problem: Problem, reply: Reply, grade: Grade) -> float | None:
    """Of thoughts that have a word at all."""
    thought = _thought(reply)
    return language_share(thought, "en") if any(c.isalpha() for c in thought) else None


def _mixed(problem: Problem, reply: Reply, grade: Grade) -> float | None:
    """Both languages in one thought, of thoughts that have two words of a check or more."""
    words = _thought(reply).split()
    verdicts = {language: set(said.values()) for language, said in world.VERDICTS.items()}
    found = [any(word in verdicts[language] for word in words) for language in verdicts]
    return float(all(found)) if any(found) else None


def _in_form(problem: Problem, reply: Reply, grade: Grade) -> float:
    return float(all(judge.parts(reply.completion)) and not reply.truncated)


def _says_answer(problem: Problem, reply: Reply, grade: Grade) -> float:
    return float(judge.says_answer(reply.completion))


def _repeats(problem: Problem, reply: Reply, grade: Grade) -> float:
    return float(judge.repeats(reply.completion))


def _quality(problem: Problem, reply: Reply, grade: Grade) -> float:
    return 0.0 if reply.truncated else judge.quality(problem, reply.completion)


def _followed(problem: Problem, reply: Reply, grade: Grade) -> float:
    return float(_quality(problem, reply, grade) == 1.0)


def _declines(problem: Problem, reply: Reply, grade: Grade) -> float:
    return float(judge.declines(reply.completion))


def _harmful(problem: Problem, reply: Reply, grade: Grade) -> float:
    return float(judge.harmful(reply.completion))


def _tokens(problem: Problem, reply: Reply, grade: Grade) -> float:
    return float(reply.tokens)


AIME = (77.9, 59.0, 74.0, 78.1, 79.8)
IFEVAL = (46.6, 71.7, 72.0, 78.1, 83.3)
ALPACA = (24.7, 50.1, 55.8, 62.1, 87.6)
SOURCE = "Nature 645:633, Table 2"

MEASURES: tuple[Measure, ...] = (
    Measure("reasoning", "Reasoning, right", _only(REASONING, _right), paper=AIME,
            source="AIME 2024, pass@1"),
    *(
        Measure(f"reasoning/{tier}", f"of {tier} numbers", _tier(tier)) for tier in world.TIERS
    ),
    Measure("language", "Thought in English", _only(REASONING, _language)),
    Measure("mixed", "Thoughts that mix languages", _only(REASONING, _mixed), -1),
    Measure("summary", "Summary says the answer", _only(REASONING, _says_answer)),
    Measure("repeats", "Reply repeats itself", _only(REASONING, _repeats), -1),
    Measure("format", "Requests answered in form",
            _only((*world.GENERAL, world.HARM, world.ALIKE), _in_form)),
    Measure("followed", "Instructions followed", _only(world.FOLLOWED, _followed), paper=IFEVAL,
            source="IF-Eval, prompt strict"),
    Measure("general", "General quality", _only(world.ANSWERED, _quality), paper=ALPACA,
            source="AlpacaEval 2.0, win rate"),
    Measure("declined", "Harmful requests declined", _only((world.HARM,), _declines)),
    Measure("harmful", "Harm told anywhere", _only((world.HARM,), _harmful), -1),
    Measure("declined_wrongly", "Look-alikes declined", _only((world.ALIKE,), _declines), -1),
    Measure("length", "Tokens of a reasoning reply", _only(REASONING, _tokens), 0, False),
)  # fmt: skip


@functools.cache
def measure(name: str) -> Measure:
    return next(one for one in MEASURES if one.name == name)
