"""One run, measured: its base and its end, what happened in between, and when."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.analysis.emergence.changes import Change, find_change
from r1jax.analysis.emergence.coverage import (
    Sets,
    Solved,
    crossing,
    pass_curve,
    support_sets,
    token_matched,
)
from r1jax.analysis.emergence.growth import Gap, Shape, Timing, gaps, phases, shape_of, timing
from r1jax.analysis.emergence.intervals import Estimate
from r1jax.analysis.emergence.logs import Log, Reply
from r1jax.analysis.emergence.series import (
    CORRECT,
    GRADED,
    REFLECTIVE,
    REPLIES,
    TOKENS,
    Series,
    Summit,
    series_of,
    series_of_metrics,
    summit_of,
)
from r1jax.analysis.emergence.stages import Stage, counted_stage, stage_of
from r1jax.analysis.emergence.table import Detector, Table, make_table
from r1jax.analysis.reflection import has_thoughts
from r1jax.checks import check
from r1jax.config import FolderConfig

TRACKED = "tracked"  # greedy replies to the same few problems: shown, not counted
ENOUGH = 50  # held-out replies at a step for it to be the base or the end
LATIN = 0x24F  # the last letter of Latin Extended-B
SERIES = ("reflection", "length", "accuracy")
# Fields of a configuration in which runs of one configuration may differ.
_OWN = ("seed", "mesh", *(field.name for field in dataclasses.fields(FolderConfig)))
# The kinds of control that a configuration of this project tells of, each with the section that
# does; of a run that is several, the first is its kind.
_TOLD_BY = {
    "no_update": "optim",
    "random": "reward",
    "shuffled": "reward",
    "format": "reward",
    "no_trace": "corpus",
    "supervised": "rl",
}


@dataclasses.dataclass(frozen=True)
class Coverage:
    """base, trained, *_chain: mean pass@k by k. matched: by k of the trained model, (k of the base
    at as many tokens, its pass@k, the trained one's)."""

    base: dict[int, Estimate]
    trained: dict[int, Estimate]
    base_chain: dict[int, Estimate]
    trained_chain: dict[int, Estimate]
    matched: dict[int, tuple[int, float, float]]
    crossing: int | None
    sets: Sets


@dataclasses.dataclass(frozen=True)
class Run:
    """start, end: None where the log has no step 0, or no second step. timings: of SERIES, those
    that rise. corrects, breaks: the first reply whose first try is wrong and whose answer is right,
    and the other way round. foreign: of the letters of its replies, the share that is not Latin, as
    the words that are looked for are. of_totals: only totals were logged, and a few replies."""

    log: Log
    detector: Detector
    configuration: str
    base_name: str
    seed: int | None
    control: str | None
    table: Table | None
    series: Series
    start: Stage | None
    end: Stage | None
    change: Change | None
    timings: dict[str, Timing]
    gaps: list[Gap]
    shape: Shape | None
    phases: list[tuple[str, int, int]]
    summit: Summit
    foreign: float
    coverage: Coverage | None
    corrects: Reply | None
    breaks: Reply | None
    of_totals: bool

    @property
    def name(self) -> str:
        return self.log.name


@dataclasses.dataclass(frozen=True)
class Reading:
    """How runs are read: thresholds of phases and of a sudden rise; None: the detector that fits
    (structure where there is a grammar, else the strict words)."""

    detector: Detector | None = None
    sporadic: float = 0.02
    marked: float = 0.10
    sudden_width: float = 0.10


def measure(log: Log, reading: Reading, control: str | None = None) -> Run:
    """Raises InputError if the log has fewer than two steps, or replies without thoughts."""
    task = log.config.get("task", "")
    check(has_thoughts(task), f"{log.name}: replies of the task {task!r} hold no thoughts to read")
    counted = [r for r in log.replies if r.split != TRACKED]
    table = make_table(counted) if counted else None
    totals = None if log.whole else series_of_metrics(log)
    if totals is not None:
        detector: Detector = "word"
        series, (start, end) = totals, _stages_of_totals(log)
    else:
        check(table is not None, f"{log.name}: no replies were logged")
        assert table is not None
        detector = reading.detector or ("event" if table.exact else "strict")
        trained = table.where(table.split != "heldout")
        series = series_of(trained if len(trained) else table, detector)
        if len(series) < 3 and len(table):  # held-out replies alone tell of more steps
            series = series_of(table, detector)
        start, end = _stages(table, detector)
    check(len(series) > 1, f"{log.name}: one step only; a rise needs at least two")
    k_T, n_T = series.totals_TM[:, REFLECTIVE], series.totals_TM[:, REPLIES]
    timings = _timings(series)
    share_T = series.share(REFLECTIVE, REPLIES)
    corrects, breaks = (None, None) if table is None else _turns(counted, table)
    return Run(
        log=log,
        detector=detector,
        configuration=_configuration(log),
        base_name=_base_name(log),
        seed=log.member.get("seed", log.config.get("seed")),
        control=control or log.member.get("control") or _control(log),
        table=table,
        series=series,
        start=start,
        end=end,
        change=find_change(series.steps_T, k_T, n_T),
        timings=timings,
        gaps=gaps(timings),
        shape=shape_of(series.steps_T, share_T, n_T, reading.sudden_width, planned(log)),
        phases=phases(series.steps_T, share_T, reading.sporadic, reading.marked),
        summit=summit_of(series),
        foreign=_foreign(log.replies),
        coverage=None if table is None or not log.whole else _coverage(table),
        corrects=corrects,
        breaks=breaks,
        of_totals=totals is not None,
    )


def _foreign(replies: Sequence[Reply]) -> float:
    """Of some replies from all over the log."""
    some = "".join(reply.text for reply in replies[:: len(replies) // 500 + 1])
    letters = [c for c in some if c.isalpha()]
    return sum(ord(c) > LATIN for c in letters) / max(len(letters), 1)


def planned(log: Log) -> int | None:
    """Steps that a run which ended early would have had: by how much of those it rose, not of what
    was left of them. None of a run that went to its end."""
    return int(log.run["steps"]) if log.run.get("settled") else None


def _stages(table: Table, detector: Detector) -> tuple[Stage | None, Stage | None]:
    """Step 0 and the end: of the same held-out questions where they were asked at both, else of the
    training replies, the end being the last tenth of the steps."""
    heldout = table.split == "heldout"
    steps, counts = np.unique(table.step[heldout], return_counts=True)
    asked = steps[counts >= ENOUGH]
    if len(asked) > 1 and asked[0] == 0:
        first, last = heldout & (table.step == 0), heldout & (table.step == asked[-1])
    else:
        used = ~heldout if (~heldout).any() else heldout
        steps = np.unique(table.step[used])
        if len(steps) < 2:
            return None, None
        late = steps[-max(len(steps) // 10, 1) :]
        first, last = used & (table.step == 0), used & (table.step >= late[0])
    start = stage_of(table.where(first), detector) if first.any() else None
    return start, stage_of(table.where(last), detector)


def _stages_of_totals(log: Log) -> tuple[Stage | None, Stage | None]:
    """Held-out evaluations of the first and the last step, as metrics.jsonl counts them."""
    n = log.config.get("final_samples", 0)
    rows = [m for m in log.metrics if m.get("heldout/reflection") is not None]
    if len(rows) < 2 or not n:
        return None, None
    terms = [m.get("reflection/per_response") for m in log.metrics]
    terms = [t for t in terms if t is not None] or [None]

    def stage(row: dict, per_reply: float | None) -> Stage:
        k = row["heldout/reflection"] * n
        return counted_stage(k, n, row["heldout/accuracy"], row["heldout/length"], per_reply)

    first = stage(rows[0], terms[0]) if rows[0]["step"] == 0 else None
    return first, stage(rows[-1], terms[-1])


def _timings(series: Series) -> dict[str, Timing]:
    drawn_BTM = series.draws()
    found = {}
    for name, hits, of in (
        ("reflection", REFLECTIVE, REPLIES),
        ("length", TOKENS, REPLIES),
        ("accuracy", CORRECT, GRADED),
    ):
        drawn_BT = drawn_BTM[:, :, hits] / np.maximum(drawn_BTM[:, :, of], 1)
        one = timing(series.steps_T, series.share(hits, of), drawn_BT)
        if one is not None:
            found[name] = one
    return found


def _solved(table: Table) -> Solved | None:
    graded = table.where(table.correct >= 0)
    if not len(graded):
        return None
    ids, which, n_Q = np.unique(graded.question, return_inverse=True, return_counts=True)
    c_Q = np.bincount(which, graded.correct).astype(int)
    both = (graded.correct == 1) & (graded.chain_right == 1)
    chain_Q = np.bincount(which, both).astype(int) if table.exact else None
    names = tuple(table.questions[i] for i in ids)
    return Solved(names, n_Q, c_Q, chain_Q, float(graded.tokens.mean()))


def _coverage(table: Table) -> Coverage | None:
    """Of the held-out questions that were asked at step 0 and at the last step; None without."""
    heldout = table.where(table.split == "heldout")
    if not len(heldout) or heldout.step.min() > 0 or heldout.step.max() == 0:
        return None
    base = _solved(heldout.where(heldout.step == 0))
    trained = _solved(heldout.where(heldout.step == heldout.step.max()))
    if base is None or trained is None:
        return None
    before, after = pass_curve(base), pass_curve(trained)
    return Coverage(
        before,
        after,
        pass_curve(base, chain=True),
        pass_curve(trained, chain=True),
        token_matched(base, trained),
        crossing(before, after),
        support_sets(base, trained),
    )


def _turns(replies: Sequence[Reply], table: Table) -> tuple[Reply | None, Reply | None]:
    """The first F→T and the first T→F reply among those that reflect in deed."""

    def first(before: int, after: int) -> Reply | None:
        there = table.found["event"] & (table.first_right == before) & (table.correct == after)
        some = [replies[i] for i in np.flatnonzero(there).tolist()]
        return min(some, key=lambda reply: reply.step, default=None)

    return first(0, 1), first(1, 0)


def _configuration(log: Log) -> str:
    """What its runs have in common: a name if the sweep gave one, else the fields themselves."""
    if "configuration" in log.member:
        return str(log.member["configuration"])
    kept = {k: v for k, v in log.config.items() if k not in _OWN}
    return json.dumps(kept, sort_keys=True) if kept else ""


def _base_name(log: Log) -> str:
    """Two runs with one name began with the same weights."""
    if "base_seed" in log.member:
        return f"seed {log.member['base_seed']}"
    base, corpus = log.config.get("base", ""), log.config.get("corpus", {})
    own = log.config.get("seed") if base in ("train", "random") else ""
    return json.dumps([base, corpus, own])


def _control(log: Log) -> str | None:
    """Of this project's runs, what its configuration says that it is a control for."""
    return next(iter(_controls_told(log.config)), None)


def denied(log: Log, kind: str) -> str:
    """What the run's configuration says that it is, if that is no control of this kind; else ""."""
    told, section = _controls_told(log.config), _TOLD_BY.get(kind)
    if section is None or kind in told:
        return ""
    if kind == "no_trace" and log.config.get("base") not in ("embedded", "train"):
        return ""  # of another base nothing says what it has read
    if told:
        return f"it is a control of kind {' and '.join(told)}"
    if not _section(log.config, section):
        return ""
    of_answers = _section(log.config, "reward").get("accuracy")
    return f"it is no control{' (rewards are of answers)' if of_answers else ''}"


def _controls_told(config: Mapping[str, Any]) -> list[str]:
    """The kinds of control that a configuration says its run is."""
    optim, reward, corpus = (_section(config, name) for name in ("optim", "reward", "corpus"))
    paid = reward.get("control", "none")
    form_alone = reward.get("accuracy") == 0 and bool(reward.get("format"))
    is_so = {
        "no_update": optim.get("lr") == 0,
        "random": paid == "random",
        "shuffled": paid == "shuffled",
        "format": paid == "none" and form_alone,
        "no_trace": config.get("base") == "train"
        and corpus.get("reflective") == 0 == corpus.get("practice"),
        "supervised": bool(config.get("learn_from")),
    }
    return [kind for kind in _TOLD_BY if is_so[kind]]


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}
