r"""One spelling for LaTeX that means the same. Read off the text; nothing is evaluated."""

import functools
import math
import re
from collections.abc import Callable
from fractions import Fraction

from r1jax.rewards.groups import inside
from r1jax.rewards.prose import HAN_DIGITS, han_number, unconditional

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


# One of the first words is in every text that the pattern matches: a text without is not searched.
_RULES: list[tuple[str, str, str | Callable[[re.Match], str]]] = [
    # what only changes the look
    (
        r"\left \right style \limits \big \Big",
        r"\\(?:left|right|(?:display|text)style|limits|[bB]ig{1,2}[lr]?)(?![a-zA-Z])\s*",
        "",
    ),
    ("**", r"(?<![\w)])\*\*([^*]+)\*\*", r" \1 "),
    ("< `", r"</?(?:b|i|em|u|strong|span)>|`", ""),
    ("space phantom", r"\\[hv]space\s*\*?\s*\{[^{}]*\}|\\[hv]?phantom\s*\{[^{}]*\}", " "),
    ("textcolor", r"\\textcolor\s*\{\w*\}\s*\{([^{}]*)\}", r"\1"),
    ("textcolor", r"\\textcolor\s*\{\w*\}", ""),
    ("matrix", r"\\(begin|end)\s*\{(?:small|B|v)matrix\}", _matrix_name),
    (
        "approx sim about ≈",
        r"^\s*(?:\\(?:approx|simeq|sim)(?![a-zA-Z])|(?:approximately|approx\.?|about|≈)\s)",
        "",
    ),
    (
        "implies ightarrow therefore",
        r"^.*\\(?:implies|Rightarrow|Longrightarrow|therefore)(?![a-zA-Z])",
        "",
    ),
    # one word for each thing
    ("dots ...", r"\\[lcd]?dots[a-z]?(?![a-zA-Z])|\.\.\.", r"\\ldots "),
    ("{e} {i} {d}", r"\\(?:mathrm|text|operatorname)\s*\{([eid])\}", r"\1"),
    ("operatorname", r"\\operatorname\s*\{(arc)?(sin|cos|tan|log|ln|gcd|lcm)\}", r"\\\1\2 "),
    ("&", r"\\&|(?<=^[0-9])\s*&\s*(?=[0-9]$)", " and "),
    ("和 与 或 及", r"(?<=[^\W_])\s*[和与或及]\s*(?=\S)", ", "),
    ("to", r"(?<=[0-9)\]}])\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(?=[0-9(\\])", ":"),
    (r"\text", r"(?<=[0-9])\s*\^?\s*\{?\s*\\text\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
    (r"\mathrm", r"(?<=[0-9])\s*\^?\s*\{?\s*\\mathrm\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
    ("st nd rd th", r"^(-?[0-9,]+)\s*\^?\s*\{?(?:st|nd|rd|th)\}?$", r"\1"),
    ("sqrt", r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    *[("^", r"(\\(?:mathrm|text)\s*\{[^{}]*)\^\s*\{\s*(-?[0-9])\s*\}", r"\1^\2")] * 2,
    (
        "R r",
        r"^([0-9]+),?\s*(?:\\(?:text|mathrm)\s*\{)?\s*(?:R|r|rem|remainder)\.?(?:\s*\}\s*|\s+)([0-9]+)$",
        r"\\text{\1 R \2}",
    ),
    ("Omega", r"(?<=[0-9])(?:\s|\\[,; ])*\\Omega\s*$", r" \\text{ohm}"),
    ("both", r"^both\s+(?=[0-9\\-])", ""),
    (r"\ {,}", r"(?<=[0-9]),?(?:\\!|\\,|\\ |\{,\})\s*(?=[0-9]{3}(?![0-9]))", ","),  # 10,\!080
    (r"\!", r"\\!", ""),
    ("{:} {;} {=} {,}", r"\{([:;=,])\}", r"\1"),
    ("per", r"\bper\s?cent\b", "percent"),
    ("√", r"√\s*([0-9]+|[a-zA-Z])", r"\\sqrt{\1}"),
    ("√", r"√", "sqrt"),
    (
        "pi sin cos tan cot csc log ln",
        r"(?<![\\a-zA-Z{])(pi|(?:arc)?(?:sin|cos|tan)|cot|csc|log|ln)(?![a-zA-Z])",
        r"\\\1 ",
    ),
    (".", r"\b([ap])\.\s?m\b\.?", r"\1m"),
    ("all", r"^(?:\\text\s*\{)?\s*(?:the set of )?all real(?: number)?s\s*\}?$", r"\\mathbb{R}"),
    ("mathbb", r"\\mathbb\s*\{?\s*R\s*\}?(?!\s*\^)", r"(-\\infty, \\infty)"),
    ("inf", r"(?<![\\a-zA-Z])inf(?:inity)?(?![a-zA-Z])", r"\\infty "),
    ("U", r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    ("varnothing", r"\\varnothing", r"\\emptyset"),
    ("\\", r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])", " "),
    ("frac", r"\\[dtc]frac", r"\\frac"),
    ("box text rm", r"\\(?:mbox|hbox|textbf|textit|textrm|textnormal|mathrm|rm)\s*\{", r"\\text{"),
    (
        "math bold underline color",
        r"\\(?:mathbf|mathit|boldsymbol|underline)\s*\{([^{}]*)\}|\\color\s*\{\w*\}",
        r"\1",
    ),
    ("frac", r"\\frac\s*\\pi\s*(?=[0-9a-zA-Z{\\])", r"\\frac{\\pi}"),
    ("frac binom", r"\\(frac|binom)\s*([0-9a-zA-Z])\s*(?=[0-9a-zA-Z{\\])", r"\\\1{\2}"),
    ("frac binom", r"(\\(?:frac|binom)\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
    ("frac", r"(\\frac\s*\{[^{}]*\})\s*\\pi(?![a-zA-Z])", r"\1{\\pi}"),
    ("sqrt", r"\\sqrt\s*(\[[^\[\]]*\])?\s*([0-9a-zA-Z])", r"\\sqrt\1{\2}"),
    ("{", r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2"),
    ("circ degree", r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![a-zA-Z])", r"^\\circ "),
    (r"\%", r"\\%", "%"),
    ("lbrace", r"\\lbrace(?![a-zA-Z])", r"\\{"),
    ("rbrace", r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\le", r"\\le(?![a-zA-Z])", r"\\leq"),
    (r"\ge", r"\\ge(?![a-zA-Z])", r"\\geq"),
    ("<=", r"<=", r"\\leq "),
    (">=", r">=", r"\\geq "),
    ("=", r"^\s*=", ""),
]
_SPELLINGS = [(words.split(), re.compile(pattern), new) for words, pattern, new in _RULES]
_WRAPPED = re.compile(
    r"\$\$(?P<a>[^$]+)\$\$|\$(?P<b>(?:[^$\\]|\\.)+)\$|\\\((?P<c>(?:(?!\\\)).)+)\\\)"
    r"|\\\[(?P<d>(?:(?!\\\]).)+)\\\]",
    re.DOTALL,
)


_ALIGNED = re.compile(
    r"\\(?:begin|end)\s*\{(?:align(?:ed|\*)?|gather(?:ed|\*)?|split|equation\*?)\}"
)
_SYSTEM = re.compile(  # a brace before rows, each of which is to hold
    r"(?:\\left)?(?:\\\{|\.)?\s*\\begin\s*\{(?P<name>cases|array)\}(?:\{[lcr]+\})?(?P<rows>[^&]*)"
    r"\\end\s*\{(?P=name)\}\s*(?:\\right\s*\.)?"
)
_PICTURES = re.compile(  # behind an answer, but for those that cross it out
    "[\\s\u2600-\u2716\u2719-\u274b\u274d-\u27bf\ufe0f\U0001f300-\U0001faff]+$"
)
_HAN_FRACTION = re.compile(f"([{HAN_DIGITS}0-9]+)分之([{HAN_DIGITS}0-9]+)")  # 四分之三
_BUILDER = re.compile(  # {x | x > 3}, {x \in R : x > 3}
    r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*)?(?:\\mid(?![a-zA-Z])|\||:)\s*(.*)\\\}"
)
_BOUNDED = re.compile(r"\|\s*([a-zA-Z])\s*\|\s*(<|\\leq)\s*([0-9.]+|\\frac\{[0-9]+\}\{[0-9]+\})")
_MINUTES = re.compile(r"([0-9]+)\^\\circ\s*([0-5]?[0-9])\s*(?:'|\^\{?\\prime\}?|\\text\{')")
_DOUBLE_FACTORIAL = re.compile(r"(?<![0-9.])([0-9]{1,2})!!(?!!)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")


@functools.lru_cache(maxsize=4096)  # a group of replies shares its reference, and many an answer
def tidy(text: str) -> str:
    """The text in one spelling; a formula that `$` or a bracket marks in a sentence, alone."""
    text = text.strip().strip("*").strip()
    text = _formula(text.rstrip(".").rstrip())
    text = _SCRIPTS.sub(_script, text).translate(_SYMBOLS)
    text = _PICTURES.sub("", _HAN_FRACTION.sub(_fraction, text))
    if "{cases}" in text or "{array}" in text:
        text = _SYSTEM.sub(_assignments, text)
    if _ALIGNED.search(text):
        text = re.sub(r"\\\\(?:\[[^\]]*\])?\s*(?!\s*(?:&\s*)?=)", ", ", _ALIGNED.sub("", text))
        text = text.replace(r"\\", " ").replace("&", "").strip(" ,")
    text = unconditional(_BOX.sub("", text))
    for words, pattern, new in _SPELLINGS:
        for word in words:
            if word in text:
                text = pattern.sub(new, text)
                break
    text = " ".join(text.split()).rstrip(".,;").rstrip()
    builder = _BUILDER.fullmatch(text)
    text = builder[2].strip() if builder else text
    text = _BOUNDED.sub(r"-\3 \2 \1 \2 \3", text) if _BOUNDED.fullmatch(text) else text
    text = _MINUTES.sub(_degrees, text) if _MINUTES.fullmatch(text) else text
    text = _DOUBLE_FACTORIAL.sub(_double_factorial, text)
    while text.startswith("{") and inside(text)[1] == "{}":
        text = inside(text)[0]
    return text.replace(" ", "") if re.fullmatch(r"-?[0-9]{1,3}(?: [0-9]{3})+", text) else text


def _script(match: re.Match) -> str:
    scripts = _RAISED if match[0][0] in _RAISED else _LOWERED
    mark = "^" if scripts is _RAISED else "_"
    return f"{mark}{{{''.join(scripts[c] for c in match[0])}}}"


def _assignments(match: re.Match) -> str:
    """The rows of a system, `x = 2 \\\\ y = 3`, as a list; what is no system as it stands."""
    rows = [row.strip(" ,") for row in re.split(r"\\\\", match["rows"]) if row.strip()]
    return ", ".join(rows) if rows and all("=" in row for row in rows) else match[0]


def _fraction(match: re.Match) -> str:
    """`四分之三` is 3/4, `百分之五` 5%."""
    below, above = han_number(match[1]), han_number(match[2])
    if match[1] == "百" and above is not None:
        return rf"{above}\%"
    return match[0] if not below or above is None else rf"\frac{{{above}}}{{{below}}}"


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
