r"""The unit behind a value, and a canonical name for it."""

import re
from typing import NamedTuple

# Beside a number, these make it another number, or more than one.
CHANGES_VALUE = re.compile(
    "and|or|not?|minus|negative|plus|times|over|half|thirds?|quarters?|dozen|hundred|thousand|"
    "million|billion|trillion|percent|point|squared|cubed|root|sqrt|pi|log|ln|exp|sin|cos|tan|base"
)


class Quantity(NamedTuple):
    value: str
    unit: str  # canonical, "" if none is said; "%" for a percentage


_UNITS = {
    "degree": "degree deg",
    "inch": "inch inche in",
    "foot": "foot feet ft",
    "yard": "yard yd",
    "mile": "mile mi",
    "cm": "centimeter centimetre cm",
    "mm": "millimeter millimetre mm",
    "km": "kilometer kilometre km",
    "m": "meter metre m",
    "kg": "kilogram kg",
    "g": "gram g",
    "lb": "pound lb",
    "oz": "ounce oz",
    "s": "second sec s",
    "min": "minute min",
    "h": "hour hr h",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "year yr",
    "dollar": "dollar usd buck",
    "cent": "cent",
    "euro": "euro eur",
    "l": "liter litre l",
    "ml": "milliliter millilitre ml",
    "gal": "gallon gal",
    "cup": "cup",
    "mile per h": "mph",
    "km per h": "kph kmh kmph",
    "unit": "unit",
    "radian": "radian rad",
    "%": "percent percentage pct",
    "am": "am",
    "pm": "pm",
}
_POWERS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cu": "3", "cubed": "3"}
_NAMES = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_CURRENCY = re.compile(r"(?P<sign>-?)\s*(?P<mark>\\?\$|€|£|\\pounds|\\euro)\s*(?P<value>.+)")
_MARKS = {"$": "dollar", "€": "euro", "euro": "euro", "£": "gbp", "pounds": "gbp"}
_POWER = r"(?:\s*\^?\s*\{?\s*(?P<power>[23])\s*\}?)?"
_IN_TEXT = re.compile(r"(?P<value>.*?)\s*\\text\s*\{(?P<unit>[^{}]*)\}" + _POWER)
_IN_WORDS = re.compile(
    r"(?P<value>.*?(?:[0-9})]|\\pi))(?P<blank>\s*)(?P<unit>[a-zA-Z][a-zA-Z./ ]*)" + _POWER
)
_MARKED = re.compile(  # not the degrees of an angle in a function
    r"(?P<value>(?:(?!\\(?:sin|cos|tan|cot|sec|csc)).)*?)\s*"
    r"(?P<unit>%|\^\\circ)(?:\s*(?:\\text\s*\{\s*)?[CF]\s*\}?)?"
)


def quantity(text: str) -> Quantity:
    r"""A tidy text's value and its unit: `864 \text{ inches}^2` is 864 and "inch^2".

    A unit is in `\text{}`, or a word that is known or not short: short ones, and a letter right
    behind the value, are variables.
    """
    money = _CURRENCY.fullmatch(text)
    if money:
        mark = _MARKS[money["mark"].lstrip("\\")]
        return Quantity(money["sign"] + quantity(money["value"]).value, mark)
    for pattern in (_MARKED, _IN_TEXT, _IN_WORDS):
        match = pattern.fullmatch(text)
        if match is None or not match["value"]:
            continue
        if pattern is _MARKED:
            return Quantity(match["value"], {"%": "%"}.get(match["unit"], "degree"))
        words = match["unit"].lower().replace(".", "").replace("/", " per ").split()
        if not words:
            continue
        if pattern is _IN_WORDS and not _are_unit(words, bool(match["blank"])):
            continue
        plain = [word for word in words if word not in _POWERS and word not in _NAMES]
        if not any(CHANGES_VALUE.fullmatch(word) for word in plain):
            return Quantity(match["value"], _unit(words, match["power"]))
    return Quantity(text, "")


def _are_unit(words: list[str], apart: bool) -> bool:
    """Whether plain words behind a value are its unit rather than variables."""
    if not apart and len(words[0]) == 1:
        return False
    known = [word in _POWERS or word == "per" or _singular(word) in _NAMES for word in words]
    return all(known) or any(len(word) > (2 if apart else 3) for word in words)


def _unit(words: list[str], power: str | None) -> str:
    exponents = [_POWERS[word] for word in words if word in _POWERS]
    names = [_NAMES.get(_singular(w), _singular(w)) for w in words if w not in _POWERS]
    power = exponents[0] if exponents else power
    return " ".join(names) + (f"^{power}" if power else "")


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 2 and word not in _NAMES else word
