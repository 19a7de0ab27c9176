"""What people write: (reference, a reply that is right, one close to it that is wrong)."""

import pytest

from r1jax.rewards.format import final_answer
from r1jax.rewards.math import grade_math
from r1jax.rewards.rational import compare_numbers

# ruff: noqa: E501
# fmt: off
PAIRS = [
    ("7", "Thus the answer is:\n\n**7**", "Thus the answer is:\n\n**17**"),
    ("3, 4", r"We get $x=\boxed{3}$ or $x=\boxed{4}$.", r"We get $x=\boxed{3}$ or $x=\boxed{5}$."),
    ("4", r"First \boxed{3}. Then I fixed a slip: \boxed{4}.", r"First \boxed{4}. Then I fixed a slip: \boxed{3}."),
    ("4", r"It is \boxed{4}, that is, \boxed{4}.", r"It is \boxed{4} or \boxed{3}."),
    ("12", r"So \boxed 12.", r"So \boxed 21."),
    (r"\frac{1}{2}", r"\fbox{$\frac{1}{2}$}", r"\fbox{$\frac{2}{1}$}"),
    ("9", r"$g(-2) = 9$", r"$g(9) = -2$"),
    ("9", r"\boxed{g'(3)=9}", r"\boxed{g'(3)=-9}"),
    (r"(2,\pi)", r"\boxed{(r, \theta) = (2, \pi)}", r"\boxed{(r, \theta) = (\pi, 2)}"),
    ("35", r"The answer is $\angle BAC = 35^\circ$.", r"The answer is $\angle BAC = 53^\circ$."),
    ("35^\\circ", "**Answer:** ∠BAC = 35°", "**Answer:** ∠BAC = 35 cm"),
    ("24", r"\boxed{xyz = 24}", r"\boxed{2x = 24}"),
    ("24", r"\boxed{a^2+b^2 = 24}", r"\boxed{a-3 = 24}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{A = \begin{bmatrix}1&2\\3&4\end{bmatrix}}", r"\boxed{A = \begin{bmatrix}1&3\\2&4\end{bmatrix}}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "The answer is [[1, 2], [3, 4]].", "The answer is [[1, 2], [4, 3]]."),
    ("(1,2),(3,4)", r"\boxed{(3,4), (1,2)}", r"\boxed{(4,3), (1,2)}"),
    ("(1,2),(3,4)", "The solutions are $(1, 2)$ and $(3, 4)$.", "The solutions are $(1, 2)$ and $(3, 5)$."),
    ("6, 8", "The answer is 6 and 8.", "The answer is 6 and 9."),
    ("6, 8", "6 & 8", "6 & 8 & 9"),
    ("k=45, n=2", r"\boxed{n = 2, k = 45}", r"\boxed{n = 45, k = 2}"),
    ("k=45, n=2", r"\boxed{(k,n) = (45, 2)}", r"\boxed{(k,n) = (2, 45)}"),
    ("3:5", "The ratio is $3 : 5$.", "The ratio is $5 : 3$."),
    ("3:5", r"\boxed{3\text{ to }5}", r"\boxed{3\text{ to }6}"),
    (r"60^\circ", "The final answer is $60^\\circ$. I hope it is correct.", "The final answer is $61^\\circ$. I hope it is correct."),
    ("8", r"\boxed{8 \text{ (because } n > 0)}", r"\boxed{-8 \text{ (because } n > 0)}"),
    ("5 \\text{ m/s}", r"\boxed{5\,\mathrm{m\,s^{-1}}}", r"\boxed{5\,\mathrm{m\,s^{-2}}}"),
    ("250 \\text{ g}", r"\boxed{0.25 \text{ kg}}", r"\boxed{2.5 \text{ kg}}"),
    ("90 \\text{ minutes}", "The answer is 1 hour 30 minutes.", "The answer is 1 hour 20 minutes."),
    ("15千米", "答案是15公里。", "答案是15厘米。"),
    ("15", "综上，答案为：15", "综上，答案为：51"),
    ("15", "故答案为 $15$。", "故答案为 $-15$。"),
    ("(2, 5)", "答案：（２，５）", "答案：（５，２）"),
    ("星期五", "答案是星期五", "答案是星期六"),
    ("2, 7", "答案：2或7", "答案：2或8"),
    (r"\text{Tuesday}", "The day is Tuesday.", "The day is not Tuesday."),
    (r"\text{Yes}", "The answer is **Yes**, they are.", "The answer is **No**, they are not yes."),
    ("42", "We add them up. After that we double. So there are 42 apples in the box.", "We add them up. After that we double. So there are 24 apples in the box."),
    ("42", "Therefore, the total number of the 3 kinds is 42.", "Therefore, the total number of the 42 kinds is 3."),
    ("42", "Hence we must have $N = 42$.", "Hence we must have $N \\neq 42$."),
    ("2/5", "So the chance that Bob wins is 2/5. <|im_end|>\n<|im_start|>user", "So the chance that Bob wins is 5/2. <|im_end|>\n<|im_start|>user 2/5"),
    ("x^3", "x³", "x²"),
    ("1000000", r"\boxed{1 \text{ million}}", r"\boxed{1 \text{ billion}}"),
    ("21", "The answer is twenty-one.", "The answer is twelve."),
    ("4", r"\boxed{\text{The number of ways is } 4}", r"\boxed{\text{The number of ways is not } 4}"),
    ("4", "3x = 12 ⇒ x = 4", "x = 4 ⇒ 3x = 12"),
    ("1, 2, \\ldots, 9", r"\boxed{1, 2, \dots, 9}", r"\boxed{1, 2, \dots, 8}"),
    ("2\\sqrt{3}", r"\boxed{2\sqrt(3)}", r"\boxed{3\sqrt(2)}"),
    (r"\textbf{(D)}\ 16", "The answer is (D) 16.", "The answer is (E) 16."),
    (r"\{1,2,3\}", r"\boxed{\{3, 2, 1\}}", r"\boxed{(3, 2, 1)}"),
    ("10", "The smallest value is 10, attained at x = 2.", "The smallest value is 2, attained at x = 10."),
    ("5", "There are 5 of them.", "The answer is at least 5."),
    ("5", "The answer is 5.", "There are at most 5 of them."),
    ("x^2+1", "$f(x)=x^2+1$ for all real $x$.", "$f(x)=x^2-1$ for all real $x$."),
    ("2", "The value is 2, attained at x = 10.", "The value is 10, attained when x is 2."),
]
# fmt: on


def grade(reference: str, reply: str) -> bool | None:
    answer = final_answer(f"<think>a</think> {reply}", "math")
    assert answer is not None
    verdict = compare_numbers(answer, reference)
    return grade_math(answer, reference) if verdict is None else verdict


@pytest.mark.parametrize(("reference", "right", "wrong"), PAIRS)
def test_right_and_wrong(reference, right, wrong):
    assert grade(reference, right) is True
    assert grade(reference, wrong) is not True
