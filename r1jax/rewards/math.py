r"""Is a mathematical answer equal to the reference?

From certain to approximate: words, rational numbers, and the structure of both texts (groups.py,
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
- A list or a set may be in any order, unless the question asks for one ("from least to greatest",
  asked.py); a tuple, interval or matrix may not, and its brackets
  count: (1,2] is not [1,2]. A bare list may stand for a set, and in order for a tuple; a column
  or row for a tuple.
- A formula copied from the question (`17 \cdot 23`, the polynomial to be factored) is no answer,
  even of the right value, unless the reference is written so; a number or an equation may be.
- An integer to be chosen (`n \in \mathbb{Z}`) may have another name.
- The base of a numeral may be left out. Another base is wrong.
- A decimal stands for a number that it rounds if it has SIGNIFICANT digits.
- Words are equal as words, without case; `none`, `no solution` and the empty set are one, so are
  `DNE` and "does not exist"; number words are numbers, Chinese ones (`四分之三`) too. A letter in
  brackets is one without. Lists of words may be in any order. A date is its day; a time without
  a.m. or p.m. fits either.
- `(B) 6` is (B), and is 6; where both sides have a letter, it decides.
- A set, and a list of tuples, has no repeats; in a bare list of numbers they count.
- `{x | x > 3}`, `x > 3` and the interval are one, so are `|x| < 2` and -2 < x < 2, `C(10,3)`
  and the binomial; `[[1,2],[3,4]]` is a matrix. `i + 2j + 3k` is not read as a vector.
"""

import re

from r1jax.data.boxed import last_boxed
from r1jax.rewards.equal import OPTION, collection, equal
from r1jax.rewards.equal_words import single_words
from r1jax.rewards.names import is_combined, is_name, sides
from r1jax.rewards.prose import clock, date, spoken_value
from r1jax.rewards.rational import MAX_CHARS, NUMERAL, compare_numbers, rational
from r1jax.rewards.spelling import tidy
from r1jax.rewards.symbolic import parses
from r1jax.rewards.units import measure, quantity

_PARAMETER = re.compile(
    r"(?<![\\a-zA-Z])([a-zA-Z])\s*(?:\\in|∈)\s*(?:\\mathbb\s*\{?\s*Z|ℤ)"
    r"|\bintegers?\}?\s*\$?([a-zA-Z])(?![a-zA-Z])"
)
_TOWER = re.compile(r"\^\s*\{?\s*[0-9]+\s*\^\s*\{?\s*[0-9]+\s*\^")
MAX_DEPTH = 40  # of brackets; the parser's time grows fast with it


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
    got, wanted = tidy(_same_parameter(answer, reference)), tidy(reference)
    if _hostile(got):
        return None
    verdict = equal(got, wanted)
    if verdict:
        return True
    said = spoken_value(got)  # a sentence for its value
    return equal(tidy(said), wanted) if said != got else verdict


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
    if compare_numbers(text, text) or single_words(text) or date(text) or clock(text):
        return None
    if OPTION.fullmatch(text) or rational(text) is not None or text == r"\ldots":
        return None
    named = sides(text)
    if len(named) > 1 and (is_name(named[0]) or is_combined(named[0])):
        return _unreadable(named[-1])
    items = collection(text)
    if items:
        return next((why for item in items.items if (why := _unreadable(item))), None)
    held = quantity(text)
    if held.unit:
        return _unreadable(held.value)
    if ":" in text or r"\text" in text or NUMERAL.fullmatch(text) or measure(text):
        return None  # compared as texts
    return None if parses(text) else f"{text!r} is no formula, number or word that can be parsed"


def _same_parameter(answer: str, reference: str) -> str:
    r"""The answer with the reference's name for an integer to be chosen, `n \in \mathbb{Z}`."""
    names = _PARAMETER.findall(answer), _PARAMETER.findall(reference)
    if len(names[0]) != 1 or len(names[1]) != 1 or names[0] == names[1]:
        return answer
    mine, theirs = ("".join(found[0]) for found in names)
    if theirs in re.findall(r"\\[a-zA-Z]+|[a-zA-Z]", answer):
        return answer
    return re.sub(rf"(?<![\\a-zA-Z]){mine}(?![a-zA-Z])", theirs, answer)


def _hostile(text: str) -> bool:
    """Whether brackets or powers are stacked so that parsing or evaluating would take for ever."""
    if text.count("(") + text.count("[") + text.count("{") <= MAX_DEPTH:
        return bool(_TOWER.search(text))
    depth = deepest = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH or bool(_TOWER.search(text))
