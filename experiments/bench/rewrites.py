r"""Other texts of a reference answer: the same answer, and answers that differ from it.

Each rewriting is a small function of a problem, right by construction and on the text alone: it
shares no code with the grader. It gives no text where it does not apply.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from r1jax.data.problems import Problem

Rewrite = Callable[[Problem], list[str]]

# --- What they look at


def rational(text: str) -> Fraction | None:
    r"""The value of an integer, a decimal, or \frac{a}{b}."""
    text = re.sub(r"(?<=\d),(?:\\!\s*)?(?=\d{3}\b)", "", text)
    text = re.sub(r"^(-?)\\d?frac\s*\{?(\d+?)\}?\s*\{?(\d+)\}?$", r"\1\2/\3", text)
    return Fraction(text) if re.fullmatch(r"-?(\d+(/\d+)?|\d*\.\d+)", text) else None


def integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def is_formula(text: str) -> bool:
    """One value: no collection, equation, words or unit."""
    return len(items(text)) == 1 and not re.search(r"[=%_]|\\(text|mbox|in|cup|pm|circ|\$)", text)


BRACKETS = re.compile(r"(?s)(\\left)?\s*(\(|\[|\\\{)(.*?)\s*(\\right)?(\)|\]|\\\})")


def items(text: str) -> list[str]:
    """What the commas outside of brackets separate, inside one pair around it all."""
    text = bracketed(text)[1]
    if rational(text.removeprefix(r"\$")) is not None:
        return [text]
    depth, found = 0, [""]
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            found.append("")
        else:
            found[-1] += c
    return [item.strip() for item in found]


def bracketed(text: str) -> tuple[str, str, str]:
    """The opening bracket, the inside and the closing one; no brackets if they close early."""
    match = BRACKETS.fullmatch(text)
    inner = match[3] if match else ""
    if match is None or r"\cup" in text or re.search(r"\)\s*\(", inner):
        return "", text, ""
    return match[2], inner, match[5]


def wrap(brackets: tuple[str, str, str], inside: Sequence[str]) -> str:
    return brackets[0] + ", ".join(inside) + brackets[2]


def is_list(text: str) -> bool:
    return len(items(text)) > 1 and bracketed(text)[0] in ("", r"\{")


def is_tuple(text: str) -> bool:
    return len(items(text)) > 1 and bracketed(text)[0] in ("(", "[")


def cells(text: str) -> list[str]:
    """The rows of a matrix."""
    match = re.fullmatch(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", text)
    return [row.strip() for row in match[1].split(r"\\")] if match else []


def matrix(rows: Sequence[str], name: str = "pmatrix") -> str:
    return rf"\begin{{{name}}}" + r" \\ ".join(rows) + rf"\end{{{name}}}"


def words(text: str) -> str | None:
    match = re.fullmatch(r"\\text\{([a-zA-Z()]+)\}", text)
    return match[1] if match else None


def sub(pattern: str, replacement: str | Callable[[re.Match], str], count: int = 0) -> Rewrite:
    """The text with every match replaced; none if that changes nothing."""

    def rewrite(problem: Problem) -> list[str]:
        changed = re.sub(pattern, replacement, problem.answer, count=count)
        return [changed] * (changed != problem.answer)

    return rewrite


def template(text: str) -> Rewrite:
    return lambda problem: [text.replace("@", problem.answer)]


# --- The same answer


def _named(p: Problem) -> list[str]:
    if re.search(r"=|\\in\b|_", p.answer) or words(p.answer) or is_list(p.answer):
        return []
    return [f"n = {p.answer}", f"$f(x) = {p.answer}$"]


def _numbers(p: Problem) -> list[str]:
    n, texts = rational(p.answer), []
    if n is None:
        return []
    if 10**6 % n.denominator == 0:
        decimal = f"{float(n):.6f}".rstrip("0")
        texts += [decimal + "0", decimal.rstrip("."), f"+{decimal}0" if n > 0 else f"${decimal}0$"]
    sign, a, b = "-" * (n < 0), abs(n.numerator), n.denominator
    texts += [rf"{sign}\frac{{{3 * a}}}{{{3 * b}}}", f"{sign}{2 * a}/{2 * b}"]
    if b > 1:
        texts += [rf"\frac{{{sign}{a}}}{{{b}}}", rf"{sign}\dfrac{{{a}}}{{{b}}}", f"{sign}{a}/{b}"]
    if a > b > 1:
        texts += [rf"{sign}{a // b}\frac{{{a % b}}}{{{b}}}", f"{sign}{a // b} {a % b}/{b}"]
    if a >= 1000 and b == 1:
        texts += [f"{sign}{a:,}", f"{sign}{a:,}".replace(",", r",\!"), f"{sign}{a}"]
    return texts


def _units(p: Problem) -> list[str]:
    if rational(p.answer) is None:
        return []
    return [f"{p.answer} units", rf"{p.answer}\text{{ units}}", rf"{p.answer} \mbox{{ cm}}^2"]


def _unit_respelled(p: Problem) -> list[str]:
    match = re.fullmatch(r"(.*?)\s*\\(?:text|mbox)\{ (\w+)\}(\^2)?", p.answer)
    if match is None:
        return []
    value, unit, square = match.groups()
    if square:
        return [f"{value} square {unit}", rf"{value}\,\mathrm{{{unit}}}^2", f"{value} sq. {unit}"]
    return [f"{value} {unit}", rf"{value}~\textrm{{{unit}}}", f"${value}$ {unit}"]


def _degrees(p: Problem) -> list[str]:
    ends = ("", "°", " degrees", r"^{\circ}", r"\text{ degrees}")
    value = p.answer.removesuffix(r"^\circ")
    return [value + end for end in ends] if value != p.answer else []


def _wide(p: Problem) -> list[str]:
    if rational(p.answer.lstrip("\\$")) is not None and "," in p.answer:  # thousands
        return []
    return sub(r"([-+=,])", r" \1 ")(p)


def _money(p: Problem) -> list[str]:
    if rational(p.answer) is None or "$" not in p.prompt or p.source != "gsm8k":
        return []
    return [f"${p.answer}", rf"\${p.answer}", f"{p.answer} dollars", rf"$\${p.answer}$"]


def _percent(p: Problem) -> list[str]:
    n = integer(p.answer)
    question = re.split(r"[.?!]\s", p.prompt.strip(" .?!"))[-1]
    if n is None or abs(n) <= 1 or not re.search(r"what percent|percentage", question.lower()):
        return []
    return [f"{n}%", rf"{n}\%", rf"$ {n}\% $", f"{n} percent", rf"{n} \text{{ percent}}"]


def _list_order(p: Problem) -> list[str]:
    if not is_list(p.answer):
        return []
    parts, braces = items(p.answer)[::-1], (r"\{", "", r"\}")
    return [", ".join(parts), " and ".join(parts), wrap(braces, parts), ",".join(parts)]


def _pm(p: Problem) -> list[str]:
    match = re.fullmatch(r"(.*)\\pm(.*)", p.answer)
    if match is None or len(items(p.answer)) > 1:
        return []
    a, b = match.groups()
    return [f"{a}+{b}, {a}-{b}", rf"\{{{a}-{b}, {a}+{b}\}}", f"{a}+{b} or {a}-{b}"]


def _terms(p: Problem) -> list[str]:
    """A sum with its terms in the other order."""
    if (
        not is_formula(p.answer)
        or cells(p.answer)
        or not re.fullmatch(r"[\w\s^+\-\\{}]*", p.answer)
    ):
        return []
    terms = re.findall(r"[+-]?(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|[^+\-{}])+", p.answer)
    signed = [t.strip() if t.strip()[0] in "+-" else f"+{t.strip()}" for t in terms]
    return ["".join(signed[::-1]).removeprefix("+")] * (len(terms) > 1)


def _inequality(p: Problem) -> list[str]:
    left, _, right = bracketed(p.answer.removeprefix(r"x \in "))
    ends = items(p.answer.removeprefix(r"x \in "))
    if len(ends) != 2 or not (r"\infty" in p.answer or "[" in left + right or "]" in left + right):
        return []
    low = "" if r"\infty" in ends[0] else f"{ends[0]} {'<' if left == '(' else chr(92) + 'le'} "
    high = "" if r"\infty" in ends[1] else f" {'<' if right == ')' else chr(92) + 'le'} {ends[1]}"
    return [f"{low}x{high}"]


def _matrix(p: Problem) -> list[str]:
    rows = cells(p.answer)
    if not rows:
        return []
    tuples = [f"({', '.join(rows)})"] if "&" not in p.answer else []
    return [matrix(rows, "bmatrix"), matrix(rows).replace(" ", ""), *tuples]


def _words(p: Problem) -> list[str]:
    word = words(p.answer)
    if word is None:
        return []
    bare = word.strip("()")
    return [
        word,
        bare,
        rf"\text{{{bare}}}",
        rf"\textbf{{{word}}}",
        rf"\mathrm{{{word}}}",
        f"{bare}.",
    ]


def _root(p: Problem) -> list[str]:
    match = re.fullmatch(r"(\d*)\s*\\sqrt\{?(\d+)\}?", p.answer)
    if match is None:
        return []
    k, n = int(match[1] or 1), match[2]
    return [rf"\sqrt{{{k * k * int(n)}}}", rf"{k} \cdot {n}^{{1/2}}", rf"\sqrt{{{n}}} \times {k}"]


SAME: dict[str, Rewrite] = {
    "as it stands": template("@"),
    "boxed": template(r"\boxed{@}"),
    "in $ $": template("$@$"),
    r"in \[ \]": template(r"So \[@\]"),
    "sentence": template("The answer is $@$."),
    "plain sentence": template("**The final answer is: @.**"),
    "solved in box": template(r"We add and get \(7+1=8\), hence $\boxed{@}$."),
    "named": _named,
    "number": _numbers,
    "unit added": _units,
    "unit left out": sub(r"(?<=[\d}])\s*\\(?:text|mbox)\{ ?[a-z]+\}(\^2)?|\\\$", ""),
    "unit respelled": _unit_respelled,
    "money": _money,
    "percent": _percent,
    "degrees": _degrees,
    r"\dfrac": sub(r"\\frac", r"\\dfrac"),
    r"\tfrac": sub(r"\\frac", r"\\tfrac"),
    "(a)/(b)": sub(r"(?<!\d)(?<!\d )\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))"),
    r"\frac12": sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2"),
    r"\left \right": sub(r"(?<![\\a-z{])([(\[])(.*)([)\]])", r"\\left\1\2\\right\3"),
    r"no \left \right": sub(r"\\left|\\right", ""),
    "wide": _wide,
    "narrow": sub(r"(?<![a-z])\s+|\s+(?![a-z])", ""),
    "list order": _list_order,
    "plus or minus": _pm,
    "terms reordered": _terms,
    "inequality": _inequality,
    "matrix": _matrix,
    "words": _words,
    "root": _root,
    "base in braces": sub(r"_\{?(\d)\}?$", r"_{\1}"),
    "base left out": sub(r"_\{?(\d)\}?$", ""),
    "unicode": sub(r"-|\\pi|\\infty", lambda m: {"-": "−", r"\pi": "π"}.get(m[0], "∞")),
}

# --- Other answers


def _last_integer(step: int) -> Rewrite:
    def rewrite(p: Problem) -> list[str]:
        match = re.search(r"(\d+)(\D*)$", p.answer)
        if match is None or (step < 0 and int(match[1]) == 0):
            return []
        changed = str(int(match[1]) + step).zfill(len(match[1]))
        return [p.answer[: match.start()] + changed + match[2]]

    return rewrite


def _scaled(p: Problem) -> list[str]:
    n = rational(p.answer)
    if not n:
        return []
    values = (-n, 2 * n, 10 * n, n / 10, n / 100, n + Fraction(1, 2), n * Fraction(1001, 1000))
    return [str(v) for v in values]


def _inverted(p: Problem) -> list[str]:
    n = rational(p.answer)
    return [rf"\frac{{{n.denominator}}}{{{n.numerator}}}"] if n and abs(n) != 1 else []


def _negated(p: Problem) -> list[str]:
    return [f"-({p.answer})"] if is_formula(p.answer) and p.answer != "0" else []


def _doubled(p: Problem) -> list[str]:
    return [rf"2\left({p.answer}\right)"] if is_formula(p.answer) and p.answer != "0" else []


def _digits_swapped(p: Problem) -> list[str]:
    match = re.fullmatch(r"(-?\d*)(\d)(\d)", p.answer)
    return [match[1] + match[3] + match[2]] if match and match[2] != match[3] else []


def _dropped(p: Problem) -> list[str]:
    parts, rows = items(p.answer), cells(p.answer)
    found = [wrap(bracketed(p.answer), parts[:-1]), wrap(bracketed(p.answer), parts[1:])]
    return found * (len(parts) > 1) + [matrix(rows[1:])] * (len(rows) > 1)


def _added(p: Problem) -> list[str]:
    parts = items(p.answer)
    if len(parts) > 1:
        return [wrap(bracketed(p.answer), [*parts, "997"])]
    if not is_formula(p.answer):
        return []
    return [f"{p.answer}, 997", f"997 or {p.answer}", rf"{p.answer} \text{{ or }} 997"]


def _permuted(p: Problem) -> list[str]:
    parts, rows = items(p.answer), cells(p.answer)
    if is_tuple(p.answer) and parts[0] != parts[-1]:
        return [wrap(bracketed(p.answer), parts[::-1])]
    return [matrix(rows[::-1])] if len(rows) > 1 and rows[0] != rows[-1] else []


def _brackets(p: Problem) -> list[str]:
    """Closed for open, and the reverse."""
    if not is_tuple(p.answer):
        return []
    left, inner, right = bracketed(p.answer)
    other = {"(": "[", "[": "(", ")": "]", "]": ")"}
    return [
        other[left] + inner + right,
        left + inner + other[right],
        other[left] + inner + other[right],
    ]


def _other_word(p: Problem) -> list[str]:
    word = words(p.answer)
    if word is None:
        return []
    if len(word.strip("()")) == 1:
        return [rf"\text{{({letter})}}" for letter in "ABCDE" if letter not in word]
    return ["Sam", r"\text{odd}", rf"\text{{not {word}}}", rf"\text{{{word[::-1]}}}", word[:-1]]


def _other_unit(p: Problem) -> list[str]:
    units = {"inches": "feet", "cm": "mm", "cents": "dollars", "degrees": "radians"}
    swapped = [p.answer.replace(a, b) for a, b in units.items() if a in p.answer]
    power = re.sub(r"(\\mbox\{.*\})\^2", r"\1^3", p.answer)
    bare = re.sub(r"(\\mbox\{.*\})\^2", r"\1", p.answer)
    return [text for text in (*swapped, power, bare) if text != p.answer]


OTHER: dict[str, Rewrite] = {
    "one more": _last_integer(1),
    "one less": _last_integer(-1),
    "scaled": _scaled,
    "inverted": _inverted,
    "negated": _negated,
    "doubled": _doubled,
    "digits swapped": _digits_swapped,
    "first coefficient": sub(r"^(\D*)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", count=1),
    "plus for minus": sub(
        r"(?<=[\w}])\s*([+-])(?=\s*[\w\\])", lambda m: "-" if m[1] == "+" else "+", count=1
    ),
    "dropped": _dropped,
    "added": _added,
    "permuted": _permuted,
    "brackets": _brackets,
    "other word": _other_word,
    "other unit": _other_unit,
    "other base": sub(r"_\{?(\d)\}?$", lambda m: f"_{int(m[1]) + 1}"),
    "root left out": sub(r"\\sqrt", ""),
    "pi left out": sub(r"(?<=\d)\s*\\pi", ""),
    "other variable": sub(r"^(?!.*\\in)([^\\]*?)\b(\d*)([xyzkrnR])(?![a-z])", r"\1\2w"),
    "other infinity": sub(r"-\\infty", r"-100"),
    "union for intersection": sub(r"\\cup", r"\\cap"),
}
