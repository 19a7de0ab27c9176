"""Logic puzzles and other procedural tasks of reasoning-gym (arXiv 2505.24760), by its scoring.

The package is optional (`pip install -e '.[gym]'`). A problem carries its whole entry as JSON, so
that it can be stored, sent to another process and scored there; not every data set of the package
can be trusted that way, and `gym_problems` refuses those that cannot.
"""

import functools
import importlib.util
import json
from typing import Any

from r1jax.checks import InputError, check, near
from r1jax.data.problems import Problem

# No puzzle's answer: a scorer that raises at one, or accepts it, would train a policy on its bug.
_NONSENSE = ("?", "nonsense")


def gym_problems(name: str, size: int, seed: int = 0) -> list[Problem]:
    """`size` problems of the data set `name`, at its default difficulty; the same for a seed.

    Raises InputError if the package is missing or has no such data set, and for a data set that
    does not give full marks to its own reference answer once the entry has been through JSON
    (which turns tuples into lists), or whose scorer accepts nonsense or breaks at it. Of the 106
    data sets of version 0.1.25, 96 pass.
    """
    require()
    import reasoning_gym

    known = reasoning_gym.factory.DATASETS
    check(name in known, f"reasoning-gym has no data set {name!r}{near(name, known)}")
    check(size > 0, f"gym_problems: size must be positive, got {size}")
    try:
        entries = list(reasoning_gym.create_dataset(name, size=size, seed=seed))
        problems = [_problem(name, seed, i, entry) for i, entry in enumerate(entries)]
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f"reasoning-gym's {name} cannot be used: {error}") from None
    for problem, entry in zip(problems, entries, strict=True):
        _check_scorer(name, problem, entry["answer"])
    return problems


def score_gym(answer: str, entry: str) -> float:
    """reasoning-gym's score of an answer, in [0, 1]; only 1 is correct, less is partial credit.

    `entry` is a problem's `answer`. Raises whatever the scorer does, and ValueError for an entry
    that names no data set or a score out of its range. May run for ever: call it in a process that
    can be killed (grading.py does).
    """
    row = json.loads(entry)
    score = float(_scorer(row["metadata"]["source_dataset"])(answer, row))
    if not 0 <= score <= 1:
        raise ValueError(f"reasoning-gym gave a score of {score}")
    return score


def require() -> None:
    """Raises InputError if reasoning-gym is not installed."""
    found = importlib.util.find_spec("reasoning_gym") is not None
    check(found, "problems of kind gym need reasoning-gym: pip install -e '.[gym]'")


@functools.cache
def _scorer(name: str):
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(name)


def _problem(name: str, seed: int, i: int, entry: dict[str, Any]) -> Problem:
    answer = json.dumps(entry)
    return Problem(f"gym/{name}/{seed}/{i}", "gym", entry["question"], answer, source=f"gym/{name}")


def _check_scorer(name: str, problem: Problem, reference: object) -> None:
    refused = f"reasoning-gym's {name} cannot be used: "
    check(isinstance(reference, str), refused + "its entries have no reference answer")
    for answer in (str(reference).strip(), *_NONSENSE):
        try:
            score = score_gym(answer, problem.answer)
        except Exception as error:  # whatever a scorer raises, it is not fit for training
            raise InputError(
                f"{refused}its scorer breaks at {answer!r:.40}: {type(error).__name__}: {error}"
            ) from None
        full = answer not in _NONSENSE or answer == reference
        check(full == (score >= 1), f"{refused}its scorer gives {score:g} to {answer!r:.40}")
