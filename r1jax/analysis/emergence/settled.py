"""When a run may end: what a verdict says of existence and shape is settled, and more steps would
cost without telling more.

A rise is settled when the rules of existence call it one (a change at p < 0.01, since they are
asked again and again; higher than step 0; threefold), when all of the interval of t90 lies a tenth
of the run's planned steps back, and when the share has not fallen since. Only a rise can be: that
reflection is absent, unchanged or gone is never settled before the last step, for it may rise
later. That it may die out later is not ruled out either, and quality and coverage are those of the
weights that a run ends with.

Read are the replies of training alone, which every step has. Controls are left to the verdict.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from r1jax.analysis.emergence import rules
from r1jax.analysis.emergence.changes import SEGMENT
from r1jax.analysis.emergence.logs import Log, read_log
from r1jax.analysis.emergence.measure import Reading, measure
from r1jax.analysis.emergence.rules import Thresholds
from r1jax.analysis.emergence.series import REFLECTIVE, REPLIES, Series, series_of_metrics
from r1jax.files import read_object
from r1jax.metrics import read_jsonl

P = 0.01  # of a change
HELD = 0.1  # of the run's steps, for which the rise has been done
KEPT = 0.8  # of the highest share, that the steps since still have
LOOKS = 20  # at a run of any length


def settled_in(folder: Path, steps: int) -> Callable[[int], str]:
    """What `Run.steps` asks, of a run of `steps` in a folder: why it is settled before a step, ""
    where it is not. A glance at metrics.jsonl says when it is worth reading every reply."""

    def at(step: int) -> str:
        if step == 0 or step % max(steps // LOOKS, 1):
            return ""
        metrics = tuple(read_jsonl(folder / "metrics.jsonl"))
        config = read_object(folder / "config.json") or {}
        series = series_of_metrics(Log(folder.name, (), False, metrics, config))
        if series is None or not _may_be(series, steps):
            return ""
        return settled(read_log(folder), steps)

    return at


def settled(log: Log, steps: int, t: Thresholds | None = None) -> str:
    """Why the verdict on a run of `steps`, logged so far, is settled; "" if it is not."""
    t = dataclasses.replace(t or Thresholds(), p=P)
    trained = tuple(reply for reply in log.replies if reply.split == "train")
    if len({reply.step for reply in trained}) < 2 * SEGMENT:
        return ""
    reading = Reading(None, t.sporadic, t.marked, t.sudden_width)
    run = measure(dataclasses.replace(log, replies=trained), reading)
    found = rules.existence(run, (), t)
    holds = {rule.name for rule in found.rules if rule.holds}
    rise = run.timings.get("reflection")
    if rise is None or not {"change", "higher", "threefold"} <= holds:
        return ""
    if not _is_over(run.series, rise.t90[2], steps):
        return ""
    share, last = run.series.share(REFLECTIVE, REPLIES), int(run.series.steps_T[-1])
    return (
        f"{share[0]:.1%} of replies reflected at first, {share[-1]:.1%} at step {last}; the rise "
        f"was done by step {rise.t90[0]:.0f} ({rise.t90[1]:.0f} to {rise.t90[2]:.0f})"
    )


def _held(steps: int) -> int:
    return max(math.ceil(HELD * steps), SEGMENT)


def _is_over(series: Series, done: float, steps: int) -> bool:
    """The rise was done so long ago, and the share has stayed."""
    held = _held(steps)
    if len(series) <= held or done > series.steps_T[-1] - held:
        return False
    window = np.ones(SEGMENT) / SEGMENT
    smooth_T = np.convolve(series.share(REFLECTIVE, REPLIES), window, mode="valid")
    return bool(smooth_T[-held:].min() >= KEPT * smooth_T.max())


def _may_be(series: Series, steps: int) -> bool:
    """By counts of words alone, and generously: the steps that would have held it are above all
    before by far."""
    held, share_T = _held(steps), series.share(REFLECTIVE, REPLIES)
    return len(series) > held + SEGMENT and share_T[-held:].mean() >= 2 * share_T[:SEGMENT].mean()
