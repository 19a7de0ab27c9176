"""report.html, figures and verdict.json of a verdict; and the few lines that say it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1jax.analysis.emergence.curves import published
from r1jax.analysis.emergence.figures import CONTROLS, save_figures
from r1jax.analysis.emergence.measure import SERIES, Run
from r1jax.analysis.emergence.page import page_of, reflective
from r1jax.analysis.emergence.rules import UNDECIDED, Finding, Thresholds, existence
from r1jax.analysis.emergence.says import KINDS, note, paper_says, sentence, together
from r1jax.analysis.emergence.show import marked, sized
from r1jax.analysis.emergence.verdict import (
    Verdict,
    onset_over_seeds,
    order_of,
    plain,
    share_over_runs,
)
from r1jax.analysis.pages import templates
from r1jax.files import write_whole


def write(
    verdicts: Sequence[Verdict], controls: Sequence[Run], t: Thresholds, out: Path, title: str
) -> Path:
    """Writes `out`/report.html, figures/*.png and verdict.json; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    judged = [(c, existence(c, (), t)) for c in controls]
    record = as_json(verdicts, judged, t)
    write_whole(out / "verdict.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    drawn = save_figures(verdicts, controls, out / "figures")
    filled = templates(spans=marked, cut=lambda text, n: sized(str(text), n))
    page = filled.get_template("emergence.html").render(
        title=title,
        subtitle=_subtitle(verdicts, controls),
        pages=[page_of(v, images, t) for v, images in zip(verdicts, drawn, strict=True)],
        controls=[
            {
                "name": c.name,
                "kind": CONTROLS.get(str(c.control), c.control),
                "start": reflective(c.start),
                "end": reflective(c.end),
                "existence": found.verdict,
            }
            for c, found in judged
        ],
        paper=paper_says(),
        thresholds=dataclasses.asdict(t),
    )
    path = out / "report.html"
    write_whole(path, page)
    return path


def lines(verdict: Verdict) -> list[str]:
    """The verdict for a terminal."""
    found = [f"[{verdict.name}]"] if verdict.name else []
    for kind in KINDS:
        value = getattr(verdict, kind)
        options = verdict.between.get(kind, ())
        of = f": {' or '.join(options)}" if value == UNDECIDED and options else ""
        found.append(f"{kind:<20}{value}{of}{note(verdict, kind)}")
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
    found += [f"{'missing':<20}{text}" for text in together(verdict.missing)]
    return found


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
                "share": {w: plain(share_over_runs(v, w)) for w in ("start", "end")},
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
