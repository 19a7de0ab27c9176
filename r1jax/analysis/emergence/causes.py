"""What becomes of accuracy when reflection is taken away or forced: `intervention.json`.

One JSON object a model:

    {"questions": ["9-5-4-2=8", ...],                 # ids, in the order of every list below
     "samples": 4,                                    # replies a question and condition
     "conditions": {"none": [0.75, ...],              # accuracy of each question, in [0, 1]
                    "ban": [...], "placebo": [...]},  # the same questions and random keys
     "tokens": {"none": [31.5, ...], ...}}            # mean length, where known

Conditions that the verdict asks for: `none` (as it is), `ban` (no reflective token can be drawn),
`placebo` (as many, equally frequent, other tokens cannot). Others are shown: `ban_wait`,
`first_candidate` (cut there), `force_1`, `force_2`, `force_4`, `force_none`, `force_neutral`,
`inject`, `flip`, or any name. All are paired with `none`, question by question.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from r1jax.analysis.emergence.intervals import Estimate, estimate, sign_test
from r1jax.config import check

NONE, BAN, PLACEBO = "none", "ban", "placebo"


@dataclasses.dataclass(frozen=True)
class Effect:
    """Accuracy under a condition, and that less accuracy without it; p of the sign test. tokens:
    mean length under it, less that without."""

    accuracy: Estimate
    difference: Estimate
    p: float
    tokens: float | None


@dataclasses.dataclass(frozen=True)
class Causes:
    """effects: by condition. ban_beyond_placebo: the ban's difference less the placebo's."""

    effects: Mapping[str, Effect]
    ban_beyond_placebo: Estimate | None


def read_causes(raw: Mapping[str, Any], where: str) -> Causes | None:
    """None of {}. Raises InputError, which names the condition, for lists that do not fit."""
    if not raw:
        return None
    conditions = raw.get("conditions")
    check(
        isinstance(conditions, Mapping) and NONE in conditions,
        f'{where}: "conditions" must be an object of lists, "none" among them',
    )
    assert isinstance(conditions, Mapping)
    size = len(raw["questions"]) if "questions" in raw else len(conditions[NONE])
    check(size > 1, f"{where}: at least two questions are needed")
    read: dict[str, np.ndarray] = {}
    for name, values in conditions.items():
        check(
            isinstance(values, list) and len(values) == size,
            f"{where}: condition {name!r} must have one value for each of the {size} questions",
        )
        good = all(type(v) in (int, float) and 0 <= v <= 1 for v in values)
        check(good, f"{where}: condition {name!r}: accuracies must lie in [0, 1]")
        read[name] = np.array(values, float)
    tokens = {n: float(np.mean(v)) for n, v in raw.get("tokens", {}).items()}
    effects = {
        name: Effect(
            _mean(values),
            _mean(values - read[NONE]),
            sign_test(int((values > read[NONE]).sum()), int((values < read[NONE]).sum())),
            tokens[name] - tokens[NONE] if {name, NONE} <= set(tokens) else None,
        )
        for name, values in read.items()
    }
    beyond = _mean(read[BAN] - read[PLACEBO]) if {BAN, PLACEBO} <= set(read) else None
    return Causes(effects, beyond)


def _mean(values_Q: np.ndarray) -> Estimate:
    sums_QM = np.stack([values_Q, np.ones(len(values_Q))], 1)
    return estimate(sums_QM, lambda t: t[..., 0] / t[..., 1], len(values_Q))
