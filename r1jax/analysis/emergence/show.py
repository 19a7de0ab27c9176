"""Numbers and replies as a page shows them."""

import markupsafe

from r1jax.analysis.emergence.intervals import Estimate
from r1jax.analysis.emergence.logs import Reply
from r1jax.analysis.emergence.table import structures
from r1jax.analysis.emergence.words import phrases_of, terms_of


def share(found: Estimate | None, interval: bool = True) -> str:
    """As percentages; none of n as its bound."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return "—"
    if found.value == 0:
        return f"0% (below {_percent(found.high)})"
    if not interval:
        return _percent(found.value)
    return f"{_percent(found.value)} ({_percent(found.low)} to {_percent(found.high)})"


def _percent(value: float) -> str:
    """With a decimal below 10%, and two below 1%."""
    return f"{100 * value:.{2 if 0 < value < 0.01 else 1 if value < 0.1 else 0}f}%"


def number(found: Estimate | None) -> str:
    if found is None or found.value is None or found.low is None or found.high is None:
        return "—"
    if found.low == found.value == found.high:
        return f"{found.value:.3g}"
    return f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"


def sized(text: str, most: int) -> str:
    """Cut to `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def marked(reply: Reply) -> markupsafe.Markup:
    """The reply, escaped, with its reflective words, candidates and verdicts marked."""
    text = reply.text
    (structure,) = structures([reply])
    classes: list[frozenset[str]] = [frozenset()] * len(text)

    def paint(start: int, end: int, name: str) -> None:
        for i in range(start, min(end, len(text))):
            classes[i] |= {name}

    for candidate in structure.candidates:
        kind = {True: " right", False: " wrong", None: ""}[candidate.right]
        paint(candidate.start, candidate.end, f"candidate{kind}")
    for verdict in structure.verdicts if structure.exact else ():
        paint(verdict.start, verdict.end, "verdict")
    for term in (*terms_of(text), *phrases_of(text)):
        paint(term.start, term.end, "mark")
    parts, start = [], 0
    for i in range(1, len(text) + 1):
        if i == len(text) or classes[i] != classes[start]:
            parts.append(_span(text[start:i], classes[start]))
            start = i
    return markupsafe.Markup("").join(parts)


def _span(text: str, classes: frozenset[str]) -> markupsafe.Markup:
    names = " ".join(sorted(classes - {"mark"}))
    inner = markupsafe.escape(text)
    if "mark" in classes:
        inner = markupsafe.Markup("<mark>{}</mark>").format(inner)
    return markupsafe.Markup('<span class="{}">{}</span>').format(names, inner) if names else inner
