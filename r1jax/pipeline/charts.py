"""Curves as inline SVG: no script, no image file, the page's own colours."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import markupsafe

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 30


class Line(NamedTuple):
    """label: said in the legend. kind: the class that colours it (style.css of the page)."""

    label: str
    points: Sequence[tuple[float, float]]  # (step, value)
    kind: str = "a"


def chart(lines: Sequence[Line], about: str, percent: bool = True) -> markupsafe.Markup:
    """All lines over one pair of axes, from 0 on, with a legend; `about` is read aloud in place of
    it. Empty where no line has a point."""
    lines = [line for line in lines if line.points]
    if not lines:
        return markupsafe.Markup("")
    last = max(x for line in lines for x, _ in line.points) or 1.0
    low = min(0.0, *(y for line in lines for _, y in line.points))
    high = _nice(max(y for line in lines for _, y in line.points))
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> str:
        return f"{LEFT + across * x / last:.1f},{TOP + down * (high - y) / (high - low or 1):.1f}"

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{markupsafe.escape(about)}">'
    ]
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        y = TOP + down * (1 - share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        said = f"{100 * value:.0f}%" if percent else f"{value:.3g}"
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{said}</text>')
    for x in (0.0, last):
        at = LEFT + across * x / last
        anchor = "start" if x == 0 else "end"
        parts.append(f'<text x="{at:.0f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{x:.0f}</text>')
    for line in lines:
        points = " ".join(place(x, y) for x, y in line.points)
        parts.append(f'<polyline class="curve {line.kind}" points="{points}"/>')
    parts.append("</svg>")
    legend = "".join(
        f'<span><i class="key {line.kind}"></i>{markupsafe.escape(line.label)}</span>'
        for line in lines
    )
    return markupsafe.Markup("".join(parts) + f'<div class="legend">{legend}</div>')


class Model(Protocol):
    """A stage's: what it is called, whose weights it begins with, whose replies it learns from."""

    @property
    def gives(self) -> str: ...

    @property
    def begins(self) -> str: ...

    @property
    def learns(self) -> str: ...


def lineage(models: Sequence[Model], base: str = "Base") -> markupsafe.Markup:
    """Which model comes from which: boxes in a row above the base that some begin with. A full
    arrow is weights, a dashed one replies."""
    step, box, high, width = 118, 78, 34, 118 * len(models)
    at = {model.gives: i * step + 6 for i, model in enumerate(models)}
    parts = [
        f'<svg class="lineage" viewBox="0 0 {width} 150" role="img" aria-label="which model comes '
        'from which: full arrows are weights, dashed ones replies"><defs><marker id="tip" '
        'markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto"><path class="tip" '
        'd="M0,0 L6,3 L0,6 z"/></marker></defs>'
    ]

    def arrow(x1: float, y1: float, x2: float, y2: float, kind: str, said: str) -> None:
        ends = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
        parts.append(f'<line class="arrow {kind}" {ends} marker-end="url(#tip)"/>')
        if said:
            parts.append(
                f'<text x="{(x1 + x2) / 2}" y="{y1 - 6}" text-anchor="middle">{said}</text>'
            )

    last = max(at[model.gives] for model in models if model.begins == base)
    for model in models:
        x = at[model.gives]
        parts.append(f'<rect class="box" x="{x}" y="30" width="{box}" height="{high}" rx="6"/>')
        name = f'<text class="name" x="{x + box / 2}" y="52" text-anchor="middle">'
        parts.append(f"{name}{model.gives}</text>")
        if model.begins in at:
            arrow(at[model.begins] + box + 2, 42, x - 3, 42, "weights", "")
        elif model.begins == base:
            arrow(x + box / 2, 112, x + box / 2, 30 + high + 4, "weights", "")
        if model.learns:
            arrow(at[model.learns] + box + 2, 47, x - 3, 47, "replies", "replies")
    parts.append(f'<rect class="box" x="6" y="114" width="{last + box - 6}" height="26" rx="6"/>')
    parts.append(f'<text class="name" x="16" y="132">{base}</text></svg>')
    return markupsafe.Markup("".join(parts))


def _nice(value: float) -> float:
    """The next number that an axis may end with."""
    if value <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    return next(size * step for step in (1, 2, 2.5, 5, 10) if size * step >= value - 1e-12)


def smooth(points: Sequence[tuple[float, float]], over: int = 5) -> list[tuple[float, float]]:
    """Centred means over as many points as there are within `over`."""
    half = over // 2
    found = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - half) : i + half + 1]]
        found.append((x, sum(near) / len(near)))
    return found
