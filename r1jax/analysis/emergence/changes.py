"""The one step at which a share rises: a beta-binomial likelihood ratio, and how often chance has
one as large.

Steps before it have one share and steps from it on another; the counts of a step scatter more than
a binomial's, since replies to a question are alike: by `rho`, the correlation of two replies of a
step, which is fitted. Legend: T steps, B draws, P shares of a grid.

The p is of steps permuted in circular blocks, which keeps what neighbours have in common. It is
exact where steps could be exchanged, for `rho` is fitted without a change.
"""

import dataclasses

import numpy as np

SEGMENT = 3  # steps at least before and after
PERMUTATIONS = 999
_SHARES = 1 / (1 + np.exp(-np.linspace(-11.5, 11.5, 70)))  # 1e-5 to 1 - 1e-5, even in log odds
_RHOS = (0.0, 1e-4, 1e-3, 0.003, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3)


@dataclasses.dataclass(frozen=True)
class Change:
    """step: the first with the higher share; [low, high]: its 95% interval. before, after: shares.
    ratio: twice the log likelihood's gain. p: of blocks permuted."""

    step: int
    low: int
    high: int
    before: float
    after: float
    ratio: float
    p: float
    rho: float


def likelihoods(n: int, rho: float) -> np.ndarray:
    """[n + 1, P]: log P(k of n | share, rho), without the binomial coefficient."""
    k = np.arange(n + 1)[:, None]
    if rho == 0:
        return k * np.log(_SHARES) + (n - k) * np.log(1 - _SHARES)
    s, i = 1 / rho - 1, np.arange(n)[:, None]

    def rising(start):  # log of start (start + 1) ... (start + k - 1), by k
        return np.concatenate([np.zeros((1, len(_SHARES))), np.log(start + i).cumsum(0)])

    return rising(s * _SHARES) + rising(s * (1 - _SHARES))[::-1] - np.log(s + i).sum()


def _table(k_BT: np.ndarray, n_T: np.ndarray, rho: float) -> np.ndarray:
    """[B, T, P]."""
    by_n = {n: likelihoods(n, rho) for n in set(n_T.tolist())}
    return np.stack([by_n[n][k_BT[:, t]] for t, n in enumerate(n_T.tolist())], 1)


def _splits(table_BTP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log likelihood of a rise at each admissible step [B, C], that of no change [B]); a step at
    which the share falls has -inf."""
    sums = table_BTP.cumsum(1)
    before, whole = sums[:, SEGMENT - 1 : -SEGMENT], sums[:, -1:]
    after = whole - before
    rises = after.argmax(-1) > before.argmax(-1)
    gained = np.where(rises, before.max(-1) + after.max(-1), -np.inf)
    return gained, whole[:, 0].max(-1)


def _rho(k_T: np.ndarray, n_T: np.ndarray, change: bool) -> float:
    """The likeliest, with or without a change."""

    def likelihood(rho: float) -> float:
        gained, none = _splits(_table(k_T[None], n_T, rho))
        return max(float(gained.max()), float(none[0])) if change else float(none[0])

    return max(_RHOS, key=likelihood)


def find_change(
    steps_T: np.ndarray,
    k_T: np.ndarray,
    n_T: np.ndarray,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Change | None:
    """The likeliest rise of k_T of n_T; None with fewer than 2 SEGMENT steps, or where no split of
    them is a rise."""
    k_T, n_T = np.asarray(k_T).round().astype(int), np.asarray(n_T).round().astype(int)
    if len(k_T) < 2 * SEGMENT:
        return None
    rho = _rho(k_T, n_T, change=True)
    table_TP = _table(k_T[None], n_T, rho)[0]
    gained, _ = _splits(table_TP[None])
    if not np.isfinite(gained.max()):
        return None
    at = int(gained[0].argmax()) + SEGMENT
    null_TP = _table(k_T[None], n_T, _rho(k_T, n_T, change=False))[0]
    observed = _ratio(null_TP[None])[0]
    p = _permuted(null_TP, observed, permutations, seed)
    low, high = _interval(gained[0])
    return Change(
        step=int(steps_T[at]),
        low=int(steps_T[low]),
        high=int(steps_T[high]),
        before=float(k_T[:at].sum() / max(n_T[:at].sum(), 1)),
        after=float(k_T[at:].sum() / max(n_T[at:].sum(), 1)),
        ratio=float(observed),
        p=p,
        rho=rho,
    )


def _ratio(table_BTP: np.ndarray) -> np.ndarray:
    gained, none = _splits(table_BTP)
    return np.maximum(2 * (gained.max(1) - none), 0.0)


def _permuted(table_TP: np.ndarray, observed: float, permutations: int, seed: int) -> float:
    t, rng = len(table_TP), np.random.default_rng(seed)
    block = 1 if t < 20 else round(t ** (1 / 3))
    hits, chunk = 0, max(1, 4_000_000 // table_TP.size)
    for start in range(0, permutations, chunk):
        orders = [_in_blocks(t, block, rng) for _ in range(min(chunk, permutations - start))]
        hits += int((_ratio(table_TP[np.stack(orders)]) >= observed - 1e-9).sum())
    return (hits + 1) / (permutations + 1)


def _in_blocks(t: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """0 ... t - 1, cut into blocks on a circle at a random place, the blocks shuffled."""
    turned = (np.arange(t) + rng.integers(t)) % t
    parts = [turned[i : i + block] for i in range(0, t, block)]
    return np.concatenate([parts[i] for i in rng.permutation(len(parts))])


def _interval(gained_C: np.ndarray) -> tuple[int, int]:
    """The middle 95% of the likelihood over steps, as places in the series: among steps alike
    before they are seen, that covers the truth in 95%. (Counts drawn again scatter twice, once as
    they were logged and once as they are drawn: such intervals came out twice as wide, and covered
    100%.)"""
    chance = np.exp(gained_C - gained_C.max())
    cumulated = chance.cumsum() / chance.sum()
    low, high = (int((cumulated >= end).argmax()) for end in (0.025, 0.975))
    return low + SEGMENT, high + SEGMENT
