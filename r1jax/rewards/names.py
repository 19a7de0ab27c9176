r"""What stands left of `=`: whether it only names the value, and several names at once.

`f(3) = 7`, `\angle ABC = 40`, `(r, \theta) = (3, 2)`, `a=1, b=2`: the value is on the right.
"""

import re

from r1jax.rewards.groups import group

_NAME = re.compile(  # (x, y); x, \theta, a_1, f(x), f(-1), f'(x), f^{-1}(x); Area of the base
    r"\([a-zA-Z](?:\s*,\s*[a-zA-Z])*\)"
    r"|(?:[a-zA-Z]|\\(?!infty|pi(?![a-zA-Z])|frac|sqrt|log|ln)[a-zA-Z]+)'*"
    r"(?:_\{?\\?\w+\}?)?(?:\^\{?-1\}?|'+)?(?:\s*[(\[][^()\[\]]*[)\]])?"
    r"|[a-zA-Z][a-zA-Z ]{2,40}|\\text\s*\{[^{}]*\}|d[a-z]"
)
_LOOK = re.compile(  # around a name, changes only its look
    r"\\(?:vec|overline|overrightarrow|hat|bar|widehat|tilde|underline|mathbb|mathcal|mathbf|text)"
    r"\s*\{\s*([\w ']+)\s*\}|\\(?:vec|hat|bar|mathbb)\s*([a-zA-Z])"
)
_MEANT = re.compile(  # an angle, a length, a triangle's area, a sine, a probability
    r"(?:m\s*)?\\(?:angle|triangle)\s*[A-Za-z]{1,3}|\|?\s*[A-Z]{1,4}\s*\|?|\[[A-Z]{3,6}\]"
    r"|\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?-?[0-9]\}?)?\s*(?:\\angle)?\s*\(?\s*(?:[A-Za-z]{1,3}|\\[a-z]+)\s*\)?"
    r"|\|\s*(?:[zuvw]|\\[a-z]+\s*[a-z]?)\s*\||\\(?:max|min|det|deg|dim|arg|gcd|sup|inf)(?![a-zA-Z]).*"
    r"|\\(?:lim|sum|prod|int)(?![a-zA-Z]).*"
    r"|(?:P|E|Pr|Var)\s*[(\[].*[)\]]|(?:S|V|A)_\{?[\\a-zA-Z0-9 ]+\}?"
    r"|[a-zA-Z](?:_\{?\w+\}?)?\s*/\s*[a-zA-Z](?:_\{?\w+\}?)?|d[a-z]/d[a-z]"
)
_QUOTIENT = re.compile(r"\\frac\s*\{([a-zA-Z_0-9\\' ]+)\}\s*\{([a-zA-Z_0-9\\' ]+)\}")
_TUPLE_OF_NAMES = re.compile(r"[(\[]\s*([^()\[\]]*)\s*[)\]]")
_POWERS_SUM = re.compile(  # x^2 + y^2, a \cdot b, xy: of at least two names, without numbers
    r"[a-zA-Z](?:_\{?\w\}?)?(?:\^\{?[0-9]\}?)?"
    r"(?:\s*(?:[+-]|\\cdot|\\times|\*)?\s*[a-zA-Z](?:_\{?\w\}?)?(?:\^\{?[0-9]\}?)?){1,5}"
)
_EACH = re.compile(r"[a-zA-Z](?:_\{?\w\}?)?")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)|:=|\\in(?![a-zA-Z])")
_COLON = re.compile(r"([a-zA-Z]|\\[a-z]+):\s*(?=[-0-9\\])")  # x: 5
_BLANKS = re.compile(
    r"(\\[a-zA-Z]+ (?=[a-zA-Z])|(?<=[0-9])\s+(?=[0-9])|(?<=,)\s+(?=[0-9]{3}(?![0-9])))|\s+"
)


def sides(text: str) -> list[str]:
    r"""What the `=` (or `\in`) outside of brackets separate; `x: 5` counts as `x = 5`."""
    text = _COLON.sub(r"\1 = ", text) if _COLON.match(text) else text
    pieces, depth, start = [], 0, 0
    for token in re.finditer(r"[(\[{]|[)\]}]|" + _EQUALS.pattern, text):
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if depth <= 0 and token[0] not in "()[]{}":
            pieces.append(text[start : token.start()].strip())
            start = token.end()
    return [*pieces, text[start:].strip()]


def is_name(text: str) -> bool:
    r"""Whether a side of `=` only names the value: `x`, `f(3)`, `\angle ABC`, `P(X = 2)`."""
    for _ in range(2):
        text = _LOOK.sub(lambda match: match[1] or match[2], text).strip()
    if _NAME.fullmatch(text) or _MEANT.fullmatch(text):
        return True
    if ":" in text:  # a ratio of names
        return all(is_name(part) for part in text.split(":") if ":" not in part)
    quotient = _QUOTIENT.fullmatch(text)
    if quotient:
        return all(
            _NAME.fullmatch(q.strip()) or _MEANT.fullmatch(q.strip()) for q in quotient.groups()
        )
    several = _TUPLE_OF_NAMES.fullmatch(text)
    return several is not None and all(
        _NAME.fullmatch(name.strip()) for name in several[1].split(",")
    )


def is_combined(text: str) -> bool:
    """Whether it is a sum or product of two names or more, without numbers, as AIME asks for."""
    return bool(_POWERS_SUM.fullmatch(text)) and len(set(_EACH.findall(text))) > 1


Row = tuple[tuple[str, str], ...]  # name and value of each


def assigned(text: str) -> tuple[Row, ...] | None:
    """The rows of names and values in `a=1, b=2`, `(a,b)=(1,2)`, `p=5,q=2; p=7,q=2`.

    None for anything else, in particular for one name that has several values.
    """
    if "=" not in text:
        return None
    ends = sides(text)
    if len(ends) == 2 and ends[0][:1] in "([" and is_name(ends[0]):
        names, values = group(ends[0]), group(ends[1])
        if names and values and len(names.items) == len(values.items) and values.ordered:
            return (tuple(zip(names.items, values.items, strict=True)),)
        return None
    items = group(text)
    if items is None or items.brackets not in ("", "{}", "()"):
        return None
    pairs = [sides(item) for item in items.items]
    if any(len(pair) != 2 or not is_name(pair[0]) for pair in pairs):
        return None
    names_of = [squeeze(pair[0]) for pair in pairs]
    width = names_of.index(names_of[0], 1) if names_of.count(names_of[0]) > 1 else len(pairs)
    if width < 2 or len(pairs) % width:
        return None
    rows = [
        tuple((squeeze(n), v) for n, v in pairs[i : i + width]) for i in range(0, len(pairs), width)
    ]
    if any({n for n, _ in row} != set(names_of[:width]) or len(dict(row)) < width for row in rows):
        return None
    return tuple(rows)


def squeeze(text: str) -> str:
    r"""Without `\text{}`, and without blanks but for those that end a command or a number."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    return _BLANKS.sub(r"\1", text)
