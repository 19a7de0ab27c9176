"""Results as lines of text, beside what was published."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

HEADS = ("benchmark", "asked", "k", "pass@1", "95%", "± se", "± samples", "pass@k", "cons@k", "cut",
         "unread", "thinking", "tokens")  # fmt: skip


def lines(results: Mapping[str, Any]) -> list[str]:
    rows = [_row(name, found) for name, found in results["benchmarks"].items()]
    said = [*_aligned([HEADS, *rows]), ""]
    for name, found in results["benchmarks"].items():
        said += _remarks(name, found)
    return [*said, *_published(results)]


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    k, cons = str(found["k"]), found.get("cons@k") or {}
    most = str(max(map(int, found["pass@k"]))) if found.get("pass@k") else k
    last = str(max(map(int, cons))) if cons else ""
    return (
        name,
        f"{found['questions']:,}",
        k,
        _percent(found.get("pass@1")),
        _between(found.get("low"), found.get("high")),
        _percent(found.get("se_questions")),
        _percent(found.get("se_samples")),
        f"{_percent(found['pass@k'][most])} @{most}" if found.get("pass@k") else "-",
        f"{_percent(cons[last]['value'])} @{last}" if cons else "-",
        _percent(found["truncated"]),
        _percent(found.get("unparseable")),
        _number(found["thinking_tokens"]["mean"]),
        _number(found["tokens"]["mean"]),
    )


def _remarks(name: str, found: Mapping[str, Any]) -> list[str]:
    said = []
    if found["left_out"]:
        reasons = ", ".join(f"{n:,} ({why})" for why, n in found["left_out"].items())
        said.append(f"{name}: left out {reasons}")
    if found.get("grader_failed"):
        said.append(f"{name}: the grader failed at {_percent(found['grader_failed'])}: left out")
    if rating := found.get("rating"):
        low, best, high = [_number(rating[n]) for n in ("low", "value", "high")]
        said.append(f"{name}: rating {best} ({low} to {high}), of {rating['problems']:,} problems")
    if told := found.get("instructions"):
        shares = ", ".join(f"{n.replace('_', ' ')} {_percent(x)}" for n, x in told.items())
        said.append(f"{name}: {shares}")
    if shared := found.get("contaminated"):
        without = _percent(shared["without"]["pass@1"])
        count = f"{len(shared['questions']):,} of {found['questions']:,} questions"
        others = f"; pass@1 of the others {without}" if shared["questions"] else ""
        said.append(f"{name}: {count} share 10 words in a row with the training data{others}")
    cons = (found.get("cons@k") or {}).items()
    ties = [f"{_percent(one['ties'])} at {k}" for k, one in cons if one["ties"]]
    if ties:
        said.append(f"{name}: cons@k is a tie in {', '.join(ties)}")
    return said


def _published(results: Mapping[str, Any]) -> list[str]:
    """A row a benchmark, a column a model; a letter behind a figure says where it is from."""
    cells: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for name, found in results["benchmarks"].items():
        for row, key in ((name, "reported"), (f"{name} cons@64", "reported_cons@64")):
            for f in found.get(key, ()):
                of_row = cells.setdefault(row, {"here": []})
                of_row.setdefault(f["model"], []).append((f["value"], f["source"]))
    models = dict.fromkeys(model for row in cells.values() for model in row if model != "here")
    sources = dict.fromkeys(s for row in cells.values() for some in row.values() for _, s in some)
    letter = dict(zip(sources, string.ascii_lowercase, strict=False))
    rows = [["published", "here", *models]]
    for name, row in cells.items():
        told = (
            " ".join(f"{value:g}{letter[source]}" for value, source in row.get(model, ()))
            for model in models
        )
        rows.append([name, _here(name, results["benchmarks"]), *(cell or "-" for cell in told)])
    if not cells:
        return []
    said = [f"{mark}: {source}" for source, mark in letter.items()]
    return ["", *_aligned(rows), "by other prompts and graders. " + "; ".join(said)]


def _here(row: str, benchmarks: Mapping[str, Any]) -> str:
    """What these results have that is of the same kind."""
    name, _, k = row.partition(" cons@")
    found = benchmarks[name]
    if k:
        cons = found.get("cons@k") or {}
        return f"{100 * cons[k]['value']:.1f}" if k in cons else "-"
    if rating := found.get("rating"):
        return _number(rating["value"])
    value = found.get("pass@1")
    return "-" if value is None else f"{100 * value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *rest = widths
    return [
        row[0].ljust(first)
        + "".join(cell.rjust(width + 2) for cell, width in zip(row[1:], rest, strict=True))
        for row in rows
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _between(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}%"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}"
