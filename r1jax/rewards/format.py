r"""The R1 reply format, and where in a reply the answer is.

Two readings on purpose: `parse_reply` is strict and earns the format reward; `final_answer` is
lenient and feeds the accuracy reward, so that a misplaced tag costs the format reward only.
Everything here takes time linear in the text.
"""

import re
from typing import NamedTuple

from r1jax.data.problems import Kind

MAX_BARE = 400  # characters of a text that is itself an answer, not a text with one in it

_TAG = re.compile(r"(</?(?:think|answer)>)")
_ANSWER = re.compile(r"<answer>((?:[^<]|<(?!/?answer>))*+)</answer>")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` is a character, not a brace
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_ANSWER_IS = re.compile(
    r"\b(?:answer|result|solution)\b[ \t*]*+(?:(?:is|are|equals)\b|:)[\s:*]*+(?=\S)",
    re.IGNORECASE,
)


class Reply(NamedTuple):
    think: str
    answer: str


def parse_reply(text: str) -> Reply | None:
    """`<think> t </think> <answer> a </answer>` with t and a not blank, else None.

    Nothing but white space may stand before, between or after the two blocks, and no tag may
    appear twice (DeepSeek-R1, arXiv 2501.12948v1, section 2.2.2).
    """
    pieces = _TAG.split(text)  # tags at the odd places
    if pieces[1::2] != ["<think>", "</think>", "<answer>", "</answer>"]:
        return None
    before, think, between, answer, after = (piece.strip() for piece in pieces[::2])
    return Reply(think, answer) if think and answer and not before + between + after else None


def final_answer(reply: str, kind: Kind) -> str | None:
    r"""The answer that a reply ends in, not blank; None if it has none.

    Only what follows the last `</think>` counts, as in R1's summaries: an answer that was merely
    thought of is never taken. There, it is in the last complete `<answer>` block, or in the whole
    if that has no tags at all (a completion without tags is a bare answer). In this text, for
    "math", "choice" and "countdown", it is the first of: the last `\boxed{}`; what follows the
    last `####` (GSM8K), or the last "answer is", up to the end of the line; the text itself, if
    at most MAX_BARE long. For the other kinds it is the text as it stands.
    """
    summary = reply.rpartition("</think>")[2]
    text = extract_answer(summary)
    if text is None:
        text = "" if _TAG.search(summary) else summary.strip()
    if kind in ("math", "choice", "countdown"):
        text = _stated(text)
    return text or None


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


def _stated(text: str) -> str:
    """The part of a text that it declares its answer, else the text if that is short."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    marks = _HASHES.findall(text)
    if marks:
        return marks[-1].strip()
    ends = [match.end() for match in _ANSWER_IS.finditer(text)]
    if ends:
        return text[ends[-1] :].partition("\n")[0].strip()
    return text if len(text) <= MAX_BARE else ""
