"""Rewriting R1-Zero's replies by rule: what people, and a model, did for R1's cold start.

A thought ends where it first finds what it sought, and a summary says that this is the answer. Of
replies whose verdicts it does not know, the thought stays as it is.
"""

from r1jax.data.problems import Problem
from r1jax.pipeline.judge import parts
from r1jax.pipeline.world import VERDICTS
from r1jax.rewards.format import final_answer

_RIGHT = {words["right"] for words in VERDICTS.values()}


def rewritten(problem: Problem, reply: str) -> tuple[str, str]:
    """(the reply in a readable form, what was changed in it, "" if nothing)."""
    thought, summary = parts(reply)
    words = thought.split()
    found = next((i for i, word in enumerate(words) if word in _RIGHT), len(words) - 1)
    shorter = " ".join(words[: found + 1])
    answer = final_answer(reply, problem.kind) or summary
    told = f"the answer is {answer.removesuffix(' .')} ."
    changes = {
        "ends where it is right": shorter != " ".join(words),
        "says the answer": told != summary,
    }
    text = f"<think> {shorter} </think> {told}"
    return text, ", ".join(name for name, changed in changes.items() if changed)


def checks(reply: str) -> bool:
    """Whether a thought says of an attempt that it is right."""
    return bool(_RIGHT & set(parts(reply)[0].split()))
