"""report.html, figures and verdict.json of a verdict; and the few lines that say it."""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from r1jax.analysis.emergence.curves import published
from r1jax.analysis.emergence.figures import CONTROLS, save_figures
from r1jax.analysis.emergence.intervals import Estimate
from r1jax.analysis.emergence.measure import SERIES, Run
from r1jax.analysis.emergence.rules import UNDECIDED, Finding, Thresholds, existence
from r1jax.analysis.emergence.show import marked, number, share, sized
from r1jax.analysis.emergence.stages import Stage
from r1jax.analysis.emergence.verdict import Verdict, onset_over_seeds, order_of, plain

KINDS = ("existence", "quality", "shape", "coverage")
MEANS = {
    "absent": "reflection is absent",
    "extinct": "reflection was there and died out",
    "unchanged": "reflection is there, and did not rise threefold",
    "spurious": "reflection rose no more than under rewards that say nothing about answers",
    "amplified": "the base could reflect, and RL amplified it",
    "emerged": "reflection emerged: the base was never seen to do it",
    UNDECIDED: "the data cannot decide",
    "effective": "it pays: without it fewer answers are right",
    "confirmatory": "it confirms answers that are right already",
    "superficial": "it changes nothing",
    "harmful": "it does harm: without it more answers are right",
    "none": "there is none to judge",
    "sudden": "at a stroke",
    "gradual": "little by little",
    "sharpened": "no more questions are within reach than before",
    "expanded": "questions are solved that the base could not",
}


def write(
    verdicts: Sequence[Verdict], controls: Sequence[Run], t: Thresholds, out: Path, title: str
) -> Path:
    """Writes `out`/report.html, figures/*.png and verdict.json; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    judged = [(c, existence(c, (), t)) for c in controls]
    record = as_json(verdicts, judged, t)
    (out / "verdict.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    drawn = save_figures(verdicts, controls, out / "figures")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("r1jax", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"spans": marked, "cut": lambda text, n: sized(str(text), n)}
    page = environment.get_template("emergence.html").render(
        title=title,
        subtitle=_subtitle(verdicts, controls),
        pages=[_page(v, images, t) for v, images in zip(verdicts, drawn, strict=True)],
        controls=[
            {
                "name": c.name,
                "kind": CONTROLS.get(str(c.control), c.control),
                "start": _reflective(c.start),
                "end": _reflective(c.end),
                "existence": found.verdict,
            }
            for c, found in judged
        ],
        paper=paper_says(),
        thresholds=dataclasses.asdict(t),
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def paper_says() -> str:
    """What can and cannot be concluded from the curves that DeepSeek published."""
    p = published()
    return (
        f"DeepSeek reports that counts of ten reflective words rose {p.counts[0]:g}- to "
        f"{p.counts[1]:g}-fold, while its published mean length rose {p.length:.1f}-fold. If the "
        "counts are over as many replies at every step, there were at the end "
        f"{p.density[0]:.2f} to {p.density[1]:.2f} times as many of them per token as at the start "
        f"({p.late_density[0]:.2f} to {p.late_density[1]:.2f} from step 300 on): rarer, not more "
        "frequent. What the counts are divided by, the base's share, a control, seeds and what the "
        "words did for answers were not published, and the length limit was raised at step 8,200: "
        "so neither that reflection emerged nor that it was amplified can be concluded from them, "
        "only that replies became long and hold more such words."
    )


def sentence(verdict: Verdict) -> str:
    """The verdict as one sentence."""
    if verdict.existence == UNDECIDED:
        options = " or ".join(verdict.between.get("existence", ()))
        risen = "spurious" in verdict.between.get("existence", ())
        said = "Reflection rose" if risen else "The data cannot say what became of reflection"
        said += f"; whether it is {options} the data cannot tell" if options else ""
    else:
        said = MEANS[verdict.existence][0].upper() + MEANS[verdict.existence][1:]
    if verdict.quality not in ("none", UNDECIDED):
        said += f"; {MEANS[verdict.quality]}"
    if verdict.shape != "none" and verdict.existence not in ("absent", "unchanged", "extinct"):
        said += f". It came {MEANS.get(verdict.shape, 'in ways that differ by seed')}"
        if onset := onset_over_seeds(verdict, "reflection"):
            said += f", from step {onset[0]:.0f} ({onset[1]:.0f} to {onset[2]:.0f}) on"
    if verdict.coverage != UNDECIDED:
        said += f"; {MEANS[verdict.coverage]}"
    return said + "."


def lines(verdict: Verdict) -> list[str]:
    """The verdict for a terminal."""
    found = [f"[{verdict.name}]"] if verdict.name else []
    for kind in KINDS:
        value = getattr(verdict, kind)
        options = verdict.between.get(kind, ())
        of = f": {' or '.join(options)}" if value == UNDECIDED and options else ""
        found.append(f"{kind:<20}{value}{of}{_note(verdict, kind)}")
    onset = [
        f"{name} {o[0]:.0f} ({o[1]:.0f} to {o[2]:.0f})"
        for name in SERIES
        if (o := onset_over_seeds(verdict, name))
    ]
    if onset:
        found.append(f"{'onset at step':<20}{', '.join(onset)}")
    if order := order_of(verdict):
        found.append(f"{'order':<20}{'; '.join(order)}")
    found += [f"{'flag':<20}{name}: {text}" for name, text in verdict.flags]
    found += [f"{'missing':<20}{text}" for text in _together(verdict.missing)]
    return found


def _together(missing: Sequence[str]) -> list[str]:
    """What several runs lack, once: "a, b: ..."."""
    names: dict[str, list[str]] = {}
    for text in missing:
        name, colon, what = text.partition(": ")
        names.setdefault(what if colon else text, []).append(name if colon else "")
    return [f"{', '.join(n)}: {what}" if any(n) else what for what, n in names.items()]


def _note(verdict: Verdict, kind: str) -> str:
    """What a kind of verdict rests on, in a few numbers."""
    run = verdict.runs[0]
    if kind == "existence" and run.end is not None:
        start = share(run.start.reflective) if run.start is not None else "not known"
        rest = f" (and {len(verdict.judged) - 1} more)" if len(verdict.judged) > 1 else ""
        return f"   {start} → {share(run.end.reflective)} of replies{rest}"
    if kind == "quality" and (causes := verdict.judged[0].causes):
        ban = causes.effects.get("ban")
        return f"   a ban: {_points(ban.difference)}" if ban else ""
    if kind == "shape" and run.shape is not None and verdict.shape != "none":
        return f"   over {run.shape.width:.0%} of the run"
    if kind == "coverage" and run.coverage is not None and run.coverage.sets.nscr.value is not None:
        sets = run.coverage.sets
        return f"   NSCR {number(sets.nscr)} at {sets.replies} replies a question"
    return ""


def _points(effect: Estimate) -> str:
    low, value, high = (100 * (v or 0.0) for v in (effect.low, effect.value, effect.high))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def as_json(
    verdicts: Sequence[Verdict], controls: Sequence[tuple[Run, Finding]], t: Thresholds
) -> dict[str, Any]:
    """Of each configuration its verdicts, and of each run every rule with its inputs."""
    return {
        "verdicts": [
            {
                "configuration": v.name,
                **{kind: getattr(v, kind) for kind in KINDS},
                "between": plain(v.between),
                "says": sentence(v),
                "flags": dict(v.flags),
                "missing": list(v.missing),
                "onset": {name: plain(onset_over_seeds(v, name)) for name in SERIES},
                "order": order_of(v),
                "against_controls": plain(v.against),
                "runs": [
                    {
                        **_run_json(one.run),
                        "findings": plain(one.findings),
                        "causes": plain(one.causes),
                    }
                    for one in v.judged
                ],
            }
            for v in verdicts
        ],
        "controls": [
            {**_run_json(run), "control": run.control, "existence": plain(found)}
            for run, found in controls
        ],
        "published": plain(published()),
        "thresholds": dataclasses.asdict(t),
    }


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "seed": run.seed,
        "base": run.base_name,
        "detector": run.detector,
        "steps_subtracted": run.log.offset,
        "start": plain(run.start),
        "end": plain(run.end),
        "change": plain(run.change),
        "timings": plain(run.timings),
        "gaps": [{**plain(gap), "order": gap.order} for gap in run.gaps],
        "shape": plain(run.shape),
        "phases": plain(run.phases),
        "coverage": plain(run.coverage),
    }


def _subtitle(verdicts: Sequence[Verdict], controls: Sequence[Run]) -> str:
    runs = [run for v in verdicts for run in v.runs]
    replies = sum(len(run.log.replies) for run in runs)
    parts = [f"{len(runs)} run{'s' * (len(runs) > 1)}", f"{replies:,} logged replies"]
    if len(verdicts) > 1:
        parts.insert(0, f"{len(verdicts)} configurations")
    if controls:
        parts.append(f"{len(controls)} control{'s' * (len(controls) > 1)}")
    how = {"event": "structure", "word": "words", "strict": "strict words"}
    return " · ".join([*parts, f"detected by {how.get(runs[0].detector, runs[0].detector)}"])


def _page(
    verdict: Verdict, drawn: Mapping[str, tuple[Path, Path]], t: Thresholds
) -> dict[str, Any]:
    run = verdict.runs[0]
    reading = [r for r in verdict.runs if r.corrects or r.breaks] or verdict.runs
    return {
        "name": verdict.name,
        **{kind: getattr(verdict, kind) for kind in KINDS},
        "shares": f"{_reflective(run.start, False)} → {_reflective(run.end, False)}",
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
        "missing": _together(verdict.missing),
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
    return (_note(verdict, kind).strip() or MEANS.get(value, "")).strip()


def _row(run: Run, found: Finding) -> dict[str, Any]:
    def both(of: str, form: str) -> str:
        values = [getattr(s, of).value for s in (run.start, run.end) if s is not None]
        return " → ".join("?" if v is None else form.format(v) for v in values)

    change = run.change
    rises = "—"
    if change is not None and change.p < 0.05:
        rises = f"{change.step} ({change.low} to {change.high})"
    cells = [
        _reflective(run.start),
        _reflective(run.end),
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
            f"{_points(found.difference)}; above 0 in {found.above}, below in {found.below} of "
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
    return [r for r in rows if set(r[1:]) != {"—"}]


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


def _reflective(stage: Stage | None, interval: bool = True) -> str:
    return share(stage.reflective if stage is not None else None, interval)


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
