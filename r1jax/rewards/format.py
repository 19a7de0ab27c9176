r"""The R1 reply format, and where in a reply the answer is.

Two readings on purpose: `parse_reply` is strict and earns the format reward; `extract_answer` is
lenient and feeds the accuracy reward, so that a misplaced tag costs the format reward only.
"""

import re
from typing import NamedTuple

_TAG = re.compile(r"(</?(?:think|answer)>)")
_ANSWER = re.compile(r"<answer>((?:[^<]|<(?!/?answer>))*+)</answer>")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` is a character, not a brace


class Reply(NamedTuple):
    think: str
    answer: str


def parse_reply(text: str) -> Reply | None:
    """`<think> t </think> <answer> a </answer>` with t and a not blank, else None.

    Nothing but white space may stand before, between or after the two blocks, and no tag may
    appear twice (DeepSeek-R1, arXiv 2501.12948v1, section 2.2.2). Takes linear time.
    """
    pieces = _TAG.split(text)  # tags at the odd places
    if pieces[1::2] != ["<think>", "</think>", "<answer>", "</answer>"]:
        return None
    before, think, between, answer, after = (piece.strip() for piece in pieces[::2])
    return Reply(think, answer) if think and answer and not before + between + after else None


def extract_answer(text: str) -> str | None:
    """The content of the last complete <answer>...</answer>, whatever surrounds it."""
    answers = _ANSWER.findall(text)
    return answers[-1].strip() if answers else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, braces balanced; None if there is none or it is cut."""
    _, found, rest = text.rpartition(r"\boxed{")
    if not found:
        return None
    depth = 1
    for brace in _BRACE.finditer(rest):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return rest[: brace.start()].strip()
    return None
