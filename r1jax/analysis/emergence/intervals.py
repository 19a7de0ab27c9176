"""Estimates with their n and a 95% interval clustered by question, and exact tests.

Sixteen replies to a question are not sixteen independent ones: what is drawn anew is the questions,
all replies of each together. Legend: Q questions, B draws, M columns of sums.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

LEVEL = 0.95
DRAWS = 2000
EXACT = 20_000  # splits of the pooled values that a permutation test goes through, at most
_Z = 1.959964
_KEPT = 8_000_000  # weights that are kept in memory at most


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value, its 95% interval, and the replies or questions that it is of; None: no value."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "not known"
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g}, n = {self.n:,})"


UNKNOWN = Estimate(None, None, None, 0)


def sums_by(cluster: np.ndarray, columns_NM: np.ndarray) -> np.ndarray:
    """[Q, M]: the columns summed over the rows of each cluster that occurs."""
    _, which = np.unique(cluster, return_inverse=True)
    sums_QM = np.zeros((which.max(initial=-1) + 1, columns_NM.shape[1]))
    np.add.at(sums_QM, which, columns_NM)
    return sums_QM


def resampled(sums_QM: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """[B, M]: totals over as many questions as there are, drawn with replacement."""
    q = len(sums_QM)
    if q * draws <= _KEPT:
        return _weights(q, draws, seed) @ sums_QM
    each = max(_KEPT // q, 1)  # a few draws at a time, of which none is kept
    sizes = [min(each, draws - start) for start in range(0, draws, each)]
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.multinomial(q, np.full(q, 1 / q), size=n) @ sums_QM for n in sizes])


@functools.lru_cache(maxsize=8)  # many statistics are of the same questions
def _weights(questions: int, draws: int, seed: int) -> np.ndarray:
    """[B, Q]: how often each question is drawn."""
    even = np.full(questions, 1 / questions)
    return np.random.default_rng(seed).multinomial(questions, even, size=draws).astype(float)


def estimate(
    sums_QM: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int = 0
) -> Estimate:
    """Of `statistic`, which takes totals [..., M] to values [...]; percentiles of its bootstrap.

    Draws where it does not exist (NaN) are left out; UNKNOWN where it does not exist itself.
    """
    if not len(sums_QM):
        return UNKNOWN
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums_QM.sum(0)))
        drawn_B = np.asarray(statistic(resampled(sums_QM, seed=seed)), float)
    drawn_B = drawn_B[np.isfinite(drawn_B)]
    if not math.isfinite(value) or not len(drawn_B):
        return UNKNOWN
    low, high = np.quantile(drawn_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def mean(values: np.ndarray, cluster: np.ndarray, seed: int = 0) -> Estimate:
    """Of values of replies."""
    sums_QM = sums_by(cluster, np.stack([values, np.ones(len(values))], 1))
    return estimate(sums_QM, lambda t: t[..., 0] / t[..., 1], len(values), seed)


def share(hits: np.ndarray, cluster: np.ndarray, seed: int = 0) -> Estimate:
    """Of replies that are hits; the interval is the wider of the bootstrap's and Wilson's, since
    over few hits a bootstrap never sees the rarer ones, and with none it has no width."""
    hits = np.asarray(hits, float)
    if not len(hits):
        return UNKNOWN
    found = mean(hits, cluster, seed)
    low, high = wilson(int(hits.sum()), len(hits))
    assert found.low is not None and found.high is not None
    return Estimate(found.value, min(found.low, low), max(found.high, high), len(hits))


def wilson(k: float, n: float) -> tuple[float, float]:
    """The interval of a share of independent replies. With k = 0 its upper end is the rule of
    three's, 3 / n, and with k = n its lower end is 1 - 3 / n: one-sided, as there is no other."""
    if k == 0:
        return 0.0, rule_of_three(n)
    if k == n:
        return 1.0 - rule_of_three(n), 1.0
    p, z2 = k / n, _Z**2
    centre, half = p + z2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max((centre - half) / (1 + z2 / n), 0.0), min((centre + half) / (1 + z2 / n), 1.0)


def rule_of_three(n: float) -> float:
    """The share that 0 of n still allows, at 95%: 1 - .05^(1/n), which is near 3 / n."""
    return 1 - 0.05 ** (1 / n)


def sign_test(above: int, below: int) -> float:
    """The two-sided exact p of so many differences above and below 0; ties are left out."""
    n, k = above + below, min(above, below)
    if n == 0:
        return 1.0
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def permutation_test(a: Sequence[float], b: Sequence[float], seed: int = 0) -> float:
    """The two-sided p of the difference of means: over all splits of the pooled values where they
    are at most EXACT, else over as many random ones. Three against three cannot go below 0.1."""
    pooled, size = np.array([*a, *b], float), len(a)
    observed = abs(np.mean(a) - np.mean(b)) - 1e-12
    if math.comb(len(pooled), size) <= EXACT:
        splits = itertools.combinations(range(len(pooled)), size)
        chosen = np.array(list(splits))
        extra = 0
    else:
        rng = np.random.default_rng(seed)
        chosen = np.argsort(rng.random((EXACT, len(pooled))), axis=1)[:, :size]
        extra = 1  # the split that was observed
    sums = pooled[chosen].sum(1)
    differences = sums / size - (pooled.sum() - sums) / (len(pooled) - size)
    hits = int((np.abs(differences) >= observed).sum())
    return (hits + extra) / (len(chosen) + extra)


def cliffs_delta(a: Sequence[float], b: Sequence[float]) -> float:
    """P(a > b) - P(a < b) over all pairs, in [-1, 1]."""
    return float(np.sign(np.subtract.outer(np.asarray(a), np.asarray(b))).mean())


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p, in the order given: in 5% of cases at most, chance has any below .05."""
    order = np.argsort(ps)
    scaled = np.asarray(ps, float)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()
