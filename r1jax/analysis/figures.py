"""The figures of a run's report, drawn from the rows of its metrics.jsonl.

One hue a quantity: accuracy blue, response length amber, reflective terms violet. Lines carry
their names; a noisy one is drawn twice, faint as measured and strong smoothed. Each figure exists
in two layouts: wide, and narrow for a phone, where panels stand one above the other.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from r1jax.analysis import paper_curves

Rows = Sequence[dict[str, Any]]

BLUE, AMBER, VIOLET, GREEN, RED = "#2b6cd4", "#c76a10", "#7a3fc0", "#12876f", "#c4453a"
PALE = "#a9bcd8"  # accuracy of the training rollouts, behind the held-out one
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

    def __init__(self, ax: Axes, title: str, unit: str):
        percent = unit.startswith("%")
        self.ax = ax
        self._labels: list[tuple[float, str, str]] = []
        ax.set_title(title)
        ax.set_xlabel("step", loc="right", labelpad=1)
        ax.set_ylabel(unit, loc="top")
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

    def label(self, y: float, label: str, color: str) -> None:
        """A label beside the axes at height `y`, for what was drawn otherwise."""
        self._labels.append((y, label, color))

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
            self.ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
            return
        bottom = min(self.ax.dataLim.y0, 0.0)
        top = max(self.ax.dataLim.y1, top or 0.0) or 1.0
        top += 0.05 * (top - bottom)  # the topmost line is drawn whole
        self.ax.set_ylim(bottom, top)
        if self.ax.dataLim.width == 0:  # one step
            self.ax.set_xlim(self.ax.dataLim.x0 - 1, self.ax.dataLim.x0 + 1)
        self._write(self._labels, bottom, top)

    def finish_log(self, bottom: float, top: float) -> None:
        """As `finish`, on a logarithmic axis from `bottom` to `top`."""
        self.ax.set_yscale("log")
        self.ax.set_ylim(bottom, top)
        self.ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        self.ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        self.ax.minorticks_off()
        logs = [(math.log(max(y, bottom)), label, color) for y, label, color in self._labels]
        self._write(logs, math.log(bottom), math.log(top))

    def _write(self, labels: Iterable[tuple[float, str, str]], bottom: float, top: float) -> None:
        for height, label, color in _spread(labels, bottom, top):
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
    labels: Iterable[tuple[float, str, str]], bottom: float, top: float, gap: float = 0.1
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


def panels(count: int, columns: int, height: float, narrow: bool) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, `columns` beside each other, each `height` inches high."""
    columns = 1 if narrow else columns
    rows = -(-count // columns)
    size = (4.3, 2.1 * rows) if narrow else (9, height * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _exists(rows: Rows, name: str) -> bool:
    return any(row.get(name) is not None for row in rows)


def _draw_accuracy(
    ax: Axes, rows: Rows, title: str, label: str = "", measured: bool = False
) -> None:
    """Held-out accuracy, marked where it was evaluated, before that of the training rollouts."""
    held_out = _exists(rows, "heldout/accuracy")
    panel = Panel(ax, title, "% of replies")
    if held_out:
        panel.metric(rows, "reward/accuracy", PALE, measured=measured)
        panel.metric(rows, "heldout/accuracy", BLUE, label, measured=True)
    else:
        panel.metric(rows, "reward/accuracy", BLUE, label, measured=measured)
    panel.finish(top=1)


def takeoff(rows: Rows, narrow: bool) -> Figure:
    """Accuracy, response length and reflective terms against step: the run in one glance."""
    return _glance(rows, narrow, measured=False)


def _glance(rows: Rows, narrow: bool, measured: bool) -> Figure:
    reflects = _exists(rows, "reflection/per_response")
    figure, axes = panels(2 + reflects, 2 + reflects, 2.9, narrow)
    name = "Held-out" if _exists(rows, "heldout/accuracy") else "Training"
    _draw_accuracy(axes[0], rows, f"{name} accuracy", "{:.0%}", measured)
    panel = Panel(axes[1], "Response length", "tokens")
    panel.metric(rows, "length/mean", AMBER, "{:.0f}", measured=measured)
    panel.finish()
    if reflects:
        panel = Panel(axes[2], "Reflective terms", "terms a response")
        panel.metric(rows, "reflection/per_response", VIOLET, "{:.1f}", measured=measured)
        panel.finish()
    return figure


def takeoff_steps(rows: Rows) -> tuple[int, int] | None:
    """(first, last) step of the window in which training accuracy rises, for a closer look.

    The rise is from 10% to 90% of the way between the lowest value and the highest after it, at
    the steps where it first passes them; the window begins at most as long before it as it lasts,
    and ends as long after, and is at least six steps. None if accuracy rises by less than a fifth,
    or if the window would be more than half of the run: then the whole run shows it.
    """
    points = [
        (r["step"], r["reward/accuracy"]) for r in rows if r.get("reward/accuracy") is not None
    ]
    if len(points) < 2:
        return None
    steps, values = (np.asarray(column) for column in zip(*points, strict=True))
    low = int(values.argmin()) if values.argmin() < values.argmax() else 0
    bottom, top = float(values[low]), float(values[low:].max())
    if top - bottom < 0.2:
        return None
    passed = [
        low + int(np.argmax(values[low:] >= bottom + share * (top - bottom)))
        for share in (0.1, 0.9)
    ]
    start, end = (int(steps[i]) for i in passed)
    margin = max(end - start, 3)
    window = max(start - margin, int(steps[0])), min(end + margin, int(steps[-1]))
    return window if 2 * (window[1] - window[0]) <= steps[-1] - steps[0] else None


def moment(rows: Rows, narrow: bool) -> Figure:
    """The take-off alone, step by step, nothing smoothed; the whole run where it has none."""
    first, last = takeoff_steps(rows) or (rows[0]["step"], rows[-1]["step"])
    return _glance([r for r in rows if first <= r["step"] <= last], narrow, measured=True)


def comparison(rows: Rows, narrow: bool) -> Figure:
    """The run on the left, R1-Zero as published on the right; each has axes of its own."""
    figure, axes = panels(4, 2, 2.5, narrow)
    accuracy_here, accuracy_there, length_here, length_there = axes
    name = "held-out" if _exists(rows, "heldout/accuracy") else "training"
    _draw_accuracy(accuracy_here, rows, f"This run: {name} accuracy")
    steps, pass_at_1, cons_at_16 = zip(*paper_curves.AIME, strict=True)
    panel = Panel(accuracy_there, "DeepSeek-R1-Zero: AIME 2024", "% of problems")
    panel.line(steps, pass_at_1, BLUE, "pass@1", measured=True)
    panel.line(steps, cons_at_16, GREY, "cons@16", measured=True)
    panel.finish(top=1)
    panel = Panel(length_here, "This run: response length", "tokens")
    panel.metric(rows, "length/mean", AMBER)
    panel.finish()
    steps, tokens = zip(*paper_curves.RESPONSE_LENGTH, strict=True)
    panel = Panel(length_there, "DeepSeek-R1-Zero: response length", "tokens")
    panel.line(steps, tokens, AMBER, measured=True)
    panel.finish()
    return figure


def accuracy(rows: Rows, narrow: bool) -> Figure:
    figure, (ax,) = panels(1, 1, 3.4, narrow)
    panel = Panel(ax, "Accuracy", "% of replies")
    panel.metric(rows, "reward/accuracy", PALE, "training")
    panel.metric(rows, "heldout/greedy", GREEN, "greedy", measured=True)
    panel.metric(rows, "heldout/accuracy", BLUE, "sampled", measured=True)
    panel.finish(top=1)
    return figure


def length(rows: Rows, narrow: bool) -> Figure:
    figure, (left, right) = panels(2, 2, 3.2, narrow)
    panel = Panel(left, "Response length", "tokens")
    panel.metric(rows, "length/correct", GREEN, "correct")
    panel.metric(rows, "length/incorrect", RED, "incorrect")
    panel.metric(rows, "length/mean", AMBER, "all")
    panel.finish()
    panel = Panel(right, "Cut off at the length limit", "% of replies")
    panel.metric(rows, "length/truncated", AMBER)
    panel.finish()
    return figure


def sources_of(rows: Rows) -> list[str]:
    """Files, or tiers, that the run's problems are from, in order, if they are several."""
    names = dict.fromkeys(n for row in rows for n in row if n.startswith("accuracy/"))
    return [name.removeprefix("accuracy/") for name in names]


def sources(rows: Rows, narrow: bool) -> Figure:
    """Accuracy and length by where problems are from: in countdown, by how hard they are."""
    figure, (left, right) = panels(2, 2, 3.2, narrow)
    shades = (GREEN, BLUE, VIOLET, AMBER, RED, GREY)
    for ax, title, unit, kind in (
        (left, "Accuracy in training", "% of replies", "accuracy"),
        (right, "Response length", "tokens", "length"),
    ):
        panel = Panel(ax, title, unit)
        for source, color in zip(sources_of(rows), shades, strict=False):
            panel.metric(rows, f"{kind}/{source}", color, source.replace("_", " "))
        panel.finish(top=1 if kind == "accuracy" else None)
    return figure


def reflection(rows: Rows, narrow: bool) -> Figure:
    figure, (left, middle, right) = panels(3, 3, 2.9, narrow)
    panel = Panel(left, "Responses with a term", "% of replies")
    panel.metric(rows, "reflection/fraction", VIOLET)
    panel.finish(top=1)
    panel = Panel(middle, "Terms a response", "terms")
    panel.metric(rows, "reflection/per_response", VIOLET)
    panel.finish()
    panel = Panel(right, "Density of terms", "per 1,000 tokens")
    panel.metric(rows, "reflection/per_1k_tokens", VIOLET, "all")
    panel.metric(rows, "reflection/wait_per_1k_tokens", GREY, "“wait”")
    panel.finish()
    return figure


def diagnostics(rows: Rows, narrow: bool) -> Figure:
    shown = (
        ("KL to reference", "nats a token", {"kl": ""}),
        ("Entropy", "nats a token", {"entropy": ""}),
        ("Tokens clipped", "% of tokens", {"clip/low": "low", "clip/high": "high"}),
        ("Gradient norm", "L2", {"grad_norm": ""}),
        ("Groups of equal reward", "% of groups", {"groups/zero_std": ""}),
        ("|Sampler − trainer|", "nats a token", {"sampler/logp_diff": ""}),
        ("Busiest expert’s load", "times the mean", {"router/max_load": ""}),
        (
            "Time a step",
            "seconds",
            {"time/rollout": "rollout", "time/reward": "reward", "time/update": "update"},
        ),
    )
    figure, axes = panels(len(shown), 4, 2.3, narrow)
    for ax, (title, unit, lines) in zip(axes, shown, strict=True):
        panel = Panel(ax, title, unit)
        for (name, label), color in zip(lines.items(), (BLUE, AMBER, GREEN), strict=False):
            panel.metric(rows, name, color, label)
        panel.finish()
    return figure


Draw = Callable[[Rows, bool], Figure]
FIGURES: tuple[Draw, ...] = (
    takeoff,
    moment,
    comparison,
    accuracy,
    length,
    sources,
    reflection,
    diagnostics,
)


def figures_of(rows: Rows) -> list[Draw]:
    """The figures that a run has something for."""
    left_out = set()
    if not _exists(rows, "reflection/fraction"):
        left_out.add(reflection)
    if takeoff_steps(rows) is None:
        left_out.add(moment)
    if not sources_of(rows):
        left_out.add(sources)
    return [draw for draw in FIGURES if draw not in left_out]


def save_figures(rows: Rows, folder: Path) -> dict[str, tuple[Path, Path]]:
    """Draws the run's figures into `folder`, as NAME.png and NAME_narrow.png, and removes those of
    an earlier report; returns the two paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        for path in _paths(folder, draw):
            path.unlink(missing_ok=True)
    paths = {}
    with matplotlib.rc_context(STYLE):
        for draw in figures_of(rows):
            paths[draw.__name__] = _paths(folder, draw)
            for path, narrow in zip(_paths(folder, draw), (False, True), strict=True):
                draw(rows, narrow).savefig(path)
    return paths


def _paths(folder: Path, draw: Draw) -> tuple[Path, Path]:
    return folder / f"{draw.__name__}.png", folder / f"{draw.__name__}_narrow.png"
