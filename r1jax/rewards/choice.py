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
_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?")  # B, (B), [B], B., b
_LED_BY = re.compile(  # B. the option; B: , B) , B - , (B)
    r"(?:[(\[]\s*([A-Z])\s*[)\]]\s*[.:-]?|([A-Z])\s*(?:[).:]|\s[-–—]+\s|[–—]))\s*(.+)", re.DOTALL
)
_NAMED = re.compile(
    r"(?:\b(?i:answer|option|choice)\b|答案|选项|選項|选|選)"
    r"(?:[\s:*]|(?i:is|option|choice)\b|是|为|選|选)*+"
    r"(?:[(\[]\s*+([A-Za-z])\s*+[)\]]|([A-Z])(?![\w'])|([a-z])(?=[\s.*)]*$)(?<![\w][a-z]))"
)
_SAID = re.compile(  # C is correct; C, because ...; It's C
    r"[(\[]?([A-Z])[)\]]?(?:\s+is\s+(?:the\s+)?(?:correct|right|answer|best)\b"
    r"|,?\s+(?:because|since)\b).*|(?i:it's|it\s+is)\s+[(\[]?([A-Z])[)\]]?\.?",
    re.DOTALL,
)
_BEHIND = re.compile(r"(.+?)\s*[(\[]([A-Z])[)\]]\.?", re.DOTALL)  # Lyon (B)
_MARKED = re.compile(r"\(([A-Z])\)")
_OTHER_LETTER = re.compile(r"\b(?:or|and|not|also)\s+[A-Z]\b|(?:^|\s)[A-Z][).:]|\bnot\b|n't\b")
# Full-width letters, digits and brackets.
_WIDE = str.maketrans({chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)} | {"。": "."})


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

    It is the letter alone (`B`, `(B)`, `[B]`, `B.`, `\boxed{\text{B}}`), the exact text of an
    option, a letter before a text (`(B) Paris`, `B: Paris, the capital`, `B - Paris`) unless this
    names another option, or the letter in a sentence that names it ("the answer is (B)",
    "option B", `选项B`). A small letter counts alone or behind "option" at the end. Full-width text
    is read as plain text. Where no options are known, a letter before a text picks nothing.
    """
    if len(answer) > MAX_CHARS:
        return None
    text = _unwrap(answer.translate(_WIDE))
    options = dict(zip(string.ascii_uppercase, choices, strict=False))
    alone, led = _ALONE.fullmatch(text), _LED_BY.fullmatch(text)
    behind, said = _BEHIND.fullmatch(text), _SAID.fullmatch(text)
    found = {letter for letter, option in options.items() if _same(option, text)}
    if not found and alone:
        found = {alone[1].upper()}
    elif not found and led and _agrees(led[1] or led[2], led[3], options):
        found = {led[1] or led[2]}
    elif not found and behind and _same(options.get(behind[2], ""), behind[1]):
        found = {behind[2]}
    elif not found and said and not _OTHER_LETTER.search(text) and not _MARKED.search(text[3:]):
        found = {said[1] or said[2]}
    elif not found:
        found = {(a or b or c).upper() for a, b, c in _NAMED.findall(text)}
        found |= set(_MARKED.findall(text)) if found else set()
    picked = found.pop() if len(found) == 1 else ""
    return picked if picked and picked in _letters(choices) else None


def _agrees(letter: str, text: str, options: dict[str, str]) -> bool:
    """Whether the text behind a letter is its option's, or at least speaks of no other one."""
    if not options or letter not in options:
        return False
    if _same(options[letter], text):
        return True
    if _MARKED.search(text) or _OTHER_LETTER.search(text) or _NAMED.search(text):
        return False
    plain = _plain(text)
    return not any(
        (other := _plain(option)) and re.search(rf"(?<!\w){re.escape(other)}(?!\w)", plain)
        for name, option in options.items()
        if name != letter
    )


def _letters(choices: Sequence[str]) -> str:
    return string.ascii_uppercase[: len(choices) or None]


def _unwrap(text: str) -> str:
    """The text without the commands and marks that only change how it looks."""
    for _ in range(4):  # \boxed{\text{**B**}} is three deep
        text = _WRAPPED.sub(lambda match: match[match.lastgroup or 0], text).strip()
    return text


def _same(option: str, text: str) -> bool:
    a, b = _plain(option), _plain(text)
    return bool(a) and a == b


def _plain(text: str) -> str:
    return " ".join(_unwrap(text).casefold().split()).rstrip(".")
