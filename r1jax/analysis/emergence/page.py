"""What the page shows of a verdict, as `r1jax/assets/emergence.html` takes it."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.analysis.emergence.intervals import Estimate
from r1jax.analysis.emergence.measure import Run
from r1jax.analysis.emergence.rules import UNDECIDED, Finding, Thresholds
from r1jax.analysis.emergence.says import KINDS, MEANS, note, points, sentence, together
from r1jax.analysis.emergence.show import number, share
from r1jax.analysis.emergence.stages import Stage
from r1jax.analysis.emergence.verdict import Verdict, order_of, share_over_runs


def page_of(
    verdict: Verdict, drawn: Mapping[str, tuple[Path, Path]], t: Thresholds
) -> dict[str, Any]:
    run = verdict.runs[0]
    reading = [r for r in verdict.runs if r.corrects or r.breaks] or verdict.runs
    return {
        "name": verdict.name,
        **{kind: getattr(verdict, kind) for kind in KINDS},
        "shares": " → ".join(
            share(share_over_runs(verdict, which), interval=False) for which in ("start", "end")
        ),
        "said": sentence(verdict),
        "tiles": [
            {
                "label": kind.capitalize(),
                "value": _tile_value(verdict, kind),
                "note": _tile_note(verdict, kind),
            }
            for kind in KINDS
        ],
        "images": {name: tuple(_data_url(p) for p in paths) for name, paths in drawn.items()},
        "missing": together(verdict.missing),
        "flags": verdict.flags,
        "exact": run.table is not None and run.table.exact,
        "corrects": reading[0].corrects,
        "breaks": reading[0].breaks,
        "runs": [_row(one.run, one.findings["existence"]) for one in verdict.judged],
        "order": order_of(verdict),
        "phases": [f"{name} in steps {first} to {last}" for name, first, last in run.phases],
        "phase_names": f"sporadic from {t.sporadic:.0%}, marked from {t.marked:.0%}",
        "numbers": _numbers(run) if not run.of_totals else [],
        "sets": _sets(run),
        "against": verdict.against,
        "rules": [
            (f"{one.run.name}: {kind}", _rules(finding))
            for one in verdict.judged
            for kind, finding in one.findings.items()
            if finding.rules
        ],
    }


def _tile_value(verdict: Verdict, kind: str) -> str:
    value, options = getattr(verdict, kind), verdict.between.get(kind, ())
    return f"{' or '.join(options)}?" if value == UNDECIDED and 0 < len(options) < 3 else value


def _tile_note(verdict: Verdict, kind: str) -> str:
    value = getattr(verdict, kind)
    if value == UNDECIDED and verdict.between.get(kind):
        few = len(verdict.between[kind]) < 3
        return "see what is missing" if few else f"{' or '.join(verdict.between[kind])}"
    return (note(verdict, kind).strip() or MEANS.get(value, "")).strip()


def _row(run: Run, found: Finding) -> dict[str, Any]:
    def both(of: str, form: str) -> str:
        values = [getattr(s, of).value for s in (run.start, run.end) if s is not None]
        return " → ".join("?" if v is None else form.format(v) for v in values)

    change = run.change
    rises = "—"
    if change is not None and change.p < 0.05:
        rises = f"{change.step} ({change.low} to {change.high})"
    cells = [
        reflective(run.start),
        reflective(run.end),
        both("accuracy", "{:.1%}"),
        both("length", "{:.0f}"),
        rises,
    ]
    return {"name": run.name, "cells": cells, "existence": found.verdict}


def _numbers(run: Run) -> list[tuple[str, str, str]]:
    def row(label: str, of, form=share) -> tuple[str, str, str]:
        start, end = (form(of(s)) if s is not None else "—" for s in (run.start, run.end))
        return label, start, end

    def kappa(value: float | None) -> str:
        return "—" if value is None else f"{value:.2f}"

    def within(stage: Stage) -> str:
        found = stage.within
        if found is None:
            return "—"
        return (
            f"{points(found.difference)}; above 0 in {found.above}, below in {found.below} of "
            f"{found.difference.n} questions, p = {found.p:.2g}"
        )

    rows = [
        row("replies, questions", lambda s: f"{s.n:,}, {s.questions:,}", str),
        *(
            row(f"replies that reflect, by {name}", lambda s, name=name: s.detectors[name])
            for name in ("word", "strict", "context", "event")
        ),
        row("questions with a reflective reply", lambda s: f"{s.questions_with:.1%}", str),
        row("terms a reply", lambda s: s.per_reply, number),
        row("terms per 1,000 tokens", lambda s: s.per_1k, number),
        row("terms an attempt", lambda s: s.per_attempt, number),
        row(
            "terms by third of the reply",
            lambda s: ", ".join(f"{v:.0%}" for v in s.thirds),
            str,
        ),
        row("candidates a reply", lambda s: s.attempts, number),
        row("first candidate at", lambda s: s.place),
        row("first try right", lambda s: s.first_try),
        row("answer right", lambda s: s.accuracy),
        row("corrective: F→T of wrong first tries", lambda s: s.corrective),
        row("harmful: T→F of right first tries", lambda s: s.harmful),
        row("verdicts that accept a wrong candidate (e+)", lambda s: s.accepts_wrong),
        row("verdicts that reject a right one (e−)", lambda s: s.rejects_right),
        row("accuracy with less without reflection, within questions", within, str),
        row("agreement of strict words and structure (kappa)", lambda s: s.agreement, kappa),
        row("tokens, finished replies", lambda s: s.length_finished, number),
        row("cut at the limit", lambda s: s.truncated),
    ]
    return [r for r in (*rows, *_likely(run.log.baseline)) if set(r[1:]) != {"—"}]


def _likely(baseline: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What baseline.json says of how likely replies are to the base, and of forks; start: of the
    base's own, end: of the run's."""
    told = baseline.get("likelihood")
    if not told:
        return []

    def shown(of: Mapping[str, Any], name: str) -> str:
        return number(Estimate(**of[name])) if of.get(name) else "—"

    p = told["perplexity"]
    return [
        ("perplexity under the base", shown(p, "base"), shown(p, "run")),
        ("of replies that reflect", "—", shown(p, "run, reflective")),
        ("of the others", "—", shown(p, "run, others")),
        ("perplexity under the run itself", "—", shown(p, "run, under itself")),
        *(
            (f"entropy{where}, nats a token", shown(told[of], "base"), shown(told[of], "run"))
            for of, where in (("entropy", ""), ("forks", " at forks"))
        ),
        ("of the base, at the run's forks", "—", shown(told, "base_at_forks")),
        ("forks of the run that are forks of the base", "—", shown(told, "shared")),
    ]


def _sets(run: Run) -> str:
    if run.coverage is None:
        return ""
    c, s = run.coverage, run.coverage.sets
    said = (
        f"Solved by one of {s.replies} replies: {s.preserved} questions before and after, "
        f"{s.shrunk} only before, {s.expanded} only after, {s.out} never. Preserved of the base's "
        f"(SRR) {number(s.srr)}, new of the end's (NDR) {number(s.ndr)}, net (NSCR) "
        f"{number(s.nscr)}."
    )
    if c.crossing is not None:
        said += f" The base is no worse from k = {c.crossing} on."
    if s.replies < 64:
        said += " With so few replies a question, “solved” is partly luck; 256 would tell more."
    return said


def reflective(stage: Stage | None) -> str:
    return share(stage.reflective if stage is not None else None)


def _rules(finding: Finding) -> list[dict[str, Any]]:
    def shown(value: Any) -> str:
        if isinstance(value, Estimate):
            return str(value)
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return [
        {
            "holds": r.holds,
            "asks": r.asks,
            "inputs": "; ".join(f"{k.replace('_', ' ')} {shown(v)}" for k, v in r.inputs.items()),
        }
        for r in finding.rules
    ]


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
