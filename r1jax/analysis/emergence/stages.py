"""What replies of one moment of a run (the base, the end) say and do, every number with its n and
an interval clustered by question."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from r1jax.analysis.emergence.intervals import (
    DRAWS,
    UNKNOWN,
    Estimate,
    estimate,
    mean,
    resampled,
    share,
    sign_test,
    sums_by,
    wilson,
)
from r1jax.analysis.emergence.table import DETECTORS, Detector, Table
from r1jax.analysis.reflection import REFLECTIVE_TERMS

CHANGES = ("T→T", "F→T", "T→F", "F→F")


@dataclasses.dataclass(frozen=True)
class Within:
    """Accuracy with less accuracy without reflection, within questions that have both kinds of
    replies: hard questions provoke reflection and failure alike, and this takes that out."""

    difference: Estimate
    above: int
    below: int
    p: float


@dataclasses.dataclass(frozen=True)
class Stage:
    """reflective: share of replies, by the detector. share_B, density_B: that share and the terms
    per 1,000 tokens, drawn again. changes: first try to answer, of reflective replies, in the order
    of CHANGES. corrective: of reflective replies whose first try is wrong, the share that ends
    right; harmful: of those whose first try is right, the share that ends wrong. accepts_wrong,
    rejects_right: errors of verdicts, e+ and e-. agreement: Cohen's kappa of word and structure;
    differ: the share of replies that have one alone. thirds: where the terms stand. levels: by
    difficulty."""

    n: int
    questions: int
    reflective: Estimate
    share_B: np.ndarray
    density_B: np.ndarray
    detectors: Mapping[str, Estimate]
    questions_with: float
    per_reply: Estimate
    per_1k: Estimate
    per_attempt: Estimate
    terms_per_1k: Mapping[str, float]
    thirds: tuple[float, ...]
    accuracy: Estimate
    first_try: Estimate
    changes: tuple[int, ...]
    neighbours: tuple[int, ...]
    corrective: Estimate
    harmful: Estimate
    accepts_wrong: Estimate
    rejects_right: Estimate
    place: Estimate
    attempts: Estimate
    agreement: float | None
    differ: float
    within: Within | None
    length: Estimate
    length_finished: Estimate
    length_correct: Estimate
    length_incorrect: Estimate
    truncated: Estimate
    levels: Mapping[str, Mapping[str, Estimate]]


def stage_of(table: Table, detector: Detector) -> Stage:
    """Of all replies of a table."""
    q, hits = table.question, table.found[detector]
    graded, terms = table.correct >= 0, table.terms_NW.sum(1)

    def of(mask: np.ndarray, values: np.ndarray) -> Estimate:
        return mean(values[mask], q[mask])

    def part(mask: np.ndarray, values: np.ndarray) -> Estimate:
        return share(values[mask], q[mask])

    known = hits & graded & (table.first_right >= 0)
    first, last = table.first_right == 1, table.correct == 1
    pairs = [known & (first == a) & (last == b) for a, b in ((1, 1), (0, 1), (1, 0), (0, 0))]
    said_NV = table.verdicts_N4
    right, wrong = said_NV[:, 0] + said_NV[:, 2], said_NV[:, 1] + said_NV[:, 3]
    finished = table.truncated == 0
    every = np.ones(len(table), bool)
    total = max(int(terms.sum()), 1)
    return Stage(
        n=len(table),
        questions=len(np.unique(q)),
        reflective=share(hits, q),
        share_B=_share_draws(hits, q),
        density_B=_ratio_draws(1000 * terms, table.tokens, q),
        detectors={name: share(table.found[name], q) for name in DETECTORS},
        questions_with=float((sums_by(q, hits[:, None])[:, 0] > 0).mean()),
        per_reply=mean(terms, q),
        per_1k=_ratio(1000 * terms, table.tokens, q),
        per_attempt=_ratio(terms, table.attempts, q),
        terms_per_1k={
            word: float(1000 * table.terms_NW[:, i].sum() / table.tokens.sum())
            for i, word in enumerate(REFLECTIVE_TERMS)
        },
        thirds=tuple((table.thirds_N3.sum(0) / total).tolist()),
        accuracy=part(graded, last),
        first_try=part(table.first_right >= 0, first),
        changes=tuple(int(p.sum()) for p in pairs),
        neighbours=tuple(table.changes_N4.sum(0).tolist()),
        corrective=part(known & ~first, last),
        harmful=part(known & first, ~last),
        accepts_wrong=_rate(said_NV[:, 1], wrong, q),
        rejects_right=_rate(said_NV[:, 2], right, q),
        place=of(table.place >= 0, table.place),
        attempts=of(table.attempts > 0, table.attempts),
        agreement=_kappa(table.found["strict"], table.found["event"]),
        differ=float((table.found["strict"] != table.found["event"]).mean()),
        within=_within(table, hits, graded),
        length=of(every, table.tokens),
        length_finished=of(finished, table.tokens),
        length_correct=of(last, table.tokens),
        length_incorrect=of(graded & ~last, table.tokens),
        truncated=part(table.truncated >= 0, table.truncated == 1),
        levels={
            level: {
                "accuracy": part((table.level == level) & graded, last),
                "length": of(table.level == level, table.tokens),
                "reflective": part(table.level == level, hits),
            }
            for level in sorted(set(table.level.tolist()) - {""}, key=_difficulty)
        },
    )


def _difficulty(level: str) -> tuple[int, str]:
    """Easy before hard; others by their names."""
    named = ("easy", "middle", "medium", "hard")
    return (named.index(level) if level in named else 0), level


def counted_stage(
    k: float, n: int, accuracy: float | None, length: float | None, terms: float | None
) -> Stage:
    """Where only totals were logged: k reflective replies of n, terms a reply. Intervals are those
    of independent replies."""

    def of(share_of: float | None) -> Estimate:
        if share_of is None:
            return UNKNOWN
        return Estimate(share_of, *wilson(share_of * n, n), n)

    def plain(value: float | None) -> Estimate:
        return UNKNOWN if value is None else Estimate(value, value, value, n)

    rng = np.random.default_rng(0)
    share_B = rng.beta(k + 0.5, n - k + 0.5, DRAWS)
    density = None if terms is None or not length else 1000 * terms / length
    empty = dict.fromkeys(
        ("per_attempt", "first_try", "corrective", "harmful", "accepts_wrong", "rejects_right",
         "place", "attempts", "length_finished", "length_correct", "length_incorrect",
         "truncated"), UNKNOWN,
    )  # fmt: skip
    return Stage(
        n=n,
        questions=0,
        reflective=of(k / n),
        share_B=share_B,
        density_B=np.full(DRAWS, math.nan if density is None else density),
        detectors={},
        questions_with=math.nan,
        per_reply=plain(terms),
        per_1k=plain(density),
        terms_per_1k={},
        thirds=(),
        accuracy=of(accuracy),
        changes=(0, 0, 0, 0),
        neighbours=(0, 0, 0, 0),
        agreement=None,
        differ=math.nan,
        within=None,
        length=plain(length),
        levels={},
        **empty,
    )


def _share_draws(hits: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """[B]; of none or all from Jeffreys' posterior, since a bootstrap of them has no width."""
    k, n = int(hits.sum()), len(hits)
    if k in (0, n):
        return np.random.default_rng(0).beta(k + 0.5, n - k + 0.5, DRAWS)
    return _ratio_draws(hits, np.ones(n), cluster)


def _ratio_draws(above: np.ndarray, below: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    drawn_BM = resampled(sums_by(cluster, np.stack([above, below], 1).astype(float)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return drawn_BM[:, 0] / drawn_BM[:, 1]


def _ratio(above: np.ndarray, below: np.ndarray, cluster: np.ndarray) -> Estimate:
    sums_QM = sums_by(cluster, np.stack([above, below], 1).astype(float))
    return estimate(sums_QM, lambda t: t[..., 0] / t[..., 1], int(below.sum()))


def _rate(errors: np.ndarray, chances: np.ndarray, cluster: np.ndarray) -> Estimate:
    """As `share`, where a reply has several chances."""
    n, k = int(chances.sum()), int(errors.sum())
    if n == 0:
        return UNKNOWN
    found, (low, high) = _ratio(errors, chances, cluster), wilson(k, n)
    return Estimate(k / n, min(low, found.low or 0.0), max(high, found.high or 0.0), n)


def _kappa(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cohen's kappa; None where either has one value only."""
    observed, p, q = float((a == b).mean()), float(a.mean()), float(b.mean())
    by_chance = p * q + (1 - p) * (1 - q)
    return None if min(p, q) == 0 or max(p, q) == 1 else (observed - by_chance) / (1 - by_chance)


def _within(table: Table, hits: np.ndarray, graded: np.ndarray) -> Within | None:
    right, some = (table.correct == 1) & graded, graded
    columns = [hits & some, hits & right, ~hits & some, ~hits & right]
    sums_QM = sums_by(table.question, np.stack(columns, 1).astype(float))
    sums_QM = sums_QM[(sums_QM[:, 0] > 0) & (sums_QM[:, 2] > 0)]
    if not len(sums_QM):
        return None
    gap_Q = sums_QM[:, 1] / sums_QM[:, 0] - sums_QM[:, 3] / sums_QM[:, 2]
    above, below = int((gap_Q > 0).sum()), int((gap_Q < 0).sum())
    difference = mean(gap_Q, np.arange(len(gap_Q)))
    return Within(difference, above, below, sign_test(above, below))
