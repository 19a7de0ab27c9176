"""Scripts of a text: how often it switches, and which tokens would.

Latin and Greek stay allowed whatever the language: formulas, names and code are written in them.
So for English all other scripts are forbidden, and for Chinese all but Han.
"""

import functools

import numpy as np
import regex

from r1jax.checks import check
from r1jax.data.tokenizer import Tokenizer

ALWAYS = frozenset({"Latin", "Greek"})
# Scripts by the language's code: those that r1jax.rewards.language knows.
_OF = {
    "Han": "zh", "Hiragana Katakana Han": "ja", "Hangul Han": "ko", "Cyrillic": "bg ru uk",
    "Arabic": "ar fa ur", "Devanagari": "hi mr ne", "Bengali": "bn", "Hebrew": "he",
    "Khmer": "km", "Lao": "lo", "Myanmar": "my", "Tamil": "ta", "Telugu": "te", "Thai": "th",
    "Greek": "el", "Latin": "cs da de en es fi fr hu id it nl no pl pt ro sv tr vi",
}  # fmt: skip
SCRIPTS = {code: frozenset(scripts.split()) for scripts, of in _OF.items() for code in of.split()}
_KNOWN = sorted({script for scripts in SCRIPTS.values() for script in scripts} | ALWAYS)
_WORD = regex.compile("|".join(rf"(?P<{s}>(?:(?=\p{{L}})\p{{{s}}}\p{{M}}*)+)" for s in _KNOWN))
_LETTER = regex.compile(r"\p{L}")


def check_language(code: str) -> None:
    """Raises InputError for a code that is not one of SCRIPTS."""
    known = ", ".join(sorted(SCRIPTS))
    check(code in SCRIPTS, f"language {code!r:.20} is not known; expected one of {known}")


def switches(text: str) -> int:
    """How often the script changes from one word to the next. Kana and Han are one, and short
    Latin and Greek words, which may be symbols, are passed over."""
    last, count = "", 0
    for match in _WORD.finditer(text):
        script = match.lastgroup or ""
        if script in ALWAYS and len(match.group()) < 3:
            continue
        script = "Han" if script in ("Hiragana", "Katakana") else script
        count += bool(last) and script != last
        last = script
    return count


def allowed(tokenizer: Tokenizer, vocab: int, language: str) -> np.ndarray:
    """A bit a token (see `Guide`) of those that have no letter of a script forbidden in `language`,
    nor the beginning of one."""
    check_language(language)
    allowed_scripts = SCRIPTS[language] | ALWAYS
    may = np.zeros(-(-vocab // 32) * 32, bool)
    for token in range(min(vocab, tokenizer.vocab_size)):
        may[token] = _fits(tokenizer.bytes_of(token), allowed_scripts)
    return np.packbits(may, bitorder="little").view(np.uint32)


def _fits(piece: bytes, scripts: frozenset[str]) -> bool:
    text = piece.decode("utf-8", "ignore")
    if not all(_script_of(c) in scripts for c in _LETTER.findall(text)):
        return False
    return not any(_script_of(chr(c)) not in scripts for c in _could_be(piece) if _is_letter(c))


def _could_be(piece: bytes) -> range:
    """Characters that an unfinished one at the end may become, one in 16 of them."""
    for n in (1, 2, 3):
        lead = piece[-n] if len(piece) >= n else 0
        length = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
        if length > n:
            bits = lead & (0x7F >> length)
            for byte in piece[len(piece) - n + 1 :]:
                bits = bits << 6 | byte & 0x3F
            more = 6 * (length - n)
            return range(bits << more, min((bits + 1) << more, 0x110000), 1 if more == 6 else 16)
        if lead & 0xC0 != 0x80:
            break
    return range(0)


def _is_letter(code: int) -> bool:
    return not 0xD800 <= code < 0xE000 and bool(_LETTER.match(chr(code)))


@functools.lru_cache(maxsize=2**16)
def _script_of(letter: str) -> str:
    match = _WORD.match(letter)
    if match is not None:
        return match.lastgroup or ""
    return "Latin" if regex.match(r"[\p{Common}\p{Inherited}]", letter) else "other"
