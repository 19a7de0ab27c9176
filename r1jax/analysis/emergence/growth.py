"""When a series begins to rise, is half way and has risen; in which order several do; phases.

A rise is from a lower level to a higher one along a logistic curve, or, where that does not fit,
any way that never falls: t10, t50 and t90 are the steps at which 10, 50 and 90% of it are done, and
t10 is its *onset*. A width of 0 is a jump. Legend:
T steps, B draws, G curves of a grid.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from r1jax.analysis.figures import smooth

_WIDTHS = 14
_MIDPOINTS = 120
_CLEAR = 4  # a rise, in scatters of a step
_LEAST = 0.01  # of the mean scatter, that any step has
_MISFIT = 1.35  # squares around a curve, over those of draws around the series
_LN9 = math.log(9)


@dataclasses.dataclass(frozen=True)
class Growth:
    """In steps; each an array [B], or a float. low, high: the two levels."""

    t10: np.ndarray
    t50: np.ndarray
    t90: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Grid:
    """Every curve that is tried: [G] midpoints and widths (of t10 to t90), [G, T] itself, which
    goes from 0 to 1."""

    midpoint_G: np.ndarray
    width_G: np.ndarray
    curve_GT: np.ndarray


def grid_of(steps_T: np.ndarray) -> Grid:
    """Midpoints over the run, widths from a jump to the run itself."""
    first, last = float(steps_T[0]), float(steps_T[-1])
    length = max(last - first, 1.0)
    midpoint = np.linspace(first, last, min(_MIDPOINTS, 4 * len(steps_T) - 3))
    width = np.array([0.0, *np.geomspace(length / 50, length, _WIDTHS)])
    midpoint_G, width_G = (a.ravel() for a in np.meshgrid(midpoint, width, indexing="ij"))
    scale_G = np.maximum(width_G / (2 * _LN9), 1e-6 * length)
    z_GT = (steps_T[None] - midpoint_G[:, None]) / scale_G[:, None]
    return Grid(midpoint_G, width_G, 0.5 * (1 + np.tanh(np.clip(z_GT, -60, 60) / 2)))


def fit(steps_T: np.ndarray, y_BT: np.ndarray, weight_T: np.ndarray, grid: Grid) -> Growth:
    """The rise with the least weighted squares, of each row; NaN where the best is no rise.

    weight_T: how many replies (or how exact) each value is.
    """
    w_T = weight_T / weight_T.sum()
    centred_GT = grid.curve_GT - (grid.curve_GT @ w_T)[:, None]
    variance_G = centred_GT**2 @ w_T
    usable_G = variance_G > 1e-9
    slope_BG = (y_BT * w_T) @ centred_GT.T / np.where(usable_G, variance_G, 1)
    gain_BG = np.where(usable_G & (slope_BG > 0), slope_BG**2 * variance_G, -1.0)
    best_B = gain_BG.argmax(1)
    rows = np.arange(len(y_BT))
    none_B = gain_BG[rows, best_B] <= 0
    slope_B = slope_BG[rows, best_B]
    low_B = y_BT @ w_T - slope_B * (grid.curve_GT @ w_T)[best_B]
    t50_B, half_B = grid.midpoint_G[best_B], grid.width_G[best_B] / 2
    found = Growth(t50_B - half_B, t50_B, t50_B + half_B, low_B, low_B + slope_B)
    return Growth(
        *(np.where(none_B, np.nan, getattr(found, f.name)) for f in dataclasses.fields(found))
    )


def isotonic(y_BT: np.ndarray, weight_T: np.ndarray) -> np.ndarray:
    """[B, T]: the closest series that never falls, max over s <= t of min over u >= t of the mean
    from s to u."""
    weight = np.concatenate([[0.0], weight_T.cumsum()])
    sums = np.concatenate([np.zeros((len(y_BT), 1)), (y_BT * weight_T).cumsum(1)], 1)
    empty = np.tril(np.ones((len(weight_T),) * 2, bool), -1)  # u < s
    length = np.where(empty, 1.0, weight[None, 1:] - weight[:-1, None])
    means = np.where(empty, np.inf, (sums[:, None, 1:] - sums[:, :-1, None]) / length)
    least = np.minimum.accumulate(means[:, :, ::-1], 2)[:, :, ::-1]
    return np.where(empty, -np.inf, least).max(1)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of one series: each (value, low, high), the interval being percentiles over draws; None where
    it does not rise in nine draws of ten, or they do not agree on which half of the run it is in.
    curve: logistic, or isotonic where the series is further from a logistic curve than its draws
    are from it (two rises, say). t10_B: the draws, for differences."""

    t10: tuple[float, float, float]
    t50: tuple[float, float, float]
    t90: tuple[float, float, float]
    curve: str
    t10_B: np.ndarray


def timing(steps_T: np.ndarray, y_T: np.ndarray, drawn_BT: np.ndarray) -> Timing | None:
    """Each step weighs as its draws agree: lengths scatter little before there is reflection."""
    if len(steps_T) < 4 or np.ptp(y_T) == 0:
        return None
    spread_T = drawn_BT.var(0)
    spread_T = smooth(spread_T) if len(spread_T) >= 10 else spread_T
    weight_T = 1 / (spread_T + max(_LEAST * float(spread_T.mean()), 1e-12))
    grid = grid_of(np.asarray(steps_T, float))
    found = fit(steps_T, y_T[None], weight_T, grid)
    if math.isnan(found.t10[0]):
        return None
    scale = max(float((found.t90 - found.t10)[0]) / (2 * _LN9), 1e-6)
    z_T = np.clip((steps_T - found.t50[0]) / scale, -60, 60)
    residual_T = y_T - found.low[0] - (found.high - found.low)[0] / (1 + np.exp(-z_T))
    misfit = (weight_T @ residual_T**2) / max(float(weight_T @ spread_T), 1e-12)
    parts = np.array_split(drawn_BT, max(1, drawn_BT.size * len(steps_T) // 4_000_000))
    # A tenth of a small rise is lost in what a free curve makes of noise.
    clear = (found.high - found.low)[0] > _CLEAR * math.sqrt(float(spread_T.mean()))
    curve = "isotonic" if misfit > _MISFIT and clear else "logistic"
    if curve == "logistic":
        values = [found.t10, found.t50, found.t90]
        drawn = [fit(steps_T, part, weight_T, grid) for part in parts]
        draws = [np.concatenate([getattr(d, n) for d in drawn]) for n in ("t10", "t50", "t90")]
    else:
        values = _crossings(steps_T, y_T[None], weight_T)
        found_B = [_crossings(steps_T, part, weight_T) for part in parts]
        draws = [np.concatenate([crossed[i] for crossed in found_B]) for i in range(3)]
    if np.isnan(draws[0]).mean() > 0.1:
        return None
    first, last = float(steps_T[0]), float(steps_T[-1])
    half = float(np.median(np.diff(steps_T))) / 2  # nothing is known between two steps

    def interval(value: np.ndarray, values_B: np.ndarray) -> tuple[float, float, float]:
        low, high = np.nanquantile(values_B, [0.025, 0.975]) + np.array([-half, half])
        kept = np.clip([value[0], min(low, value[0]), max(high, value[0])], first, last)
        return float(kept[0]), float(kept[1]), float(kept[2])

    t10, t50, t90 = (interval(v, d) for v, d in zip(values, draws, strict=True))
    if t50[2] - t50[1] > (last - first) / 2:
        return None
    return Timing(t10, t50, t90, curve, draws[0])


def _crossings(steps_T: np.ndarray, y_BT: np.ndarray, weight_T: np.ndarray) -> list[np.ndarray]:
    """Where the isotonic series has come 10, 50 and 90% of its way; half a step before it is seen
    to."""
    rising_BT = isotonic(y_BT, weight_T)
    low_B, high_B = rising_BT[:, :1], rising_BT[:, -1:]
    half = float(np.median(np.diff(steps_T))) / 2
    return [
        steps_T[(rising_BT >= low_B + done * (high_B - low_B)).argmax(1)] - half
        for done in (0.1, 0.5, 0.9)
    ]


@dataclasses.dataclass(frozen=True)
class Gap:
    """Steps from the onset of `first` to that of `second`, with its interval: below 0, `second` was
    earlier."""

    first: str
    second: str
    steps: float
    low: float
    high: float

    @property
    def order(self) -> str:
        if self.low > 0:
            return f"{self.first} before {self.second}"
        if self.high < 0:
            return f"{self.second} before {self.first}"
        return f"{self.first} and {self.second} cannot be told apart"


def gaps(timings: Mapping[str, Timing]) -> list[Gap]:
    """Between all pairs of series that were drawn together."""
    names = list(timings)
    found = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            a, b = timings[first], timings[second]
            low, high = np.nanquantile(b.t10_B - a.t10_B, [0.025, 0.975])
            value = b.t10[0] - a.t10[0]
            found.append(Gap(first, second, value, float(min(low, value)), float(max(high, value))))
    return found


@dataclasses.dataclass(frozen=True)
class Shape:
    """sudden: the rise takes a small part of the run, and steps that were left out are foreseen
    better by a jump than by a line. width: t90 - t10, as a share of the run. scores: the mean log
    score of a step that was left out, by a jump, a line and a logistic curve (which has both as its
    ends, and wins where single steps lie on the slope)."""

    sudden: bool
    width: float
    scores: dict[str, float]


def shape_of(
    steps_T: np.ndarray,
    y_T: np.ndarray,
    weight_T: np.ndarray,
    most: float,
    total: int | None = None,
) -> Shape | None:
    """By every third step left out in turn; `most`: the width of a sudden rise; `total`: steps of
    the run, if there are more than these. None if the series is too short or does not rise."""
    if len(steps_T) < 9 or np.ptp(y_T) == 0:
        return None
    steps_T = np.asarray(steps_T, float)
    grid = grid_of(steps_T)
    whole = fit(steps_T, y_T[None], weight_T, grid)
    if math.isnan(whole.t10[0]):
        return None
    width = float((whole.t90 - whole.t10)[0] / max(total or steps_T[-1] - steps_T[0], 1))
    jumps = grid.width_G == 0
    grids = {
        "step": Grid(grid.midpoint_G[jumps], grid.width_G[jumps], grid.curve_GT[jumps]),
        "logistic": grid,
    }
    scores: dict[str, list[float]] = {"step": [], "linear": [], "logistic": []}
    place = np.arange(len(steps_T))
    # One scatter for all, that of the closest fit: a model is not to be sure of itself by chance.
    curve_T = _foreseen("logistic", steps_T, y_T, weight_T, place >= 0, grids)
    spread = np.average((y_T - curve_T) ** 2, weights=weight_T) * weight_T.mean()
    spread_T = np.maximum(spread / weight_T, 1e-8 * np.ptp(y_T) ** 2)
    for fold in range(3):
        kept, out = place % 3 != fold, place % 3 == fold
        for name in scores:
            foreseen_T = _foreseen(name, steps_T, y_T, weight_T, kept, grids)
            residual_T = y_T - foreseen_T
            log_T = -0.5 * (np.log(2 * np.pi * spread_T) + residual_T**2 / spread_T)
            scores[name] += log_T[out].tolist()
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return Shape(width < most and means["step"] > means["linear"], width, means)


def _foreseen(name, steps_T, y_T, weight_T, kept, grids: Mapping[str, Grid]) -> np.ndarray:
    """All steps by a model that was fitted to those kept."""
    if name == "linear":
        return np.polyval(
            np.polyfit(steps_T[kept], y_T[kept], 1, w=np.sqrt(weight_T[kept])), steps_T
        )
    grid = grids[name]
    some = Grid(grid.midpoint_G, grid.width_G, grid.curve_GT[:, kept])
    found = fit(steps_T[kept], y_T[kept][None], weight_T[kept], some)
    if math.isnan(found.t10[0]):
        return np.full(len(y_T), np.average(y_T[kept], weights=weight_T[kept]))
    nearest = np.argmin(
        abs(grid.midpoint_G - found.t50[0]) + abs(grid.width_G - (found.t90 - found.t10)[0])
    )
    return found.low[0] + (found.high - found.low)[0] * grid.curve_GT[nearest]


PHASES = ("virtually absent", "sporadic", "marked")


def phases(
    steps_T: np.ndarray, share_T: np.ndarray, sporadic: float, marked: float
) -> list[tuple[str, int, int]]:
    """(phase, first step, last step) in order, of a share smoothed over a twentieth of the run:
    virtually absent below `sporadic`, marked from `marked` on."""
    smoothed_T = smooth(np.asarray(share_T, float)) if len(share_T) >= 10 else share_T
    found: list[tuple[str, int, int]] = []
    for step, share in zip(steps_T.tolist(), smoothed_T, strict=True):
        name = PHASES[int(share >= sporadic) + int(share >= marked)]
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], step)
        else:
            found.append((name, step, step))
    return found
