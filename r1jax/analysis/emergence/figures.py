"""The figures of an emergence report, each in two layouts as those of a run's report.

Reflection is violet, length amber, accuracy blue; controls are grey and dashed. A line is the mean
over runs, its band their range, or with one run the 95% interval of its questions.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from r1jax.analysis.emergence import grids
from r1jax.analysis.emergence.curves import curve, mean_by_step, published, terms_by_step
from r1jax.analysis.emergence.intervals_drawn import STORY, causes, onsets
from r1jax.analysis.emergence.measure import Run
from r1jax.analysis.emergence.stages import CHANGES
from r1jax.analysis.emergence.verdict import Verdict, onset_over_seeds
from r1jax.analysis.figures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    PALE,
    RED,
    STYLE,
    VIOLET,
    Panel,
    panels,
    smooth,
)
from r1jax.analysis.reflection import REFLECTIVE_TERMS

# What a control is called beside its line; in full in the page's table.
CONTROLS = {
    "random": "random",
    "format": "format",
    "shuffled": "shuffled",
    "length": "length",
    "no_update": "no update",
    "no_trace": "no trace",
    "supervised": "supervised",
}


def story(verdict: Verdict, controls: Sequence[Run], narrow: bool) -> Figure:
    """Reflection, length and accuracy over steps, with bands, controls and onsets."""
    figure, axes = panels(3, 3, 3.1, narrow)
    for ax, (name, title, unit, color) in zip(axes, STORY, strict=True):
        if any(r.table is not None and r.table.counted for r in verdict.runs) and name == "length":
            unit = "words and marks"
        panel = Panel(ax, f"{title}\n", unit)
        _band(ax, verdict.runs, name, color)
        one = curve(verdict.runs, name)
        for kind, runs in _by_kind(controls).items():
            other = curve(runs, name)
            y = smooth(other.mean_T) if len(other.mean_T) >= 10 else other.mean_T
            ax.plot(other.steps_T, y, color=GREY, linewidth=1.3, linestyle=(0, (4, 2)))
            panel.label(y[-1], CONTROLS.get(kind, kind), GREY)
        panel.line(one.steps_T, one.mean_T, color, "{:.0f}" if name == "length" else "{:.0%}")
        panel.finish(top=None if name == "length" else 1)
        if onset := onset_over_seeds(verdict, name):
            _mark(ax, onset, color)
    return figure


def _mark(ax: Axes, onset: tuple[float, float, float], color: str) -> None:
    """A line at the onset over a band of its interval, and its number above the axes."""
    step, low, high = onset
    limits = ax.get_xlim()
    ax.axvspan(low, high, color=color, alpha=0.13, linewidth=0, zorder=0)
    ax.axvline(step, color=color, linewidth=1, linestyle=(0, (2, 2)))
    ax.set_xlim(limits)
    ax.text(
        0, 1.035, f"rises from step {step:.0f} ({low:.0f} to {high:.0f}) on", color=color,
        fontsize=8, va="bottom", transform=ax.transAxes,
    )  # fmt: skip


def _band(ax: Axes, runs: Sequence[Run], quantity: str, color: str) -> None:
    one = curve(runs, quantity)
    low_T, high_T = (smooth(e) if len(e) >= 10 else e for e in (one.low_T, one.high_T))
    ax.fill_between(one.steps_T, low_T, high_T, color=color, alpha=0.16, linewidth=0)


def _by_kind(controls: Sequence[Run]) -> dict[str, list[Run]]:
    kinds: dict[str, list[Run]] = {}
    for run in controls:
        kinds.setdefault(str(run.control), []).append(run)
    return kinds


def density(verdict: Verdict, controls: Sequence[Run], narrow: bool) -> Figure:
    """Count and density of terms relative to the start, beside what R1-Zero's numbers allow."""
    figure, axes = panels(2, 2, 3.0, narrow)
    paper = published()
    for ax, name, title, span in (
        (axes[0], "terms", "Terms a reply", paper.counts),
        (axes[1], "density", "Terms per 1,000 tokens", paper.density),
    ):
        panel = Panel(ax, title, "times the start")
        one = curve(verdict.runs, name)
        start = one.mean_T[0] or next((v for v in one.mean_T if v), 1.0)
        x = 100 * (one.steps_T - one.steps_T[0]) / max(one.steps_T[-1] - one.steps_T[0], 1)
        ratio = one.mean_T[-1] / start
        panel.line(x, one.mean_T / start, VIOLET, f"this: ×{ratio:,.{0 if ratio > 9 else 1}f}")
        _published(panel, span)
        ax.axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.set_xlabel("% of the run", loc="right", labelpad=1)
        values = (one.mean_T / start)[one.mean_T > 0]
        low, high = min(*span, *values), max(*span, *values)
        panel.finish_log(min(low, 0.5) / 1.3, max(high, 2.0) * 1.3)
    return figure


def _published(panel: Panel, span: tuple[float, float]) -> None:
    """R1-Zero's end as a bracket at the right: only that was published."""
    middle = sum(span) / 2
    panel.ax.errorbar(
        100, middle, yerr=[[middle - span[0]], [span[1] - middle]], color=GREEN, capsize=4,
        linewidth=2.5, zorder=5,
    )  # fmt: skip
    panel.label(middle, f"R1-Zero: ×{span[0]:.2g} to {span[1]:.2g}", GREEN)


def terms(verdict: Verdict, controls: Sequence[Run], narrow: bool) -> Figure:
    """Each of the ten terms per 1,000 tokens over the run, as a heat map."""
    table = verdict.runs[0].table
    assert table is not None
    starts, values = terms_by_step(table, 20 if narrow else 40)
    figure = Figure(figsize=(4.3 if narrow else 9, 2.9), layout="constrained")
    ax = figure.subplots()
    ax.set_title("Each term per 1,000 tokens (darker: more often)")
    image = ax.imshow(np.sqrt(values), aspect="auto", cmap="Purples", vmin=0)
    ax.set_yticks(range(len(REFLECTIVE_TERMS)), REFLECTIVE_TERMS)
    places = np.unique(np.linspace(0, len(starts) - 1, 6).round().astype(int))
    ax.set_xticks(places, [str(starts[i]) for i in places])
    ax.set_xlabel("step", loc="right", labelpad=1)
    ax.grid(False)
    bar = figure.colorbar(image, ax=ax, shrink=0.9, pad=0.01)
    top = float(np.sqrt(values.max(initial=1e-9)))
    bar.set_ticks([0, top / 2, top], labels=[f"{v**2:.3g}" for v in (0, top / 2, top)])
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def transitions(verdict: Verdict, controls: Sequence[Run], narrow: bool) -> Figure:
    """First try against answer, and what reflective replies turn into what."""
    run = verdict.runs[0]
    table = run.table
    assert table is not None
    figure, axes = panels(2, 2, 3.0, narrow)
    panel = Panel(axes[0], "First try and answer", "% of replies")
    known = (table.first_right >= 0) & (table.correct >= 0)
    steps, first = mean_by_step(table, (table.first_right == 1) * 1.0, known)
    panel.line(steps, first, PALE, "first try {:.0%}")
    steps, last = mean_by_step(table, (table.correct == 1) * 1.0, known)
    panel.line(steps, last, BLUE, "answer {:.0%}")
    panel.finish(top=1)
    panel = Panel(axes[1], "First try → answer, of reflective replies", "% of replies")
    hits = known & table.found[run.detector]
    pairs = ((1, 1), (0, 1), (1, 0), (0, 0))
    steps = np.unique(table.step[hits])
    below = np.zeros(len(steps))
    for (a, b), name, color in zip(pairs, CHANGES, (PALE, GREEN, RED, "#d3d7dc"), strict=True):
        here = (table.first_right == a) & (table.correct == b)
        _, share = mean_by_step(table, here * 1.0, hits)
        share = smooth(share) if len(share) >= 10 else share
        axes[1].fill_between(steps, below, below + share, color=color, linewidth=0)
        dark = {PALE: BLUE, "#d3d7dc": GREY}.get(color, color)
        panel.label(float(below[-1] + share[-1] / 2), f"{name} {share[-1]:.0%}", dark)
        below = below + share
    panel.finish(top=1)
    return figure


def length(verdict: Verdict, controls: Sequence[Run], narrow: bool) -> Figure:
    """Length by outcome over steps, and by difficulty at the start and the end."""
    run = verdict.runs[0]
    table = run.table
    assert table is not None
    levels = list(run.end.levels) if run.end is not None else []
    figure, axes = panels(1 + bool(levels), 1 + bool(levels), 3.0, narrow)
    unit = "words and marks" if table.counted else "tokens"
    panel = Panel(axes[0], "Length by outcome", unit)
    for value, color, name in ((1, GREEN, "right"), (0, RED, "wrong")):
        mask = (table.correct == value) & (table.truncated != 1)
        panel.line(*mean_by_step(table, table.tokens, mask), color, f"{name} {{:.0f}}")
    panel.finish()
    if levels and run.end is not None:
        panel = Panel(axes[1], "Length by difficulty", unit)
        for stage, color, name, shift in (
            (run.start, PALE, "start", -0.08),
            (run.end, AMBER, "end", 0.08),
        ):
            shown = [
                (i, stage.levels[v]["length"])
                for i, v in enumerate(levels)
                if stage is not None and v in stage.levels
            ]
            for i, found in shown:
                axes[1].plot([i + shift] * 2, [found.low or 0, found.high or 0], color=color)
            panel.line(
                [i + shift for i, _ in shown], [e.value or 0 for _, e in shown], color, name,
                measured=True,
            )  # fmt: skip
        panel.finish()
        axes[1].set_xticks(range(len(levels)), levels)
        axes[1].set_xlabel("difficulty", loc="right", labelpad=1)
        axes[1].set_xlim(-0.5, len(levels) - 0.5)
    return figure


def coverage(verdict: Verdict, controls: Sequence[Run], narrow: bool) -> Figure:
    """pass@k of the base and the end, answer alone and with its chain; and at equal tokens."""
    found = verdict.runs[0].coverage
    assert found is not None
    figure, axes = panels(2, 2, 3.0, narrow)
    for ax, title, sides in (
        (axes[0], "pass@k: one of k answers is right",
         ((found.base, PALE, "base"), (found.trained, BLUE, "end"))),
        (axes[1], "… and its chain as well",
         ((found.base_chain, PALE, "base"), (found.trained_chain, BLUE, "end"))),
    ):  # fmt: skip
        panel = Panel(ax, title, "% of questions")
        for side, color, name in sides:
            ks = list(side)
            low, high = ([getattr(side[k], e) or 0 for k in ks] for e in ("low", "high"))
            if ks:
                ax.fill_between(ks, low, high, color=color, alpha=0.18, linewidth=0)
            panel.line(ks, [side[k].value or 0 for k in ks], color, name, measured=True)
        if ax is axes[0] and found.matched:
            ks = list(found.matched)
            panel.line(ks, [v[1] for v in found.matched.values()], GREY, "base, same tokens",
                       measured=True)  # fmt: skip
        panel.finish(top=1)
        if sides[0][0]:
            ax.set_xscale("log", base=2)
            ks = list(sides[0][0])
            ax.set_xticks(ks, [str(k) for k in ks])
            ax.minorticks_off()
            ax.set_xlabel("k replies", loc="right", labelpad=1)
    return figure


Draw = Callable[[Verdict, Sequence[Run], bool], Figure]
FIGURES: tuple[Draw, ...] = (
    story, onsets, density, terms, transitions, length, coverage, causes,
)  # fmt: skip


def figures_of(verdict: Verdict) -> list[Draw]:
    """Those that there is something for."""
    run = verdict.runs[0]
    shown: list[Draw] = [story]
    if any(r.timings for r in verdict.runs):
        shown.append(onsets)
    if curve(verdict.runs, "terms").mean_T.any():
        shown.append(density)
    whole = run.table is not None and not run.of_totals
    if whole and run.table is not None:
        if run.table.terms_NW.any():
            shown.append(terms)
        known = (run.table.first_right >= 0) & (run.table.correct >= 0)
        if (known & run.table.found[run.detector]).any():
            shown.append(transitions)
        shown.append(length)
    if run.coverage is not None:
        shown.append(coverage)
    if any(one.causes is not None for one in verdict.judged):
        shown.append(causes)
    return shown


def save_figures(
    verdicts: Sequence[Verdict], controls: Sequence[Run], folder: Path
) -> list[dict[str, tuple[Path, Path]]]:
    """Draws the figures of each verdict as NUMBER_NAME.png and NUMBER_NAME_narrow.png; returns the
    two paths by name, and those over a grid of verdicts with the first one's."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    with matplotlib.rc_context(STYLE):
        for number, verdict in enumerate(verdicts):
            paths = {}
            for draw in figures_of(verdict):
                paths[draw.__name__] = _save(
                    folder, f"{number}_{draw.__name__}",
                    *(draw(verdict, controls, narrow) for narrow in (False, True)),
                )  # fmt: skip
            saved.append(paths)
        if len(verdicts) > 1:
            for name, over in (("grid", grids.grid), ("heat", grids.heat)):
                pair = [over(verdicts, narrow) for narrow in (False, True)]
                if pair[0] is not None and pair[1] is not None:
                    saved[0][name] = _save(folder, name, pair[0], pair[1])
    return saved


def _save(folder: Path, name: str, wide: Figure, small: Figure) -> tuple[Path, Path]:
    paths = folder / f"{name}.png", folder / f"{name}_narrow.png"
    wide.savefig(paths[0])
    small.savefig(paths[1])
    return paths
