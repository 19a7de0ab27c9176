"""When a result is the expected one."""

TOLERANCE = 1e-6  # of floats, absolute or relative, as most problems of contests ask


def same(got: object, expected: object) -> bool:
    """Equal, where a tuple equals a list (JSON has none), and a float anything within TOLERANCE."""
    if isinstance(expected, list):
        return (
            isinstance(got, (list, tuple))
            and len(got) == len(expected)
            and all(map(same, got, expected))
        )
    if isinstance(expected, dict):
        return (
            isinstance(got, dict)
            and got.keys() == expected.keys()
            and all(same(got[key], expected[key]) for key in expected)
        )
    if isinstance(expected, float) and isinstance(got, (int, float)):
        return near(got, expected)
    return got == expected


def same_output(got: str, expected: str) -> bool:
    """Equal line by line and word by word: white space at the end of a line or text is free.

    A word that is expected with a decimal point, or exponent, may be a number within TOLERANCE.
    """
    lines, expected_lines = got.rstrip().split("\n"), expected.rstrip().split("\n")
    return len(lines) == len(expected_lines) and all(
        len(words := line.split()) == len(expected_words := expected_line.split())
        and all(map(_same_word, words, expected_words))
        for line, expected_line in zip(lines, expected_lines, strict=True)
    )


def _same_word(got: str, expected: str) -> bool:
    if got == expected:
        return True
    if expected.lstrip("+-").isdecimal():
        return False
    try:
        return near(float(got), float(expected))
    except ValueError:
        return False


def near(got: float, expected: float) -> bool:
    return got == expected or abs(got - expected) <= TOLERANCE * max(1.0, abs(expected))
