"""Figures of intervals, a row each: when quantities rise, and what interventions do."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from r1jax.analysis.emergence.causes import NONE
from r1jax.analysis.emergence.measure import Run
from r1jax.analysis.emergence.verdict import Verdict
from r1jax.analysis.figures import AMBER, BLUE, FAINT, GREEN, GREY, RED, VIOLET

STORY = (
    ("reflection", "Replies that reflect", "% of replies", VIOLET),
    ("length", "Length of replies", "tokens", AMBER),
    ("accuracy", "Right answers", "% of replies", BLUE),
)


def onsets(verdict: Verdict, controls: Sequence[Run], narrow: bool) -> Figure:
    """When each quantity begins to rise, is half way and has risen: one row a run and quantity."""
    rows = [
        (run, name, color)
        for run in verdict.runs
        for name, _, _, color in STORY
        if name in run.timings
    ]
    height = 0.9 + 0.26 * len(rows)
    figure = Figure(figsize=(4.3 if narrow else 9, height), layout="constrained")
    ax = figure.subplots()
    ax.set_title("Onset, half way and end of each rise")
    for y, (run, name, color) in enumerate(reversed(rows)):
        found = run.timings[name]
        ax.plot([found.t10[0], found.t90[0]], [y, y], color=color, linewidth=5, alpha=0.22)
        ax.plot(found.t10[1:], [y, y], color=color, linewidth=1.6)
        ax.plot(found.t10[0], y, "o", color=color, markersize=5)
        ax.plot(found.t50[0], y, "|", color=color, markersize=9)
    several = len(verdict.runs) > 1
    labels = [f"{name}, {run.name}" if several else name for run, name, _ in reversed(rows)]
    ax.set_yticks(range(len(rows)), [label[:26] for label in labels])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel("step", loc="right", labelpad=1)
    last = verdict.runs[0].series.steps_T[-1]
    ax.set_xlim(-0.02 * last, 1.02 * last)
    ax.grid(axis="x", color=FAINT)
    return figure


def causes(verdict: Verdict, controls: Sequence[Run], narrow: bool) -> Figure:
    """What each intervention does to accuracy, paired by question, with its interval."""
    rows = [
        (one.run.name, name, effect.difference)
        for one in verdict.judged
        if one.causes is not None
        for name, effect in one.causes.effects.items()
        if name != NONE
    ]
    size = (4.3 if narrow else 9, 1.0 + 0.28 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    ax.set_title("What an intervention does to accuracy")
    ax.axvline(0, color=GREY, linewidth=0.8)
    for y, (_, _, effect) in enumerate(reversed(rows)):
        low, value, high = (100 * (v or 0) for v in (effect.low, effect.value, effect.high))
        color = RED if high < 0 else GREEN if low > 0 else GREY
        ax.plot([low, high], [y, y], color=color, linewidth=2)
        ax.plot(value, y, "o", color=color, markersize=5)
    several = len({name for name, *_ in rows}) > 1
    labels = [f"{name}, {run}" if several else name for run, name, _ in reversed(rows)]
    ax.set_yticks(range(len(rows)), [label[:28] for label in labels])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel("percentage points of accuracy, 95% interval", loc="right", labelpad=1)
    ax.grid(axis="x", color=FAINT)
    return figure
