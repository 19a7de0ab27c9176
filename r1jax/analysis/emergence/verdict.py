"""The verdict on runs of one configuration: what their seeds agree on, with flags, and what is
missing where the data cannot carry one."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from r1jax.analysis.emergence import rules
from r1jax.analysis.emergence.causes import read_causes
from r1jax.analysis.emergence.flags import Judged, flags_of
from r1jax.analysis.emergence.intervals import (
    UNKNOWN,
    Estimate,
    cliffs_delta,
    holm,
    permutation_test,
)
from r1jax.analysis.emergence.measure import SERIES, Run
from r1jax.analysis.emergence.rules import UNDECIDED, Thresholds
from r1jax.analysis.emergence.stages import Stage

NO_RISE = ("absent", "unchanged")


@dataclasses.dataclass(frozen=True)
class Against:
    """Final shares of the runs against those of controls of one kind: Cliff's delta and the exact
    permutation p (None with one run on either side), and that p after Holm over all tests."""

    kind: str
    runs: int
    controls: int
    delta: float
    p: float | None
    adjusted: float | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Of runs of one configuration. flags: (name, what it says)."""

    name: str
    judged: tuple[Judged, ...]
    existence: str
    quality: str
    shape: str
    coverage: str
    between: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    flags: tuple[tuple[str, str], ...]
    against: tuple[Against, ...]

    @property
    def runs(self) -> list[Run]:
        return [one.run for one in self.judged]


def judge(runs: Sequence[Run], controls: Sequence[Run], t: Thresholds) -> list[Verdict]:
    """One verdict a configuration, in the order that they come; the p of all are Holm's."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.configuration, []).append(run)
    names = _names(list(groups))
    found = [
        _judge_group(name, group, controls, t)
        for name, group in zip(names, groups.values(), strict=True)
    ]
    tests = {
        (i, j): a.p for i, v in enumerate(found) for j, a in enumerate(v.against) if a.p is not None
    }
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [
        dataclasses.replace(
            v,
            against=tuple(
                dataclasses.replace(a, adjusted=adjusted.get((i, j)))
                for j, a in enumerate(v.against)
            ),
        )
        for i, v in enumerate(found)
    ]


def _names(keys: Sequence[str]) -> list[str]:
    """A configuration's own name, or a number where it is only its fields."""
    if len(keys) == 1:
        return [keys[0] if keys[0] and not keys[0].startswith("{") else ""]
    return [
        k if k and not k.startswith("{") else f"configuration {i}" for i, k in enumerate(keys, 1)
    ]


def _judge_group(name: str, runs: Sequence[Run], controls: Sequence[Run], t: Thresholds) -> Verdict:
    judged = []
    for run in runs:
        causes = read_causes(run.log.intervention, f"{run.name}: intervention.json")
        exists = rules.existence(run, controls, t)
        findings = {
            "existence": exists,
            "quality": rules.quality(run, exists.verdict, causes, t),
            "coverage": rules.coverage(run, t),
        }
        judged.append(Judged(run, causes, findings))
    agreed = {
        kind: _agree([one.findings[kind].verdict for one in judged], t)
        for kind in ("existence", "quality", "coverage")
    }
    between: dict[str, tuple[str, ...]] = {}
    for kind, verdict in agreed.items():
        if verdict == UNDECIDED:
            some = [one.findings[kind] for one in judged]
            options = [v for f in some for v in (f.between or (f.verdict,)) if v != UNDECIDED]
            between[kind] = tuple(dict.fromkeys(options))
    missing = dict.fromkeys(
        m
        for kind in agreed
        if agreed[kind] == UNDECIDED
        for one in judged
        for m in one.findings[kind].missing
    )
    shapes = [
        "sudden" if run.shape.sudden else "gradual"
        for run in runs
        if run.shape is not None and "reflection" in run.timings
    ]
    return Verdict(
        name=name,
        judged=tuple(judged),
        existence=agreed["existence"],
        quality=agreed["quality"],
        shape=_agree(shapes, t) if shapes and agreed["existence"] not in NO_RISE else "none",
        coverage=agreed["coverage"],
        between=between,
        missing=tuple(missing),
        flags=tuple(flags_of(judged, controls, agreed, t)),
        against=tuple(_against(runs, controls)),
    )


def _agree(verdicts: Sequence[str], t: Thresholds) -> str:
    """What at least `seeds_agree` of the runs say."""
    verdict, count = Counter(verdicts).most_common(1)[0]
    if set(verdicts) <= set(NO_RISE):  # of which one it is hangs on a share near the floor
        return verdict
    return verdict if count >= t.seeds_agree * len(verdicts) - 1e-9 else UNDECIDED


def _against(runs: Sequence[Run], controls: Sequence[Run]) -> list[Against]:
    mine = [r.end.reflective.value or 0.0 for r in runs if r.end is not None]
    found = []
    for kind in dict.fromkeys(c.control for c in controls if c.control):
        theirs = [
            c.end.reflective.value or 0.0
            for c in controls
            if c.control == kind and c.end is not None
        ]
        if mine and theirs:
            several = min(len(mine), len(theirs)) > 1
            p = permutation_test(mine, theirs) if several else None
            delta = cliffs_delta(mine, theirs)
            found.append(Against(str(kind), len(mine), len(theirs), delta, p))
    return found


def order_of(verdict: Verdict) -> list[str]:
    """Such as "reflection before accuracy", for each pair of SERIES that rises in most runs."""
    lines = []
    for first, second in itertools.combinations(SERIES, 2):
        both = [r.timings for r in verdict.runs if {first, second} <= set(r.timings)]
        if not both or 2 * len(both) < len(verdict.runs):
            continue
        gaps_SB = np.stack([t[second].t10_B - t[first].t10_B for t in both])
        low, high = np.nanquantile(_over_seeds(gaps_SB), [0.025, 0.975])
        if low > 0:
            lines.append(f"{first} before {second}")
        elif high < 0:
            lines.append(f"{second} before {first}")
        else:
            lines.append(f"{first} and {second} cannot be told apart")
    return lines


def _over_seeds(values_SB: np.ndarray) -> np.ndarray:
    """[1000]: medians over seeds drawn again, and of each one of its own draws."""
    rng, s = np.random.default_rng(0), len(values_SB)
    if s == 1:
        return values_SB[0]
    chosen = rng.integers(s, size=(1000, s))
    picks = rng.integers(values_SB.shape[1], size=chosen.shape)
    return np.nanmedian(values_SB[chosen, picks], axis=1)


def share_over_runs(verdict: Verdict, which: Literal["start", "end"]) -> Estimate:
    """The mean share of reflective replies over runs: bases drawn anew, then runs of each, then
    each run's questions; of one run its own."""
    stages: dict[str, list[Stage]] = {}
    for run in verdict.runs:
        if (stage := getattr(run, which)) is not None:
            stages.setdefault(run.base_name, []).append(stage)
    flat = [stage for some in stages.values() for stage in some]
    if len(flat) < 2:
        return flat[0].reflective if flat else UNKNOWN
    rng, groups, drawn = np.random.default_rng(0), list(stages.values()), []
    for _ in range(1000):
        bases = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        runs = [some[i] for some in bases for i in rng.integers(len(some), size=len(some))]
        drawn.append(np.mean([rng.choice(stage.share_B) for stage in runs]))
    value = float(np.mean([stage.reflective.value for stage in flat]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    n = sum(stage.n for stage in flat)
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def onset_over_seeds(verdict: Verdict, name: str) -> tuple[float, float, float] | None:
    """(median, low, high) of the onset of one of SERIES over runs: seeds drawn again, and each
    run's own draws. None if it rises in fewer than half of them."""
    assert name in SERIES
    drawn = [r.timings[name].t10_B for r in verdict.runs if name in r.timings]
    if 2 * len(drawn) < len(verdict.runs) or not drawn:
        return None
    if len(drawn) == 1:
        return next(r.timings[name].t10 for r in verdict.runs if name in r.timings)
    medians = _over_seeds(np.stack(drawn))
    middle = float(np.median([r.timings[name].t10[0] for r in verdict.runs if name in r.timings]))
    low, high = np.nanquantile(medians, [0.025, 0.975])
    return middle, float(min(low, middle)), float(max(high, middle))


def plain(value: Any) -> Any:
    """As JSON can hold it: estimates as objects, arrays and what is not finite left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {k: plain(v) for k, v in fields.items() if not isinstance(v, np.ndarray)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
