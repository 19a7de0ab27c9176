r"""What the question itself says of its answer: that it is no answer, or that it is in an order.

A formula copied from the question has the value asked for (`17 \cdot 23`, `\log_2 64`, the
polynomial to be factored), and says nothing. Where the question asks for an order, a list in
another one is wrong.
"""

import functools
import re

from r1jax.rewards.groups import group
from r1jax.rewards.rational import MAX_CHARS, rational
from r1jax.rewards.spelling import tidy

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\$+|[0-9]+(?:\.[0-9]+)?|[a-zA-Z]+|\S")
_LOOK = {r"\left", r"\right", r"\,", r"\;", r"\:", r"\!", r"\displaystyle"}
_SAME = {r"\cdot": "*", r"\times": "*", "×": "*", "·": "*", r"\div": "/", "−": "-"}
_SAME |= {r"\dfrac": r"\frac", r"\tfrac": r"\frac"}
_SAME |= {r"\(": "$", r"\)": "$", r"\[": "$", r"\]": "$", "$$": "$"}
_OPERATIONS = {"+", "-", "*", "/", "^", "!", r"\frac", r"\binom", r"\sqrt", r"\log", r"\ln"}
_OPERATIONS |= {r"\sin", r"\cos", r"\tan", r"\sum", r"\prod", r"\int", r"\lim"}
_NO_VALUE = re.compile(r"[=<>≤≥,;]|\\(?:leq?|geq?|neq?|in|text|begin|cup|pm)(?![a-zA-Z])")
_BOUNDARY = re.compile(r"[a-zA-Z]{2,}|[$=:?.!,;]")  # what may stand beside a whole formula
_ORDER = re.compile(
    r"\b(?:order|arrange|rank|sort|list|put|place|write|enter|give|state)\b[^.?!]*?"
    r"\b(?:in\s+(?:increasing|decreasing|ascending|descending|alphabetical|chronological)\s+order"
    r"|from\s+(?:the\s+)?(?:least|smallest|lowest|shortest|greatest|largest|highest|longest)\s+to\b)",
    re.IGNORECASE,
)


def is_copied(answer: str, question: str, reference: str) -> bool:
    """Whether an answer is a formula to be evaluated or rewritten, token by token the question's.

    Numbers, equations and lists are never: a question may well contain its answer. Nor is what the
    reference itself says. Takes time linear in the texts.
    """
    if len(answer) > MAX_CHARS or _NO_VALUE.search(answer):
        return False
    said = [token for token in _tokens(answer) if token != "$"]
    if len(said) < 3 or _OPERATIONS.isdisjoint(said) or rational(tidy(answer)) is not None:
        return False
    return _stands_in(said, _tokens(question)) and not _stands_in(said, _tokens(reference))


@functools.lru_cache(maxsize=4096)  # a group of replies shares its question
def _tokens(text: str) -> tuple[str, ...]:
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    return tuple(_SAME.get(token, token) for token in _TOKEN.findall(text) if token not in _LOOK)


def _stands_in(said: list[str], tokens: tuple[str, ...]) -> bool:
    """Whether the tokens follow each other as a whole formula, not as a part of a longer one."""
    padded = ("$", *tokens, "$")
    for start in range(1, len(padded) - len(said)):
        if padded[start] == said[0] and list(padded[start : start + len(said)]) == said:
            around = padded[start - 1], padded[start + len(said)]
            if all(_BOUNDARY.fullmatch(token) for token in around):
                return True
    return False


@functools.lru_cache(maxsize=4096)
def expected(reference: str, question: str) -> str:
    """The reference, a bare list as a tuple where the question asks for an order."""
    if not _ORDER.search(question):
        return reference
    text = tidy(reference)
    items = group(text)
    return f"({text})" if items and items.brackets == "" else reference
