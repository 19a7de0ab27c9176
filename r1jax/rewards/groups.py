r"""The items of the lists, sets, tuples, intervals and matrices in a tidy text (spelling.py).

All of it is read off the text; nothing is evaluated.
"""

import re
from typing import NamedTuple


class Group(NamedTuple):
    """brackets: "()", "[)", "{}", ...; "" for a bare list; "union"; or "matrix" of so many
    columns, row by row. `name` is the variable of an inequality."""

    brackets: str
    items: tuple[str, ...]
    columns: int = 0
    name: str = ""

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("", "{}", "union")


_MATRIX = re.compile(
    r"\\begin\s*\{(?P<name>[pb]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\s*\{(?P=name)\}", re.DOTALL
)
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPEN = {"(": "(", "[": "[", "{": "{", r"\{": "{", r"\langle": "("}
_CLOSE = {")": ")", "]": "]", "}": "}", r"\}": "}", r"\rangle": ")"}

_AND = re.compile(
    r"\s*,?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*,?\s*"
)
_COMPARED = re.compile(r"(<|>|\\(?:leq|geq|lt|gt)(?![a-zA-Z]))")
_GREATER = {">": "<", r"\gt": "<", r"\geq": r"\leq"}


def group(text: str) -> Group | None:
    """The items of a tidy text that is a collection of some; None for anything else."""
    inner, brackets = inside(text)
    matrix = _MATRIX.fullmatch(text) or _MATRIX.fullmatch(inner)
    if matrix:
        rows = [
            row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", matrix[2]) if row.strip()
        ]
        if not rows or len({len(row) for row in rows}) > 1:
            return None
        return Group("matrix", tuple(cell.strip() for row in rows for cell in row), len(rows[0]))
    union = _split(text, r"\cup")
    if len(union) > 1:
        sets = [inside(part) for part in union]
        if all(kind == "{}" for _, kind in sets):  # of finite sets: their elements
            elements = dict.fromkeys(item for inner, _ in sets for item in _list(inner))
            return Group("{}", tuple(elements))
        return Group("union", union)
    if brackets == "[]" and inner.startswith("["):
        rows = [inside(row) for row in _split(inner, ",")]
        if rows and all(kind == "[]" for _, kind in rows):  # [[1,2],[3,4]]
            cells = [_list(row) for row, _ in rows]
            if len({len(row) for row in cells}) == 1:
                return Group("matrix", tuple(c for row in cells for c in row), len(cells[0]))
    items = _list(inner if brackets else text)
    if "" in items or (len(items) == 1 and brackets != "{}"):
        return None
    return Group(brackets, items)


def interval(text: str) -> Group | None:
    r"""The interval that a tidy inequality means, like `2 < x \leq 3` or `x > 2`; else None."""
    sides, signs = _COMPARED.split(text)[::2], _COMPARED.findall(text)
    sides = [side.strip() for side in sides]
    if signs and all(sign in _GREATER for sign in signs):
        sides, signs = sides[::-1], [_GREATER[sign] for sign in signs[::-1]]
    strict = [sign in ("<", r"\lt") for sign in signs]
    names = [bool(re.fullmatch(r"[a-zA-Z]|\\(?!infty|pi)[a-zA-Z]+", side)) for side in sides]
    if names == [False, True, False] and not set(signs) & set(_GREATER):
        brackets = ("(" if strict[0] else "[") + (")" if strict[1] else "]")
        return Group(brackets, (sides[0], sides[2]), name=sides[1])
    if names == [True, False]:
        return Group("()" if strict[0] else "(]", (r"-\infty", sides[1]), name=sides[0])
    if names == [False, True]:
        return Group("()" if strict[0] else "[)", (sides[0], r"\infty"), name=sides[1])
    return None


def _list(text: str) -> tuple[str, ...]:
    r"""The items that commas, "and" or "or" separate; `a \pm b` is two."""
    text = _AND.sub(", ", text).replace(";", ",")
    if r"\pm" not in text:
        text = text.replace(r"\mp", r"\pm")
    if re.search(r",\s", text):  # then a comma without a blank groups digits: 1,000, 2,000
        text = re.sub(r"(?<![0-9.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])", _without_commas, text)
    items: list[str] = []
    for item in _split(text, ","):
        signs = ("+", "-") if item.count(r"\pm") == 1 and r"\mp" not in item else ()
        items += [_sign(item, sign) for sign in signs] or [item]
    return tuple(items)


def _without_commas(match: re.Match) -> str:
    return match[0].replace(",", "")


def _sign(item: str, sign: str) -> str:
    before, _, after = item.partition(r"\pm")
    return f"{before.strip()}{sign if before.strip() or sign == '-' else ''}{after.strip()}"


def _split(text: str, separator: str) -> tuple[str, ...]:
    """Where the separator stands outside of all brackets."""
    depth, start, pieces = 0, 0, []
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPEN) - (token[0] in _CLOSE)
        if depth == 0 and token[0] == separator:
            pieces.append(text[start : token.start()].strip())
            start = token.end()
    return (*pieces, text[start:].strip())


def inside(text: str) -> tuple[str, str]:
    """The inside and the kind of the one pair of brackets around it all; ("", "") if none."""
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) < 3 or tokens[0][0] not in _OPEN or tokens[-1][0] not in _CLOSE:
        return "", ""
    depth = 0
    for token in tokens[:-1]:
        depth += (token[0] in _OPEN) - (token[0] in _CLOSE)
        if depth == 0:
            return "", ""
    brackets = _OPEN[tokens[0][0]] + _CLOSE[tokens[-1][0]]
    return text[tokens[0].end() : tokens[-1].start()].strip(), brackets
