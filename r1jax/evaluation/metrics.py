"""Figures of a benchmark with their errors.

Legend: Q questions. Of each, n_Q replies whose grade is known, of which c_Q are right.
"""

import dataclasses

import numpy as np

from r1jax.analysis.emergence.coverage import ks, pass_at_k
from r1jax.analysis.emergence.intervals import estimate as bootstrap
from r1jax.analysis.emergence.intervals import wilson


@dataclasses.dataclass(frozen=True)
class Mean:
    """pass@1 in [0, 1], the mean over questions of the mean over replies.

    low, high: a 95% interval over questions, the wider of the bootstrap's and Wilson's: where all
        are wrong, or right, the errors are 0, and it is not.
    se_questions: the standard error over questions like these and replies like these; None of one
        question. se_samples: over replies to these very questions; None where one was drawn.
    """

    value: float
    low: float
    high: float
    se_questions: float | None
    se_samples: float | None


def pass_at_1(n_Q: np.ndarray, c_Q: np.ndarray) -> Mean | None:
    """None where no question has a reply that is graded; those that have none are left out."""
    asked = np.asarray(n_Q) > 0
    n_Q, c_Q = np.asarray(n_Q, float)[asked], np.asarray(c_Q, float)[asked]
    if not len(n_Q):
        return None
    p_Q, q = c_Q / n_Q, len(n_Q)
    over_questions = float(p_Q.std(ddof=1) / np.sqrt(q)) if q > 1 else None
    over_samples = None
    if (n_Q > 1).all():  # p (1 - p) n / (n - 1) is unbiased for the variance of one reply
        over_samples = float(np.sqrt((p_Q * (1 - p_Q) / (n_Q - 1)).sum()) / q)
    value, drawn = float(p_Q.mean()), bootstrap(np.stack([p_Q, np.ones(q)], 1), _ratio, q)
    low, high = wilson(float(p_Q.sum()), q)
    low, high = min(low, drawn.low or 0.0), max(high, drawn.high or 0.0)
    return Mean(value, low, high, over_questions, over_samples)


def _ratio(totals: np.ndarray) -> np.ndarray:
    return totals[..., 0] / totals[..., 1]


def pass_curve(n_Q: np.ndarray, c_Q: np.ndarray) -> dict[int, float]:
    """pass@k by k = 1, 2, 4, ... up to the fewest replies of a question, and these; unbiased."""
    n_Q, c_Q = np.asarray(n_Q), np.asarray(c_Q)
    most = int(n_Q.min()) if len(n_Q) else 0
    wanted = sorted({*ks(most), most} - {0})
    return {k: float(pass_at_k(n_Q, c_Q, k).mean()) for k in wanted}
