r"""What is said in words: dates, times, number words, conditions, sentences that end in a value.

All of it is read off the text, in time linear in it.
"""

import functools
import re
from fractions import Fraction

_MONTHS = "january february march april may june july august september october november december"
_MONTH = {name: i + 1 for i, name in enumerate(_MONTHS.split())}
_MONTH |= {name[:3]: i for name, i in _MONTH.items()} | {"sept": 9}
MONTHS = frozenset(_MONTH) - {"may", "mar"}  # words that only a date has
_ANY_MONTH = "|".join(sorted(_MONTH, key=len, reverse=True))
_DATE = re.compile(
    rf"(?:(?P<m>{_ANY_MONTH})\.?\s+(?P<d>[0-9]{{1,2}})(?:st|nd|rd|th)?"
    rf"|(?:the\s+)?(?P<d2>[0-9]{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m2>{_ANY_MONTH})\.?)"
    r"(?:\s*,?\s+(?P<y>[0-9]{4}))?"
)
_CLOCK = re.compile(
    r"(?P<h>[0-9]{1,2}):(?P<m>[0-5][0-9])\s*(?P<half>[ap]\.?\s?m\.?|noon|midnight)?(?:\s+o'clock)?"
)
_HOUR = re.compile(r"(?P<h>[0-9]{1,2})\s*(?P<half>[ap]\.?\s?m\.?)")
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORD_VALUES = {word: i for i, word in enumerate(_ONES.split())} | {
    word: 10 * i for i, word in enumerate(_TENS.split(), 2)
}
MULTIPLES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "万": 10**4,
    "萬": 10**4,
    "亿": 10**8,
    "億": 10**8,
}
_HAN_ONES = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_HAN_TENS = {"十": 10, "百": 100, "千": 1000}
HAN_DIGITS = "".join((*_HAN_ONES, *_HAN_TENS))
_MULTIPLE = re.compile(rf"(?P<n>-?[0-9][0-9,.]*)\s*(?P<by>{'|'.join(MULTIPLES)})s?")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")

# A text that a condition follows, or a reason: the value is what stands before.
_CONDITION = re.compile(
    r"(?:[,;]|\\q?quad(?![a-zA-Z])|\\[ ,;]|\s)+"
    r"(?:\(?\s*\\text\s*\{[\s,(]*(?:for|where|with|when|if|since|because|as|given)\b"
    r"|\(?\s*\\forall(?![a-zA-Z])"
    r"|\(?\s*(?:for (?:all|any|every|some|each|integers?)|where|since|because)\b"
    r")"
)
_DOMAIN = re.compile(
    r"(?:[,;]|\\q?quad(?![a-zA-Z])|\\[ ,;]|\s(?=\s*\())\s*\(?\s*"
    r"[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\\in\s*\\mathbb\s*\{?\s*[ZNQRC]"
)
_REASON = re.compile(r"\\text\s*\{\s*[,(]\s*(?:for|where|with|when|if|since|because|as|given)\b")
_RANGE = re.compile(r",\s*\(?\s*([a-zA-Z])\s*(?:\\geq?|>|>=|≥)\s*[0-9]+\)?")

# "the sum is 5": the value is behind the last of these, unless the sentence denies or wavers.
_SAYS = re.compile(
    r"\b(?:is|are|equals|equal to|was|were|be|gives?|get|answer:|answer|obtain)\b[\s:=]*"
    r"(?:exactly|equal to|approximately|about|just|only|given by)?[\s:]*",
    re.IGNORECASE,
)
WAVERS = re.compile(
    r"\b(?:not|no|never|either|neither|nor|if|unless|less|more|than|least|most|over|under|above|"
    r"below|between|minus|negative|half|twice|thrice|double|triple|percent|maybe|perhaps|wrong|but|"
    r"except|without|within|around|nearly|almost|odd|even|times|plus|square|squared|cube|cubed|"
    r"root|factorial|wait|incorrect|suppose|supposing|assume|assuming|whether|contradiction)\b|n't\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r",\s+(?:which|where|when|attained|achieved|reached|obtained)\b.*", re.DOTALL)
_COUNTED = re.compile(  # fell by 20 percent: words, one number, and what it counts
    r"(?P<words>[a-zA-Z][a-zA-Z ,']*\s)(?P<value>[$]?[0-9][0-9,.]*\s*(?:%|[a-zA-Z][a-zA-Z/ ]*))"
)
_LEADING = re.compile(r"\\text\s*\{([^{}0-9]*[a-zA-Z]{2}[^{}0-9]*)\}\s*(?=[0-9$\\(\[.-])")
_HAN_LEADING = re.compile("^(?:一共|总共|共有|共|大约|约|等于|得到|就是|是|为|有)+\\s*(?=[-0-9])")


@functools.lru_cache(maxsize=4096)  # asked several times of the same text
def plain(text: str) -> str:
    r"""The text without `\text{}`, without case, blanks single."""
    return " ".join(_TEXT.sub(r" \1 ", text).casefold().split()).strip(" .")


def date(text: str) -> tuple[int, int, int | None] | None:
    """(month, day, year if said) of a date in words: `March 5th, 2020`, `5 March`."""
    match = _DATE.fullmatch(plain(text)) if len(text) < 60 else None
    if match is None:
        return None
    year = int(match["y"]) if match["y"] else None
    return _MONTH[match["m"] or match["m2"]], int(match["d"] or match["d2"]), year


def clock(text: str) -> tuple[int, int, bool] | None:
    """(hour of 24, minute, whether a.m. or p.m. is said) of a time of day."""
    short = plain(text) if len(text) < 40 else ""
    match = _CLOCK.fullmatch(short) or _HOUR.fullmatch(short)
    if match is None:
        return None
    hour, minute = int(match["h"]), int(match.groupdict().get("m") or 0)
    half = (match["half"] or "")[:1]
    if hour > 23 or (half and not 1 <= hour <= 12):
        return None
    if half in ("a", "p"):
        hour = hour % 12 + 12 * (half == "p")
    return hour, minute, bool(half)


def same_time(a: tuple[int, int, bool], b: tuple[int, int, bool]) -> bool:
    """Whether two times are one; where one leaves out a.m. or p.m., on a dial of 12 hours."""
    on_the_dial = a[2] != b[2] and (b if a[2] else a)[0] <= 12
    hours = (a[0] % 12, b[0] % 12) if on_the_dial else (a[0], b[0])
    return hours[0] == hours[1] and a[1] == b[1]


def spelled_number(text: str) -> Fraction | None:
    r"""The value of number words (`twelve`, `twenty-one`), or of `3 million`, `1.5万`."""
    words = plain(text)
    if len(words) > 60:
        return None
    match = _MULTIPLE.fullmatch(words)
    if match:
        digits = match["n"].replace(",", "").rstrip(".")
        return Fraction(digits) * MULTIPLES[match["by"]] if digits.count(".") <= 1 else None
    han = han_number(words) if not words.isascii() else None
    if han is not None:
        return Fraction(han)
    total = current = 0
    tokens = [w for w in re.split(r"[\s-]+", words) if w != "and"]
    if not tokens:
        return None
    for token in tokens:
        if token in _WORD_VALUES:
            value = _WORD_VALUES[token]
            if current % 100 and not (current % 10 == 0 and current % 100 >= 20 and value < 10):
                return None
            current += value
        elif token == "hundred" and 0 < current < 10:
            current *= 100
        elif token in ("thousand", "million") and current:
            total, current = total + current * MULTIPLES[token], 0
        else:
            return None
    return Fraction(total + current)


def han_number(text: str) -> int | None:
    """The value below 10,000 of Chinese number words (三百零五), or of digits."""
    if text.isdecimal():
        return int(text) if len(text) < 10 else None
    total, digit = 0, None
    for i, c in enumerate(text):
        if c in _HAN_ONES:
            if digit:
                return None
            digit = _HAN_ONES[c]
        elif c in _HAN_TENS and (digit or (c == "十" and i == 0)):
            total, digit = total + (digit or 1) * _HAN_TENS[c], None
        else:
            return None
    return total + (digit or 0) if text else None


def unconditional(text: str) -> str:
    r"""The text without the condition or the reason behind its value: `2k\pi, k \in \mathbb{Z}`,
    `2x \text{ for all } x`, `5 \text{ (since } x > 0)`, and `a_n = 2n, n \geq 1` where the name
    speaks of n."""
    if r"\begin" in text:
        return text
    for pattern in (_REASON, _CONDITION, _DOMAIN):
        match = pattern.search(text)
        if match and text[: match.start()].strip(" ,;({") and "\\{" not in text[: match.start()]:
            text = text[: match.start()].rstrip(" ,;(")
    bound = _RANGE.search(text)
    if bound and bound.end() == len(text):
        before = text[: bound.start()]
        head = before.partition("=")[0]
        if "=" in before and re.search(rf"[_(]\{{?\s*{bound[1]}\b", head):
            return before
    return text


def spoken_value(text: str) -> str:
    r"""What a sentence, or words before a formula, call the value; else the text as it is:
    `The answer is 5`, `\text{Answer: } 5`, `\text{the year } 1999`."""
    whole = re.fullmatch(r"\\text\s*\{([^{}]*[0-9][^{}]*)\}", text)
    inner = whole[1].strip() if whole else text
    inner = _HAN_LEADING.sub("", inner)
    lead = _LEADING.match(text)
    if lead and not WAVERS.search(lead[1]) and _LEADING.sub("", text, count=1).strip():
        return _LEADING.sub("", text, count=1).strip()
    inner = _CLAUSE.sub("", inner)
    said = list(_SAYS.finditer(inner))
    if said and not WAVERS.search(_TEXT.sub(r" \1 ", inner[: said[-1].end()])):
        value = inner[said[-1].end() :].strip(" .:*}")
        words = re.findall(r"[a-zA-Z]{2,}", inner[: said[-1].start()])
        if value and (words or said[-1].start() == 0):
            return value
    counted = _COUNTED.fullmatch(inner)
    if counted and not WAVERS.search(counted["words"]):
        return counted["value"]
    return inner
