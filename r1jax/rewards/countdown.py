"""Does an expression use the given numbers, each once, and make the target?

Published checkers that call eval() accept `2**3`, `7//2` and `1.5*2`, and stall on `9**9**9`.
Here the text is parsed, never evaluated by Python, and the arithmetic is exact.
"""

import ast
import operator
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

# The length also bounds how deep parentheses nest and how large an integer gets.
MAX_CHARS = 200
# Python would also read 0x1f, 1_000 and comments.
_ALLOWED = re.compile(r"[0-9+\-*/() ]+")
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[,;:! ()\[\]]|[`$]|^\*\*|\*\*$", " "),
        (r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·⋅∗✕]", "*"),
        (r"\\div(?![a-zA-Z])|[÷∕]", "/"),
        (r"[−–]", "-"),
        (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))"),
        (r"\.\s*$", ""),
    ]
]
_WIDE = str.maketrans({chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)} | {"。": "."})
_RESULT = re.compile(r"=\s*(-?[0-9]{1,12})\s*$")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def check_countdown(expression: str, numbers: Sequence[int], target: int) -> bool | None:
    r"""True if correct, False if not, None if the text is not such an expression.

    An expression is made of non-negative integer literals, `+ - * /` and parentheses; no unary
    sign. `×`, `\times`, `\cdot`, `÷`, `\div` and `\frac{}{}` are read as well, and so is a full
    stop, or an `= target`, behind it; with another number behind the `=` it is incorrect. It is
    correct if its literals are `numbers` (as a multiset) and its exact value is `target`. Division
    by zero is incorrect. Raises nothing for any text.
    """
    if len(expression) > 2 * MAX_CHARS:
        return None
    expression = expression.translate(_WIDE).strip()
    for pattern, replacement in _SPELLINGS:
        expression = pattern.sub(replacement, expression).strip()
    result = _RESULT.search(expression)
    if result:
        expression = expression[: result.start()].strip()
    if len(expression) > MAX_CHARS or not _ALLOWED.fullmatch(expression):
        return None
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError:
        return None
    used: list[int] = []
    try:
        value = _evaluate(tree, used)
    except ZeroDivisionError:
        return False
    except _NotAnExpression:
        return None
    if result and int(result[1]) != target:
        return False
    return value == target and Counter(used) == Counter(numbers)


class _NotAnExpression(Exception):
    pass


def _evaluate(node: ast.expr, used: list[int]) -> Fraction:
    """The exact value of a tree; appends its literals to `used`."""
    match node:
        case ast.Constant(value=int(value)):
            used.append(value)
            return Fraction(value)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(left, used), _evaluate(right, used))
    raise _NotAnExpression
