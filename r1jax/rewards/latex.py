r"""One spelling for LaTeX that means the same, and the items of the lists, sets, tuples, intervals
and matrices in it. All of it is read off the text; nothing is evaluated.
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from r1jax.rewards.prose import unconditional

_SYMBOLS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "±": r"\pm ",
        "∪": r"\cup ",
        "∈": r"\in ",
        "≤": r"\leq ",
        "≥": r"\geq ",
        "≠": r"\neq ",
        "≈": r"\approx ",
        "°": r"^\circ",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "¢": r"\text{cents}",
        "、": ", ",
        "。": ".",
        "…": r"\ldots ",
        "⋯": r"\ldots ",
        "⋅": r"\cdot ",
        "∙": r"\cdot ",
        "∠": r"\angle ",
        "△": r"\triangle ",
        "⇒": r"\implies ",
        "∴": "",
        "∅": r"\emptyset ",
        "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}",
        "∀": r"\forall ",
        "∖": r"\setminus ",
        "∩": r"\cap ",
        "′": "'",
        "’": "'",
        "∶": ":",
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
        "Ω": r"\Omega ",
        "θ": r"\theta ",
        "α": r"\alpha ",
        "β": r"\beta ",
        "γ": r"\gamma ",
        "λ": r"\lambda ",
        "μ": r"\mu ",
        "φ": r"\phi ",
        "ω": r"\omega ",
        "σ": r"\sigma ",
        "\u00a0": " ",
        "~": " ",
    }
    | {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F) if c != 0xFF04}  # full width
)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_SCRIPTS = re.compile("[⁰¹²³⁴-⁹⁻⁺ⁿ]+|[₀-₉]+")


def _matrix_name(match: re.Match) -> str:
    """A determinant's bars are no matrix; the other brackets are."""
    return match[0] if "vmatrix" in match[0] else rf"\{match[1]}{{pmatrix}}"


_RULES: list[tuple[str, str | Callable[[re.Match], str]]] = [
    # what only changes the look
    (r"\\(?:left|right|(?:display|text)style|limits|[bB]ig{1,2}[lr]?)(?![a-zA-Z])\s*", ""),
    (r"(?<![\w)])\*\*([^*]+)\*\*", r" \1 "),
    (r"</?(?:b|i|em|u|strong|span)>|`", ""),
    (r"\\[hv]space\s*\*?\s*\{[^{}]*\}|\\[hv]?phantom\s*\{[^{}]*\}", " "),
    (r"\\textcolor\s*\{\w*\}\s*\{([^{}]*)\}", r"\1"),
    (r"\\textcolor\s*\{\w*\}", ""),
    (r"\\(begin|end)\s*\{(?:small|B|v)matrix\}", _matrix_name),
    (r"^\s*(?:\\(?:approx|simeq|sim)(?![a-zA-Z])|(?:approximately|approx\.?|about|≈)\s)", ""),
    (r"^.*\\(?:implies|Rightarrow|Longrightarrow|therefore)(?![a-zA-Z])", ""),
    # one word for each thing
    (r"\\[lcd]?dots[a-z]?(?![a-zA-Z])|\.\.\.", r"\\ldots "),
    (r"\\(?:mathrm|text|operatorname)\s*\{([eid])\}", r"\1"),
    (r"\\operatorname\s*\{(arc)?(sin|cos|tan|log|ln|gcd|lcm)\}", r"\\\1\2 "),
    (r"\\&|(?<=^[0-9])\s*&\s*(?=[0-9]$)", " and "),
    (r"(?<=[^\W_])\s*[和与或及]\s*(?=\S)", ", "),
    (r"(?<=[0-9)\]}])\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(?=[0-9(\\])", ":"),
    (r"(?<=[0-9])\s*\^?\s*\{?\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
    (r"(?<=[0-9])\s*\^?\s*\{?\s*\\mathrm\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
    (r"^(-?[0-9,]+)\s*\^?\s*\{?(?:st|nd|rd|th)\}?$", r"\1"),
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    *[(r"(\\(?:mathrm|text)\s*\{[^{}]*)\^\s*\{\s*(-?[0-9])\s*\}", r"\1^\2")] * 2,
    (
        r"^([0-9]+),?\s*(?:\\(?:text|mathrm)\s*\{)?\s*(?:R|r|rem|remainder)\.?(?:\s*\}\s*|\s+)([0-9]+)$",
        r"\\text{\1 R \2}",
    ),
    (r"(?<=[0-9])(?:\s|\\[,; ])*\\Omega\s*$", r" \\text{ohm}"),
    (r"^both\s+(?=[0-9\\-])", ""),
    (r"(?<=[0-9]),?(?:\\!|\\,|\\ |\{,\})\s*(?=[0-9]{3}(?![0-9]))", ","),  # 10,\!080
    (r"\\!", ""),
    (r"√\s*([0-9]+|[a-zA-Z])", r"\\sqrt{\1}"),
    (r"√", "sqrt"),
    (r"(?<![\\a-zA-Z{])(pi|(?:arc)?(?:sin|cos|tan)|cot|csc|log|ln)(?![a-zA-Z])", r"\\\1 "),
    (r"\b([ap])\.\s?m\b\.?", r"\1m"),
    (r"^(?:\\text\s*\{)?\s*(?:the set of )?all real(?: number)?s\s*\}?$", r"\\mathbb{R}"),
    (r"\\mathbb\s*\{?\s*R\s*\}?(?!\s*\^)", r"(-\\infty, \\infty)"),
    (r"(?<![\\a-zA-Z])inf(?:inity)?(?![a-zA-Z])", r"\\infty "),
    (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    (r"\\varnothing", r"\\emptyset"),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])", " "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\(?:mbox|hbox|textbf|textit|textrm|textnormal|mathrm|rm)\s*\{", r"\\text{"),
    (r"\\(?:mathbf|mathit|boldsymbol|underline)\s*\{([^{}]*)\}|\\color\s*\{\w*\}", r"\1"),
    (r"\\frac\s*\\pi\s*(?=[0-9a-zA-Z{\\])", r"\\frac{\\pi}"),
    (r"\\(frac|binom)\s*([0-9a-zA-Z])\s*(?=[0-9a-zA-Z{\\])", r"\\\1{\2}"),
    (r"(\\(?:frac|binom)\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
    (r"(\\frac\s*\{[^{}]*\})\s*\\pi(?![a-zA-Z])", r"\1{\\pi}"),
    (r"\\sqrt\s*(\[[^\[\]]*\])?\s*([0-9a-zA-Z])", r"\\sqrt\1{\2}"),
    (r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2"),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![a-zA-Z])", r"^\\circ "),
    (r"\\%", "%"),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\le(?![a-zA-Z])", r"\\leq"),
    (r"\\ge(?![a-zA-Z])", r"\\geq"),
    (r"<=", r"\\leq "),
    (r">=", r"\\geq "),
    (r"^\s*=", ""),
]
_SPELLINGS = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]
_WRAPPED = re.compile(
    r"\$\$(?P<a>[^$]+)\$\$|\$(?P<b>(?:[^$\\]|\\.)+)\$|\\\((?P<c>(?:(?!\\\)).)+)\\\)"
    r"|\\\[(?P<d>(?:(?!\\\]).)+)\\\]",
    re.DOTALL,
)
_AND = re.compile(
    r"\s*,?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*,?\s*"
)


_ALIGNED = re.compile(
    r"\\(?:begin|end)\s*\{(?:align(?:ed|\*)?|gather(?:ed|\*)?|split|equation\*?)\}"
)
_BUILDER = re.compile(  # {x | x > 3}, {x \in R : x > 3}
    r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*)?(?:\\mid(?![a-zA-Z])|\||:)\s*(.*)\\\}"
)
_BOUNDED = re.compile(r"\|\s*([a-zA-Z])\s*\|\s*(<|\\leq)\s*([0-9.]+|\\frac\{[0-9]+\}\{[0-9]+\})")
_MINUTES = re.compile(r"([0-9]+)\^\\circ\s*([0-5]?[0-9])\s*(?:'|\^\{?\\prime\}?|\\text\{')")
_DOUBLE_FACTORIAL = re.compile(r"(?<![0-9.])([0-9]{1,2})!!(?!!)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")


def tidy(text: str) -> str:
    """The text in one spelling; a formula that `$` or a bracket marks in a sentence, alone."""
    text = text.strip().strip("*").strip()
    text = _formula(text.rstrip(".").rstrip())
    text = _SCRIPTS.sub(_script, text).translate(_SYMBOLS)
    if _ALIGNED.search(text):
        text = re.sub(r"\\\\(?:\[[^\]]*\])?\s*(?!\s*(?:&\s*)?=)", ", ", _ALIGNED.sub("", text))
        text = text.replace(r"\\", " ").replace("&", "").strip(" ,")
    text = unconditional(_BOX.sub("", text))
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split()).rstrip(".,;").rstrip()
    builder = _BUILDER.fullmatch(text)
    text = builder[2].strip() if builder else text
    text = _BOUNDED.sub(r"-\3 \2 \1 \2 \3", text) if _BOUNDED.fullmatch(text) else text
    text = _MINUTES.sub(_degrees, text) if _MINUTES.fullmatch(text) else text
    text = _DOUBLE_FACTORIAL.sub(_double_factorial, text)
    while text.startswith("{") and _inside(text)[1] == "{}":
        text = _inside(text)[0]
    return text.replace(" ", "") if re.fullmatch(r"-?[0-9]{1,3}(?: [0-9]{3})+", text) else text


def _script(match: re.Match) -> str:
    scripts = _RAISED if match[0][0] in _RAISED else _LOWERED
    mark = "^" if scripts is _RAISED else "_"
    return f"{mark}{{{''.join(scripts[c] for c in match[0])}}}"


def _degrees(match: re.Match) -> str:
    value = int(match[1]) + Fraction(int(match[2]), 60)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}^\circ"


def _double_factorial(match: re.Match) -> str:
    return str(math.prod(range(int(match[1]), 0, -2)))


_FOR_ALL = re.compile(r"\s*,?\s*for (?:all|every|any|each)\b")


def _formula(text: str) -> str:
    """The last formula marked in a text with those that "and", "or" or a comma ties to it, and
    the words behind it, which may be its unit. The text itself if no formula is marked, or if it
    also says "not", or has numbers outside of them."""
    found = list(_WRAPPED.finditer(text))
    if not found:
        return text
    if _FOR_ALL.match(text, found[0].end()):
        return found[0][found[0].lastgroup or 0].strip()
    before, behind = text[: found[0].start()], text[found[-1].end() :]
    if re.match(r"\s*[.!]\s", behind) and not re.search("[0-9]", behind):
        behind = ""  # another sentence
    behind = behind.strip(" *.,")
    if re.search(r"\bnot\b|n't\b", text) or (behind and not re.fullmatch(r"[a-zA-Z ]+", behind)):
        return text
    first = len(found) - 1
    while first > 0:
        between = text[found[first - 1].end() : found[first].start()]
        if not re.fullmatch(r"\s*(?:,|,?\s*(?:and|or))\s*", between):
            break
        first -= 1
    if first == 0 and before.strip() and re.search("[0-9]", before):
        return text
    joined = ", ".join(match[match.lastgroup or 0].strip() for match in found[first:])
    return joined + (rf" \text{{{behind}}}" if behind else "")


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

_COMPARED = re.compile(r"(<|>|\\(?:leq|geq|lt|gt)(?![a-zA-Z]))")
_GREATER = {">": "<", r"\gt": "<", r"\geq": r"\leq"}


def group(text: str) -> Group | None:
    """The items of a tidy text that is a collection of some; None for anything else."""
    inner, brackets = _inside(text)
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
        sets = [_inside(part) for part in union]
        if all(kind == "{}" for _, kind in sets):  # of finite sets: their elements
            members = dict.fromkeys(item for inside, _ in sets for item in _list(inside))
            return Group("{}", tuple(members))
        return Group("union", union)
    if brackets == "[]" and inner.startswith("["):
        rows = [_inside(row) for row in _split(inner, ",")]
        if rows and all(kind == "[]" for _, kind in rows):  # [[1,2],[3,4]]
            cells = [_list(inside) for inside, _ in rows]
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


def _inside(text: str) -> tuple[str, str]:
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
