import itertools
import json
import random
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from r1jax.data.sources import read_gsm8k
from r1jax.rewards.math import grade_math
from r1jax.rewards.rational import compare_numbers


@pytest.mark.parametrize(
    ("answer", "reference", "verdict"),
    [
        ("72", "72", True),
        (" 72.0 ", "72", True),
        ("72.", "72", True),
        ("1,000", "1000", True),
        ("$1,000.50", "1000.5", True),
        (r"\$5", "5", True),
        ("$72$", "72", True),
        ("-3", "3", False),
        ("−3", "-3", True),
        (".5", "0.50", True),
        ("0.3333", "0.33333", False),
        ("100000000000000000000001", "100000000000000000000000", False),
        ("72 clips", "72", True),
        ("She sold **72** clips.", "72", True),
        ("71 or 72", "72", None),
        ("not 72", "72", None),
        ("72 million", "72", None),
        ("2 pi", "2", None),
        ("2 x", "2", None),
        ("12,34", "1234", None),
        ("1/2", "0.5", None),
        ("9**9**9", "9", None),
        ("seventy", "70", None),
        ("٧٢", "72", None),
        ("9" * 5_000, "9", None),
        ("72", r"\frac{1}{2}", None),
    ],
)
def test_compare_numbers(answer, reference, verdict):
    assert compare_numbers(answer, reference) is verdict


# What math-verify 0.9.0 gets wrong.
@pytest.mark.parametrize(
    ("answer", "reference", "verdict"),
    [
        ("3x-y+13=0", "3x+4y+14=0", False),
        ("3x+4y+14=0", "3x-y+13=0", False),
        ("1-1/e", "1+1/e", False),
        (r"1-\frac{1}{e}", r"1+\frac{1}{e}", False),
        ("1/2004!", "1/2006!", False),
        ("(1/2004!, 1)", "(1/2006!, 1)", False),
        ("sqrt(1/n)", "1/sqrt(n)", True),
        (r"\sqrt{\frac{1}{n}}", r"\frac{1}{\sqrt{n}}", True),
        ("0.0000002", "10^{-7}", False),
        ("52_9", "52_8", False),
        ("52_{8}", "52_8", True),
        ("71 or 72", "72", False),
        ("1-1/e and", "1", None),
    ],
)
def test_guards(answer, reference, verdict):
    assert grade_math(answer, reference) is verdict


# Verdicts by topic: the first list must be accepted, the second rejected.
@pytest.mark.parametrize(
    ("reference", "accepted", "rejected"),
    [
        # units
        (
            r"864 \mbox{ inches}^2",
            ["864", "864 in^2", "864 square inches", r"864\,\text{in}^2", "864 inches squared"],
            [
                "864 inches",
                "864 inches^3",
                "864 cm^2",
                "864 cubic inches",
                r"864\text{ in}^3",
                "863",
            ],
        ),
        ("15 cm^2", ["15", "15cm²", r"15 \mathrm{cm}^2", "15 sq. cm"], ["15 cm", "15 mm^2"]),
        (r"5.4 \text{ cents}", ["5.4", "5.4 cents", "5.4¢"], [r"\$5.4", "5.5 cents"]),
        ("60 miles per hour", ["60 mph", "60", "60 miles/hour"], ["60 km/h", "60 miles"]),
        (r"90^\circ", ["90", "90°", "90 degrees"], ["91°", r"\frac{\pi}{2}", "90 radians"]),
        (r"5\pi", [r"5\pi\text{ cm}^2", "5π square units", "5pi", "5*pi"], ["5", r"5\pi x"]),
        ("13", ["13 meters", "13 m", "13 m/s"], ["13m", "13x", "13 x"]),
        (r"\$18.90", ["18.9", "$18.90", "18.90 dollars"], ["€18.90", r"\$18.91", "1890"]),
        ("5", ["5 + 0", "5.", "(5)"], ["5t", "5^2", "5-6", "5 dollars and 50 cents", "5!"]),
        # percentages
        ("50", [r"50\%", "50%", "50 percent"], ["0.5", "500%", r"0.5\%"]),
        (r"50\%", ["50", "0.5", r"\frac12", "50%"], ["5", "0.05", "500"]),
        ("0.5", ["50%", r"\frac12", "½"], ["0.5%", "50"]),
        (r"33\frac13", [r"33\frac{1}{3}\%", "100/3"], [r"\frac{33}{3}\%"]),
        # numbers
        (r"10,\!080", ["10080", "10,080", r"10\,080", "10{,}080", "10 080"], ["10, 080", "10.080"]),
        (r"1\frac{4}{5}", ["9/5", "1.8", "1 4/5", r"1+\frac45"], ["14/5", r"\frac45", "1.4"]),
        ("31/2", ["15.5", r"\frac{31}2"], ["3 1/2", "31", "2/31"]),
        ("18", ["= 18", "=16+2"], ["= 17"]),
        ("204", ["m+n=204", "m + n = 200 + 4 = 204", "abc = 204"], ["2x=204", "m+n=203", "-x=204"]),
        ("x+y=5", ["y+x=5"], ["5"]),
        (r"\frac{\pi}{2}", [r"\frac\pi2", r"\frac\pi{2}"], [r"\frac2\pi", r"\frac\pi3"]),
        (r"\sqrt[3]{2}", [r"\sqrt[3]2", "2^{1/3}"], [r"\sqrt2", r"\sqrt[4]2"]),
        (
            r"(-\infty,-5]\cup[5,\infty)",
            ["(-inf, -5] U [5, inf)", "(-infinity,-5] U [5,infinity)"],
            ["(-inf, -5) U [5, inf)", "(-inf, -5]"],
        ),
        ("2^{200}+1", ["1 + 4^{100}"], ["2^{200}", "4^{100}"]),  # equal to 50 digits
        (".0000672", [r"6.72 \times 10^{-5}", "6.72e-5"], ["6.72e-4", "0.000067"]),
        (r"\frac13", [r"0.\overline{3}", "0.333333", r"\dfrac{-1}{-3}"], ["0.333", "0.333334"]),
        (
            r"-\frac{35}{9}",
            [r"\frac{-35}{9}", r"\frac{35}{-9}", "-35/9"],
            ["35/9", r"-\frac{9}{35}"],
        ),
        (r"\sqrt2", ["√2", "2^{1/2}", "1.41421", "sqrt(2)"], ["1.41", "2", "1.41422"]),
        ("52_8", ["52_{8}", "52", r"(52)_{\text{eight}}", "52 (base 8)"], ["52_9", "42", "53_8"]),
        ("3:15 p.m.", [r"3\!:\!15 \text{ PM}", "3:15"], ["3:15 a.m.", "3:16 p.m."]),
        # collections
        (
            "1,-2",
            ["-2, 1", r"\{1,-2\}", "1 and -2", r"x=1 \text{ or } x=-2"],
            ["1", "1,2", "1,1,-2"],
        ),
        ("1, 1, 2", ["2,1,1"], ["1,2,3", "1,2,2", "1,2"]),
        ("0.5", [r"\frac{2}{4}"], [r"\sqrt{\infty}", r"\sqrt{2}"]),
        ("3, 5, 7", ["7,5,3", "3, 5, and 7"], ["3, 5", "3, 5, 7, 9", "3,5,8"]),
        (
            "(3,4)",
            ["(3, 4)", "x=3, y=4", "(x,y) = (3,4)", r"\langle 3,4\rangle"],
            ["(4,3)", r"\{3,4\}"],
        ),
        ("(3,4]", [r"3 < x \le 4", r"x \in (3,4]"], ["(3,4)", "[3,4]", r"3 \le x \le 4", "[3,4)"]),
        (r"[2,\infty)", ["x >= 2", "2<=x", r"x \geq 2"], ["x > 2", "x <= 2"]),
        (r"(2,\infty)", ["x > 2", "2 < x", r"(2, +\infty)"], [r"x \ge 2", "x < 2", r"[2,\infty)"]),
        (
            r"(-\infty, 2) \cup (3, \infty)",
            [r"(3,\infty)\cup(-\infty,2)", "x<2 or x>3"],
            [r"(-\infty, 2) \cap (3, \infty)", r"(-\infty,2]\cup(3,\infty)", r"(-\infty,2)"],
        ),
        ("x < -3", ["-3 > x"], ["x > -3", "y < -3", r"x \le -3"]),
        (
            r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}",
            [r"\begin{bmatrix}-2\\[2mm]-14\\-7\end{bmatrix}", "(-2,-14,-7)"],
            [
                r"\begin{pmatrix} -7 \\ -14 \\ -2 \end{pmatrix}",
                r"\begin{pmatrix}-2&-14&-7\end{pmatrix}",
            ],
        ),
        (
            r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
            [r"\frac15\begin{pmatrix}1\\-18\end{pmatrix}"],
            [r"\begin{pmatrix}1\\-18\end{pmatrix}"],
        ),
        (
            r"1 \pm \sqrt{19}",
            [r"1-\sqrt{19}, 1+\sqrt{19}", r"x = 1 \pm \sqrt{19}", r"\frac{2\pm\sqrt{76}}{2}"],
            [r"1+\sqrt{19}", r"-1 \pm \sqrt{19}"],
        ),
        # names, words, formulas
        ("x=5", ["5", "x = 5.0"], ["y=5", "x=6"]),
        ("5", ["x = 5", "2+3=5", "Area = 5", r"n \in 5"], ["2+3=6", "5=6"]),
        ("y = 2x + 3", ["2x+3", "y-2x=3", "f(x) = 3+2x"], ["x = 2y+3", "w = 2x+3", "y=3x+2"]),
        (
            r"\text{Evelyn}",
            ["Evelyn", r"\textbf{evelyn}", "Evelyn."],
            ["Carla", "not Evelyn", "nylevE"],
        ),
        (r"\text{(C)}", ["C", "(C)", r"\textbf{(C) } 5"], ["D", "(C) or (D)", "5"]),
        ("3R^2", ["3 R^{2}", r"3 \cdot R \cdot R"], ["3r^2", "3R^3"]),
        ("0", ["R-R"], ["R-r"]),
        ("7", [r"\sqrt{49}"], [r"\infty", r"\sqrt{\infty}", r"\log\infty", "1/0", r"-\infty"]),
        (r"\infty", ["∞", "infinity", r"+\infty"], [r"-\infty", "7", r"\frac{1}{\infty}"]),
        (r"\cot x", ["cot(x)", r"\frac{\cos x}{\sin x}"], [r"\tan x", r"\cot y"]),
        (r"\frac12", [r"\cos 60^\circ", "1/2 cup"], [r"\sin 60^\circ"]),
        (r"x \ne 2", [r"x \neq 2"], [r"x \ne 3", "x = 2"]),
        ("(a+5)(b+2)", ["ab+2a+5b+10", "(b+2)(5+a)"], ["(a+2)(b+5)"]),
        # sentences
        (
            "6",
            ["The sum is $6$.", r"$x=3$, so \(6\)"],
            ["$5$ or $6$", "6 or 5", "not $6$", "$6$ or 7"],
        ),
    ],
)
def test_spellings(reference, accepted, rejected):
    verdicts = {text: grade_math(text, reference) for text in [reference, *accepted, *rejected]}
    assert [text for text, verdict in verdicts.items() if verdict] == [reference, *accepted]


@pytest.mark.parametrize(
    ("answer", "reference", "verdict"),
    [
        (r"\frac{3}{4}", "0.75", True),
        ("3/4", r"$\frac{3}{4}$", True),
        (r"The answer is $\frac{1}{2}$.", r"\frac12", True),
        (r"\(x^2\)", "x^2", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}", True),
        ("0.333333", r"\frac13", True),
        ("0.34", r"\frac13", False),
        ("(x+1)^2", "x^2+2x+1", True),
        ("(x+1)^2", "x^2+2x+2", False),
        (r"\sqrt{x^2}", "x", False),
        ("(-1)^n", r"\cos(\pi n)", True),
        (r"\sin^2 x + \cos^2 x", "1", True),
        (r"\sqrt{-4}", "2i", True),
        ("6+9i", "9i+6", True),
        ("6+9 i", "9-6i", False),
        ("x=5", "5", True),
        ("y=2x+1", "2x-y+1=0", True),
        (r"y=\frac1x", "xy=1", True),
        ("y=2x+1", "y=2x-1", False),
        ("(1,2)", r"\left(1,\frac{4}{2}\right)", True),
        ("[1,2)", "(1,2]", False),
        (r"\{1,2\}", "2,1", True),
        (r"x \in [-2,7]", "[-2,7]", True),
        (r"\begin{pmatrix}1\\3\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
        (r"\text{Evelyn}", "Evelyn", True),
        ("Anna", r"\text{Evelyn}", False),
        ("x+", "x", None),
        (r"\frac{1}{0}", "x", None),
        ("x" * 2_000, "x", None),
    ],
)
def test_equality(answer, reference, verdict):
    assert grade_math(answer, reference) is verdict


def combine(parts):
    """LaTeX for sums, products, ... of (text, value) pairs, and the value by exact arithmetic."""
    pairs = st.tuples(parts, parts)
    return st.one_of(
        pairs.map(lambda p: (f"{p[0][0]} + {p[1][0]}", p[0][1] + p[1][1])),
        pairs.map(lambda p: (rf"{p[0][0]} - \left({p[1][0]}\right)", p[0][1] - p[1][1])),
        pairs.map(lambda p: (rf"({p[0][0]}) \cdot ({p[1][0]})", p[0][1] * p[1][1])),
        pairs.filter(lambda p: p[1][1]).map(
            lambda p: (rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])
        ),
        parts.map(lambda p: (f"({p[0]})^2", p[1] ** 2)),
        parts.map(lambda p: (rf"\sqrt{{({p[0]})^{{2}}}}", abs(p[1]))),
    )


expressions = st.recursive(
    st.sampled_from(["1", "2", "3", "7", "12", "0.5", "1.25"]).map(lambda t: (t, Fraction(t))),
    combine,
    max_leaves=5,
)


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(expressions, expressions)
def test_values_of_expressions(first, second):
    """Against exact arithmetic: an expression is its value, and no other expression's."""
    (text, value), (other, other_value) = first, second
    fraction = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    near = value + Fraction(1, 1_000_003)
    assume(len(text) < 200 and len(other) < 200)
    assert grade_math(text, fraction) is True
    assert grade_math(fraction, text) is True
    assert grade_math(text, rf"\frac{{{near.numerator}}}{{{near.denominator}}}") is False
    assert grade_math(text, other) is (value == other_value)
    assert grade_math(rf"({text})\pi", rf"({other})\pi") is (value == other_value)
    assert grade_math(f"x + {text}", f"{other} + x") is (value == other_value)


def test_reference_that_cannot_be_parsed_is_an_error():
    assert grade_math(r"\frac{1", r"\frac{1") is True
    with pytest.raises(ValueError, match="cannot parse the reference"):
        grade_math("x", r"\frac{1")


def test_gsm8k_references(data_dir):
    problems = random.Random(0).sample(read_gsm8k(data_dir / "gsm8k" / "test.jsonl"), 300)
    for answer in (int(problem.answer) for problem in problems):
        for good in (f"{answer}", f"{answer:,}", f"${answer}", f"{answer}.00", f"{answer} clips"):
            assert compare_numbers(good, str(answer)) is True, good
        assert grade_math(rf"\frac{{{2 * answer}}}{{2}}", str(answer)) is True
        for bad in (f"{answer + 1}", f"{-answer - 1}", f"{answer}.5", f"{answer}0{answer}"):
            assert compare_numbers(bad, str(answer)) is False, bad


def test_math500_references(data_dir):
    """A sample: each reference equals itself written with delimiters, and not its neighbour."""
    lines = (data_dir / "math500" / "test.jsonl").read_text().splitlines()
    answers = sorted({json.loads(line)["answer"] for line in lines})[::5]
    for answer, other in itertools.pairwise(answers):
        assert grade_math(f"${answer}$", answer) is True, answer
        assert grade_math(answer, other) is not True, (answer, other)
