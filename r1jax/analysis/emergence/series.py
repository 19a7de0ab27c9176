"""A run as totals a step, and such totals drawn again: what onsets and their intervals are of.

Legend: T steps, Q questions of a step, B draws, M the columns of `COLUMNS`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from r1jax.analysis.emergence.intervals import Estimate
from r1jax.analysis.emergence.logs import Log
from r1jax.analysis.emergence.table import Detector, Table

COLUMNS = ("replies", "reflective", "graded", "correct", "tokens", "terms")
REPLIES, REFLECTIVE, GRADED, CORRECT, TOKENS, TERMS = range(len(COLUMNS))
DRAWS = 1000
# Of steps whose questions are not known: what sixteen alike replies to each would do.
_DEFAULT_RHO = 0.02


@dataclasses.dataclass(frozen=True)
class Series:
    """clusters: at each step [Q, M], a row a question; None where only totals were logged."""

    steps_T: np.ndarray
    totals_TM: np.ndarray
    clusters: tuple[np.ndarray, ...] | None

    def __len__(self) -> int:
        return len(self.steps_T)

    def draws(self, count: int = DRAWS, seed: int = 0) -> np.ndarray:
        """[B, T, M]: each step's questions drawn anew with replacement, all columns together.

        Where only totals are known, shares are drawn from a beta-binomial around them, and tokens
        as they were.
        """
        rng = np.random.default_rng(seed)
        if self.clusters is not None:
            drawn = [
                rng.multinomial(len(c), np.full(len(c), 1 / len(c)), size=count) @ c
                for c in self.clusters
            ]
            return np.stack(drawn, 1)
        drawn_BTM = np.repeat(self.totals_TM[None], count, 0)
        for hits, of in ((REFLECTIVE, REPLIES), (CORRECT, GRADED)):
            n_T, k_T = self.totals_TM[:, of], self.totals_TM[:, hits]
            p_T = k_T / np.maximum(n_T, 1)
            a_T, b_T = (np.maximum(p * (1 / _DEFAULT_RHO - 1), 1e-6) for p in (p_T, 1 - p_T))
            p_BT = rng.beta(a_T, b_T, (count, len(self)))
            drawn_BTM[:, :, hits] = rng.binomial(n_T.astype(int), p_BT)
        return drawn_BTM

    def share(self, hits: int, of: int) -> np.ndarray:
        return self.totals_TM[:, hits] / np.maximum(self.totals_TM[:, of], 1)


class Summit(NamedTuple):
    """Neighbouring steps at which the share of replies that reflect is largest."""

    first: int
    last: int
    share: Estimate


def summit_of(series: Series) -> Summit:
    """Of a twentieth of the steps, at least three."""
    width = min(max(len(series) // 20, 3), len(series))

    def rolling(totals: np.ndarray) -> np.ndarray:
        ends = np.pad(totals.cumsum(-1), [(0, 0)] * (totals.ndim - 1) + [(1, 0)])
        return ends[..., width:] - ends[..., :-width]

    k_T, n_T = (rolling(series.totals_TM[:, m]) for m in (REFLECTIVE, REPLIES))
    at = int(np.argmax(k_T / np.maximum(n_T, 1)))
    there = series.draws()[:, at : at + width]
    drawn_B = there[:, :, REFLECTIVE].sum(1) / np.maximum(there[:, :, REPLIES].sum(1), 1)
    low, high = np.quantile(drawn_B, [0.025, 0.975])
    value = float(k_T[at] / max(n_T[at], 1))
    steps_T = series.steps_T[at : at + width]
    estimate = Estimate(value, float(min(low, value)), float(max(high, value)), int(n_T[at]))
    return Summit(int(steps_T[0]), int(steps_T[-1]), estimate)


def series_of(table: Table, detector: Detector) -> Series:
    """Of the replies of a table, step by step."""
    columns_NM = np.stack(
        [
            np.ones(len(table)),
            table.found[detector],
            table.correct >= 0,
            table.correct == 1,
            table.tokens,
            table.terms_NW.sum(1),
        ],
        1,
    ).astype(float)
    steps_T, at = np.unique(table.step, return_inverse=True)
    clusters = []
    for t in range(len(steps_T)):
        rows = np.flatnonzero(at == t)
        _, question = np.unique(table.question[rows], return_inverse=True)
        sums_QM = np.zeros((question.max() + 1, len(COLUMNS)))
        np.add.at(sums_QM, question, columns_NM[rows])
        clusters.append(sums_QM)
    return Series(steps_T, np.stack([c.sum(0) for c in clusters]), tuple(clusters))


def series_of_metrics(log: Log) -> Series | None:
    """Of metrics.jsonl, where the replies themselves were not kept: the word detector's share over
    the training replies of each step. None if there is no such metric."""
    rl = log.config.get("rl", {})
    rows = [m for m in log.metrics if m.get("reflection/fraction") is not None]
    if not rows or not {"questions", "group"} <= set(rl):
        return None
    n = rl["questions"] * rl["group"]
    totals = [
        [
            n,
            round(n * m["reflection/fraction"]),
            n,
            round(n * (m.get("reward/accuracy") or 0.0)),
            n * m["length/mean"],
            n * m["reflection/per_response"],
        ]
        for m in rows
    ]
    return Series(np.array([m["step"] for m in rows]), np.array(totals, float), None)
