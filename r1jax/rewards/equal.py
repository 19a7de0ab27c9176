r"""Are two tidy texts equal? By what they are made of, item by item; formulas by value.

What is equal is said in math.py.
"""

import itertools
import re

from r1jax.rewards.equal_words import equal_words
from r1jax.rewards.groups import Group, group, interval
from r1jax.rewards.names import Row, assigned, is_combined, is_name, sides, squeeze
from r1jax.rewards.rational import DECIMAL, NUMERAL, equal_numerals, rational, rounds
from r1jax.rewards.symbolic import constant, same_formula
from r1jax.rewards.units import measure, quantity

_INEQUALITY = re.compile(r"[<>]|\\(?:leq|geq|neq|lt|gt)(?![a-zA-Z])")
OPTION = re.compile(  # the letter of a multiple choice, and perhaps what it says
    r"\\text\s*\{\s*\(([A-J])\)\s*[.:]?\s*\}\s*(?P<value>.*)|\(([A-J])\)\s+(?P<value2>(?!or|and|\(|,)[^()]+)"
)
_GOES_ON = re.compile(r"^(-?[0-9]*\.[0-9]+)\s*\\ldots$")
_POINT = re.compile(r"[A-Z]\s*(?=\()")  # P(1, 0), where the reference is a point
_CALL = re.compile(r"(?<![a-zA-Z\\])C\(\s*([0-9]+)\s*,\s*([0-9]+)\s*\)")


def equal(answer: str, gold: str) -> bool | None:
    """`grade_math` of two tidy texts."""
    if squeeze(answer) == squeeze(gold):
        return True
    if not answer:
        return None
    if gold.startswith("(") and _POINT.match(answer):
        answer = _POINT.sub("", answer, count=1)
    options = OPTION.fullmatch(gold), OPTION.fullmatch(answer)
    if options[0] or options[1]:
        return _equal_options(answer, gold, *options)
    numbers = rational(answer), rational(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1] or rounds(answer, numbers[1]) or rounds(gold, numbers[0])
    by_words = equal_words(answer, gold)
    if by_words is not None:
        return by_words
    sets = [_punctured(text) or text for text in (answer, gold)]
    if sets != [answer, gold]:
        return equal(*sets)
    rows = assigned(answer), assigned(gold)
    if rows[0] or rows[1]:
        return _equal_assigned(answer, gold, *rows)
    groups = collection(answer), collection(gold)
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
    return equal(value, gold) if a else equal(answer, value)


def collection(text: str) -> Group | None:
    if rational(quantity(text).value) is not None:
        return None  # the commas in 1,000 cm separate nothing
    return group(text) or interval(text)


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
        return _all([equal(x, y) for x, y in zip(a.items, g.items, strict=True)])
    left = list(a.items)
    verdicts = []
    for item in g.items:
        tried = [equal(other, item) for other in left]
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
        return equal(a.items[0], gold)
    if g and g.brackets == "{}" and len(g.items) == 1:
        return equal(answer, g.items[0])
    return False


def _equal_named(answer: str, gold: str) -> bool | None:
    """`name = value` against a value or another equation; a chain of equals against a value."""
    left, right = sides(answer), sides(gold)
    names = [len(s) > 1 and is_name(s[0]) for s in (left, right)]
    if len(left) > 1 and len(right) > 1:
        heads = [re.sub(r"[\s{}]|\\left|\\right|^m(?=\\angle)", "", s[0]) for s in (left, right)]
        if all(names) and (heads[0] == heads[1] or "(" in heads[0] + heads[1]):
            return equal(left[-1], right[-1])
        return same_formula(answer, gold)
    if len(left) == 1:
        return equal(answer, right[-1]) if names[1] else False
    values = left[1:] if names[0] or is_combined(left[0]) else left
    return _all([equal(value, gold) for value in values])


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
    return equal(texts[0], texts[1])


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
        return equal(a.value, g.value)
    numerals = NUMERAL.fullmatch(answer), NUMERAL.fullmatch(gold)
    if numerals[0] or numerals[1]:
        return equal_numerals(answer, gold, *numerals)
    ratios = answer.split(":"), gold.split(":")
    if len(ratios[0]) == len(ratios[1]) > 1:
        return _all([equal(x.strip(), y.strip()) for x, y in zip(*ratios, strict=True)])
    answer = _GOES_ON.sub(r"\1", answer)
    if len(answer) == len(gold) == 1 and answer.isalpha() and gold.isalpha():
        return answer == gold  # the parser takes E for e
    if (
        ":" in answer + gold or r"\text" in gold or r"\ldots" in answer + gold
    ):  # equal to nothing else
        return False
    answer, gold = (_CALL.sub(r"\\binom{\1}{\2}", text) for text in (answer, gold))
    for decimal, other in ((answer, gold), (gold, answer)):
        if DECIMAL.fullmatch(decimal) and (exact := constant(other)) is not None:
            return rounds(decimal, exact)
    return same_formula(answer, gold)


def _equal_percent(answer: str, gold: str, bare: str) -> bool | None:
    """Values of which one is a percentage; `bare` is the reference if it is the other."""
    values = rational(answer), rational(gold)
    if values[0] is None or values[1] is None:
        return equal(answer, gold)
    if bare:
        return values[0] / 100 == values[1] or (values[0] == values[1] and abs(values[1]) > 1)
    return values[0] in (values[1], values[1] / 100)
