import random
import time

import pytest

from r1jax.rewards.countdown import check_countdown

NUMBERS, TARGET = (3, 5, 7, 2), 17


@pytest.mark.parametrize(
    ("expression", "numbers", "target", "verdict"),
    [
        ("3 + 5 + 7 + 2", NUMBERS, TARGET, True),
        (" (3 + (5+(7 + (2)))) ", NUMBERS, TARGET, True),
        ("7*2 + 5 - (5 - 3)", NUMBERS, TARGET, False),
        ("5 * 7 - 3 * (2 + 4)", NUMBERS, TARGET, False),
        ("8 / 3 * 3", (8, 3, 3), 8, True),  # exact, not floating point
        ("1 / 3 + 1 / 3 + 1 / 3", (1, 1, 1, 3, 3, 3), 1, True),
        ("7 / 2", (7, 2), 3, False),  # no rounding
        ("3 + 5", (3, 5, 7), 8, False),  # a number left out
        ("3 + 3 + 2", (3, 2), 8, False),  # used twice, given once
        ("3 + 3 + 2", (3, 3, 2), 8, True),  # as often as given
        ("3 + 4", (3, 5), 7, False),  # unlisted
        ("35", (3, 5), 35, False),  # no gluing of digits
        ("8", (3, 5), 8, False),
        ("3 - 5", (3, 5), -2, True),
        ("5 / (3 - 3)", (3, 3, 5), 0, False),  # division by zero
        ("3 + 5 = 8", (3, 5), 8, True),
        ("3 + 5 = 9", (3, 5), 8, False),  # a false statement
        ("3 + 5 = 9", (3, 5), 9, False),
        ("3 + 5 = 4 + 4", (3, 5), 8, None),
        ("(3 + 5).", (3, 5), 8, True),
        ("3 + 5.", (3, 6), 8, False),
        (r"3 \times 5", (3, 5), 15, True),
        (r"3 \times 5", (3, 5), 8, False),
        ("3 × 5", (3, 5), 15, True),
        (r"$6 \div 3 \cdot 2$", (6, 3, 2), 4, True),
        (r"\frac{6}{3} - 2", (6, 3, 2), 0, True),
        (r"\frac{6}{2 - 2}", (6, 2, 2), 0, False),
        ("（３＋５）", (3, 5), 8, True),
        (r"\sqrt{9} + 5", (9, 5), 8, None),
        ("3 + 5 # = 8", (3, 5), 8, None),
        ("3 + 5 and so 8", (3, 5), 8, None),
        ("3 + 5;", (3, 5), 8, None),
        ("3 5 +", (3, 5), 8, None),
        ("-3 + 5", (3, 5), 2, None),
        ("5 - -3", (3, 5), 8, None),
        ("2**3", (2, 3), 8, None),
        ("7//2", (7, 2), 3, None),
        ("1.5*2", (2,), 3, None),
        ("7 % 2", (7, 2), 1, None),
        ("0x3 + 5", (3, 5), 8, None),
        ("0_3 + 5", (3, 5), 8, None),
        ("03 + 5", (3, 5), 8, None),
        ("٣ + 5", (3, 5), 8, None),  # another script's 3
        ("3 + True", (3, 1), 4, None),
        ("3, 5", (3, 5), 8, None),
        ("(3 + 5", (3, 5), 8, None),
        ("3(5)", (3, 5), 15, None),
        ("()", (), 0, None),
        ("", (), 0, None),
        ("abs(3 + 5)", (3, 5), 8, None),
        ("__import__('os')", (), 0, None),
        ("x", (), 0, None),
        ("'3'", (3,), 3, None),
        ("3 +\0 5", (3, 5), 8, None),
        ("(" * 99 + "3" + ")" * 99, (3,), 3, True),
        ("(" * 200 + "3" + ")" * 200, (3,), 3, None),  # too long
        ("1+" * 5_000 + "1", (1,) * 5_001, 5_001, None),
    ],
)
def test_verdicts(expression, numbers, target, verdict):
    assert check_countdown(expression, numbers, target) is verdict


def test_powers_are_never_evaluated():
    start = time.process_time()
    assert check_countdown("9**9**9", (9, 9, 9), 1) is None
    assert check_countdown("9" * 10_000_000, (9,), 9) is None
    assert time.process_time() - start < 0.1


@pytest.mark.filterwarnings("error")
def test_any_text_gets_a_verdict():
    rng = random.Random(0)
    for _ in range(5_000):
        text = "".join(rng.choices("0123456789+-*/() ", k=rng.randint(0, 40)))
        assert check_countdown(text, NUMBERS, TARGET) in (False, None)
