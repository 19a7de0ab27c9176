"""A run that may end because its verdict is settled: where it is, where it is not, and whether the
verdict on what was stopped is that on the whole.

The slow test is the same at full size, and prints its table:
python -m pytest -m slow -s tests/analysis/emergence/test_settled.py
"""

import dataclasses
import json
from collections import Counter

import numpy as np
import planted
import pytest

from r1jax.analysis.emergence.measure import Reading, measure
from r1jax.analysis.emergence.rules import Thresholds
from r1jax.analysis.emergence.series import series_of
from r1jax.analysis.emergence.settled import LOOKS, _may_be, settled, settled_in
from r1jax.analysis.emergence.table import make_table
from r1jax.analysis.emergence.verdict import judge

T = Thresholds()
STEPS, TRIALS = 40, 30


def growth(middle, width, low=0.02, high=0.9, steps=STEPS):
    return low + (high - low) / (1 + np.exp(-(np.arange(steps) - middle) * 2 * np.log(9) / width))


def before(log, step):
    return dataclasses.replace(log, replies=tuple(r for r in log.replies if r.step < step))


def stops_at(log, steps=STEPS, every=None):
    """The step before which a run with this log would have ended; None: at its own end."""
    table = make_table(log.replies)
    trained = table.where(table.split == "train")
    for step in range(every or 1, steps, every or steps // LOOKS):
        series = series_of(trained.where(trained.step < step), "word")
        if _may_be(series, steps) and settled(before(log, step), steps):
            return step
    return None


def ended(share_T, step, **given):
    """The log that it leaves then: as much, an evaluation at its end, and a run.json that tells."""
    run = {"settled": "told so", "step": step, "steps": len(share_T)}
    return planted.log(share_T[: step + 1], **given, run=run)


def verdict(log, control):
    return judge([measure(log, Reading())], [control], T)[0]


@pytest.fixture(scope="module")
def control():
    """Paid by a coin; its share stays."""
    return measure(planted.log(np.full(STEPS, 0.02), seed=99, name="random"), Reading(), "random")


def test_a_rise_that_is_done_is_settled_and_one_under_way_is_not(control):
    given = {"seed": 3, "questions": 4}
    share_T = growth(middle=14, width=8)  # 90% of it at step 18
    log = planted.log(share_T, **given)
    assert not any(settled(before(log, step), STEPS) for step in (5, 12, 16, 20))
    said = settled(before(log, 30), STEPS)
    assert "of replies reflected at first" in said and "at step 29" in said
    step = stops_at(log, every=4)
    assert step is not None and 20 < step < STEPS
    whole, early = verdict(log, control), verdict(ended(share_T, step, **given), control)
    assert (early.existence, early.shape) == (whole.existence, whole.shape)
    assert early.existence == "amplified"
    assert dict(early.flags)["ended early"] == (
        f"once reflection had risen for good, after {step} of {STEPS} steps"
    )
    assert "ended early" not in dict(whole.flags)


@pytest.mark.parametrize(
    "share_T",
    [
        np.full(STEPS, 0.0),
        np.full(STEPS, 0.2),
        growth(38, 12),  # at its very end
        growth(12, 6) * np.where(np.arange(STEPS) < 24, 1.0, 0.3),  # and dies out again
        np.linspace(0.02, 0.9, STEPS),  # never done
        0.5 * growth(12, 6, high=0.1) + 0.05,  # not threefold
    ],
    ids=["never", "always", "late", "dies out", "goes on", "little"],
)
def test_what_is_no_rise_or_not_done_is_open_to_the_end(share_T):
    log = planted.log(share_T, seed=5, questions=4)
    late = (26, 32, 38) if share_T[20] > 0.8 else (38,)
    assert [settled(before(log, step), STEPS) for step in late] == [""] * len(late)


def test_the_width_of_a_rise_is_a_share_of_the_run_that_was_planned():
    share_T = growth(middle=10, width=3.2)  # 8% of 40 steps, 16% of 20
    given = {"seed": 4, "questions": 4}
    whole = measure(planted.log(share_T, **given), Reading()).shape
    early = measure(ended(share_T, 20, **given), Reading()).shape
    assert early.width == pytest.approx(whole.width, abs=0.03) and early.width < 0.13
    untold = dataclasses.replace(ended(share_T, 20, **given), run={})
    assert measure(untold, Reading()).shape.width > 1.5 * early.width


def test_a_folder_is_asked_now_and_then_and_read_whole_only_if_that_may_tell(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("r1jax.analysis.emergence.settled.read_log", asked.append)
    monkeypatch.setattr("r1jax.analysis.emergence.settled.settled", lambda *_: "told so")
    (tmp_path / "config.json").write_text(json.dumps({"rl": {"questions": 4, "group": 4}}))

    def logged(share_T):
        rows = [
            {"step": i, "reflection/fraction": share, "reward/accuracy": 0.1, "length/mean": 9.0,
             "reflection/per_response": share} for i, share in enumerate(share_T)
        ]  # fmt: skip
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    at = settled_in(tmp_path, 60)
    logged(np.full(30, 0.2))
    assert at(30) == "" and not asked
    logged(np.where(np.arange(30) < 15, 0.1, 0.9))
    assert at(0) == at(29) == at(31) == "" and not asked
    assert at(30) == "told so" and asked == [tmp_path]


@pytest.mark.slow
def test_the_verdict_of_the_stopped_is_that_of_the_whole_at_full_size(control):
    rng = np.random.default_rng(1)
    stopped, same, saved = Counter(), Counter(), []
    for kind in ("null", "rise", "jump"):
        for trial in range(TRIALS):
            if kind == "null":
                share_T = np.full(STEPS, float(rng.choice([0.0, 0.003, 0.01, 0.03, 0.1, 0.3])))
            else:
                width = rng.uniform(6, 14) if kind == "rise" else 0.5
                low, high = rng.choice([0.0, 0.02, 0.05]), rng.uniform(0.4, 1.0)
                share_T = growth(rng.uniform(6, 34), width, low, high)
            given = {"seed": 1000 + trial, "questions": 4, "heldout": 30}
            log = planted.log(share_T, **given)
            step = stops_at(log)
            stopped[kind] += step is not None
            if step is None:
                continue
            whole, early = verdict(log, control), verdict(ended(share_T, step, **given), control)
            same[kind] += early.existence == whole.existence
            same[kind, "shape"] += early.shape == whole.shape
            saved.append(1 - step / STEPS)
    print(f"\nof {TRIALS} each stopped: {dict(stopped)}; with the same verdict: {dict(same)}")
    print(f"steps saved of those: {np.mean(saved):.0%}")
    assert stopped["null"] <= 1 and min(stopped["rise"], stopped["jump"]) >= 10
    for kind in ("rise", "jump"):
        assert same[kind] >= 0.98 * stopped[kind]
        assert same[kind, "shape"] >= 0.9 * stopped[kind]
