"""What becomes of accuracy when reflection is taken away or forced: `intervention.json`.

One JSON object a model:

    {"questions": ["9-5-4-2=8", ...],                 # ids, in the order of every list below
     "samples": 4,                                    # replies a question and condition
     "conditions": {"none": [0.75, ...],              # accuracy of each question, in [0, 1]
                    "ban": [...], "placebo": [...]},  # the same questions and random keys
     "tokens": {"none": [31.5, ...], ...},            # mean length, where known, of each question
     "reflects": ..., "truncated": ..., "touched": ...}   # shares of its replies, where known

`python -m experiments.intervene` writes it. Conditions that the verdict asks for: `none` (as it
is), `ban` (no reflective token can be drawn), `placebo` (as many, equally frequent, other tokens
cannot). Others are shown, by any name; `interventions.py` lists those that it draws. All are paired
with `none`, question by question, and some with a control of their own beside: a ban with the
placebo, a forced word with a token that is forced to be any other (`force_wait_2`, `force_0_2`).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from r1jax.analysis.emergence.intervals import Estimate, estimate, sign_test
from r1jax.checks import check

NONE, BAN, BAN_WAIT, PLACEBO = "none", "ban", "ban_wait", "placebo"
SHARES = ("reflects", "truncated", "touched")  # lists beside "conditions", in [0, 1] too


def control_of(name: str) -> str | None:
    """The condition that does all that `name` does but for what it is about; None: there is none
    but `none`."""
    if name in (BAN, BAN_WAIT):
        return PLACEBO
    found = re.fullmatch(r"force_([a-z]\w*)_(\d+)", name)
    return f"force_0_{found[2]}" if found else None


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
    """effects: by condition. beyond: of those whose own control is there too, the accuracy less the
    control's."""

    effects: Mapping[str, Effect]
    beyond: Mapping[str, Estimate]

    @property
    def ban_beyond_placebo(self) -> Estimate | None:
        return self.beyond.get(BAN)


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
    for share in SHARES:
        for name, values in raw.get(share, {}).items():
            good = all(type(v) in (int, float) and 0 <= v <= 1 for v in values)
            check(
                good and len(values) == size,
                f'{where}: "{share}" of {name!r} must be {size} shares in [0, 1]',
            )
    tokens = {n: float(np.mean(v)) for n, v in raw.get("tokens", {}).items()}
    effects = {
        name: Effect(
            _mean(values),
            _difference(values - read[NONE]),
            sign_test(int((values > read[NONE]).sum()), int((values < read[NONE]).sum())),
            tokens[name] - tokens[NONE] if {name, NONE} <= set(tokens) else None,
        )
        for name, values in read.items()
    }
    controls = {name: control_of(name) for name in read}
    beyond = {
        n: _difference(read[n] - read[c])
        for n, c in controls.items()
        if c is not None and c in read
    }
    return Causes(effects, beyond)


def _mean(values_Q: np.ndarray) -> Estimate:
    sums_QM = np.stack([values_Q, np.ones(len(values_Q))], 1)
    return estimate(sums_QM, lambda t: t[..., 0] / t[..., 1], len(values_Q))


def _difference(values_Q: np.ndarray) -> Estimate:
    """Of pairs. Where all are alike resampling says nothing: with 95% fewer than 3 questions in
    `len(values_Q)` would differ (the rule of three)."""
    found = _mean(values_Q)
    if np.ptp(values_Q) > 0:
        return found
    value, most = float(values_Q[0]), 3 / len(values_Q)
    return dataclasses.replace(found, low=max(value - most, -1.0), high=min(value + most, 1.0))
