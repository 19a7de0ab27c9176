r"""The unit behind a value, and a canonical name for it."""

import functools
import re
from fractions import Fraction
from typing import NamedTuple

# Beside a number, these make it another number, or more than one.
CHANGES_VALUE = re.compile(
    "and|or|not?|minus|negative|plus|times|over|half|thirds?|quarters?|dozen|hundred|thousand|"
    "million|billion|trillion|remainder|than|wrong|incorrect|false|least|most|under|below|above|"
    "between|either|neither|percent|point|squared|cubed|root|sqrt|pi|log|ln|exp|sin|cos|tan|base"
)


class Quantity(NamedTuple):
    value: str
    unit: str  # canonical, "" if none is said; "%" for a percentage


# What a unit is called, and its measure where it is a multiple of another: 120 minutes are 2 hours.
_UNITS = {
    "degree": "degree deg 度",
    "inch": "inch inche in 英寸",
    "foot": "foot feet ft 英尺",
    "yard": "yard yd",
    "mile": "mile mi 英里",
    "nm": "nanometer nanometre nm",
    "cm": "centimeter centimetre cm 厘米 公分",
    "mm": "millimeter millimetre mm 毫米",
    "km": "kilometer kilometre km 千米 公里",
    "m": "meter metre m 米",
    "kg": "kilogram kilo kg 千克 公斤",
    "mg": "milligram mg 毫克",
    "g": "gram g 克",
    "ton": "ton tonne 吨",
    "lb": "pound lb 磅",
    "oz": "ounce oz",
    "ms": "millisecond ms 毫秒",
    "s": "second sec s 秒",
    "min": "minute min 分钟",
    "h": "hour hr h 小时",
    "day": "day 天 日",
    "week": "week wk 周 星期",
    "month": "month 月 个月",
    "year": "year yr 年 岁",
    "dollar": "dollar usd buck 美元",
    "cent": "cent 美分",
    "euro": "euro eur 欧元",
    "yuan": "yuan rmb cny 元 块",
    "l": "liter litre l 升",
    "ml": "milliliter millilitre ml 毫升",
    "gal": "gallon gal",
    "cup": "cup",
    "unit": "unit 个 個 只 人 位 本 张 次 种 条 件 辆 棵 名 颗 支 枚 箱",
    "radian": "radian rad 弧度",
    "newton": "newton 牛 牛顿",
    "joule": "joule 焦耳",
    "watt": "watt 瓦",
    "kw": "kilowatt kw",
    "volt": "volt 伏 伏特",
    "ampere": "ampere amp 安培",
    "ohm": "ohm 欧姆",
    "hertz": "hertz hz 赫兹",
    "pascal": "pascal pa",
    "kelvin": "kelvin",
    "mole": "mole mol 摩尔",
    "%": "percent percentage pct",
    "am": "am",
    "pm": "pm",
}
_MEASURES: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(size))
    for dimension, sizes in {
        "time": "s 1 min 60 h 3600 day 86400 week 604800",
        "metric length": "mm 1 cm 10 m 1000 km 1000000",
        "length": "inch 1 foot 12 yard 36 mile 63360",
        "mass": "mg 1 g 1000 kg 1000000",
        "volume": "ml 1 l 1000",
        "money": "cent 1 dollar 100",
    }.items()
    for name, size in zip(sizes.split()[::2], sizes.split()[1::2], strict=True)
}
_SYMBOLS = {  # in \text{} only, and with this case
    "N": "newton",
    "J": "joule",
    "W": "watt",
    "V": "volt",
    "A": "ampere",
    "K": "kelvin",
    "C": "coulomb",
    "T": "tesla",
}
_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
_BEHIND = {"squared": 2, "cubed": 3}
_FILLERS = "old ago long tall high wide away total left each altogether exactly the of"
_COMPOSED = {"mph": ("mile", "h"), "kph": ("km", "h"), "kmh": ("km", "h"), "kmph": ("km", "h")}
_NAMES = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_CURRENCY = re.compile(
    r"(?P<sign>-?)\s*(?P<mark>\\?\$|€|£|¥|\\pounds|\\euro|\\yen)\s*(?P<value>-?.+)"
)
_MARKS = {"$": "dollar", "€": "euro", "euro": "euro", "£": "gbp", "pounds": "gbp"}
_MARKS |= {"¥": "yuan", "yen": "yuan"}
_EXPONENT = r"(?:\s*\^\s*\{?\s*-?[0-9]\s*\}?)?"
_IN_TEXT = re.compile(
    r"(?P<value>.*?)\s*(?P<unit>/?\s*\\text\s*\{[^{}]*\}"
    + _EXPONENT
    + r"(?:(?:\s|/|\\cdot)*\\text\s*\{[^{}]*\}"
    + _EXPONENT
    + r")*)"
)
_IN_WORDS = re.compile(
    r"(?P<value>.*?(?:[0-9})]|\\pi))(?P<blank>\s*)(?P<unit>[a-zA-Z][a-zA-Z./ ]*)"
    r"(?P<power>(?:\s*\^\s*\{?\s*[23]\s*\}?|[23])?)"
)
_HAN = re.compile(r"(?P<value>.*?[0-9})])\s*(?P<unit>(?:平方|立方)?[\u4e00-\u9fff]{1,6})")
_HAN_VALUE = re.compile("[万萬亿億百十半分之点點倍]")  # no unit, unless one has it: 千米, 分钟
_MARKED = re.compile(  # not the degrees of an angle in a function
    r"(?P<value>(?:(?!\\(?:sin|cos|tan|cot|sec|csc)).)*?)\s*"
    r"(?P<unit>%|\^\\circ)(?:\s*(?:\\text\s*\{\s*)?[CF]\s*\}?)?"
)
_PART = re.compile(r"(/|\bper\b)|([^\W\d_]+)(?:\s*\^?\s*\{?\s*(-?[0-9])\s*\}?)?")
_COMPOUND = re.compile(r"([0-9.]+)\s*(?:\\text\s*\{\s*([a-z]+)\s*\}|([a-z]{1,}))[\s,]*(?:and\s+)?")


@functools.lru_cache(maxsize=4096)  # asked several times of the same text
def quantity(text: str) -> Quantity:
    r"""A tidy text's value and its unit: `864 \text{ inches}^2` is 864 and "inch^2".

    A unit is in `\text{}`, or a word that is known or not short: short ones, and a letter right
    behind the value, are variables (`5g` is 5 times g). Chinese words behind a number are units,
    but for those that count (万).
    """
    money = _CURRENCY.fullmatch(text)
    if money:
        mark, rest = _MARKS[money["mark"].lstrip("\\")], quantity(money["value"])
        if not rest.unit:
            return Quantity(money["sign"] + rest.value, mark)
        return Quantity(money["sign"] + rest.value.rstrip("/ "), _unit(f"{mark} {rest.unit}"))
    for pattern in (_MARKED, _IN_TEXT, _IN_WORDS, _HAN):
        match = pattern.fullmatch(text)
        if match is None or not match["value"]:
            continue
        if pattern is _MARKED:
            return Quantity(match["value"], {"%": "%"}.get(match["unit"], "degree"))
        said = match["unit"]
        if pattern is _HAN:
            if said in _NAMES or said[2:] in _NAMES or not _HAN_VALUE.search(said):
                return Quantity(match["value"], _unit(re.sub("(平方|立方)", r"\1 ", said)))
            continue
        words = re.findall(r"[^\W\d_]+", re.sub(r"\\[a-zA-Z]+", " ", said).replace("/", " per "))
        if not words:
            continue
        if pattern is _IN_WORDS and not _are_unit(
            [word.lower() for word in words], bool(match["blank"])
        ):
            continue
        plain = [w.lower() for w in words if w.lower() not in {*_BEFORE, *_BEHIND, *_NAMES}]
        if not any(CHANGES_VALUE.fullmatch(word) for word in plain):
            power = match["power"] if pattern is _IN_WORDS else ""
            if power and "^" not in power:
                power = "^" + power.strip()
            unit = _unit(re.sub(r"\\[a-zA-Z]+\s*\{?|\}", " ", said) + power)
            return Quantity(match["value"].rstrip("~ "), unit)
    return Quantity(text, "")


def measure(text: str) -> tuple[str, Fraction] | None:
    r"""The dimension and the size of a quantity whose unit is a multiple of another, such as
    `120 \text{ minutes}`, or of a sum of such ones, `2 \text{ hours } 30 \text{ minutes}`."""
    total, dimension, position = Fraction(0), "", 0
    for match in _COMPOUND.finditer(text):
        unit = _NAMES.get(_singular((match[2] or match[3]).lower()))
        if match.start() != position or unit not in _MEASURES or match[1].count(".") > 1:
            return None
        name, size = _MEASURES[unit]
        if dimension not in ("", name) or match[1] == ".":
            return None
        total, dimension, position = total + Fraction(match[1]) * size, name, match.end()
    return (dimension, total) if dimension and position == len(text) else None


def _are_unit(words: list[str], apart: bool) -> bool:
    """Whether plain words behind a value are its unit rather than variables."""
    if not apart and len(words[0]) == 1:
        return False
    known = [
        word in _BEFORE or word in _BEHIND or word == "per" or _singular(word) in _NAMES
        for word in words
    ]
    return all(known) or any(len(word) > (2 if apart else 3) for word in words)


def _unit(text: str) -> str:
    """The canonical name: each base with its power, `mile/h` and `miles per hour` alike."""
    powers: dict[str, int] = {}
    sign, before, last = 1, 1, ""
    text = text.replace(".", "")
    for slash, word, exponent in _PART.findall(text):
        small = word.lower()
        if slash:
            sign = -1
        elif small in _BEFORE:
            before = _BEFORE[small]
        elif small in _BEHIND:
            powers[last] = powers.get(last, 0) * _BEHIND[small]
        elif small in _FILLERS.split() and powers:
            continue
        else:
            names = _COMPOSED.get(small)
            name = _SYMBOLS.get(word) or _NAMES.get(_singular(small), _singular(small))
            if names:
                powers[names[0]], powers[names[1]] = 1, -1
                continue
            power = sign * before * int(exponent or 1)
            powers[name] = powers.get(name, 0) + power
            sign, before, last = 1, 1, name
    return " ".join(
        name + (f"^{power}" if power != 1 else "")
        for name, power in sorted(powers.items(), key=lambda item: (-item[1], item[0]))
    )


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 2 and word not in _NAMES else word
