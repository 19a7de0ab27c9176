r"""Is one formula equal to another? At 50 digits where numbers can tell, else by math-verify.

math-verify 0.9.0 alone is not enough. Given text without `$` it falls back on the first number
that it finds, so `1-1/e` equals `1+1/e`, and `3x-y+13=0` equals `3x+4y+14=0`: here its parser gets
the whole formula, and reads all of it or nothing. It ignores case, so `R-r` equals 0, and letters
that may be units, so `5t` equals 5; it drops differences below 1e-15, so 1/2004! equals 1/2006!,
and cannot show that sqrt(1/n) is 1/sqrt(n).

Sympy may take for ever on a hostile formula, and math-verify's own time-out works in the main
thread only, so it is switched off: call this in a process that can be killed.
"""

import functools
import logging
import random
import re
from fractions import Fraction

import math_verify
import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify.grader import should_treat_as_complex

# math-verify warns once that its time-out is off, which is on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)

DIGITS = 50
EXACT = sympy.Float("1e-30", DIGITS)  # largest relative difference of equal values

_PROSE = re.compile(  # a word that is no function, nor an argument of a command
    r"(?<![\\a-zA-Z{])(?!(?:a|arc)?(?:sin|cos|tan|cot|sec|csc)h?|sqrt|infinity|binom|frac)[a-zA-Z]{4}"
)
_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)

_INFINITE = (sympy.oo, -sympy.oo)
_Point = dict[str, sympy.Expr]  # a value for each variable


def same_formula(answer: str, reference: str) -> bool | None:
    """Whether two formulas in tidy LaTeX are equal; None if the answer cannot be parsed.

    Raises ValueError if the reference cannot be parsed. May run for ever.
    """
    gold, found = _parse(reference), _parse(answer)
    if gold is None:
        raise ValueError(f"cannot parse the reference answer {reference!r}")
    if found is None:
        return None
    same = _same(gold, found)
    if same is not None:
        return same
    return math_verify.verify(gold, found, timeout_seconds=None, raise_on_error=True)


def parses(text: str) -> bool:
    """Whether a tidy text is a formula that `same_formula` can take for a reference."""
    return _parse(text) is not None


def constant(text: str) -> Fraction | None:
    """The value of a formula without variables, to 50 digits, if it has one that is real."""
    parsed = _parse(text)
    if not isinstance(parsed, sympy.Expr) or _names(parsed):
        return None
    value = _value(parsed, {"i": sympy.I})
    return Fraction(str(value[0])) if value is not None and value[1] == 0 else None


@functools.lru_cache(maxsize=1000)  # a group of samples shares its reference
def _parse(text: str) -> sympy.Basic | sympy.MatrixBase | None:
    """The text as one whole."""
    if _PROSE.search(text):
        return None
    text = re.sub(r"([0-9.]+)\s*\^\\circ", r"(\1 \\cdot \\frac{\\pi}{180})", text)
    try:
        parsed = latex2sympy(
            normalize_latex(text, _NORMALIZATION),
            is_real=not should_treat_as_complex(text),
            conversion_config=_CONVERSION,
            normalization_config=None,
        )
    except Exception:  # nothing narrower: its syntax errors are bare Exceptions
        return None
    if parsed is None or parsed.has(sympy.nan, sympy.zoo):
        return None
    # Decimals are exact: 0.1 is 1/10.
    floats = parsed.atoms(sympy.Float)
    return parsed.xreplace({f: sympy.Rational(str(f)) for f in floats}) if floats else parsed


def _same(gold, found) -> bool | None:
    """Equality by numbers alone; None where numbers cannot tell."""
    if isinstance(gold, sympy.Eq) and isinstance(found, sympy.Eq):
        return _same_equation(gold, found)
    if isinstance(gold, sympy.Ne) or isinstance(found, sympy.Ne):  # math-verify knows no such thing
        return type(gold) is type(found) and _same_equation(gold, found) is True
    if isinstance(gold, sympy.Expr) and isinstance(found, sympy.Expr):
        if gold.has(*_INFINITE) or found.has(*_INFINITE):  # math-verify's verdict is then chance
            return gold.doit() == found.doit()
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
    for points in (_fractions(names), _integers(names)):
        values = [(_value(gold, point), _value(found, point)) for point in points]
        known = [(a, b) for a, b in values if a is not None and b is not None]
        real = [(a, b) for a, b in known if a[1] == b[1] == 0]
        if len(real) >= min(3, len(points)):
            return all(_close(a, b) for a, b in real) and not _differ_further(gold, found)
    if len(known) >= min(3, len(points)):
        return all(_close(a, b) for a, b in known)
    return None


def _differ_further(gold: sympy.Expr, found: sympy.Expr) -> bool:
    """Whether they are rational, as 2^{200} + 1 is, and differ only behind the digits compared."""
    exact = gold.doit(), found.doit()
    return exact[0] != exact[1] and all(value.is_Rational for value in exact)


def _same_equation(gold: sympy.Rel, found: sympy.Rel) -> bool | None:
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
    return all(_close(value, values[0]) for value in values)


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
    subs = {s: point[s.name] for s in expr.free_symbols}
    try:
        parts = _evaluate(expr, subs)
        if any(0 < abs(part) < EXACT for part in parts):  # tiny, or a zero that is not seen as one
            parts = _evaluate(expr.doit(), subs)
    except ZeroDivisionError:
        return None
    return parts or None


def _evaluate(expr: sympy.Expr, subs: dict) -> tuple:
    parts = expr.evalf(DIGITS, subs=subs).as_real_imag()
    if not all((part.is_Float or part.is_Rational) and part.is_finite for part in parts):
        return ()
    # evalf marks what it cannot tell from zero by a precision of one bit.
    return tuple(sympy.S.Zero if part.is_Float and part._prec == 1 else part for part in parts)


def _close(a: tuple, b: tuple) -> bool:
    scale = max(abs(part) for part in (*a, *b))
    return all(abs(x - y) <= EXACT * scale for x, y in zip(a, b, strict=True))
