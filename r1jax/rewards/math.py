r"""Is a mathematical answer equal to the reference?

From certain to approximate: words, rational numbers, and the structure of both texts (latex.py,
units.py), item by item, are compared exactly, which settles most answers in microseconds; the
formulas that are left are compared by value (symbolic.py).

What is equal, beyond equal values, follows the data sets' references:

- A unit may be left out on either side. Two units that differ are wrong.
- `50%` is 1/2. It is also 50, where one side leaves out the `%`, as in MATH's own comparison; but
  not where the bare one is a reference of at most 1, which is taken for a fraction.
  Multiples of one unit are converted: 120 minutes are 2 hours, 30 degrees 15' are 30.25 degrees.
  Degrees and radians are two units; a letter right behind a number (`5g`) is a variable.
- `x = 5` is 5, so are `f(3) = 5`, `m+n = 5`, `2y = 10 \implies y = 5`, and `x \in S` is S.
  Two names that differ are wrong. What is still to be solved (`x^2 = 4`, `\log_2 x = 3`) is not
  its number.
- `a=1, b=2` is `(a,b) = (1,2)`, and without the names (1,2) in this order.
- A condition or a reason behind a value, or words before it, may be left out; words that change it
  ("at least", "more than", "million") may not.
- A list or a set may be in any order; a tuple, interval or matrix may not, and its brackets
  count: (1,2] is not [1,2]. A bare list may stand for a set, and in order for a tuple; a column
  or row for a tuple.
- The base of a numeral may be left out. Another base is wrong.
- A decimal stands for a number that it rounds if it has SIGNIFICANT digits.
- Words are equal as words, without case; `none`, `no solution` and the empty set are one, so are
  `DNE` and "does not exist"; number words are numbers. A letter in brackets is one without. Lists
  of words may be in any order. A date is its day; a time without a.m. or p.m. fits either.
- `(B) 6` is (B), and is 6; where both sides have a letter, it decides.
- A set, and a list of tuples, has no repeats; in a bare list of numbers they count.
- `{x | x > 3}`, `x > 3` and the interval are one, so are `|x| < 2` and -2 < x < 2, `C(10,3)`
  and the binomial; `[[1,2],[3,4]]` is a matrix. `i + 2j + 3k` is not read as a vector.
"""

import itertools
import re
from fractions import Fraction

from r1jax.data.boxed import last_boxed
from r1jax.rewards.latex import Group, group, interval, tidy
from r1jax.rewards.names import Row, assigned, is_combined, is_name, sides, squeeze
from r1jax.rewards.prose import MONTHS, clock, date, plain, same_time, spelled_number, spoken_value
from r1jax.rewards.symbolic import constant, parses, same_formula
from r1jax.rewards.units import CHANGES_VALUE, measure, quantity

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
_INEQUALITY = re.compile(r"[<>]|\\(?:leq|geq|neq|lt|gt)(?![a-zA-Z])")
_WORDS = re.compile(
    r"\\text\s*\{\s*(?P<a>[^{}\\]*[^\W\d_][^{}\\]*)\}|(?P<b>\(?[^\W\d_]+(?:[ .'-]+\w+)*\)?)"
)
_OPTION = re.compile(  # the letter of a multiple choice, and perhaps what it says
    r"\\text\s*\{\s*\(([A-J])\)\s*[.:]?\s*\}\s*(?P<value>.*)|\(([A-J])\)\s+(?P<value2>(?!or|and|\(|,)[^()]+)"
)
_SYNONYMS = {
    name: group[0]
    for group in (
        (
            "none",
            "no solution",
            "no solutions",
            "no real solution",
            "no real solutions",
            "no root",
            "no real roots",
            "empty set",
            "the empty set",
            r"\emptyset",
            r"\{\}",
            r"\{ \}",
        ),
        ("does not exist", "dne", "doesnt exist", "doesn't exist", "undefined limit"),
        ("true", "yes"),
        ("false", "no"),
    )
    for name in group
}
_GOES_ON = re.compile(r"^(-?[0-9]*\.[0-9]+)\s*\\ldots$")
_POINT = re.compile(r"[A-Z]\s*(?=\()")  # P(1, 0), where the reference is a point
_CALL = re.compile(r"(?<![a-zA-Z\\])C\(\s*([0-9]+)\s*,\s*([0-9]+)\s*\)")
_TOWER = re.compile(r"\^\s*\{?\s*[0-9]+\s*\^\s*\{?\s*[0-9]+\s*\^")
MAX_DEPTH = 40  # of brackets; the parser's time grows fast with it
_PROSE = re.compile(
    r"[^\\0-9]*(?:[a-zA-Z]{4}|[\u4e00-\u9fff])[^\\0-9]*|.*\\text.*"
)  # no product of variables


def grade_math(answer: str, reference: str) -> bool | None:
    """True if correct, False if not, None if the answer cannot be parsed.

    Both are plain text or LaTeX, with or without `$`. Raises ValueError if the reference cannot
    be parsed. May run for ever: call it in a process that can be killed (grading.py does).
    """
    if answer.strip() == reference.strip():
        return True
    if len(answer) > MAX_CHARS:
        return None
    reference = last_boxed(reference) or reference  # a solution, or a box, for its answer
    same_number = compare_numbers(answer, reference)
    if same_number is not None:
        return same_number
    got, wanted = tidy(answer), tidy(reference)
    if _hostile(got):
        return None
    verdict = _equal(got, wanted)
    if verdict:
        return True
    said = spoken_value(got)  # a sentence for its value
    return _equal(tidy(said), wanted) if said != got else verdict


def unreadable(reference: str) -> str | None:
    """Why a reference answer cannot be read, so that every reply to it would fail; else None.

    To be asked before a run. Takes milliseconds for a formula, but may run for ever on a hostile
    one, as `grade_math` does.
    """
    if not reference.strip():
        return "it is empty"
    text = tidy(last_boxed(reference) or reference)
    if _hostile(text):
        return f"its brackets are nested more than {MAX_DEPTH} deep, or its powers three deep"
    return _unreadable(text)


def _unreadable(text: str) -> str | None:
    if not text:
        return "it is empty"
    if compare_numbers(text, text) or _words(text) or date(text) or clock(text):
        return None
    if _OPTION.fullmatch(text) or _rational(text) is not None or text == r"\ldots":
        return None
    named = sides(text)
    if len(named) > 1 and (is_name(named[0]) or is_combined(named[0])):
        return _unreadable(named[-1])
    items = _collection(text)
    if items:
        return next((why for item in items.items if (why := _unreadable(item))), None)
    held = quantity(text)
    if held.unit:
        return _unreadable(held.value)
    if ":" in text or r"\text" in text or _NUMERAL.fullmatch(text) or measure(text):
        return None  # compared as texts
    return None if parses(text) else f"{text!r} is no formula, number or word that can be parsed"


def _hostile(text: str) -> bool:
    """Whether brackets or powers are stacked so that parsing or evaluating would take for ever."""
    depth = deepest = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH or bool(_TOWER.search(text))


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
        elif (
            token in MONTHS
            or not re.fullmatch("[a-z]{2,}", token)
            or CHANGES_VALUE.fullmatch(token)
        ):
            return None
    return numbers[0] if len(numbers) == 1 else None


def _equal(answer: str, gold: str) -> bool | None:
    """`grade_math` of two tidy texts."""
    if squeeze(answer) == squeeze(gold):
        return True
    if not answer:
        return None
    if gold.startswith("(") and _POINT.match(answer):
        answer = _POINT.sub("", answer, count=1)
    options = _OPTION.fullmatch(gold), _OPTION.fullmatch(answer)
    if options[0] or options[1]:
        return _equal_options(answer, gold, *options)
    by_words = _equal_words(answer, gold)
    if by_words is not None:
        return by_words
    numbers = _rational(answer), _rational(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1] or _rounds(answer, numbers[1]) or _rounds(gold, numbers[0])
    sets = [_punctured(text) or text for text in (answer, gold)]
    if sets != [answer, gold]:
        return _equal(*sets)
    rows = assigned(answer), assigned(gold)
    if rows[0] or rows[1]:
        return _equal_assigned(answer, gold, *rows)
    groups = _collection(answer), _collection(gold)
    if groups[0] and groups[1]:
        return _equal_groups(groups[0], groups[1])
    if len(sides(answer)) > 1 or len(sides(gold)) > 1:
        return _equal_named(answer, gold)
    if groups[0] or groups[1]:
        return _equal_group_to_one(answer, gold, groups[0], groups[1])
    return _equal_scalars(answer, gold)


def _equal_options(answer: str, gold: str, g: re.Match | None, a: re.Match | None) -> bool | None:
    """`(B) 6` against the letter, or the value, or both: letters decide where both have one."""
    if g and a:
        return (g[1] or g[3]) == (a[1] or a[3])
    option, other = (g, answer) if g else (a, gold)
    assert option is not None
    value, letter = option["value"] or option["value2"] or "", option[1] or option[3]
    alone = re.fullmatch(
        r"(?:\\text\s*\{)?\s*(?:选项|option\s|choice\s)?\(?([A-Ja-j])\)?\s*\}?", other
    )
    if alone:
        return alone[1].upper() == letter
    if not value:
        return False
    return _equal(value, gold) if a else _equal(answer, value)


def _equal_words(answer: str, gold: str) -> bool | None:
    """The verdict where either is words, a date or a time; None where neither is."""
    dates, times = (date(answer), date(gold)), (clock(answer), clock(gold))
    if dates[1] and not dates[0]:
        return False
    if dates[0] and dates[1]:
        years = {dates[0][2], dates[1][2]} - {None}
        return dates[0][:2] == dates[1][:2] and len(years) < 2
    if times[0] and times[1]:
        return same_time(times[0], times[1])
    spelled = [
        spelled_number(t) if re.search(r"[a-zA-Z\u4e00-\u9fff]", t) else None
        for t in (answer, gold)
    ]
    if any(value is not None for value in spelled):
        values = [
            s if s is not None else _rational(quantity(t).value)
            for s, t in zip(spelled, (answer, gold), strict=True)
        ]
        if None not in values:
            return values[0] == values[1]
    letter = [re.fullmatch(r"(?:选项|選項)\s*\(?([A-J])\)?", t) for t in (answer, gold)]
    if letter[0] or letter[1]:
        picked = [
            m[1] if m else t.strip("() ") for m, t in zip(letter, (answer, gold), strict=True)
        ]
        return picked[0] == picked[1]
    synonyms = [_SYNONYMS.get(plain(text)) for text in (answer, gold)]
    if synonyms[0] and synonyms[0] == synonyms[1]:
        return True
    yes = re.match(r"(yes|no|true|false)[,.;]\s", plain(answer))
    if yes and not re.search(r"\b(?:yes|no|not|true|false)\b", plain(answer)[yes.end(1) :]):
        return plain(gold) == yes[1] if plain(gold) in ("yes", "no", "true", "false") else False
    words = _words(answer), _words(gold)
    if not words[1] or not (_PROSE.fullmatch(gold) or (words[0] and _PROSE.fullmatch(answer))):
        return None
    if words[0] == words[1]:
        return True
    lists = [re.split(r"\s*(?:,|;|\band\b|\bor\b)\s*", plain(t)) for t in (answer, gold)]
    lists = [sorted(item for item in items if item) for items in lists]
    ways = [bool(re.search(r"\bor\b", plain(t))) for t in (answer, gold)]  # "or" is no "and"
    return len(lists[0]) > 1 and lists[0] == lists[1] and ways[0] == ways[1]


def _collection(text: str) -> Group | None:
    if _rational(quantity(text).value) is not None:
        return None  # the commas in 1,000 cm separate nothing
    return group(text) or interval(text)


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
    a, g = _distinct(a), _distinct(g)
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


def _distinct(items: Group) -> Group:
    """A set without repeats, and so a list of tuples; the numbers of a bare list may repeat."""
    if items.ordered:
        return items
    if items.brackets == "" and not all(item[:1] == "(" for item in items.items):
        return items
    return items._replace(items=tuple({squeeze(item): item for item in items.items}.values()))


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
    left, right = sides(answer), sides(gold)
    names = [len(s) > 1 and is_name(s[0]) for s in (left, right)]
    if len(left) > 1 and len(right) > 1:
        heads = [re.sub(r"[\s{}]|\\left|\\right|^m(?=\\angle)", "", s[0]) for s in (left, right)]
        if all(names) and (heads[0] == heads[1] or "(" in heads[0] + heads[1]):
            return _equal(left[-1], right[-1])
        return same_formula(answer, gold)
    if len(left) == 1:
        return _equal(answer, right[-1]) if names[1] else False
    values = left[1:] if names[0] or is_combined(left[0]) else left
    return _all([_equal(value, gold) for value in values])


def _equal_assigned(
    answer: str, gold: str, a: tuple[Row, ...] | None, g: tuple[Row, ...] | None
) -> bool | None:
    """By name where both name their values; else in order, as a tuple or a list of tuples."""
    if a and g:
        if {n for n, _ in a[0]} != {n for n, _ in g[0]}:
            return False
        order = [n for n, _ in g[0]]
        a, g = (tuple(tuple((n, dict(row)[n]) for n in order) for row in rows) for rows in (a, g))
    texts = [
        ", ".join(f"({', '.join(value for _, value in row)})" for row in rows) if rows else text
        for rows, text in ((a, answer), (g, gold))
    ]
    return _equal(texts[0], texts[1])


def _punctured(text: str) -> str | None:
    r"""The union of intervals that `\mathbb{R} \setminus \{a, b\}` is; None for anything else."""
    head, _, rest = text.partition(r"(-\infty, \infty)")
    match = re.fullmatch(r"\s*(?:\\setminus|\\backslash|-)\s*(.*)", rest)
    points = group(match[1]) if match else None
    if head.strip() or points is None or points.brackets != "{}":
        return None
    values = [(constant(item), item) for item in points.items]
    if any(value is None for value, _ in values):
        return None
    ends = [r"-\infty", *(item for _, item in sorted(values)), r"\infty"]
    return r" \cup ".join(f"({a}, {b})" for a, b in itertools.pairwise(ends))


def _equal_scalars(answer: str, gold: str) -> bool | None:
    measures = measure(answer), measure(gold)
    if measures[0] and measures[1]:
        return measures[0] == measures[1]
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
    ratios = answer.split(":"), gold.split(":")
    if len(ratios[0]) == len(ratios[1]) > 1:
        return _all([_equal(x.strip(), y.strip()) for x, y in zip(*ratios, strict=True)])
    answer = _GOES_ON.sub(r"\1", answer)
    if len(answer) == len(gold) == 1 and answer.isalpha() and gold.isalpha():
        return answer == gold  # the parser takes E for e
    if (
        ":" in answer + gold or r"\text" in gold or r"\ldots" in answer + gold
    ):  # equal to nothing else
        return False
    answer, gold = (_CALL.sub(r"\\binom{\1}{\2}", text) for text in (answer, gold))
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
