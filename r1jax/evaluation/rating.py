"""A Codeforces rating from problems' ratings, by maximum likelihood.

A player of rating r solves a problem of rating d with chance 1 / (1 + 10^((d - r) / 400)): Elo's
formula, which Codeforces rates problems by. The rating is the r that makes what was solved
likeliest. The replies to a problem count together as one attempt, solved by their share: where all
problems have as many this is the same value, and the interval does not take them for independent.
It is every r whose log-likelihood is at most 1.92 below the maximum (a 95% likelihood-ratio
interval).

R1's published rating is another estimate: of ten Div. 2 contests against their contestants. This
one needs problems alone. It is not comparable with it beyond its interval.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

LOW, HIGH = -1000.0, 6000.0  # between which ratings are looked for; problems' are 800 to 3500
_DROP = 1.920729  # half the 95% quantile of a chi-square of one degree
_SCALE = math.log(10) / 400


@dataclasses.dataclass(frozen=True)
class Rating:
    """None: no bound. Without a solved problem the value is None, and so is `low`; without an
    unsolved one, None with no `high`: any rating up, or down, from there is as likely."""

    value: float | None
    low: float | None
    high: float | None
    problems: int


def log_likelihood(rating: float, difficulty_Q: np.ndarray, share_Q: np.ndarray) -> float:
    """Of one attempt at each problem, solved by its share."""
    z_Q = (rating - difficulty_Q) * _SCALE
    return float((share_Q * z_Q - np.logaddexp(0, z_Q)).sum())


def rate(difficulty_Q: np.ndarray, share_Q: np.ndarray) -> Rating:
    """difficulty_Q: of each problem, in points. share_Q: of its replies, that solve it."""
    difficulty_Q, share_Q = np.asarray(difficulty_Q, float), np.asarray(share_Q, float)
    count, solved = len(share_Q), float(share_Q.sum())
    if not count:
        return Rating(None, None, None, 0)

    def surplus(rating: float) -> float:
        """Solved beyond what is expected; falls as the rating grows."""
        return float((share_Q - _expected(rating, difficulty_Q)).sum())

    never, always = solved == 0, solved == count
    top = HIGH if always else LOW if never else _root(surplus, LOW, HIGH)
    value = None if never or always else top
    best = 0.0 if never or always else log_likelihood(top, difficulty_Q, share_Q)

    def above(rating: float) -> float:
        return log_likelihood(rating, difficulty_Q, share_Q) - (best - _DROP)

    low = None if never else _root(lambda r: -above(r), LOW, top)
    high = None if always else _root(above, top, HIGH)
    return Rating(value, low, high, count)


def _expected(rating: float, difficulty_Q: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip((difficulty_Q - rating) * _SCALE, -700, 700)))


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0, to a hundredth; an end, if it does not between them."""
    while high - low > 0.01:
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
