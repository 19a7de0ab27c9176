"""Figures over the configurations of a sweep: small multiples, and a heat map of two axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from r1jax.analysis.emergence.curves import curve
from r1jax.analysis.emergence.verdict import Verdict
from r1jax.analysis.figures import INK, VIOLET, panels


def grid(verdicts: Sequence[Verdict], narrow: bool) -> Figure:
    """One small panel a configuration: the share of reflective replies of each of its runs."""
    figure, axes = panels(len(verdicts), 4, 2.0, narrow)
    for ax, verdict in zip(axes, verdicts, strict=False):
        ax.set_title(f"{verdict.name[:30]}\n", fontsize=8.5)
        ax.text(0, 1.04, verdict.existence, color=VIOLET, fontsize=8, transform=ax.transAxes)
        for run in verdict.runs:
            one = curve([run], "reflection")
            ax.plot(one.steps_T, one.mean_T, color=VIOLET, linewidth=0.9, alpha=0.6)
        ax.set_ylim(0, 1.03)
        ax.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
        ax.set_ylabel("% of replies", loc="top")
        ax.set_xlabel("step", loc="right", labelpad=1)
    for ax in axes[len(verdicts) :]:
        ax.remove()
    return figure


def axes_of(verdicts: Sequence[Verdict]) -> tuple[str, str] | None:
    """The fields of the members' "axes" that the sweep varies; None unless they are two."""
    told = [v.runs[0].log.member.get("axes", {}) for v in verdicts]
    names = [n for n in told[0] if len({str(t.get(n)) for t in told}) > 1]
    if len(names) != 2 or not all(set(names) <= set(t) for t in told):
        return None
    return names[0], names[1]


def heat(verdicts: Sequence[Verdict], narrow: bool) -> Figure | None:
    """The share of reflective replies at the end over two axes, with the verdict; None where the
    sweep does not have just two."""
    if (names := axes_of(verdicts)) is None:
        return None
    places = [[v.runs[0].log.member["axes"][name] for v in verdicts] for name in names]
    values = [sorted(set(column), key=_ordered) for column in places]
    shares = np.full((len(values[1]), len(values[0])), np.nan)
    size = (4.3, 0.9 + 0.5 * len(values[1])) if narrow else (9, 1.0 + 0.55 * len(values[1]))
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    for verdict, x, y in zip(verdicts, *places, strict=True):
        column, row = values[0].index(x), values[1].index(y)
        ends = [r.end.reflective.value or 0.0 for r in verdict.runs if r.end is not None]
        if not ends:
            continue
        shares[row, column] = share = float(np.mean(ends))
        said = verdict.existence[:5] if narrow else verdict.existence
        ax.text(column, row, f"{share:.0%}\n{said}", ha="center", va="center", fontsize=7.5,
                color="white" if share > 0.55 else INK)  # fmt: skip
    ax.imshow(shares, aspect="auto", cmap="Purples", vmin=0, vmax=1, origin="lower")
    ax.set_title("Replies that reflect at the end, % of replies")
    ax.set_xticks(range(len(values[0])), [str(v) for v in values[0]])
    ax.set_yticks(range(len(values[1])), [str(v) for v in values[1]])
    ax.set_xlabel(names[0], loc="right", labelpad=1)
    ax.set_ylabel(names[1], loc="top")
    ax.grid(False)
    return figure


def _ordered(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)
