"""What a model can solve at all: pass@k without bias, at equal tokens, and which questions it is.

Yue et al. (2504.13837): RL may only make likelier what the base could do; then the base catches up
in pass@k. Wu et al. (2507.14843) count questions preserved, lost, gained and never solved.
Legend: Q questions, K values of k.
"""

import dataclasses

import numpy as np

from r1jax.analysis.emergence.intervals import Estimate, estimate

MOST = 256


def ks(n: int) -> list[int]:
    """1, 2, 4, ... up to MOST or n."""
    return [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k <= min(n, MOST)]


def pass_at_k(n: np.ndarray, c: np.ndarray, k: int) -> np.ndarray:
    """The chance that one of k replies is right, from c right ones of n: 1 - C(n - c, k) / C(n, k),
    unbiased for k <= n (Chen et al., arXiv 2107.03374). Raises ValueError for k > n."""
    n, c = np.broadcast_arrays(np.asarray(n, float), np.asarray(c, float))
    if (k > n).any():
        raise ValueError(f"pass@{k} needs at least {k} replies to a question, got {n.min():.0f}")
    i = np.arange(k)
    return 1 - np.prod(np.clip((n - c)[..., None] - i, 0, None) / (n[..., None] - i), axis=-1)


@dataclasses.dataclass(frozen=True)
class Solved:
    """Of each question: replies n_Q, right ones c_Q, and ones whose chain is right as well
    (chain_Q, None where no grammar tells); mean tokens a reply."""

    questions: tuple[str, ...]
    n_Q: np.ndarray
    c_Q: np.ndarray
    chain_Q: np.ndarray | None
    tokens: float

    def of(self, questions: list[str]) -> "Solved":
        """These questions, in this order."""
        place = {q: i for i, q in enumerate(self.questions)}
        rows = [place[q] for q in questions]
        chain_Q = None if self.chain_Q is None else self.chain_Q[rows]
        return Solved(tuple(questions), self.n_Q[rows], self.c_Q[rows], chain_Q, self.tokens)


def pass_curve(solved: Solved, chain: bool = False) -> dict[int, Estimate]:
    """Mean pass@k over questions, by k; `chain`: the chain has to be right as well."""
    c_Q = solved.chain_Q if chain else solved.c_Q
    if c_Q is None or not len(solved.n_Q):
        return {}
    curve = {}
    for k in ks(int(solved.n_Q.min())):
        values_Q = pass_at_k(solved.n_Q, c_Q, k)
        sums_QM = np.stack([values_Q, np.ones(len(values_Q))], 1)
        curve[k] = estimate(sums_QM, lambda t: t[..., 0] / t[..., 1], len(values_Q))
    return curve


def token_matched(base: Solved, trained: Solved) -> dict[int, tuple[int, float, float]]:
    """By k of the trained model: (k of the base that takes as many tokens, its pass@k, the trained
    one's). Only where the base has so many replies."""
    matched = {}
    for k in ks(int(trained.n_Q.min())):
        same = max(round(k * trained.tokens / base.tokens), 1)
        if same <= base.n_Q.min():
            values = (
                float(pass_at_k(base.n_Q, base.c_Q, same).mean()),
                float(pass_at_k(trained.n_Q, trained.c_Q, k).mean()),
            )
            matched[k] = same, *values
    return matched


def crossing(base: dict[int, Estimate], trained: dict[int, Estimate]) -> int | None:
    """The smallest k > 1 at which the base is no worse, having been worse at 1; None: nowhere."""
    both = [k for k in base if k in trained]
    if not both or (base[1].value or 0) >= (trained[1].value or 0):
        return None
    return next((k for k in both if (base[k].value or 0) >= (trained[k].value or 0)), None)


@dataclasses.dataclass(frozen=True)
class Sets:
    """Questions preserved (solved before and after), shrunk (only before), expanded (only after),
    out of reach (neither); and what follows from the counts, clustered by question:
    srr = P / (P + S), ndr = E / (P + E), nscr = (E - S) / (P + E + S)."""

    preserved: int
    shrunk: int
    expanded: int
    out: int
    srr: Estimate
    ndr: Estimate
    nscr: Estimate
    replies: int  # a question, of the model that has fewer


def support_sets(base: Solved, trained: Solved, seed: int = 0) -> Sets:
    """Over the questions of both, a question being solved if one of n replies is right, with as
    many replies n of each: of the model with more, the chance that n of them have a right one
    counts, rounded. With few replies "solved" is noise, and so `replies` is told."""
    shared = [q for q in base.questions if q in set(trained.questions)]
    base, trained = base.of(shared), trained.of(shared)
    n = int(min(base.n_Q.min(initial=10**9), trained.n_Q.min(initial=10**9))) if shared else 0
    if n == 0:
        empty = np.zeros((0, 4))
        srr, ndr, nscr = (estimate(empty, lambda t: t[..., 0], 0) for _ in range(3))
        return Sets(0, 0, 0, 0, srr, ndr, nscr, 0)
    before_Q, after_Q = (pass_at_k(m.n_Q, m.c_Q, n) >= 0.5 for m in (base, trained))
    kinds_QM = np.stack(
        [before_Q & after_Q, before_Q & ~after_Q, ~before_Q & after_Q, ~before_Q & ~after_Q], 1
    ).astype(float)
    p, s, e, o = kinds_QM.sum(0).astype(int).tolist()
    found = len(shared)
    return Sets(
        p,
        s,
        e,
        o,
        srr=estimate(kinds_QM, lambda t: t[..., 0] / (t[..., 0] + t[..., 1]), found, seed),
        ndr=estimate(kinds_QM, lambda t: t[..., 2] / (t[..., 0] + t[..., 2]), found, seed),
        nscr=estimate(
            kinds_QM,
            lambda t: (t[..., 2] - t[..., 1]) / (t[..., 0] + t[..., 1] + t[..., 2]),
            found,
            seed,
        ),
        replies=n,
    )
