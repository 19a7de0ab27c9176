r"""Which option does an answer to a multiple-choice question pick?

The spellings are those that the usual evaluations read (simple-evals' "Answer: B", lm-eval's
"the answer is (B)"). An answer that names two options picks neither: reading the first or the
last of them would reward hedging.
"""

import re
import string
from collections.abc import Sequence

MAX_CHARS = 2_000  # of an answer; the longest option in MMLU has about 200

_WRAPPED = re.compile(
    r"\\(?:boxed|text|textbf|textrm|mathrm|mathbf|mbox)\s*\{(?P<a>[^{}]*)\}"
    r"|\\\((?P<b>[^()]*)\\\)|\$(?P<c>[^$]*)\$|\*\*(?P<d>[^*]*)\*\*"
)
_ALONE = re.compile(r"\(?\s*([A-Za-z])\s*\)?\s*[.:]?")  # B, (B), B., b
_LED_BY = re.compile(r"(?:\(\s*([A-Z])\s*\)|([A-Z])\s*[).:])\s*(.+)", re.DOTALL)  # B. the option
_NAMED = re.compile(
    r"\b(?i:answer|option|choice)\b(?:[\s:]|(?i:is|option|choice)\b)*+"
    r"(?:\(\s*+([A-Z])\s*+\)|([A-Z])(?![\w']))"
)
_MARKED = re.compile(r"\(([A-Z])\)")


def check_choice(answer: str, choices: Sequence[str], reference: str) -> bool | None:
    """True if the answer picks the option of the reference's letter; None if it picks none.

    `choices` are the options' texts, of letters A, B, ...; there may be none, where the letters
    are all that is known. Raises ValueError if the reference is not the letter of an option.
    """
    if reference not in _letters(choices):
        raise ValueError(f"the reference {reference!r} is no letter of {len(choices)} options")
    letter = chosen_letter(answer, choices)
    return None if letter is None else letter == reference


def chosen_letter(answer: str, choices: Sequence[str] = ()) -> str | None:
    r"""The letter of the option that an answer picks; None if that is none or more than one.

    It is the letter alone (`B`, `(B)`, `B.`, `\boxed{\text{B}}`), the exact text of an option, a
    letter before the exact text of its option (`(B) Paris`), or the letter in a sentence that
    names it ("the answer is (B)", "option B").
    """
    if len(answer) > MAX_CHARS:
        return None
    text = _unwrap(answer)
    options = dict(zip(string.ascii_uppercase, choices, strict=False))
    alone, led = _ALONE.fullmatch(text), _LED_BY.fullmatch(text)
    found = {letter for letter, option in options.items() if _same(option, text)}
    if not found and alone:
        found = {alone[1].upper()}
    elif not found and led and _same(options.get(led[1] or led[2], ""), led[3]):
        found = {led[1] or led[2]}
    elif not found:
        found = {a or b for a, b in _NAMED.findall(text)}
        found |= set(_MARKED.findall(text)) if found else set()
    picked = found.pop() if len(found) == 1 else ""
    return picked if picked and picked in _letters(choices) else None


def _letters(choices: Sequence[str]) -> str:
    return string.ascii_uppercase[: len(choices) or None]


def _unwrap(text: str) -> str:
    """The text without the commands and marks that only change how it looks."""
    for _ in range(4):  # \boxed{\text{**B**}} is three deep
        text = _WRAPPED.sub(lambda match: match[match.lastgroup or 0], text).strip()
    return text


def _same(option: str, text: str) -> bool:
    a, b = (" ".join(_unwrap(t).casefold().split()).rstrip(".") for t in (option, text))
    return bool(a) and a == b
