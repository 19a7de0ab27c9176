"""Strings that end a reply. Tokens do not respect them, so they are looked for in its text."""

from collections.abc import Callable, Sequence

Text = Callable[[Sequence[int]], str]  # of tokens

SILENT = 16  # tokens that print nothing, such as marks, and may stand among those of a string


def ended_by(tokens: Sequence[int], strings: Sequence[str], text: Text) -> bool:
    """Whether the last of `tokens` completes one of `strings`. It reads only as many tokens as
    could be of it, so a long reply costs no more a token than a short one."""
    longest = max(len(s.encode()) for s in strings)
    read = text(tokens[-(longest + SILENT) :])
    return any(s in read for s in strings)


def kept(before: Sequence[int], new: Sequence[int], strings: Sequence[str], text: Text) -> int:
    """How many of the `new` tokens a reply keeps that holds no string before: those up to the
    first that completes one; 0: none does, and it goes on."""
    tokens = [*before, *new]
    counts = range(len(before) + 1, len(tokens) + 1)
    return next((n - len(before) for n in counts if ended_by(tokens[:n], strings, text)), 0)
