r"""Is a mathematical answer equal to the reference?

Three steps, from certain to approximate: plain numbers are compared exactly; expressions are
evaluated at 50 digits; what neither can tell (sets, inequalities, words, decimals that stand for
something else) is left to math-verify.

math-verify 0.9.0 alone is not enough. Given text without `$` it falls back on the first number
that it finds, so `1-1/e` equals `1+1/e`, and `3x-y+13=0` equals `3x+4y+14=0`: here an answer is
parsed as a whole or not at all. It drops differences below 1e-15, so 1/2004! equals 1/2006!, and
subscripts, so 52_8 equals 52_9, and cannot show that sqrt(1/n) is 1/sqrt(n).

Sympy may take for ever on a hostile answer, and math-verify's own time-out works in the main
thread only, so it is switched off: call `grade_math` in a process that can be killed
(r1jax/rewards/grading.py does).
"""

import functools
import logging
import random
import re
from fractions import Fraction

import math_verify
import sympy

# math-verify warns once that its time-out is off, which is on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)

MAX_CHARS = 400  # of an answer; the longest reference in MATH-500 has 53
DIGITS = 50
EXACT = sympy.Float("1e-30", DIGITS)  # largest relative difference of equal values
DECIMAL = sympy.Float("1e-5", DIGITS)  # and of a decimal from what it stands for

_NUMBER = re.compile(
    r"\$?(?P<sign>[-+−]?)\s?(?:\\?[$€£])?"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)\$?"
)
_NUMERAL = re.compile(r"\$?([0-9A-Z]+)_\{?([0-9]+)\}?\$?")  # with its base: 52_8, 2A_{16}
# Beside a number in a sentence, these make it another number, or more than one.
_CHANGES_VALUE = re.compile(
    "and|or|not?|minus|negative|plus|times|over|half|thirds?|quarters?|dozen|hundred|thousand|"
    "million|billion|trillion|percent|point|squared|cubed|root|sqrt|pi|log|ln|exp|sin|cos|tan"
)


_Point = dict[str, sympy.Expr]  # a value for each variable


def grade_math(answer: str, reference: str) -> bool | None:
    """True if correct, False if not, None if the answer cannot be parsed.

    Both are plain text or LaTeX, with or without `$`. Raises ValueError if the reference cannot
    be parsed. May run for ever.
    """
    if answer.strip() == reference.strip():
        return True
    same_number = compare_numbers(answer, reference)
    if same_number is not None:
        return same_number
    numerals = _NUMERAL.fullmatch(answer.strip()), _NUMERAL.fullmatch(reference.strip())
    if numerals[0] and numerals[1]:
        return numerals[0].groups() == numerals[1].groups()
    gold, found = _parse(reference), _parse(answer)
    if gold is None:
        raise ValueError(f"cannot parse the reference answer {reference!r}")
    if found is None:
        return None
    same = _same(gold, found)
    exact = not gold.has(sympy.Float) and not found.has(sympy.Float)
    if same is False or (same and exact):
        return same
    return math_verify.verify(gold, found, timeout_seconds=None, raise_on_error=True)


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
        token = token.lstrip("*").rstrip("*.,:;!")
        number = _number(token)
        if number is not None:
            numbers.append(number)
        elif not re.fullmatch("[a-z]{2,}", token) or _CHANGES_VALUE.fullmatch(token):
            return None
    return numbers[0] if len(numbers) == 1 else None


@functools.lru_cache(maxsize=1000)  # a group of samples shares its reference
def _parse(text: str) -> sympy.Basic | sympy.MatrixBase | None:
    """The text, or the last formula that `$` or a bracket marks in it, as one whole."""
    if len(text) > MAX_CHARS:
        return None
    text = text.strip()
    if re.fullmatch(r"\$[^$]+\$", text):
        text = text[1:-1].strip()  # a blank beside the `$` would keep units from being removed
    if not re.search(r"(?<!\\)(\$|\\[(\[])", text):
        text = f"${text}$"
    parsed = math_verify.parse(
        text,
        [math_verify.LatexExtractionConfig()],  # not ExprExtractionConfig: it reads a part
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return parsed[0] if parsed and not parsed[0].has(sympy.nan, sympy.zoo) else None


def _same(gold, found) -> bool | None:
    """Equality by numbers alone; None where numbers cannot tell."""
    if isinstance(gold, sympy.Eq) and isinstance(found, sympy.Eq):
        return _same_equation(gold, found)
    if isinstance(gold, sympy.Expr) and isinstance(found, sympy.Expr):
        return _same_values(gold, found)
    parts = _parts(gold), _parts(found)
    if not parts[0] or len(parts[0]) != len(parts[1]) or type(gold) is not type(found):
        return None
    verdicts = [_same(a, b) for a, b in zip(*parts, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _parts(expr) -> tuple:
    """What to compare one by one in an ordered collection; () for anything else."""
    match expr:
        case sympy.Tuple():
            return expr.args
        case sympy.Interval():
            open_ends = (sympy.Integer(bool(end)) for end in (expr.left_open, expr.right_open))
            return (expr.start, expr.end, *open_ends)
        case sympy.MatrixBase():
            return (*map(sympy.Integer, expr.shape), *expr.flat())
    return ()


def _same_values(gold: sympy.Expr, found: sympy.Expr) -> bool | None:
    """Whether two expressions agree wherever both are real: at fractions, or at integers if they
    are real only there, as (-1)^n is; wherever they have a value, if they are real at neither."""
    names = _names(gold)
    if names != _names(found):
        return None
    tolerance = DECIMAL if gold.has(sympy.Float) or found.has(sympy.Float) else EXACT
    for points in (_fractions(names), _integers(names)):
        values = [(_value(gold, point), _value(found, point)) for point in points]
        known = [(a, b) for a, b in values if a is not None and b is not None]
        real = [(a, b) for a, b in known if a[1] == b[1] == 0]
        if len(real) >= min(3, len(points)):
            return all(_close(a, b, tolerance) for a, b in real)
    if len(known) >= min(3, len(points)):
        return all(_close(a, b, tolerance) for a, b in known)
    return None


def _same_equation(gold: sympy.Eq, found: sympy.Eq) -> bool | None:
    """Whether two equations, brought to `polynomial = 0`, are multiples of each other."""
    sides = (gold.lhs, gold.rhs, found.lhs, found.rhs)
    if not all(isinstance(side, sympy.Expr) for side in sides) or _names(gold) != _names(found):
        return None
    left, right = (sympy.fraction(sympy.together(eq.lhs - eq.rhs))[0] for eq in (gold, found))
    if left == 0 or right == 0:
        return None
    points = _fractions(_names(gold))
    values = [value for point in points if (value := _value(left / right, point)) is not None]
    if len(values) < len(points):
        return None
    return all(_close(value, values[0], EXACT) for value in values)


def _names(expr: sympy.Basic) -> frozenset[str]:
    """Its variables. math-verify reads `i` as one, or as the imaginary unit, by context."""
    return frozenset(symbol.name for symbol in expr.free_symbols) - {"i"}


def _fractions(names: frozenset[str]) -> list[_Point]:
    """Points of both signs, so that sqrt(x^2) is not x. Always the same, so that grades are; with
    a denominator that keeps them off the zeros of a textbook's expressions, since at a zero two
    roundings have nothing in common."""
    return _draw(names, [(1, 300, 97)] * 4 + [(-300, -1, 97)] * 4)


def _integers(names: frozenset[str]) -> list[_Point]:
    return _draw(names, [(11, 40, 1)] * 4)


def _draw(names: frozenset[str], ranges: list[tuple[int, int, int]]) -> list[_Point]:
    """One point a (low, high, denominator); just one where there is nothing to vary."""
    rng = random.Random(0)
    return [
        {"i": sympy.I} | {n: sympy.Rational(rng.randint(low, high), d) for n in sorted(names)}
        for low, high, d in ranges[: None if names else 1]
    ]


def _value(expr: sympy.Expr, point: _Point) -> tuple | None:
    """(real, imaginary) part of the expression at a point; None where it has no finite value."""
    value = expr.evalf(DIGITS, subs={s: point[s.name] for s in expr.free_symbols})
    parts = value.as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    # evalf marks what it cannot tell from zero by a precision of one bit.
    return tuple(sympy.S.Zero if part.is_Float and part._prec == 1 else part for part in parts)


def _close(a: tuple, b: tuple, tolerance: sympy.Float) -> bool:
    scale = max(abs(part) for part in (*a, *b))
    return all(abs(x - y) <= tolerance * scale for x, y in zip(a, b, strict=True))
