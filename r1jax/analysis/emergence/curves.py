"""What is drawn over steps: each run's curve, and over several runs their mean and their range.

Legend: S runs (seeds), T steps.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from r1jax.analysis import paper_curves
from r1jax.analysis.emergence.measure import Run
from r1jax.analysis.emergence.series import (
    CORRECT,
    GRADED,
    REFLECTIVE,
    REPLIES,
    TERMS,
    TOKENS,
)
from r1jax.analysis.emergence.table import Table
from r1jax.analysis.reflection import REFLECTIVE_TERMS

# (above, below, times): columns whose quotient a curve is.
QUANTITIES = {
    "reflection": (REFLECTIVE, REPLIES, 1.0),
    "length": (TOKENS, REPLIES, 1.0),
    "accuracy": (CORRECT, GRADED, 1.0),
    "terms": (TERMS, REPLIES, 1.0),
    "density": (TERMS, TOKENS, 1000.0),
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """The mean over runs, and what lies within: their range, or with one run the 95% interval of
    its questions."""

    steps_T: np.ndarray
    mean_T: np.ndarray
    low_T: np.ndarray
    high_T: np.ndarray


def curve(runs: Sequence[Run], quantity: str) -> Curve:
    """At the steps of the first run; another's steps are interpolated."""
    above, below, times = QUANTITIES[quantity]
    steps_T = runs[0].series.steps_T
    if len(runs) == 1:
        series = runs[0].series
        drawn_BTM = series.draws(400)
        drawn_BT = times * drawn_BTM[:, :, above] / np.maximum(drawn_BTM[:, :, below], 1)
        low_T, high_T = np.quantile(drawn_BT, [0.025, 0.975], axis=0)
        return Curve(steps_T, times * series.share(above, below), low_T, high_T)
    values_ST = np.stack(
        [np.interp(steps_T, r.series.steps_T, times * r.series.share(above, below)) for r in runs]
    )
    return Curve(steps_T, values_ST.mean(0), values_ST.min(0), values_ST.max(0))


def mean_by_step(
    table: Table, values: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(steps, mean of values there), of the replies of a mask."""
    steps, at = np.unique(table.step[mask], return_inverse=True)
    return steps, np.bincount(at, values[mask]) / np.maximum(np.bincount(at), 1)


def terms_by_step(table: Table, most: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """(first steps of up to `most` stretches, occurrences per 1,000 tokens [terms, stretches])."""
    steps = np.unique(table.step)
    parts = np.array_split(steps, min(most, len(steps)))
    density = np.zeros((len(REFLECTIVE_TERMS), len(parts)))
    for i, part in enumerate(parts):
        rows = (table.step >= part[0]) & (table.step <= part[-1])
        density[:, i] = 1000 * table.terms_NW[rows].sum(0) / max(table.tokens[rows].sum(), 1)
    return np.array([part[0] for part in parts]), density


@dataclasses.dataclass(frozen=True)
class Published:
    """DeepSeek-R1-Zero relative to its start: how its length grew, how its counts of reflective
    terms are said to have risen, and what follows for their density per token (each low, high).
    late: the same from step 300 on, past the first rise in length."""

    length: float
    counts: tuple[float, float]
    density: tuple[float, float]
    late_length: float
    late_density: tuple[float, float]


def published() -> Published:
    """From the curves that were published: counts over as many replies at every step, 5 to 7 times
    as many, over replies that many times longer."""
    tokens = [value for _, value in paper_curves.RESPONSE_LENGTH]
    grown, later = tokens[-1] / tokens[0], tokens[-1] / tokens[1]
    low, high = paper_curves.REFLECTION_RISE
    return Published(
        grown, (low, high), (low / grown, high / grown), later, (low / later, high / later)
    )
