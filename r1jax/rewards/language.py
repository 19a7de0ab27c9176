r"""How much of a text is in a language: R1's language consistency, against mixed chains of thought.

The share of a chain of thought's words that are in the target language (DeepSeek-R1, arXiv
2501.12948v1, section 2.3.2), in [0, 1]. What counts:

- Formulas, code, addresses and symbols are no words: LaTeX, tokens with digits or operators,
  single Latin or Greek letters, short names in capitals (`ABC`, `GPU`), `sin` and the like.
- Han, kana, Thai and other scripts written without blanks: every character is a word, as in the
  usual error rates. No segmenter agrees with another, and this one needs no dictionary.
- The script decides where it can. Where several languages of LANGUAGES share it, py3langid does
  (naive Bayes on bytes: 5 MB, deterministic), on pieces of about PIECE words, since it needs some
  context; so a loan word or a name inside a sentence is not held against it, nor is a text too
  short to tell. Han characters are Japanese in a sentence with kana, and Chinese in any other.
- A text without a word has share 0: otherwise an empty thought would be the safest one.
"""

import functools
import itertools
import re
import unicodedata

import regex

from r1jax.checks import check

PIECE = 8  # words that a language is told from, at least, where there are as many
SURE = 0.5  # py3langid's confidence from which words are in another language than the target

_CODES = {
    "Latin": "cs da de en es fi fr hu id it nl no pl pt ro sv tr vi",
    "Cyrillic": "bg ru uk",
    "Arabic": "ar fa ur",
    "Devanagari": "hi mr ne",
    "Bengali": "bn",
    "Greek": "el",
    "Hangul": "ko",
    "Hebrew": "he",
    "Khmer": "km",
    "Lao": "lo",
    "Myanmar": "my",
    "Tamil": "ta",
    "Telugu": "te",
    "Thai": "th",
    "Han": "zh ja",
    "Kana": "ja",
}
LANGUAGES = {script: codes.split() for script, codes in _CODES.items()}
_SCRIPT_OF = {code: script for script, codes in LANGUAGES.items() for code in codes}

_Word = tuple[str, str]  # its script, itself


def _letter(script: str) -> str:
    """A letter of a script, with its marks."""
    return rf"(?=\p{{L}})\p{{{script}}}\p{{M}}*+"


_UNSPACED = ("Han", "Thai", "Lao", "Khmer", "Myanmar")
_SPACED = [script for script in LANGUAGES if script not in (*_UNSPACED, "Kana")]
_WORD = regex.compile(
    r"(?P<Kana>[\p{Hiragana}\p{Katakana}]ー*)"
    + "".join(rf"|(?P<{s}>{_letter(s)})" for s in _UNSPACED)
    + "".join(rf"|(?P<{s}>(?:{_letter(s)})++(?:['’-](?:{_letter(s)})++)*+)" for s in _SPACED)
    + r"|(?P<other>\p{L}[\p{L}\p{M}]*+)"
)
# Every alternative stops where its like may begin again, so that all take linear time.
_NOT_WORDS = re.compile(
    r"```(?:[^`]|`(?!``))*+```|`[^`\n]*+`"  # code
    r"|\$\$[^$]*+\$\$|(?<!\\)\$(?![\s$])[^$\n]*+(?<!\s)\$(?!\d)"  # not: $5 and $6
    r"|\\\((?:[^\\]|\\(?![()]))*+\\\)|\\\[(?:[^\\]|\\(?![\[\]]))*+\\\]"
    r"|\\begin\{(?:[^\\]|\\(?!begin|end))*+\\end\{\w+\*?\}"
    r"|https?://\S+|</?(?:think|answer)>"
)
_ASCII = re.compile(r"[!-~]+")
_FORMULA = re.compile(r"[0-9=^_\\+*/<>|{}~]")
_SENTENCE = re.compile(r"[.!?;:。！？；：…।\n]+")
_FUNCTIONS = re.compile(
    "(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|sqrt|lim|min|max|gcd|lcm|mod|det"
)


def language_share(text: str, target: str) -> float:
    """The share of the text's words that are in the target language, an ISO 639-1 code of
    LANGUAGES, in [0, 1]; 0 if it has no words. Raises InputError for another code."""
    ours, total = count_words(text, target)
    return ours / total if total else 0.0


def count_words(text: str, target: str) -> tuple[int, int]:
    """(the text's words that are in the target language, all of its words)."""
    check_language(target)
    sentences = [_words(sentence) for sentence in _SENTENCE.split(_prose(text))]
    count = _han_and_kana if target in ("zh", "ja") else _by_pieces
    return count(sentences, target), sum(map(len, sentences))


def check_language(target: str) -> None:
    """Raises InputError if it is no language that can be told from the others."""
    known = ", ".join(sorted(_SCRIPT_OF))
    check(target in _SCRIPT_OF, f"language {target!r} is not known; expected one of {known}")


def _prose(text: str) -> str:
    """The text without formulas, code and marks of emphasis."""

    def keep(match: re.Match) -> str:
        token = match.group().strip("*_#>\"'()[],.;:!?")
        return " " if _FORMULA.search(token) else match.group()

    return _ASCII.sub(keep, _NOT_WORDS.sub(" ", unicodedata.normalize("NFC", text)))


def _words(sentence: str) -> list[_Word]:
    found = [(m.lastgroup or "", m.group()) for m in _WORD.finditer(sentence)]
    return [(script, word) for script, word in found if not _is_symbol(script, word)]


def _is_symbol(script: str, word: str) -> bool:
    if script not in ("Latin", "Greek"):
        return False
    name = len(word) == 1 or (len(word) <= 4 and word.isupper())
    return name or _FUNCTIONS.fullmatch(word.lower()) is not None


def _han_and_kana(sentences: list[list[_Word]], target: str) -> int:
    """How many words are in Chinese or Japanese."""
    ours = 0
    for words in sentences:
        scripts = [script for script, _ in words if script in ("Han", "Kana")]
        ours += len(scripts) if ("Kana" in scripts) == (target == "ja") else 0
    return ours


def _by_pieces(sentences: list[list[_Word]], target: str) -> int:
    """How many words are in the target's script, and in pieces that may be in the target.

    A piece begins with a sentence, where the one before it was long enough.
    """
    pieces: list[list[str]] = []
    piece: list[str] = []
    for words in sentences:
        piece += [word for script, word in words if script == _SCRIPT_OF[target]]
        if len(piece) >= PIECE:
            pieces += _split(piece)
            piece = []
    if pieces:
        pieces[-1] += piece  # too few to be told by themselves
    elif piece:
        pieces = [piece]
    return sum(len(piece) for piece in pieces if _may_be(target, piece))


def _split(words: list[str]) -> list[list[str]]:
    """Even pieces of at least PIECE words."""
    count = max(1, len(words) // PIECE)
    cuts = [len(words) * i // count for i in range(count + 1)]
    return [words[a:b] for a, b in itertools.pairwise(cuts)]


def _may_be(target: str, words: list[str]) -> bool:
    """Whether words in the target's script are in no other language, as far as one can tell."""
    script = _SCRIPT_OF[target]
    if len(LANGUAGES[script]) == 1:
        return True
    language, confidence = _detector(script).classify(" ".join(words))
    return language == target or confidence < SURE


@functools.cache
def _detector(script: str):
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # half a second to load

    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    detector.set_languages(LANGUAGES[script])
    return detector
