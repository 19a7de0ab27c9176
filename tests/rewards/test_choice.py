import json
import random
import string
import time

import pytest

from r1jax.rewards.choice import check_choice, chosen_letter

CITIES = ("Rome", "Paris", r"$\frac{1}{2}$", "all of the above")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B) ", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("**B**", "B"),
        ("$B$", "B"),
        (r"\(B\)", "B"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"$\boxed{\textbf{(B)}}$", "B"),
        ("Answer: B", "B"),  # simple-evals
        ("the answer is (B)", "B"),  # lm-eval
        ("The correct answer is: **B**.", "B"),
        ("I choose option B.", "B"),
        ("Answer: option (B)", "B"),
        ("paris", "B"),
        (" Paris. ", "B"),
        (r"\frac{1}{2}", "C"),
        ("All of  the above", "D"),
        ("(B) Paris", "B"),
        ("B. Paris", "B"),
        ("B: **Paris**", "B"),
        ("The answer is A. The answer is A.", "A"),
        # Two options, or none.
        ("A or B", None),
        ("(A) (B)", None),
        ("The answer is A. No, the answer is B.", None),
        ("The answer is (A), not (B)", None),
        ("B. Rome", None),
        ("The answer is (E)", None),
        ("E", None),
        ("AB", None),
        ("A man", None),
        ("The answer is A man", "A"),
        ("The answer isn't known", None),
        ("Rome or Paris", None),
        ("", None),
        ("B " * 2_000, None),
    ],
)
def test_chosen_letter(answer, letter):
    assert chosen_letter(answer, CITIES) == letter


def test_options_of_the_same_text_are_none():
    assert chosen_letter("Rome", ("Rome", "rome")) is None
    assert chosen_letter("B", ("Rome", "rome")) == "B"


def test_an_option_that_is_another_ones_letter():
    """The text of an option wins over the letter only where they are the same option's."""
    assert chosen_letter("A", ("1", "A")) == "B"  # exactly the text of B


def test_letters_without_options():
    assert chosen_letter("(E)") == "E"
    assert chosen_letter("(B) Paris") is None


def test_check_choice():
    assert check_choice("B", CITIES, "B") is True
    assert check_choice("A", CITIES, "B") is False
    assert check_choice("A or B", CITIES, "B") is None
    with pytest.raises(ValueError, match="'E' is no letter of 4 options"):
        check_choice("B", CITIES, "E")
    assert check_choice("Z", [str(i) for i in range(40)], "Z") is True


def test_hostile_text_takes_little_time():
    start = time.process_time()
    for text in ("answer" + " " * 1_990, "(" * 2_000, "**" * 1_000, "$" * 2_000, r"\text{" * 333):
        assert chosen_letter(text, CITIES) is None
    assert time.process_time() - start < 1


def test_real_options(data_dir):
    """MMLU: whatever the spelling, the letter is that of the option meant, or none if two are."""
    lines = next((data_dir / "mmlu_stem").glob("*.jsonl")).read_text().splitlines()
    for row in map(json.loads, random.Random(0).sample(lines, 300)):
        choices = [str(choice) for choice in row["choices"]]
        for letter, option in zip(string.ascii_uppercase, choices, strict=False):
            assert chosen_letter(f"The answer is ({letter}).", choices) in (letter, None)
            assert chosen_letter(f"({letter}) {option}", choices) in (letter, None)
            if len({c.casefold().strip(" .") for c in choices}) == 4 and len(option) > 3:
                assert chosen_letter(option, choices) == letter
                assert chosen_letter(f"{letter}. {option}", choices) == letter
