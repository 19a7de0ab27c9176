r"""Rational numbers as they are written, read off the text and compared exactly.

`1,000`, `$5`, `72.0`, `3/4`, `1\frac{3}{4}`, `6.7 \times 10^{-5}`, `0.\overline{36}`; numerals of
other bases, `52_8`. Takes microseconds.
"""

import re
from fractions import Fraction

from r1jax.rewards.prose import MONTHS
from r1jax.rewards.units import CHANGES_VALUE

MAX_CHARS = 400  # of an answer; the longest reference in MATH-500 has 53
SIGNIFICANT = 6  # digits that a decimal needs to stand for a number that it only rounds

_NUMBER = re.compile(
    r"\$?(?P<sign>[-+−]?)\s?(?:\\?\$)?"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)\$?"
)
_FRACTION = re.compile(  # 3/4, -\frac{3}{4}, and mixed: 1\frac{3}{4}, 1 3/4
    r"(?P<sign>[-+]?)\s*(?:(?P<whole>[0-9]+)(?:\s*(?=\\)|\s+(?=[0-9])))?"
    r"(?:\\frac\s*\{\s*(?P<n>-?[0-9]+)\s*\}\s*\{\s*(?P<d>-?[0-9]+)\s*\}"
    r"|\(?(?P<n2>-?[0-9]+)\)?\s*/\s*\(?(?P<d2>-?[0-9]+)\)?)"
)
_SCIENTIFIC = re.compile(  # 6.7 \times 10^{-5}
    r"(?:(?P<mantissa>-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))\s*(?:\\times|\\cdot|\*)\s*)?"
    r"10\s*(?:\^|\*\*)\s*\{?\s*(?P<exponent>-?[0-9]{1,2})\s*\}?"
    r"|(?P<mantissa2>-?[0-9]+(?:\.[0-9]+)?)[eE](?P<exponent2>[-+]?[0-9]{1,2})"  # 6.7e-5
)
_REPEATING = re.compile(
    r"(?P<sign>-?)(?P<start>[0-9]*)\.(?P<once>[0-9]*)\\overline\s*\{(?P<again>[0-9]+)\}"
)
DECIMAL = re.compile(r"[-+]?[0-9]*\.[0-9]+")
_BASES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMERAL = re.compile(  # 52_8, 2A_{16}, (52)_{\text{eight}}, 52 (base 8)
    r"\(?(?P<digits>[0-9][0-9A-Z]*)\)?(?:_|\s*\(?(?:\\text\s*\{\s*\(?)?base\s*)"
    rf"[{{\s]*(?:\\text\s*\{{)?\s*(?P<base>[0-9]+|{'|'.join(_BASES)})[)}}\s]*"
)

_HAN_SENTENCE = re.compile(  # 小明一共花了 36 元: one number, and no word that changes it
    r"(?:(?![不非没未至超少多第约近负万亿百千半除余或倍比减加乘若设])[\u4e00-\u9fff，,：:\s])*"
    r"(?P<number>-?[0-9][0-9,.]*)\s*"
    r"(?:(?![万萬亿億百千十半分倍不或多以])[\u4e00-\u9fff]){0,4}[。.]?"
)


def compare_numbers(answer: str, reference: str) -> bool | None:
    """Whether two integers or decimals (`1,000`, `$5`, `72.0`) are equal, exactly.

    The answer may also be a sentence with one number in it ("72 clips"). None if either has no
    such form. Takes microseconds.
    """
    wanted, got = number(reference), number(answer)
    if wanted is None:
        return None
    if got is None:
        got = _only_number(answer)
    return None if got is None else got == wanted


def number(text: str) -> Fraction | None:
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_CHARS else None
    if match is None:
        return None
    digits = match["digits"].rstrip(".").replace(",", "")
    value = Fraction(digits if "." in digits else int(digits))  # an int needs no parsing
    return -value if match["sign"] in ("-", "−") else value


def _only_number(text: str) -> Fraction | None:
    """The number in a sentence of plain words with just one."""
    if len(text) > MAX_CHARS:
        return None
    if not text.isascii() and (han := _HAN_SENTENCE.fullmatch(text)):
        return number(han["number"])
    numbers = []
    for token in text.lower().split():
        token = token.lstrip("*").rstrip("*.,:;")
        value = number(token)
        if value is not None:
            numbers.append(value)
        elif (
            token in MONTHS
            or not re.fullmatch("[a-z]{2,}", token)
            or CHANGES_VALUE.fullmatch(token)
        ):
            return None
    return numbers[0] if len(numbers) == 1 else None


def rational(text: str) -> Fraction | None:
    plain = number(text)
    if plain is not None:
        return plain
    fraction, scientific = _FRACTION.fullmatch(text), _SCIENTIFIC.fullmatch(text)
    if scientific:
        mantissa = Fraction(scientific["mantissa"] or scientific["mantissa2"] or 1)
        return mantissa * Fraction(10) ** int(scientific["exponent"] or scientific["exponent2"])
    if repeating := _REPEATING.fullmatch(text):
        once, again = repeating["once"], repeating["again"]
        tail = Fraction(int(again), 10 ** len(again) - 1) / 10 ** len(once)
        value = Fraction(f"{repeating['start'] or 0}.{once or 0}") + tail
        return -value if repeating["sign"] else value
    if fraction is None:
        return None
    denominator = int(fraction["d"] or fraction["d2"])
    if denominator == 0:
        return None
    value = int(fraction["whole"] or 0) + Fraction(
        int(fraction["n"] or fraction["n2"]), denominator
    )
    return -value if fraction["sign"] == "-" else value


def rounds(decimal: str, exact: Fraction) -> bool:
    """Whether the text is a decimal that rounds the value, to enough digits."""
    if not DECIMAL.fullmatch(decimal):
        return False
    places = len(decimal.partition(".")[2])
    digits = decimal.lstrip("+-0.").replace(".", "")
    error = abs(Fraction(decimal) - exact)
    return len(digits) >= SIGNIFICANT and error <= Fraction(1, 2 * 10**places)


def equal_numerals(answer: str, gold: str, a: re.Match | None, g: re.Match | None) -> bool:
    digits = a["digits"] if a else answer, g["digits"] if g else gold
    return digits[0] == digits[1] and (not a or not g or _base(a) == _base(g))


def _base(numeral: re.Match) -> int:
    base = numeral["base"]
    return _BASES.index(base) if base in _BASES else int(base)
