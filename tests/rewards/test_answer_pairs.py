r"""A hundred answers written to mislead, fifty of them wrong, none looked at while the graders were
written. (reference, reply, right)
"""

import pytest

from r1jax.data.problems import Problem
from r1jax.rewards.grading import Grader

RIGHT = [
    ("42", r"After all this the answer is **42**!"),
    ("42", r"**Answer**" + "\n\n42"),
    ("42", r"### Final Answer" + "\n" + r"$\boxed{42}$"),
    ("42", r"Final answer: $42$. This completes the solution."),
    ("1200", r"\boxed{1{,}200}"),
    ("1200", r"\boxed{1\,200 \text{ students}}"),
    ("5", r"The final answer is \(\boxed{5}\). I hope this helps!"),
    ("-3", r"$\boxed{x=-3}$"),
    ("7", r"\boxed{g(2)=7}"),
    ("7", r"\boxed{|AB| = 7}"),
    ("12", r"\boxed{[ABC] = 12}"),
    (r"\frac{2}{3}", r"\boxed{\cos B = \frac23}"),
    (r"\frac{5}{36}", r"\boxed{P(A \cap B) = \tfrac{5}{36}}"),
    ("6", r"\boxed{xy = 6}"),
    ("13", r"\boxed{a^2+b^2=13}"),
    ("2, 5", r"The roots are $\boxed{5}$ and $\boxed{2}$."),
    ("2, 5", r"\boxed{x = 2 \text{ and } x = 5}"),
    ("2,5", r"\boxed{x_1 = 2, x_2 = 5}"),
    ("(2,5)", r"\boxed{m = 2,\ n = 5}"),
    ("m=2, n=5", r"\boxed{n=5,\, m=2}"),
    ("(1,2),(3,4)", r"\boxed{\{(3,4),(1,2)\}}"),
    ("(1,2),(3,4)", r"\boxed{(x,y) = (3,4) \text{ or } (1,2)}"),
    ("5:3", r"\boxed{5 : 3}"),
    ("5:3", r"\boxed{a:b = 5:3}"),
    (r"\frac{7}{2}", r"\boxed{3.5\text{ hours}}"),
    ("9", r"\boxed{9\ \text{cm}^2}"),
    ("60", r"\boxed{60\text{ km/h}}"),
    (r"10 \text{ m/s}", r"\boxed{10\ \mathrm{m/s}}"),
    (r"25\%", r"\boxed{25 \text{ percent}}"),
    ("18", r"答案是：18元"),
    ("18", r"所以答案为 **18**。"),
    ("(2, 7)", r"\boxed{（2，7）}"),
    (r"x \geq 4", r"\boxed{[4, \infty)}"),
    (r"(-\infty, 1) \cup (1, \infty)", r"\boxed{\mathbb{R}\setminus\{1\}}"),
    (r"\{1,2,3\}", r"\boxed{\{3, 2, 1\}}"),
    (
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"\boxed{A = \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}}",
    ),
    (r"3 \times 10^8", r"\boxed{300000000}"),
    (r"2\sqrt{3}", r"\boxed{2√3}"),
    (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt 2}}"),
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    ("11", r"So there are 7 red and 4 blue ones. Therefore, there are 11 marbles in total."),
    ("July 4", r"\boxed{4 July}"),
    ("3:15", r"The answer is 3:15 p.m."),
    ("21", r"\boxed{\text{twenty-one}}"),
    ("8", r"\boxed{8^{\text{th}}}"),
    ("x^2+1", r"\boxed{f(x) = x^2 + 1 \text{ for all real } x}"),
    (r"\text{Saturday}", r"The answer is **Saturday**."),
    ("0", r"\boxed{0 \text{ solutions}}"),
    ("5", r"\boxed{\displaystyle 5}"),
    ("36", r"\boxed{\text{Area} = 36}"),
]
WRONG = [
    ("42", r"After all this the answer is **24**!"),
    ("42", r"**Answer**" + "\n\n-42"),
    ("42", r"The answer is 42. Or 43."),
    ("42", r"The answer is not 42."),
    ("1200", r"\boxed{1{,}2000}"),
    ("1200", r"\boxed{1.200}"),
    ("5", r"\boxed{5 \text{ thousand}}"),
    ("-3", r"$\boxed{x=3}$"),
    ("7", r"\boxed{g(7)=2}"),
    ("7", r"\boxed{7x = 14}"),
    ("12", r"\boxed{[ABC] = 21}"),
    (r"\frac{2}{3}", r"\boxed{\cos \frac23}"),
    (r"\frac{5}{36}", r"\boxed{P(5) = 36}"),
    ("6", r"\boxed{2xy = 6}"),
    ("13", r"\boxed{a^2+b^2=31}"),
    ("2, 5", r"The roots are $\boxed{5}$ and $\boxed{3}$."),
    ("5", r"\boxed{2} or \boxed{5}"),
    ("2", r"\boxed{x_1 = 2, x_2 = 5}"),
    ("(2,5)", r"\boxed{m = 5,\ n = 2}"),
    ("m=2, n=5", r"\boxed{m=5, n=2}"),
    ("(1,2),(3,4)", r"\boxed{\{(2,1),(3,4)\}}"),
    ("(1,2),(3,4)", r"\boxed{(1,2)}"),
    ("5:3", r"\boxed{3:5}"),
    ("5:3", r"\boxed{5:3:1}"),
    (r"\frac{7}{2} \text{ hours}", r"\boxed{3.5\text{ minutes}}"),
    (r"9 \text{ cm}^2", r"\boxed{9\ \text{cm}^3}"),
    (r"60 \text{ km/h}", r"\boxed{60\text{ m/s}}"),
    (r"10 \text{ m/s}", r"\boxed{10\ \mathrm{m/s^2}}"),
    (r"25\%", r"\boxed{2.5 \text{ percent}}"),
    ("18", r"答案是：18万"),
    ("18", r"所以答案为 **81**。"),
    ("(2, 7)", r"\boxed{（7，2）}"),
    (r"x \geq 4", r"\boxed{(4, \infty)}"),
    (r"(-\infty, 1) \cup (1, \infty)", r"\boxed{\mathbb{R}\setminus\{-1\}}"),
    (r"\{1,2,3\}", r"\boxed{\{1, 2\} \cup \{4\}}"),
    (
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"\boxed{\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}}",
    ),
    (r"3 \times 10^8", r"\boxed{30^8}"),
    (r"2\sqrt{3}", r"\boxed{2\sqrt[3]{3}}"),
    (r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{\sqrt 2}{4}}"),
    (r"\frac{1}{2}", r"\boxed{1 \text{ or } 2}"),
    ("11", r"So there are 11 red and 4 blue ones. Therefore, there are 15 marbles in total."),
    ("July 4", r"\boxed{7 April}"),
    ("3:15 a.m.", r"The answer is 3:15 p.m."),
    ("21", r"\boxed{\text{twenty}}"),
    ("8", r"\boxed{8^{2}}"),
    ("x^2+1", r"\boxed{f(x) = x^2 - 1 \text{ for all real } x}"),
    (r"\text{Saturday}", r"The answer is **Sunday**, the day after Saturday."),
    ("0", r"\boxed{\text{more than } 0}"),
    ("5", r"\boxed{\text{at least } 5}"),
    ("36", r"\boxed{36 < A}"),
]


@pytest.fixture(scope="module")
def outcomes():
    pairs = RIGHT + WRONG
    problems = [Problem("p", "math", "", reference) for reference, _ in pairs]
    with Grader({"accuracy": 1.0}, workers=2) as grader:
        grades = grader.grade(problems, ["<think>t</think> " + reply for _, reply in pairs])
    return dict(zip(pairs, [grade.outcome for grade in grades], strict=True))


def test_right_answers(outcomes):
    assert [(pair, outcomes[pair]) for pair in RIGHT if outcomes[pair] != "correct"] == []


def test_wrong_answers(outcomes):
    bad = ("correct", "failed")
    assert [(pair, outcomes[pair]) for pair in WRONG if outcomes[pair] in bad] == []
