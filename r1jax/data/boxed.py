r"""The answer of a published solution or a reply, which TeX puts into a box."""

import re

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t]*+(?:(\{)|([^\s{$]++))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` is a character, not a brace


def last_boxed(text: str) -> str | None:
    r"""The content of the last box, braces balanced; None if there is none or it is cut.

    A box is `\boxed{...}` or `\fbox{...}`, blanks before the brace allowed, or `\boxed 3`: TeX
    takes one token, but the published solutions that are written so mean all up to a blank or `$`.
    """
    box = None
    for found in BOX.finditer(text):
        box = found
    if box is None:
        return None
    if not box[1]:
        return bare(box[2])
    end = closing_brace(text, box.end())
    return None if end is None else text[box.end() : end].strip()


def bare(token: str) -> str:
    """A box's content without braces: less the marks of the sentence around it."""
    return token.rstrip(".,;:*").removesuffix(r"\)").removesuffix(r"\]")


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace that was opened before `start` is closed."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None
