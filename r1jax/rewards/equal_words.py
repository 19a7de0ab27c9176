r"""Are two answers in words the same? Dates and times, number words, yes and no, names.

What is equal is said in math.py.
"""

import re

from r1jax.rewards.prose import clock, date, plain, same_time, spelled_number
from r1jax.rewards.rational import rational
from r1jax.rewards.units import quantity

_WORDS = re.compile(
    r"\\text\s*\{\s*(?P<a>[^{}\\]*[^\W\d_][^{}\\]*)\}|(?P<b>\(?[^\W\d_]+(?:[ .'-]+\w+)*\)?)"
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
_PROSE = re.compile(
    r"[^\\0-9]*(?:[a-zA-Z]{4}|[\u4e00-\u9fff])[^\\0-9]*|.*\\text.*"
)  # no product of variables


def equal_words(answer: str, gold: str) -> bool | None:
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
            s if s is not None else rational(quantity(t).value)
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
    words = single_words(answer), single_words(gold)
    if not words[1] or not (_PROSE.fullmatch(gold) or (words[0] and _PROSE.fullmatch(answer))):
        return None
    if words[0] == words[1]:
        return True
    lists = [re.split(r"\s*(?:,|;|\band\b|\bor\b)\s*", plain(t)) for t in (answer, gold)]
    lists = [sorted(item for item in items if item) for items in lists]
    ways = [bool(re.search(r"\bor\b", plain(t))) for t in (answer, gold)]  # "or" is no "and"
    return len(lists[0]) > 1 and lists[0] == lists[1] and ways[0] == ways[1]


def single_words(text: str) -> str | None:
    match = _WORDS.fullmatch(text)
    if match is None:
        return None
    words = (match["a"] or match["b"]).strip("() ").casefold().replace(".", "").split()
    return " ".join(words[words[0] in ("a", "an", "the") and len(words) > 1 :])
