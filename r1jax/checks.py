"""What every room checks its input with, and the one error a user sees."""

import difflib
import math
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from the user; its message is the one line they see."""


def check(ok: bool, message: str) -> None:
    """Raises InputError(message) unless ok."""
    if not ok:
        raise InputError(message)


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The one of those known that `word` may be a slip of, if there is one."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)


def near(word: str, known: Iterable[str]) -> str:
    """For the end of a message: ": did you mean ...?" if one of those known is near, else ""."""
    return "".join(f": did you mean {name}?" for name in nearest(word, known))


def check_positive(config, *fields: str) -> None:
    for field in fields:
        value = getattr(config, field)
        check(value > 0, f"{type(config).__name__}.{field} must be positive, got {value}")


def check_seed(seed: int, name: str) -> None:
    """JAX's keys and NumPy's take 32 bits alike."""
    check(0 <= seed < 2**32, f"{name} must lie between 0 and 2^32 - 1, got {seed}")


def check_drawing(temperature: float, top_p: float, top_k: int) -> None:
    """Of a command's flags."""
    hot = f"--temperature must be finite and not negative, got {temperature}"
    check(0 <= temperature < math.inf, hot)
    check(0 < top_p <= 1, f"--top-p must lie in (0, 1], got {top_p}")
    check(top_k >= 0, f"--top-k must not be negative, got {top_k}")
