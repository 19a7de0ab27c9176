"""Results as lines of text, beside what was published."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADS = ("benchmark", "asked", "k", "pass@1", "± se", "± samples", "pass@k", "cons@k", "cut",
         "unread", "thinking", "tokens")  # fmt: skip


def lines(results: Mapping[str, Any]) -> list[str]:
    rows = [_row(name, found) for name, found in results["benchmarks"].items()]
    said = [*_aligned([HEADS, *rows]), ""]
    for name, found in results["benchmarks"].items():
        said += _remarks(name, found)
    published = [line for n, f in results["benchmarks"].items() for line in _published(n, f)]
    if published:
        said += ["", "published, by other prompts and graders:", *published]
    return said


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    k, cons = str(found["k"]), found.get("cons@k") or {}
    most = str(max(map(int, found["pass@k"]))) if found.get("pass@k") else k
    last = str(max(map(int, cons))) if cons else ""
    return (
        name,
        f"{found['questions']:,}",
        k,
        _percent(found.get("pass@1")),
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
        told = ", ".join(f"{n:,} {why}" for why, n in found["left_out"].items())
        said.append(f"{name}: left out {told}")
    if found.get("grader_failed"):
        said.append(f"{name}: the grader failed at {_percent(found['grader_failed'])}: left out")
    if rating := found.get("rating"):
        low, best, high = (_number(rating[n]) for n in ("low", "value", "high"))
        said.append(f"{name}: rating {best} ({low} to {high}), of {rating['problems']:,} problems")
    if told := found.get("instructions"):
        parts = ", ".join(f"{n.replace('_', ' ')} {_percent(x)}" for n, x in told.items())
        said.append(f"{name}: {parts}")
    if shared := found.get("contaminated"):
        without = _percent(shared["without"]["pass@1"])
        said.append(
            f"{name}: {len(shared['questions']):,} questions ({_percent(shared['share'])}) share "
            f"10 words in a row with the training data; pass@1 of the others {without}"
        )
    ties = [f"{_percent(one['ties'])} at {k}" for k, one in (found.get("cons@k") or {}).items()]
    if ties:
        said.append(f"{name}: cons@k is a tie in {', '.join(ties)}")
    return said


def _published(name: str, found: Mapping[str, Any]) -> list[str]:
    rows = [("", f) for f in found["reported"]]
    rows += [(" cons@64", f) for f in found.get("reported_cons@64", ())]
    return [f"  {name}{what}: {f['model']} {f['value']:g} ({f['source']})" for what, f in rows]


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


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}"
