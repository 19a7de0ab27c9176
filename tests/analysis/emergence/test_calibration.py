"""Would it have said so if it were noise? Verdicts and intervals over logs with a known truth.

The slow test is the same at full size, and prints its table:
python -m pytest -m slow -s tests/analysis/emergence/test_calibration.py
"""

import types
from collections import Counter

import numpy as np
import planted
import pytest

from r1jax.analysis.emergence import rules
from r1jax.analysis.emergence.causes import read_causes
from r1jax.analysis.emergence.changes import find_change
from r1jax.analysis.emergence.growth import timing
from r1jax.analysis.emergence.measure import Reading, measure
from r1jax.analysis.emergence.rules import Thresholds
from r1jax.analysis.emergence.stages import stage_of
from r1jax.analysis.emergence.table import make_table
from r1jax.analysis.emergence.verdict import judge

T = Thresholds()
KINDS = ("effective", "confirmatory", "superficial")


def null_verdicts(count, seed=0):
    """Of runs whose share never changes, from 0 to 30%, against a control that does not either;
    the base was looked at as closely as "emerged" asks."""
    rng, found = np.random.default_rng(seed), Counter()
    changes = 0
    for trial in range(count):
        share = float(rng.choice([0.0, 0.003, 0.01, 0.03, 0.1, 0.3]))
        given = {"questions": 8, "group": 4, "heldout": 30}
        baseline = {"replies": 20_000, "reflective": 0, "max_first_token_probability": 1e-6}
        run, control = (
            measure(
                planted.log(np.full(20, share), 1000 * seed + 2 * trial + i, **given,
                            baseline=baseline if share == 0 else {}),
                Reading(), "random" if i else None,
            )
            for i in (0, 1)
        )  # fmt: skip
        changes += run.change is not None and run.change.p < T.p
        found[judge([run], [control], T)[0].existence] += 1
    return found, changes


def counts(share_T, rng, questions=16, group=16, alike=0.1):
    """[T, Q] reflective replies of `group`."""
    s = 1 / alike - 1
    return np.stack(
        [
            rng.binomial(group, rng.beta(max(p * s, 1e-9), max((1 - p) * s, 1e-9), questions))
            for p in share_T
        ]
    )


def onset_coverage(trials, seed=0):
    """(of a gradual rise's t10, of a jump's step): shares of intervals that hold the truth."""
    rng, steps = np.random.default_rng(seed), np.arange(50)
    held_t10 = held_jump = 0
    for _ in range(trials):
        middle, width = rng.uniform(18, 32), rng.uniform(6, 20)
        share_T = 0.02 + 0.5 / (1 + np.exp(-(steps - middle) * 2 * np.log(9) / width))
        k_TQ = counts(share_T, rng)
        drawn_BT = np.stack(
            [rng.multinomial(16, np.full(16, 1 / 16), size=300) @ k for k in k_TQ], 1
        )
        found = timing(steps, k_TQ.sum(1) / 256, drawn_BT / 256)
        held_t10 += found is not None and found.t10[1] <= middle - width / 2 <= found.t10[2]
        jump = int(rng.integers(8, 42))
        k_T = counts(np.where(steps < jump, 0.05, 0.09), rng).sum(1)
        change = find_change(steps, k_T, np.full(50, 256), permutations=1)
        held_jump += change is not None and change.low <= jump <= change.high
    return held_t10 / trials, held_jump / trials


def qualities(kind, trials, seed=0):
    """Verdicts on replies of a kind with the effect that a ban has on them."""
    found = Counter()
    for trial in range(trials):
        log = planted.log([0.0, 0.8], seed=100 * seed + trial, kind=kind, questions=1, heldout=60)
        table = make_table([r for r in log.replies if r.split == "heldout" and r.step == 1])
        run = types.SimpleNamespace(end=stage_of(table, "event"), name="x")
        raw = planted.intervention(kind, seed=100 * seed + trial, questions=262)
        found[rules.quality(run, "amplified", read_causes(raw, "x"), T).verdict] += 1
    return found


def test_of_nothing_nothing_emerges():
    found, _ = null_verdicts(8)
    assert found["emerged"] + found["amplified"] == 0


def test_intervals_of_onsets_hold_the_truth():
    t10, jump = onset_coverage(40)
    assert t10 >= 0.85 and jump >= 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_reflection_are_told_apart(kind):
    assert qualities(kind, 10)[kind] >= 9


@pytest.mark.slow
def test_the_calibration_at_full_size():
    found, changes = null_verdicts(200, seed=1)
    t10, jump = onset_coverage(400, seed=1)
    kinds = {kind: qualities(kind, 100, seed=1) for kind in (*KINDS, "harmful")}
    print(f"\n200 null runs: {dict(found)}; a change with p < .05 in {changes}")
    print(f"400 planted onsets: t10 held in {t10:.1%}, the step of a jump in {jump:.1%}")
    for kind, verdicts in kinds.items():
        print(f"100 planted {kind}: {dict(verdicts)}")
    assert found["emerged"] + found["amplified"] <= 10
    assert 0.90 <= t10 <= 0.99 and 0.90 <= jump <= 0.99
    assert all(kinds[kind][kind] >= 95 for kind in KINDS)
