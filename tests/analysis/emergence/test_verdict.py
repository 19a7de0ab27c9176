"""Verdicts over hand-made logs whose truth is known."""

import dataclasses
import json

import numpy as np
import planted
import pytest
from hand_made import BREAKS, CORRECTS, GUESS_WRONG, reply

from r1jax.analysis.emergence.causes import read_causes
from r1jax.analysis.emergence.logs import Log, Reply
from r1jax.analysis.emergence.measure import Reading, measure
from r1jax.analysis.emergence.rules import Thresholds, difference, odds_ratio
from r1jax.analysis.emergence.verdict import (
    judge,
    onset_over_seeds,
    order_of,
    plain,
    share_over_runs,
)
from r1jax.checks import InputError

T = Thresholds()
FLAT = np.full(12, 0.02)
RISE = 0.03 + 0.9 / (1 + np.exp(-(np.arange(16) - 7.0)))
NEVER = np.zeros(12)
FROM_NOTHING = np.where(np.arange(16) < 6, 0.0, 0.8)


def run(share_T, control=None, **given):
    return measure(planted.log(share_T, **given), Reading(), control)


@pytest.fixture(scope="module")
def random_control():
    return run(np.full(16, 0.03), "random", seed=99, name="random")


def verdict(*runs, controls=()):
    (found,) = judge(runs, controls, T)
    return found


def flags(found):
    return {name for name, _ in found.flags}


def test_a_share_that_stays_at_nothing_is_absent_with_its_bound():
    found = verdict(run(NEVER))
    assert found.existence == "absent" and found.quality == "none"
    (end,) = [
        r.inputs["end"] for r in found.judged[0].findings["existence"].rules if r.name == "low"
    ]
    assert end.n == 240 and end.high == pytest.approx(3 / 240, rel=0.01) and end.value == 0


def test_a_rise_beyond_random_rewards_is_amplified(random_control):
    found = verdict(run(RISE, seed=1), controls=[random_control])
    assert found.existence == "amplified" and not found.between.get("existence")
    assert flags(found) == {"one seed only"}
    names = {r.name: r.holds for r in found.judged[0].findings["existence"].rules}
    assert names == {
        "change": True, "higher": True, "low": False, "gone": False, "came and went": False,
        "threefold": True,
        "beats random": True, "seen": True,
    }  # fmt: skip


def test_without_a_control_the_verdict_says_which_run_is_missing():
    found = verdict(run(RISE, seed=1))
    assert found.existence == "undecided"
    assert found.between["existence"] == ("spurious", "amplified")
    assert any("--control=random=RUN" in m for m in found.missing)
    assert "no control" in flags(found)


def test_what_random_rewards_do_as_well_is_spurious():
    as_well = run(RISE, "random", seed=5, name="as well")
    assert verdict(run(RISE, seed=1), controls=[as_well]).existence == "spurious"
    # A base that never saw a trace is no such control: its rewards are right ones.
    none = run(RISE, "no_trace", seed=5, name="as well")
    found = verdict(run(RISE, seed=1), controls=[none])
    assert found.existence == "undecided" and "no control" not in flags(found)
    assert "rewards are blind to answers (no_trace)" in dict(found.flags)["no blind control"]


def test_a_control_that_cannot_tell_decides_nothing(random_control):
    """Neither that a rise is spurious nor that it is not."""
    rises = run(RISE, seed=1)

    def found(share_T, **given):
        return verdict(rises, controls=[run(share_T, "random", seed=5, name="coin", **given)])

    few = verdict(
        run(0.15 * RISE, seed=1),
        controls=[run(np.full(16, 0.03), "random", seed=5, questions=2, group=2, heldout=0)],
    )
    for undecided, why in (
        (few, "more replies; whether it rose as well is not known"),
        (found(np.full(9, 0.03)), "it ends at step 8, the run at 15"),
        (found(np.full(16, 0.6)), "of replies, the run with"),
    ):
        assert undecided.existence == "undecided"
        assert "spurious" in undecided.between["existence"]
        assert any(why in m for m in undecided.missing), undecided.missing
    # One that can is enough.
    short = run(np.full(9, 0.03), "random", seed=5, name="short")
    assert verdict(rises, controls=[short, random_control]).existence == "amplified"


def test_emerged_asks_for_a_base_that_was_looked_at_closely(random_control):
    def found(baseline):
        return verdict(run(FROM_NOTHING, seed=2, baseline=baseline), controls=[random_control])

    unseen = found({})
    assert unseen.existence == "undecided"
    assert unseen.between["existence"] == ("amplified", "emerged")
    assert any("baseline.json" in m for m in unseen.missing)
    probed = {"by_temperature": {"0.6": [0, 9000], "1.2": [0, 9000]}}
    assert found(probed).existence == "undecided"
    assert found(probed | {"max_first_token_probability": 1e-6}).existence == "emerged"
    assert found(probed | {"max_first_token_probability": 0.01}).existence == "amplified"
    assert found({"replies": 20000, "reflective": 3}).existence == "amplified"


@pytest.mark.parametrize(
    "baseline, says",
    [
        ({"by_temperature": {"1.0": [3, 2]}}, r"got \[3, 2\]"),
        ({"replies": "many"}, r"expected \[reflective, replies\]"),
        ({"max_first_token_probability": 2}, r"must lie in \[0, 1\], got 2"),
    ],
)
def test_a_baseline_that_cannot_be_is_refused(baseline, says, random_control):
    with pytest.raises(InputError, match=f"baseline.json: .*{says}"):
        verdict(run(FROM_NOTHING, seed=2, baseline=baseline), controls=[random_control])


def test_a_share_over_runs_is_as_sure_as_they_agree():
    alike = [run(RISE, seed=s, name=f"s{s}") for s in range(3)]
    apart = [*alike[:2], run(0.3 * RISE, seed=9, name="s9")]
    (a, b) = (share_over_runs(verdict(*some), "end") for some in (alike, apart))
    assert b.high - b.low > 3 * (a.high - a.low)
    assert b.value == pytest.approx(np.mean([r.end.reflective.value for r in apart]))
    one = share_over_runs(verdict(alike[0]), "start")
    assert one == alike[0].start.reflective


def test_runs_and_controls_that_were_read_in_different_ways_are_flagged(random_control):
    other = dataclasses.replace(random_control, detector="word")
    assert "detectors differ" in flags(verdict(run(RISE, seed=1), controls=[other]))


def test_extinct_unchanged_and_no_baseline(random_control):
    falls = run(np.r_[np.full(6, 0.5), np.zeros(6)], seed=3)
    assert verdict(falls).existence == "extinct"
    assert verdict(run(np.full(12, 0.3), seed=3)).existence == "unchanged"
    slightly = run(np.r_[np.full(6, 0.3), np.full(6, 0.42)], seed=3)
    assert verdict(slightly, controls=[random_control]).existence == "unchanged"
    late = planted.log(RISE, seed=1)
    late = dataclasses.replace(late, replies=tuple(r for r in late.replies if r.step > 0))
    found = verdict(measure(late, Reading()), controls=[random_control])
    assert found.existence == "undecided" and "no baseline" in flags(found)
    assert any("step 0" in m for m in found.missing)


def test_what_came_and_went_is_not_absent():
    between = np.r_[np.full(15, 0.002), np.full(15, 0.6), np.full(15, 0.002)]
    for low in (0.002, 0.02):
        found = verdict(run(np.where(between < 0.1, low, between), seed=3))
        assert found.existence == "extinct"
        assert "of replies reflected at steps" in dict(found.flags)["came and went"]
    stays = verdict(run(np.r_[np.full(15, 0.002), np.full(15, 0.6)], seed=3))
    assert "came and went" not in flags(stays)


def test_nothing_is_absent_of_few_replies_or_of_another_script():
    few = np.r_[np.zeros(10), np.full(6, 0.3)]
    found = verdict(run(few, seed=0, questions=4, group=2, heldout=0))
    assert found.existence == "undecided" and "absent" in found.between["existence"]
    assert any("more replies at step 0 and at the end" in m for m in found.missing)
    log = planted.log(NEVER)
    chinese = [
        dataclasses.replace(r, text=20 * "等等,再检查一下,不对 " + r.text) for r in log.replies
    ]
    found = verdict(measure(dataclasses.replace(log, replies=tuple(chinese)), Reading()))
    assert found.existence == "undecided"
    assert "not Latin" in dict(found.flags)["another script"]


def test_four_of_five_seeds_decide_and_else_they_disagree(random_control):
    risen = [run(RISE, seed=s, name=f"s{s}") for s in range(4)]
    flat = run(np.full(16, 0.03), seed=9, name="s9")
    found = verdict(*risen, flat, controls=[random_control])
    assert found.existence == "amplified" and "one seed only" not in flags(found)
    found = verdict(*risen[:2], flat, controls=[random_control])
    assert found.existence == "undecided" and "seeds disagree" in flags(found)
    shared = [dataclasses.replace(r, base_name="seed 0") for r in risen]
    assert "one base only" in flags(verdict(*shared, controls=[random_control]))


@pytest.mark.parametrize("kind", ["effective", "confirmatory", "superficial", "harmful"])
def test_quality_follows_from_the_ban_and_the_transitions(kind):
    given = {"seed": 4, "kind": kind, "intervention": planted.intervention(kind, questions=600)}
    found = verdict(run(RISE, **given))
    assert found.quality == kind
    # Without the ban it only leans.
    found = verdict(run(RISE, seed=4, kind=kind))
    assert found.quality == "undecided"
    wanted = next(m for m in found.missing if "intervention.json" in m)
    assert "ban and placebo" in wanted and "by transitions alone it would be" in wanted


def test_a_ban_that_does_no_more_than_its_placebo_is_not_effective():
    given = planted.intervention("effective", questions=600)
    given["conditions"]["placebo"] = given["conditions"]["ban"]
    assert verdict(run(RISE, seed=4, intervention=given)).quality != "effective"


def test_a_wide_interval_asks_for_more_questions():
    given = planted.intervention("superficial", questions=12)
    found = verdict(run(RISE, seed=4, kind="superficial", intervention=given))
    assert found.quality == "undecided" and any("more questions" in m for m in found.missing)


@pytest.mark.parametrize(
    "raw, says",
    [
        ({"conditions": {"ban": [0.5, 1]}}, '"none" among them'),
        ({"conditions": {"none": [1, 0], "ban": [1]}}, "condition 'ban' must have one value for"),
        ({"conditions": {"none": [1, 2.5]}}, "condition 'none': accuracies must lie in"),
        ({"conditions": {"none": [1]}}, "at least two questions"),
        (
            {"conditions": {"none": [1, 0]}, "reflects": {"none": [1]}},
            "\"reflects\" of 'none' must be 2 shares",
        ),
    ],
)
def test_interventions_that_do_not_fit_are_refused(raw, says):
    with pytest.raises(InputError, match=says):
        read_causes(raw, "x/intervention.json")


def test_effects_are_paired_by_question():
    raw = {"conditions": {"none": [1, 0.5, 0, 1], "ban": [0.5, 0, 0, 0.5]},
           "tokens": {"none": [10, 20], "ban": [5, 7]}}  # fmt: skip
    effect = read_causes(raw, "x").effects["ban"]
    assert effect.difference.value == pytest.approx(-0.375) and effect.difference.n == 4
    assert effect.p == pytest.approx(0.25) and effect.tokens == -9


def test_pairs_that_are_all_alike_say_no_more_than_how_many_they_are():
    """Eight equal pairs leave room for three in eight that differ."""
    few, many = (
        read_causes({"conditions": {"none": [1, 0] * n, "ban": [1, 0] * n}}, "x").effects["ban"]
        for n in (4, 150)
    )
    assert (few.difference.low, few.difference.high) == (-3 / 8, 3 / 8)
    assert (many.difference.low, many.difference.high) == (-0.01, 0.01)


def test_a_condition_is_compared_with_its_own_control_too():
    raw = {"conditions": {"none": [1, 0], "placebo": [1, 1], "ban": [0, 0], "ban_wait": [1, 0],
                          "force_0_2": [0, 1], "force_wait_2": [1, 1], "force_wait_4": [1, 1],
                          "inject_wrong": [0, 0]}}  # fmt: skip
    beyond = read_causes(raw, "x").beyond
    assert {name: e.value for name, e in beyond.items()} == {
        "ban": -1.0, "ban_wait": -0.5, "force_wait_2": 0.5,
    }  # fmt: skip


def test_longer_replies_with_as_many_words_a_token_are_flagged():
    """Ten times as long, five times the words: the count rises, the density falls."""
    filler = "then " * 10

    def replies(step, words, length):
        for q in range(30):
            text = ("wait " * words * (q % 3 > 0) + filler * length).strip()
            yield Reply(step, f"q{q}", "x?", text, correct=q % 2 == 0, tokens=len(text.split()))

    rows = [r for t in range(8) for r in replies(t, 1 if t < 4 else 5, 1 if t < 4 else 10)]
    found = verdict(measure(Log("grows", tuple(rows), whole=True), Reading()))
    assert "length-driven" in flags(found)
    # Not of a base that says so little that its density is drawn as nothing, too.
    seldom = run(np.r_[np.full(8, 0.02), np.full(8, 0.5)], seed=10, heldout=0)
    assert seldom.start.per_1k.value > 0 and np.any(seldom.start.density_B == 0)
    assert "length-driven" not in flags(verdict(seldom))


def test_a_base_whose_replies_are_cut_is_flagged():
    """More room may show what was there before."""

    def rows(limit):
        for t in range(12):
            for q in range(10):
                words = ("so " * 12 + "wait 1 = 1").split()[: limit if t < 6 else 40]
                yield Reply(t, f"q{t}-{q}", "x?", " ".join(words), True, len(words), t < 6)

    found = verdict(measure(Log("cut", tuple(rows(12)), whole=True), Reading()))
    assert "100% of replies at step 0" in dict(found.flags)["cut at first"]


def test_cut_replies_a_moved_limit_and_missing_token_counts_are_flagged():
    def rows(**fields):
        return tuple(
            Reply(t, f"q{q}", "x?", "wait 1 = 1", q % 2 == 0, 20 + 20 * (t > 4), q == 0, **fields)
            for t in range(8)
            for q in range(10)
        )

    found = verdict(measure(Log("cut", rows(), whole=True), Reading()))
    assert {"truncated", "limit changed"} <= flags(found)
    words = tuple(dataclasses.replace(r, tokens=0) for r in rows())
    assert "tokens are words" in flags(verdict(measure(Log("w", words, whole=True), Reading())))


@pytest.mark.parametrize("idle, flagged", [(2, False), (10, True)])
def test_words_and_deeds_are_apart_only_if_many_replies_differ(idle, flagged):
    """Where nearly all of 60 replies reflect, two that say so idly make kappa 0.49."""
    says_so = GUESS_WRONG.replace("<think>", "<think> wait")
    texts = [says_so] * idle + [GUESS_WRONG] + [CORRECTS] * (59 - idle)
    replies = [reply(GUESS_WRONG, t, f"q{q}", split="heldout") for t in (0, 1) for q in range(60)]
    replies += [reply(text, 2, f"q{q}", split="heldout") for q, text in enumerate(texts)]
    found = verdict(measure(Log("apart", tuple(replies), whole=True), Reading()))
    end = found.runs[0].end
    assert end.differ == pytest.approx(idle / 60) and end.agreement < T.agreement
    assert ("words and deeds" in flags(found)) == flagged


def test_a_run_that_kept_only_totals_is_judged_from_them():
    n = 20
    metrics = [
        {
            "step": t, "reflection/fraction": 0.02 if t < 8 else 0.9, "reward/accuracy": 0.1,
            "length/mean": 25.0 + 2 * t, "reflection/per_response": 0.1 if t < 8 else 3.0,
            "heldout/reflection": {0: 0.02, n - 1: 0.95}.get(t), "heldout/accuracy": 0.1,
            "heldout/length": 25.0 + 2 * t,
        }
        for t in range(n)
    ]  # fmt: skip
    config = {"rl": {"questions": 16, "group": 16}, "final_samples": 1024, "seed": 0}
    log = Log("totals", (), whole=False, metrics=tuple(metrics), config=config)
    one = measure(log, Reading())
    assert one.change.step == 8 and one.start.n == 1024 and one.detector == "word"
    found = verdict(one)
    assert found.between["existence"] == ("spurious", "amplified")
    assert "totals only" in flags(found)


def test_the_first_turns_are_found_and_the_order_of_onsets():
    one = run(RISE, seed=1)
    assert one.corrects.text == CORRECTS and one.breaks.text == BREAKS
    later = [r.step for r in one.log.replies if r.text == CORRECTS]
    assert one.corrects.step == min(later)
    found = verdict(one)
    middle, low, high = onset_over_seeds(found, "reflection")
    assert low <= middle <= high <= 15 and low <= 7 - np.log(9) <= high
    assert all("and" in line or "before" in line for line in order_of(found))


def test_configurations_are_judged_apart_and_their_ps_are_holms():
    controls = [run(np.full(16, 0.03), "random", seed=s, name=f"c{s}") for s in (20, 21, 22)]
    runs = [
        dataclasses.replace(run(RISE, seed=s, name=f"{c}{s}"), configuration=c)
        for c in ("a", "b")
        for s in (1, 2, 3)
    ]
    a, b = judge(runs, controls, T)
    assert (a.name, b.name) == ("a", "b") and len(a.judged) == 3
    assert a.against[0].p == pytest.approx(0.1) and a.against[0].delta == 1
    assert a.against[0].adjusted == b.against[0].adjusted == pytest.approx(0.2)


def test_odds_ratio_and_difference_of_stages():
    one = run(RISE, seed=1)
    ratio = odds_ratio(one.start, one.end)
    a, b = one.end.reflective.value, one.start.reflective.value
    by_hand = ((a * 240 + 0.5) / ((1 - a) * 240 + 0.5)) / ((b * 240 + 0.5) / ((1 - b) * 240 + 0.5))
    assert ratio.value == pytest.approx(by_hand) and ratio.low < by_hand < ratio.high
    gap = difference(one.end.share_B, one.start.share_B, a - b, 480)
    assert gap.low < a - b < gap.high


def test_everything_can_be_written_as_json(random_control):
    found = verdict(run(RISE, seed=1), controls=[random_control])
    text = json.dumps(plain([one.findings for one in found.judged]), allow_nan=False)
    assert "beats random" in text


def test_stories_are_refused():
    with pytest.raises(InputError, match="replies of the task 'stories' hold no thoughts"):
        run(FLAT, config={"task": "stories"})


def test_one_step_is_refused():
    with pytest.raises(InputError, match="one step only"):
        run([0.5], heldout=0)
