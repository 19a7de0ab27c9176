"""Thresholds, and the rules over one run: does reflection exist, and is it any good?

Every rule says what it asks, whether that holds (None: the data cannot tell), and its inputs; a
verdict is no more than which of them hold. Existence:

    absent      no rise, and the share at the end is bounded below the floor (or three bases' bound)
    extinct     it was there, at first or in between, and is gone
    unchanged   it is there, without a threefold rise
    spurious    it rises, and no more than where the reward says nothing about answers
    amplified   the base did it; it rises threefold, and more than such controls
    emerged     the base was never seen to do it and finds it unlikelier than one in 10,000 at every
                place; at the end at least a tenth of replies do

Quality:

    effective     a ban lowers accuracy beyond a placebo, and more replies turn right than wrong
    confirmatory  a ban changes nothing; nine of ten reflective replies were right and stay right
    superficial   a ban changes nothing, and it does not even confirm
    harmful       a ban raises accuracy
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.analysis.emergence.causes import BAN, PLACEBO, Causes
from r1jax.analysis.emergence.changes import SEGMENT
from r1jax.analysis.emergence.intervals import Estimate, rule_of_three
from r1jax.analysis.emergence.measure import Run
from r1jax.analysis.emergence.stages import Stage
from r1jax.checks import check

UNDECIDED = "undecided"
# Controls whose reward says nothing about which answers are right.
LONG_ENOUGH = 0.9  # of a run's steps, for its control
BLIND = ("random", "format", "shuffled", "length")


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What the verdict is made with; printed with it."""

    floor: float = 0.01  # a share bounded below this is absent
    rise: float = 3.0  # odds at the end over odds at the start
    p: float = 0.05
    seeds_agree: float = 0.8  # four of five
    base_replies: int = 16_384  # without a reflective one, for "emerged"
    base_probability: float = 1e-4  # of a first reflective token, at most, for "emerged"
    emerged_share: float = 0.10
    solved_replies: int = 64  # a held-out question, at least, to say that RL solves new ones
    margin: float = 0.03  # of accuracy, within which a ban changes nothing
    confirmatory: float = 0.90
    truncated: float = 0.05
    failed: float = 0.01  # graders
    agreement: float = 0.6  # kappa of word and structure
    differ: float = 0.05  # of replies, that have one of these alone
    foreign: float = 0.5  # of the letters, in another script than the words looked for
    sporadic: float = 0.02  # phases of the share
    marked: float = 0.10
    sudden_width: float = 0.10  # t90 - t10, as a share of the run


@dataclasses.dataclass(frozen=True)
class Rule:
    name: str
    asks: str
    holds: bool | None
    inputs: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One verdict on one run. between: what it could still be, where it is undecided."""

    verdict: str
    rules: tuple[Rule, ...]
    missing: tuple[str, ...] = ()
    between: tuple[str, ...] = ()


def difference(a_B: np.ndarray, b_B: np.ndarray, value: float, n: int) -> Estimate:
    low, high = np.nanquantile(a_B - b_B, [0.025, 0.975])
    return Estimate(value, float(min(low, value)), float(max(high, value)), n)


def odds_ratio(start: Stage, end: Stage) -> Estimate:
    """Half a reply is added to each cell, so that none of many is a ratio too."""

    def odds(share, n):
        return (share * n + 0.5) / ((1 - share) * n + 0.5)

    drawn_B = odds(end.share_B, end.n) / odds(start.share_B, start.n)
    low, high = np.quantile(drawn_B, [0.025, 0.975])
    a, b = end.reflective.value or 0.0, start.reflective.value or 0.0
    value = odds(a, end.n) / odds(b, start.n)
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), start.n + end.n)


def existence(run: Run, controls: Sequence[Run], t: Thresholds) -> Finding:
    """`controls`: of any kind; those that are blind to answers decide what is spurious."""
    start, end, rules = run.start, run.end, []
    if end is None:
        return Finding(UNDECIDED, (), (f"{run.name}: replies at two steps at least",))

    def rule(name: str, asks: str, holds: bool | None, **inputs: Any) -> bool | None:
        rules.append(Rule(name, asks, holds, inputs))
        return holds

    def found(verdict: str, missing: Sequence[str] = (), between: Sequence[str] = ()) -> Finding:
        return Finding(verdict, tuple(rules), tuple(missing), tuple(between))

    if start is None:
        rule("baseline", "replies of step 0 were logged", False)
        low_end = rule(
            "absent", f"the share at the end is below {t.floor:.0%} for certain",
            _below(end.reflective, t.floor), end=end.reflective,
        )  # fmt: skip
        if low_end and run.foreign < t.foreign:
            return found("absent")
        wanted = f"{run.name}: replies at step 0, before any update (no baseline)"
        return found(UNDECIDED, [wanted], ["unchanged", "spurious", "amplified", "emerged"])

    gap = difference(end.share_B, start.share_B, _gap(end, start), start.n + end.n)
    ratio = odds_ratio(start, end)
    enough = len(run.series) >= 2 * SEGMENT
    changes = rule(
        "change", f"a rise at one step is no chance: p < {t.p:g}, steps permuted in blocks",
        (run.change is not None and run.change.p < t.p) if enough else None,
        p=run.change.p if run.change else None, step=run.change.step if run.change else None,
        steps=len(run.series),
    )  # fmt: skip
    higher = rule(
        "higher", "the share at the end is above that of step 0: the difference's interval is",
        (gap.low or 0) > 0, start=start.reflective, end=end.reflective, difference=gap,
    )  # fmt: skip
    bound = max(t.floor, min(3 * (start.reflective.high or 0), t.marked))
    low_end = rule(
        "low", f"the end's upper bound is below {t.floor:.0%}, or three times that of step 0 (at "
        f"most {t.marked:.0%})",
        _below(end.reflective, bound), end=end.reflective, bound=bound,
    )  # fmt: skip
    gone = rule(
        "gone", f"the odds fell to 1/{t.rise:g} or less, and the interval lies below 1",
        (start.reflective.value or 0) > 0
        and (ratio.value or 1) <= 1 / t.rise
        and (ratio.high or 1) < 1,
        odds_ratio=ratio,
    )  # fmt: skip
    if gone:
        return found("extinct")
    went = rule(
        "came and went", f"at some steps {t.marked:.0%} of replies reflect and {t.rise:g} times as "
        "many as at the end, by the interval", came_and_went(run, t),
        steps=[run.summit.first, run.summit.last], share=run.summit.share, end=end.reflective,
    )  # fmt: skip
    if higher and changes is None:
        wanted = f"{run.name}: {2 * SEGMENT} logged steps, to say when it rises"
        return found(UNDECIDED, [wanted], ["unchanged", "spurious", "amplified", "emerged"])
    if not (higher and changes):
        if went and low_end:
            return found("extinct")
        if (start.reflective.value or 0) >= t.floor:
            return found("unchanged")
        readable = rule(
            "readable", "most of the letters are Latin, as the words that are looked for",
            run.foreign < t.foreign, foreign=run.foreign,
        )  # fmt: skip
        if low_end and readable:
            return found("absent")
        wanted = f"{run.name}: more replies at step 0 and at the end: no bound, no absence"
        if not readable:
            wanted = f"{run.name}: replies in English, of which the words looked for are"
        return found(UNDECIDED, [wanted], ["absent", "unchanged", "amplified", "emerged"])
    threefold = rule(
        "threefold", f"the odds rose {t.rise:g}-fold, and the interval lies above 1",
        (ratio.value or 0) >= t.rise and (ratio.low or 0) > 1, odds_ratio=ratio,
    )  # fmt: skip
    if not threefold:
        return found("unchanged")
    return _risen(run, start, end, controls, t, rule, found)


def came_and_went(run: Run, t: Thresholds) -> bool:
    """Whether replies reflected in between as they do no more."""
    end, most = run.end, run.summit.share.low or 0.0
    if end is None:
        return False
    then = end.reflective
    return most >= max(t.marked, t.rise * (then.value or 0.0)) and most > (then.high or 0.0)


def _risen(run, start, end, controls, t, rule, found) -> Finding:
    """Of a share that rose threefold: spurious, amplified or emerged."""
    blind, missing = [], []
    for control in (c for c in controls if c.control in BLIND and c.end is not None):
        if unlike := _unlike(run, start, control, t):
            missing.append(f"{control.name}: a control as long and of the same base; {unlike}")
        else:
            blind.append(control)
    if blind:
        missing = []  # those will do
    for control in blind:
        gap = difference(
            end.share_B, control.end.share_B, _gap(end, control.end), end.n + control.end.n
        )
        beats = rule(
            f"beats {control.name}",
            f"the share is above that of the control with {control.control} rewards",
            (gap.low or 0) > 0, difference=gap, control=control.end.reflective,
        )  # fmt: skip
        rises = None if beats else rule(
            f"as {control.name}", "the control is above the share at step 0 for certain",
            (gap.high or 0) < _gap(end, start), difference=gap,
        )  # fmt: skip
        if rises:
            return found("spurious")
        if not beats:
            missing.append(f"{control.name}: more replies; whether it rose as well is not known")
    doubtful = bool(missing) or not blind
    base = _base(run, start)
    seen = rule("seen", "the base was seen to reflect", base["reflective"] > 0, **base)
    if not blind and not missing:
        missing.append(
            "a run of the same base whose rewards are random: --control=random=RUN (or a format "
            "reward alone: --control=format=RUN)"
        )
    kinds = ["amplified"]
    if not seen:
        enough = base["replies"] >= t.base_replies
        chance = base["probability"]
        unlikely = None if chance is None else chance < t.base_probability
        rule(
            "never seen", f"none of at least {t.base_replies:,} replies of the base reflects",
            enough, replies=base["replies"], bound=rule_of_three(base["replies"]),
        )  # fmt: skip
        rule(
            "unlikely", f"its largest probability of a first reflective token is below "
            f"{t.base_probability:g}", unlikely, probability=chance,
        )  # fmt: skip
        if enough and unlikely:
            large = rule(
                "large", f"at least {t.emerged_share:.0%} of replies reflect at the end",
                (end.reflective.value or 0) >= t.emerged_share, end=end.reflective,
            )  # fmt: skip
            kinds = ["emerged"] if large else ["amplified"]
        elif unlikely is not False:
            kinds = ["amplified", "emerged"]
            missing.append(
                f"{run.name}: baseline.json of its base: {t.base_replies:,} replies over several "
                "temperatures, and the largest probability of a first reflective token"
            )
    if not missing:
        return found(kinds[0])
    return found(UNDECIDED, missing, ["spurious", *kinds] if doubtful else kinds)


def _unlike(run: Run, start: Stage, control: Run, t: Thresholds) -> str:
    """What keeps a control from being one of this run; "" if nothing does."""
    last, its_last = (int(r.series.steps_T[-1]) for r in (run, control))
    if its_last < LONG_ENOUGH * last:
        return f"it ends at step {its_last}, the run at {last}"
    if control.start is None:
        return ""
    ours, its = start.reflective, control.start.reflective
    if (its.low or 0) > t.rise * (ours.high or 0) or (ours.low or 0) > t.rise * (its.high or 0):
        return f"it begins with {its.value:.1%} of replies, the run with {ours.value:.1%}"
    return ""


def _base(run: Run, start: Stage) -> dict[str, Any]:
    """Replies of the base, in the log and in baseline.json: {"replies", "reflective",
    "by_temperature": {T: [reflective, replies]}, "max_first_token_probability"}."""
    told, where = run.log.baseline, f"{run.name}: baseline.json"
    counts = list(told.get("by_temperature", {}).values())
    if not counts:
        counts = [[told.get("reflective", 0), told.get("replies", 0)]]
    for pair in counts:
        good = isinstance(pair, list) and len(pair) == 2 and all(type(v) is int for v in pair)
        check(
            good and 0 <= pair[0] <= pair[1],
            f"{where}: expected [reflective, replies] of each temperature, got {pair!r}",
        )
    k, n = (sum(pair[i] for pair in counts) for i in (0, 1))
    chance = told.get("max_first_token_probability")
    check(
        chance is None or (type(chance) in (int, float) and 0 <= chance <= 1),
        f"{where}: max_first_token_probability must lie in [0, 1], got {chance!r}",
    )
    seen = round((start.reflective.value or 0) * start.n)
    return {
        "replies": start.n + n,
        "reflective": seen + k,
        "probability": chance,
    }


def quality(run: Run, exists: str, causes: Causes | None, t: Thresholds) -> Finding:
    end = run.end
    if exists in ("absent", "extinct") or end is None:
        return Finding("none", ())
    tt, ft, tf, ff = end.changes
    total, rules = tt + ft + tf + ff, []

    def rule(name: str, asks: str, holds: bool | None, **inputs: Any) -> bool | None:
        rules.append(Rule(name, asks, holds, inputs))
        return holds

    turns = {"T→T": tt, "F→T": ft, "T→F": tf, "F→F": ff}
    corrects = rule(
        "corrects", "of reflective replies more turn right than wrong, from the first try to the "
        "answer", ft > tf if total else None, **turns,
    )  # fmt: skip
    confirms = rule(
        "confirms", f"at least {t.confirmatory:.0%} of reflective replies are right at first and "
        "stay right", tt >= t.confirmatory * total if total else None, **turns,
    )  # fmt: skip
    effects = causes.effects if causes else {}
    wanted = [c for c in (BAN, PLACEBO) if c not in effects]
    if wanted or causes is None or causes.ban_beyond_placebo is None:
        lean = "" if not total else (
            "confirmatory" if confirms else "effective" if corrects else "superficial or harmful"
        )  # fmt: skip
        hint = f"; by transitions alone it would be {lean}" if lean else ""
        return Finding(
            UNDECIDED, tuple(rules),
            (f"{run.name}: intervention.json with accuracy under {' and '.join(wanted)} (python -m "
             f"experiments.intervene){hint}",),
            ("effective", "confirmatory", "superficial", "harmful"),
        )  # fmt: skip
    ban, beyond = effects[BAN].difference, causes.ban_beyond_placebo
    placebo = effects[PLACEBO].difference
    given = {"ban": ban, "placebo": placebo, "ban_beyond_placebo": beyond}
    lowers = rule(
        "ban lowers", "a ban of reflective tokens lowers accuracy, and more than its placebo",
        (ban.high or 0) < 0 and (beyond.high or 0) < 0, **given,
    )  # fmt: skip
    raises = rule(
        "ban raises", "a ban raises accuracy, and more than its placebo",
        (ban.low or 0) > 0 and (beyond.low or 0) > 0, **given,
    )  # fmt: skip
    nothing = rule(
        "ban does nothing", f"its effect lies within {100 * t.margin:g} points, of accuracy or "
        "beyond the placebo", _within(ban, t.margin) or _within(beyond, t.margin), **given,
    )  # fmt: skip
    if lowers and corrects is not False:
        return Finding("effective", tuple(rules))
    if raises:
        return Finding("harmful", tuple(rules))
    if nothing and confirms is not None:
        return Finding("confirmatory" if confirms else "superficial", tuple(rules))
    why = (
        "more questions in intervention.json: the ban's interval is too wide"
        if not lowers and not nothing
        else "graded first tries: transitions and the ban disagree, or there are none"
    )
    return Finding(UNDECIDED, tuple(rules), (f"{run.name}: {why}",))


def coverage(run: Run, t: Thresholds) -> Finding:
    if run.coverage is None or run.coverage.sets.nscr.value is None:
        missing = (
            f"{run.name}: several replies to the same held-out questions at step 0 and the end"
        )
        return Finding(UNDECIDED, (), (missing,), ("sharpened", "expanded"))
    sets = run.coverage.sets
    asks = "questions that only the end solves outnumber those that only the base does: NSCR"
    inputs = {"nscr": sets.nscr, "srr": sets.srr, "ndr": sets.ndr, "preserved": sets.preserved,
              "shrunk": sets.shrunk, "expanded": sets.expanded, "out_of_reach": sets.out,
              "replies_a_question": sets.replies}  # fmt: skip
    expands = Rule("expands", f"{asks} > 0, its interval as well", (sets.nscr.low or 0) > 0, inputs)
    not_more = Rule("no more", f"{asks} is not above 0, its interval neither",
                    sets.nscr.high is not None and sets.nscr.high <= 0, inputs)  # fmt: skip
    known = Rule(
        "enough", f"at least {t.solved_replies} replies to each question: with fewer a question "
        "that is solved seldom looks unsolvable", sets.replies >= t.solved_replies, inputs,
    )  # fmt: skip
    rules = (expands, not_more, known)
    if expands.holds and known.holds:
        return Finding("expanded", rules)
    if not_more.holds:
        return Finding("sharpened", rules)
    return Finding(
        UNDECIDED, rules, (f"{run.name}: more replies a held-out question (256 tell most)",),
        ("sharpened", "expanded"),
    )  # fmt: skip


def _gap(a: Stage, b: Stage) -> float:
    return (a.reflective.value or 0.0) - (b.reflective.value or 0.0)


def _below(share: Estimate, bound: float) -> bool:
    return share.high is not None and share.high < bound


def _within(effect: Estimate, margin: float) -> bool:
    return -margin < (effect.low or 0.0) and (effect.high or 0.0) < margin
