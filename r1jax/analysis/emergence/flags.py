"""What a reader has to know before believing a verdict."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from r1jax.analysis.emergence.causes import Causes
from r1jax.analysis.emergence.measure import Run, planned
from r1jax.analysis.emergence.rules import BLIND, UNDECIDED, Finding, Thresholds, came_and_went


@dataclasses.dataclass(frozen=True)
class Judged:
    """One run's findings: existence, quality, coverage."""

    run: Run
    causes: Causes | None
    findings: Mapping[str, Finding]


def flags_of(
    judged: Sequence[Judged], controls: Sequence[Run], agreed: Mapping[str, str], t: Thresholds
) -> Iterator[tuple[str, str]]:
    """(name, what it says); `agreed`: the verdict of each kind that the runs agree on."""
    runs: list[Run] = [one.run for one in judged]
    ends = [run.end for run in runs if run.end is not None]
    if len(runs) == 1:
        yield "one seed only", "one run: nothing says that another seed would do the same"
    elif len({run.base_name for run in runs}) == 1:
        yield "one base only", f"{len(runs)} runs began with the same weights"
    same = Counter((run.configuration, run.base_name, run.seed) for run in runs)
    if any(n > 1 and seed is not None for (*_, seed), n in same.items()):
        yield "seeds repeat", "runs of one seed and configuration are counted as independent ones"
    for kind in agreed:
        seen = Counter(one.findings[kind].verdict for one in judged)
        if agreed[kind] == UNDECIDED and len(seen) > 1:
            said = ", ".join(f"{n} of {len(runs)} {v}" for v, n in seen.most_common())
            yield "seeds disagree", f"{kind}: {said}"
    early = [run for run in runs if run.log.run.get("settled")]
    if early:
        last = ", ".join(f"{int(run.log.run['step'])} of {planned(run.log)}" for run in early)
        yield "ended early", f"once reflection had risen for good, after {last} steps"
    if any(run.start is None for run in runs):
        yield "no baseline", "no replies of step 0: what the base did before is not known"
    kinds = {str(c.control) for c in controls}
    if not kinds:
        yield "no control", "no run whose rewards say nothing about answers: a rise may be spurious"
    elif kinds.isdisjoint(BLIND):
        yield (
            "no blind control",
            f"no control's rewards are blind to answers ({', '.join(sorted(kinds))}): a rise may "
            "be spurious",
        )
    if agreed["existence"] not in ("absent", "extinct") and (text := _length_driven(runs)):
        yield "length-driven", text
    for run in runs:
        if run.end is not None and came_and_went(run, t):
            most = run.summit
            yield (
                "came and went",
                f"{run.name}: {most.share.value:.0%} of replies reflected at steps {most.first} to "
                f"{most.last}, {run.end.reflective.value:.1%} at the end",
            )
    foreign = max(run.foreign for run in (*runs, *controls))
    if foreign > t.foreign:
        yield (
            "another script",
            f"{foreign:.0%} of the letters are not Latin: the words looked for are English",
        )
    cut = [e.truncated.value for e in ends if e.truncated.value is not None]
    if cut and max(cut) > t.truncated:
        yield "truncated", f"{max(cut):.0%} of replies at the end are cut at the length limit"
    first = max((r.start.truncated.value or 0.0 for r in runs if r.start is not None), default=0.0)
    if first > t.truncated:
        yield (
            "cut at first",
            f"{first:.0%} of replies at step 0 are cut at the length limit: what the base would "
            "have gone on to is not known",
        )
    if any(_limits(run) > 1 for run in runs):
        yield "limit changed", "the length limit changed during the run: lengths differ by design"
    failed = [m.get("reward/grader_failed") or 0.0 for run in runs for m in run.log.metrics]
    if failed and max(failed) > t.failed:
        yield "grader failures", f"up to {max(failed):.0%} of a step's replies could not be graded"
    # Where nearly all replies reflect, or none, kappa is low though they differ on few.
    pairs = [(e.agreement, e.differ) for e in ends if e.agreement is not None]
    apart = [(kappa, share) for kappa, share in pairs if kappa < t.agreement and share > t.differ]
    if apart:
        told = "words and structure agree little at the end: kappa {:.2f}, {:.0%} of replies differ"
        yield "words and deeds", told.format(*min(apart))
    if any(run.table is not None and run.table.counted for run in runs):
        yield "tokens are words", "the log has no token counts: words and marks are counted instead"
    ways = {run.detector for run in (*runs, *controls)}
    if len(ways) > 1:
        yield "detectors differ", f"runs and controls were read by {', '.join(sorted(ways))}"
    if any(run.of_totals for run in runs):
        yield (
            "totals only",
            "only a few replies a step were kept (no replies.jsonl): shares are the log's counts "
            "of words, and their intervals take replies for independent",
        )


def _length_driven(runs: Sequence[Run]) -> str:
    """Where terms per 1,000 tokens did not rise, though terms a reply did."""
    stages = [(r.start, r.end) for r in runs if r.start is not None and r.end is not None]
    told = []
    for start, end in stages:
        before, after = start.per_1k.value, end.per_1k.value
        more = (end.per_reply.value or 0) > (start.per_reply.value or 0)
        if not before or after is None or not more:
            continue
        if after <= before or np.nanquantile(end.density_B - start.density_B, 0.975) <= 0:
            told.append(f"{before:.1f} → {after:.1f}")
    if not told:
        return ""
    return f"terms per 1,000 tokens did not rise ({', '.join(told)}): longer replies hold more"


def _limits(run: Run) -> int:
    """How many length limits there were: as logged, else the lengths at which replies were cut."""
    logged = {m["limit"] for m in run.log.metrics if m.get("limit") is not None}
    if logged or run.table is None or run.table.counted:
        return len(logged)
    return len(set(run.table.tokens[run.table.truncated == 1].tolist()))
