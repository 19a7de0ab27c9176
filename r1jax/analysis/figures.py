"""The figures of a run's report, drawn from the rows of its metrics.jsonl.

One hue a quantity: accuracy blue, response length amber, reflective terms violet. Lines carry
their names; a noisy one is drawn twice, faint as measured and strong smoothed.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r1jax.analysis import paper_curves

Rows = Sequence[dict[str, Any]]

BLUE, AMBER, VIOLET, GREEN, RED = "#2b6cd4", "#c76a10", "#7a3fc0", "#12876f", "#c4453a"
INK, GREY, FAINT = "#24292f", "#6b737c", "#e4e7eb"

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#b4bac2",
    "axes.labelcolor": GREY,
    "axes.labelsize": 8,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 9,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "savefig.dpi": 160,
}


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred Gaussian mean over about a twentieth of the run; at the ends, over what is there.

    Centred, because a trailing mean would show every rise later than it happened.
    """
    sigma = max(len(values) / 40, 1.0)
    reach = min(int(3 * sigma), (len(values) - 1) // 2)
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(values, weight, "same") / np.convolve(np.ones(len(values)), weight, "same")


class Panel:
    """One set of axes: add lines, then `finish` fits the axes and writes the lines' names."""

    def __init__(self, ax: Axes, title: str, percent: bool = False):
        self.ax = ax
        self._labels: list[tuple[float, str, str]] = []
        ax.set_title(title)
        ax.set_xlabel("step", loc="right", labelpad=1)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=(1, 2, 5, 10)))
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
        # "g" keeps a tick of 2e-6 a tick; the default puts a multiplier above the axes.
        ax.yaxis.set_major_formatter(
            lambda value, _: f"{100 * value:g}%" if percent else f"{value:,g}"
        )

    def line(self, x: Any, y: Any, color: str, label: str = "", measured: bool = False) -> None:
        """A line, labelled at its end; "{}" in the label is its last value.

        `measured`: points that stand for themselves, marked and not smoothed.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        if not len(x):
            return
        label = label.format(y[-1])
        if measured or len(x) < 10:
            self.ax.plot(x, y, color=color, marker="o", markersize=3.5)
        else:
            self.ax.plot(x, y, color=color, linewidth=0.8, alpha=0.3)
            y = smooth(y)
            self.ax.plot(x, y, color=color)
        self._labels.append((y[-1], label, color))

    def metric(self, rows: Rows, name: str, color: str, label: str = "", **kwargs: bool) -> None:
        """A metric at the steps where it exists."""
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        self.line(
            [step for step, _ in points], [value for _, value in points], color, label, **kwargs
        )

    def finish(self, top: float | None = None) -> None:
        """Fits the y axis to the lines and zero, up to `top` if given, and writes the labels."""
        if not self._labels:
            self.ax.text(
                0.5,
                0.5,
                "no values",
                transform=self.ax.transAxes,
                color=GREY,
                ha="center",
                va="center",
            )
            self.ax.set(xticks=[], yticks=[], xlabel="")
            return
        bottom = min(self.ax.dataLim.y0, 0.0)
        top = max(self.ax.dataLim.y1, top or 0.0) or 1.0
        top += 0.05 * (top - bottom)  # the topmost line is drawn whole
        self.ax.set_ylim(bottom, top)
        if self.ax.dataLim.width == 0:  # one step
            self.ax.set_xlim(self.ax.dataLim.x0 - 1, self.ax.dataLim.x0 + 1)
        for height, label, color in _spread(self._labels, bottom, top):
            self.ax.text(
                1.02,
                height,
                label,
                color=color,
                transform=self.ax.transAxes,
                fontsize=8,
                va="center",
            )


def _spread(
    labels: Iterable[tuple[float, str, str]], bottom: float, top: float, gap: float = 0.085
) -> list[tuple[float, str, str]]:
    """Labels with heights in [0, 1] of the axes, moved apart where they would overlap."""
    placed: list[tuple[float, str, str]] = []
    for value, label, color in sorted(labels):
        height = (value - bottom) / (top - bottom)
        if placed:
            height = max(height, placed[-1][0] + gap)
        placed.append((height, label, color))
    excess = max(placed[-1][0] - 1, 0)
    return [(height - excess, label, color) for height, label, color in placed]


def _draw_accuracy(ax: Axes, rows: Rows, of: str, label: str = "") -> None:
    """The held-out accuracy or, where a run evaluated none, that of the training rollouts."""
    held_out = any(row.get("heldout/accuracy") is not None for row in rows)
    title = f"{of}{'held-out' if held_out else 'training'} accuracy"
    panel = Panel(ax, title[0].upper() + title[1:], percent=True)
    name = "heldout/accuracy" if held_out else "reward/accuracy"
    panel.metric(rows, name, BLUE, label, measured=held_out)
    panel.finish(top=1)


def takeoff(rows: Rows) -> Figure:
    """Accuracy, response length and reflective terms against step: the run in one glance."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_accuracy(left, rows, "", "{:.0%}")
    panel = Panel(middle, "Response length, tokens")
    panel.metric(rows, "length/mean", AMBER, "{:.0f}")
    panel.finish()
    panel = Panel(right, "Reflective terms a response")
    panel.metric(rows, "reflection/per_response", VIOLET, "{:.1f}")
    panel.finish()
    return figure


def comparison(rows: Rows) -> Figure:
    """The run on the left, R1-Zero as published on the right; each has axes of its own."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    (accuracy_here, accuracy_there), (length_here, length_there) = figure.subplots(2, 2)
    _draw_accuracy(accuracy_here, rows, "This run: ")
    steps, pass_at_1, cons_at_16 = zip(*paper_curves.AIME, strict=True)
    panel = Panel(accuracy_there, "DeepSeek-R1-Zero: AIME 2024", percent=True)
    panel.line(steps, pass_at_1, BLUE, "pass@1", measured=True)
    panel.line(steps, cons_at_16, GREY, "cons@16", measured=True)
    panel.finish(top=1)
    panel = Panel(length_here, "This run: response length, tokens")
    panel.metric(rows, "length/mean", AMBER)
    panel.finish()
    steps, tokens = zip(*paper_curves.RESPONSE_LENGTH, strict=True)
    panel = Panel(length_there, "DeepSeek-R1-Zero: response length, tokens")
    panel.line(steps, tokens, AMBER, measured=True)
    panel.finish()
    return figure


def accuracy(rows: Rows) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panel = Panel(figure.subplots(), "Accuracy", percent=True)
    panel.metric(rows, "reward/accuracy", "#8fa3bd", "training rollouts")
    panel.metric(rows, "heldout/greedy", GREEN, "held out, greedy", measured=True)
    panel.metric(rows, "heldout/accuracy", BLUE, "held out, sampled", measured=True)
    panel.finish(top=1)
    return figure


def length(rows: Rows) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    panel = Panel(left, "Response length, tokens")
    panel.metric(rows, "length/correct", GREEN, "correct")
    panel.metric(rows, "length/incorrect", RED, "incorrect")
    panel.metric(rows, "length/mean", AMBER, "all")
    panel.finish()
    panel = Panel(right, "Cut off at the length limit", percent=True)
    panel.metric(rows, "length/truncated", AMBER)
    panel.finish()
    return figure


def reflection(rows: Rows) -> Figure:
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    panel = Panel(left, "Responses with a term", percent=True)
    panel.metric(rows, "reflection/fraction", VIOLET)
    panel.finish(top=1)
    panel = Panel(middle, "Terms a response")
    panel.metric(rows, "reflection/per_response", VIOLET)
    panel.finish()
    panel = Panel(right, "Terms per 1,000 tokens")
    panel.metric(rows, "reflection/per_1k_tokens", VIOLET, "all ten")
    panel.metric(rows, "reflection/wait_per_1k_tokens", GREY, "“wait”")
    panel.finish()
    return figure


def diagnostics(rows: Rows) -> Figure:
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots(2, 4).flat
    for title, percent, lines in (
        ("KL to reference", False, {"kl": ""}),
        ("Entropy, nats", False, {"entropy": ""}),
        ("Tokens clipped", True, {"clip/low": "low", "clip/high": "high"}),
        ("Gradient norm", False, {"grad_norm": ""}),
        ("Groups without signal", True, {"groups/zero_std": ""}),
        ("Sampler − trainer log p", False, {"sampler/logp_diff": ""}),
        ("Busiest expert’s load", False, {"router/max_load": ""}),
        (
            "Seconds a step",
            False,
            {"time/rollout": "rollout", "time/reward": "reward", "time/update": "update"},
        ),
    ):
        panel = Panel(next(axes), title, percent)
        for (name, label), color in zip(lines.items(), (BLUE, AMBER, GREEN), strict=False):
            panel.metric(rows, name, color, label)
        panel.finish()
    return figure


FIGURES: tuple[Callable[[Rows], Figure], ...] = (
    takeoff,
    comparison,
    accuracy,
    length,
    reflection,
    diagnostics,
)


def save_figures(rows: Rows, folder: Path) -> dict[str, Path]:
    """Draws every figure into `folder` as a PNG; returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    with matplotlib.rc_context(STYLE):
        for draw in FIGURES:
            path = paths[draw.__name__] = folder / f"{draw.__name__}.png"
            draw(rows).savefig(path)
    return paths
