"""The page and the files of a verdict."""

import dataclasses
import itertools
import json

import matplotlib
import numpy as np
import planted
import pytest
from hand_made import BREAKS, CORRECTS, PROMPT

from r1jax.analysis.emergence import curves, figures, grids, report, says, show
from r1jax.analysis.emergence.logs import Reply
from r1jax.analysis.emergence.measure import Reading, measure
from r1jax.analysis.emergence.rules import Thresholds
from r1jax.analysis.emergence.verdict import judge
from r1jax.analysis.figures import STYLE

RISE = 0.03 + 0.9 / (1 + np.exp(-(np.arange(16) - 7.0)))


@pytest.fixture(scope="module")
def judged():
    given = {"intervention": planted.intervention("effective")}
    runs = [measure(planted.log(RISE, s, name=f"s{s}", **given), Reading()) for s in (1, 2)]
    control = measure(planted.log(np.full(16, 0.03), 9, name="<b>random</b>"), Reading(), "random")
    return judge(runs, [control], Thresholds()), [control]


@pytest.fixture(scope="module")
def written(judged, tmp_path_factory):
    verdicts, controls = judged
    out = tmp_path_factory.mktemp("emergence")
    return out, report.write(verdicts, controls, Thresholds(), out, "<i>runs</i>").read_text()


def test_the_page_is_whole_and_self_contained(written):
    out, page = written
    names = ["story", "onsets", "density", "terms", "transitions", "length", "coverage", "causes"]
    files = {f"0_{name}{end}.png" for name in names for end in ("", "_narrow")}
    assert {p.name for p in (out / "figures").iterdir()} == files
    assert page.count("data:image/png;base64,") == 2 * len(names)
    for external in ('src="http', "<link", "<script", "@import", "url("):
        assert external not in page
    assert "<i>runs</i>" not in page and "<b>random</b>" not in page
    assert "The base could reflect, and RL amplified it; it pays" in page


def test_verdict_json_holds_each_rule_with_its_inputs_and_the_thresholds(written):
    out, _ = written
    found = json.loads((out / "verdict.json").read_text())
    (one,) = found["verdicts"]
    assert (one["existence"], one["quality"]) == ("amplified", "effective")
    rules = {r["name"]: r for r in one["runs"][0]["findings"]["existence"]["rules"]}
    assert rules["beats <b>random</b>"]["inputs"]["difference"]["low"] > 0
    assert rules["threefold"]["inputs"]["odds_ratio"]["value"] > 3
    assert found["thresholds"]["floor"] == 0.01
    assert found["controls"][0]["control"] == "random"
    assert one["onset"]["reflection"][1] <= one["onset"]["reflection"][0]
    assert found["published"]["density"] == pytest.approx([0.29, 0.407], abs=0.002)


def test_lines_say_the_verdict(judged):
    text = "\n".join(report.lines(judged[0][0]))
    assert "existence           amplified" in text and "quality             effective" in text
    assert "s1, s2: more replies a held-out question" in text


EXISTENCE = ("absent", "extinct", "unchanged", "spurious", "amplified", "emerged")
QUALITY = ("none", "effective", "confirmatory", "superficial", "harmful", "undecided")
BETWEEN = ((), ("spurious", "amplified", "emerged"), ("unchanged", "amplified"), ("amplified",))


def test_every_verdict_reads_as_sentences(judged):
    kinds = [(e, ()) for e in EXISTENCE] + [("undecided", options) for options in BETWEEN]
    shapes, coverages = ("none", "sudden", "gradual", "undecided"), ("sharpened", "expanded")
    every = itertools.product(kinds, QUALITY, shapes, (*coverages, "undecided"))
    for (existence, options), quality, shape, coverage in every:
        values = {"existence": existence, "quality": quality, "shape": shape, "coverage": coverage}
        one = dataclasses.replace(judged[0][0], between={"existence": options}, **values)
        said = says.sentence(one)
        for part in said.removesuffix(".").split(". "):
            assert part[0].isupper() and part[-1] not in ".;:, ", said
        assert "undecided" not in said and "cannot decide" not in said, said
        assert said.count("none to judge") == 0 and said.count("cannot") <= 1, said
        for kind, value in values.items():  # all that is decided, and nothing else
            counts = kind != "shape" or existence not in ("absent", "extinct", "unchanged")
            decided = value not in ("none", "undecided") and counts
            assert (says.MEANS[value].lower() in said.lower()) == decided, said


@pytest.mark.parametrize(
    "existence, options, shape, expected",
    [
        ("amplified", (), "undecided", "RL amplified it. It came in ways that differ by seed"),
        ("undecided", BETWEEN[0], "none", "The data cannot say what became of reflection."),
        ("undecided", BETWEEN[1], "sudden", "Reflection rose; whether spurious or amplified or "
         "emerged, the data cannot tell. It came at a stroke"),
        ("undecided", BETWEEN[2], "gradual", "The data cannot say what became of reflection: "
         "unchanged or amplified. Where it rose it came little by little"),
        ("undecided", BETWEEN[3], "none", "The data cannot say what became of reflection."),
    ],
)  # fmt: skip
def test_what_is_undecided_reads_as_sentences(judged, existence, options, shape, expected):
    given = {"existence": existence, "shape": shape, "quality": "none", "coverage": "undecided"}
    one = dataclasses.replace(judged[0][0], between={"existence": options}, judged=(), **given)
    assert expected in says.sentence(one)


def test_what_can_be_concluded_from_the_published_curves():
    p = curves.published()
    assert p.length == pytest.approx(17.2, abs=0.05)
    assert p.late_density == pytest.approx((0.39, 0.55), abs=0.01)
    said = says.paper_says()
    assert "0.29 to 0.41 times" in said and "rarer" in said and "neither" in said


@pytest.mark.parametrize("narrow", [False, True])
def test_every_axis_has_a_unit_and_labels_do_not_overlap(judged, narrow):
    verdicts, controls = judged
    with matplotlib.rc_context(STYLE):
        for draw in figures.figures_of(verdicts[0]):
            figure = draw(verdicts[0], controls, narrow)
            figure.draw_without_rendering()
            for ax in figure.axes:
                if ax.get_label() == "<colorbar>":
                    continue
                assert ax.get_title(loc="left") and ax.get_xlabel()
                heights = [
                    t.get_window_extent().get_points()[:, 1].tolist()
                    for t in ax.texts
                    if t.get_position()[0] > 1
                ]
                overlaps = [a[1] > b[0] + 1 for a, b in itertools.pairwise(sorted(heights))]
                assert not any(overlaps), draw.__name__


def test_a_grid_has_a_panel_a_configuration(judged):
    verdicts, _ = judged
    figure = grids.grid([*verdicts, *verdicts, *verdicts], narrow=False)
    assert len(figure.axes) == 3 and all(ax.get_ylabel() for ax in figure.axes)


def test_two_axes_are_a_heat_map_and_other_numbers_of_them_are_not(judged):
    (verdict,), _ = judged

    def at(**axes):
        run = verdict.runs[0]
        member = {**run.log.member, "axes": axes}
        run = dataclasses.replace(run, log=dataclasses.replace(run.log, member=member))
        one = dataclasses.replace(verdict.judged[0], run=run)
        return dataclasses.replace(verdict, judged=(one,))

    cells = [at(depth=d, share=s, fixed=1) for d in (10, 2) for s in (0.1, 0.02, 0.0)]
    assert grids.axes_of(cells) == ("depth", "share")
    ax = grids.heat(cells, narrow=True).axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "10"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0.0", "0.02", "0.1"]
    assert len(ax.texts) == 6
    assert grids.heat(cells[:3], narrow=False) is None and grids.heat([verdict], False) is None


def test_a_band_is_the_range_of_runs_and_the_mean_lies_in_it(judged):
    runs = judged[0][0].runs
    one = curves.curve(runs, "reflection")
    shares = [r.series.share(1, 0) for r in runs]
    np.testing.assert_allclose(one.mean_T, np.mean(shares, 0))
    np.testing.assert_allclose(one.low_T, np.min(shares, 0))
    alone = curves.curve(runs[:1], "density")
    assert (alone.low_T <= alone.mean_T + 1e-9).all() and (alone.high_T >= alone.mean_T).all()


def test_a_reply_is_shown_with_its_words_candidates_and_verdicts():
    page = show.marked(Reply(0, "q", PROMPT, CORRECTS, True))
    assert (
        page.striptags() == " ".join(CORRECTS.replace("<", "&lt;").split()) or "&lt;think" in page
    )
    assert '<span class="candidate wrong">9 + 5 = 14 - 4 = 10 + 2 = 12</span>' in page
    assert '<span class="candidate right">9 + 5 = 14 - 4 = 10 - 2 = 8</span>' in page
    assert '<span class="verdict"><mark>check</mark></span>' in page and "<mark>wait</mark>" in page
    hostile = show.marked(Reply(0, "q", "x?", "<script>wait</script> 1 = 2", False))
    assert "<script>" not in hostile and "&lt;script&gt;" in hostile


def test_shares_are_written_with_their_bounds(judged):
    run = judged[0][0].runs[0]
    assert show.share(None) == "—" and "to" in show.share(run.end.reflective)
    assert run.breaks.text == BREAKS
