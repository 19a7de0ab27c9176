r"""Is a mathematical answer equal to the reference?

From certain to approximate: words, rational numbers, and the structure of both texts (latex.py,
units.py), item by item, are compared exactly, which settles most answers in microseconds; the
formulas that are left are compared by value (symbolic.py).

What is equal, beyond equal values, follows the data sets' references:

- A unit may be left out on either side. Two units that differ are wrong.
- `50%` is 1/2. It is also 50, where one side leaves out the `%`, as in MATH's own comparison; but
  not where the bare one is a reference of at most 1, which is taken for a fraction.
- `x = 5` is 5, so is `m+n = 5`, and `x \in S` is S. Two names that differ are wrong.
- A list or a set may be in any order; a tuple, interval or matrix may not, and its brackets
  count: (1,2] is not [1,2]. A bare list may stand for a set, and in order for a tuple; a column
  or row for a tuple.
- The base of a numeral may be left out. Another base is wrong.
- A decimal stands for a number that it rounds if it has SIGNIFICANT digits.
- Words are equal as words, without case. A letter in brackets is one without.
"""

import re
from fractions import Fraction

from r1jax.rewards.latex import Group, group, interval, tidy
from r1jax.rewards.symbolic import constant, same_formula
from r1jax.rewards.units import CHANGES_VALUE, quantity

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
_DECIMAL = re.compile(r"[-+]?[0-9]*\.[0-9]+")
_BASES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMERAL = re.compile(  # 52_8, 2A_{16}, (52)_{\text{eight}}, 52 (base 8)
    r"\(?(?P<digits>[0-9][0-9A-Z]*)\)?(?:_|\s*\(?(?:\\text\s*\{\s*\(?)?base\s*)"
    rf"[{{\s]*(?:\\text\s*\{{)?\s*(?P<base>[0-9]+|{'|'.join(_BASES)})[)}}\s]*"
)
_NAME = re.compile(  # (x, y); x, \theta, a_1, f(x); Area of the base
    r"\([a-zA-Z](?:\s*,\s*[a-zA-Z])*\)"
    r"|(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w+\}?)?(?:\s*\([a-zA-Z, ]*\))?"
    r"|[a-zA-Z][a-zA-Z ]{2,40}|\\text\s*\{[^{}]*\}"
)
_SUM = re.compile(r"[a-zA-Z](?:\s*[+-]?\s*[a-zA-Z]){1,4}")  # m+n, as AIME asks for
_BLANKS = re.compile(
    r"(\\[a-zA-Z]+ (?=[a-zA-Z])|(?<=[0-9])\s+(?=[0-9])|(?<=,)\s+(?=[0-9]{3}(?![0-9])))|\s+"
)
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)|\\in(?![a-zA-Z])")
_INEQUALITY = re.compile(r"[<>]|\\(?:leq|geq|neq|lt|gt)(?![a-zA-Z])")
_WORDS = re.compile(
    r"\\text\s*\{\s*(?P<a>[^{}\\]*[a-zA-Z][^{}\\]*)\}|(?P<b>\(?[a-zA-Z]+(?:[ .'-]+\w+)*\)?)"
)
_OPTION = re.compile(r"\\text\s*\{\s*\(([A-Z])\)\s*\}")  # the letter of a multiple choice
_PROSE = re.compile(r"[^\\0-9]*[a-zA-Z]{4}[^\\0-9]*|.*\\text.*")  # no product of variables


def grade_math(answer: str, reference: str) -> bool | None:
    """True if correct, False if not, None if the answer cannot be parsed.

    Both are plain text or LaTeX, with or without `$`. Raises ValueError if the reference cannot
    be parsed. May run for ever: call it in a process that can be killed (grading.py does).
    """
    if answer.strip() == reference.strip():
        return True
    if len(answer) > MAX_CHARS:
        return None
    same_number = compare_numbers(answer, reference)
    return _equal(tidy(answer), tidy(reference)) if same_number is None else same_number


def compare_numbers(answer: str, reference: str) -> bool | None:
    """Whether two integers or decimals (`1,000`, `$5`, `72.0`) are equal, exactly.

    The answer may also be a sentence with one number in it ("72 clips"). None if either has no
    such form. Takes microseconds.
    """
    wanted, got = _number(reference), _number(answer)
    if wanted is None:
        return None
    if got is None:
        got = _only_number(answer)
    return None if got is None else got == wanted


def _number(text: str) -> Fraction | None:
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_CHARS else None
    if match is None:
        return None
    value = Fraction(match["digits"].rstrip(".").replace(",", ""))
    return -value if match["sign"] in ("-", "−") else value


def _only_number(text: str) -> Fraction | None:
    """The number in a sentence of plain words with just one."""
    if len(text) > MAX_CHARS:
        return None
    numbers = []
    for token in text.lower().split():
        token = token.lstrip("*").rstrip("*.,:;")
        number = _number(token)
        if number is not None:
            numbers.append(number)
        elif not re.fullmatch("[a-z]{2,}", token) or CHANGES_VALUE.fullmatch(token):
            return None
    return numbers[0] if len(numbers) == 1 else None


def _equal(answer: str, gold: str) -> bool | None:
    """`grade_math` of two tidy texts."""
    if _squeeze(answer) == _squeeze(gold):
        return True
    if not answer:
        return None
    option = _OPTION.fullmatch(gold), _OPTION.match(answer)
    if option[0] and option[1]:
        return option[0][1] == option[1][1]
    words = _words(answer), _words(gold)
    if words[1] and (_PROSE.fullmatch(gold) or (words[0] and _PROSE.fullmatch(answer))):
        return words[0] == words[1]
    numbers = _rational(answer), _rational(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1] or _rounds(answer, numbers[1]) or _rounds(gold, numbers[0])
    groups = _collection(answer), _collection(gold)
    if groups[0] and groups[1]:
        return _equal_groups(groups[0], groups[1])
    if _EQUALS.search(answer) or _EQUALS.search(gold):
        return _equal_named(answer, gold)
    if groups[0] or groups[1]:
        return _equal_group_to_one(answer, gold, groups[0], groups[1])
    return _equal_scalars(answer, gold)


def _collection(text: str) -> Group | None:
    if _rational(quantity(text).value) is not None:
        return None  # the commas in 1,000 cm separate nothing
    return group(text) or interval(text)


def _squeeze(text: str) -> str:
    r"""Without `\text{}`, and without blanks but for those that end a command or a number."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    return _BLANKS.sub(r"\1", text)


def _words(text: str) -> str | None:
    match = _WORDS.fullmatch(text)
    if match is None:
        return None
    words = (match["a"] or match["b"]).strip("() ").casefold().replace(".", "").split()
    return " ".join(words[words[0] in ("a", "an", "the") and len(words) > 1 :])


def _rational(text: str) -> Fraction | None:
    number = _number(text)
    if number is not None:
        return number
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


def _rounds(decimal: str, exact: Fraction) -> bool:
    """Whether the text is a decimal that rounds the value, to enough digits."""
    if not _DECIMAL.fullmatch(decimal):
        return False
    places = len(decimal.partition(".")[2])
    digits = decimal.lstrip("+-0.").replace(".", "")
    error = abs(Fraction(decimal) - exact)
    return len(digits) >= SIGNIFICANT and error <= Fraction(1, 2 * 10**places)


def _all(verdicts: list[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _equal_groups(a: Group, g: Group) -> bool | None:
    if len(a.items) != len(g.items) or (a.name and g.name and a.name != g.name):
        return False
    if a.ordered or g.ordered:
        kinds = {_order(a), _order(g)}
        if len(kinds) > 1 and not kinds <= {"", "()", "row", "column"}:
            return False
        if kinds == {"row", "column"}:
            return False
        return _all([_equal(x, y) for x, y in zip(a.items, g.items, strict=True)])
    left = list(a.items)
    verdicts = []
    for item in g.items:
        tried = [_equal(other, item) for other in left]
        if True in tried:
            left.pop(tried.index(True))
        verdicts.append(True if True in tried else None if None in tried else False)
    return _all(verdicts)


def _order(items: Group) -> str:
    """What a collection must share with another to have the same meaning."""
    if items.brackets != "matrix":
        return items.brackets
    rows = len(items.items) // items.columns
    return "column" if items.columns == 1 else "row" if rows == 1 else f"{rows} x {items.columns}"


def _equal_group_to_one(answer: str, gold: str, a: Group | None, g: Group | None) -> bool | None:
    """A collection against something else: a set of one, or an inequality for an interval."""
    if _INEQUALITY.search(answer + gold) or (r"\begin" in answer and r"\begin" in gold):
        return same_formula(answer, gold)
    if a and a.brackets == "{}" and len(a.items) == 1:
        return _equal(a.items[0], gold)
    if g and g.brackets == "{}" and len(g.items) == 1:
        return _equal(answer, g.items[0])
    return False


def _equal_named(answer: str, gold: str) -> bool | None:
    """`name = value` against a value or another equation; a chain of equals against a value."""
    left, right = _EQUALS.split(answer), _EQUALS.split(gold)
    names = [len(s) > 1 and bool(_NAME.fullmatch(s[0].strip())) for s in (left, right)]
    if len(left) > 1 and len(right) > 1:
        heads = left[0].strip(), right[0].strip()
        if all(names) and (heads[0] == heads[1] or "(" in heads[0] + heads[1]):
            return _equal(left[-1].strip(), right[-1].strip())
        return same_formula(answer, gold)
    if len(left) == 1:
        return _equal(answer, right[-1].strip()) if names[1] else False
    values = left[1:] if names[0] or _SUM.fullmatch(left[0].strip()) else left
    return _all([_equal(value.strip(), gold) for value in values])


def _equal_scalars(answer: str, gold: str) -> bool | None:
    a, g = quantity(answer), quantity(gold)
    if a.unit and g.unit and a.unit != g.unit:
        return False
    if "%" in (a.unit, g.unit) and a.unit != g.unit:
        return _equal_percent(a.value, g.value, bare=gold if a.unit else "")
    if a.unit or g.unit:
        return _equal(a.value, g.value)
    numerals = _NUMERAL.fullmatch(answer), _NUMERAL.fullmatch(gold)
    if numerals[0] or numerals[1]:
        return _equal_numerals(answer, gold, *numerals)
    if ":" in answer + gold or r"\text" in gold:  # times, ratios and texts: equal to nothing else
        return False
    for decimal, other in ((answer, gold), (gold, answer)):
        if _DECIMAL.fullmatch(decimal) and (exact := constant(other)) is not None:
            return _rounds(decimal, exact)
    return same_formula(answer, gold)


def _equal_percent(answer: str, gold: str, bare: str) -> bool | None:
    """Values of which one is a percentage; `bare` is the reference if it is the other."""
    values = _rational(answer), _rational(gold)
    if values[0] is None or values[1] is None:
        return _equal(answer, gold)
    if bare:
        return values[0] / 100 == values[1] or (values[0] == values[1] and abs(values[1]) > 1)
    return values[0] in (values[1], values[1] / 100)


def _equal_numerals(answer: str, gold: str, a: re.Match | None, g: re.Match | None) -> bool:
    digits = a["digits"] if a else answer, g["digits"] if g else gold
    return digits[0] == digits[1] and (not a or not g or _base(a) == _base(g))


def _base(numeral: re.Match) -> int:
    base = numeral["base"]
    return _BASES.index(base) if base in _BASES else int(base)
