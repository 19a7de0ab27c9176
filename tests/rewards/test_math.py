import itertools
import json
import random

import pytest

from r1jax.data.sources import read_gsm8k
from r1jax.rewards.math import compare_numbers, grade_math


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
