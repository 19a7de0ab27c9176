"""The page's drawings: every point within its axes, nothing of a model's text as markup."""

import re

import pytest

from r1jax.checks import InputError
from r1jax.pipeline.charts import HEIGHT, WIDTH, Line, _nice, chart, lineage, smooth
from r1jax.pipeline.page import _marked, write_page
from r1jax.pipeline.stages import STAGES


def test_every_point_lies_within_the_drawing():
    one = Line("a <b>", [(0, 0.2), (10, 0.9), (50, -0.3)])
    drawn = str(chart([one, Line("none", [])], "about & so"))
    points = [
        tuple(map(float, p.split(","))) for p in re.search('points="(.*?)"', drawn)[1].split()
    ]
    assert len(points) == 3
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert points[1][1] < points[0][1] < points[2][1]  # up is more
    assert "a &lt;b&gt;" in drawn and "about &amp; so" in drawn and "none" not in drawn
    assert chart([Line("none", [])], "nothing") == ""


@pytest.mark.parametrize(("value", "end"), [(0.7, 1), (1.0, 1), (1.2, 2), (23, 25), (0.031, 0.05)])
def test_axes_end_with_round_numbers(value, end):
    assert _nice(value) == pytest.approx(end)


def test_smoothing_is_a_centred_mean():
    points = [(0, 0.0), (1, 3.0), (2, 0.0), (3, 6.0)]
    assert smooth(points, 3) == [(0, 1.5), (1, 1.0), (2, 3.0), (3, 3.0)]


def test_the_lineage_names_every_model_and_where_replies_go():
    drawn = str(lineage([stage for stage in STAGES if stage.gives]))
    assert all(stage.gives in drawn for stage in STAGES if stage.gives) and "Base" in drawn
    assert drawn.count('class="arrow replies"') == 3  # Zero to Dev1, Dev2 to Dev3, R1 to Student
    assert drawn.count('class="arrow weights"') == 5  # Base to three, Dev1 to Dev2, Dev3 to R1


def test_a_reply_is_escaped_and_its_chinese_marked():
    text = str(_marked("<think> 1 < 2 & 查 </think> <script>"))
    assert "<mark>查</mark>" in text and "&lt;script&gt;" in text and "1 &lt; 2 &amp;" in text
    assert "<b>" in text and "<b>" not in str(_marked("<think> no end"))


def test_a_model_of_ones_own_in_a_stages_place(tmp_path):
    """A Hugging Face directory, which no stage has made."""
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "config.json").write_text('{"model_type": "llama"}')
    text = write_page(tmp_path).read_text()
    kinds = [part.partition(",")[0] for part in text.split('<span class="soft">')[1:]]
    assert kinds[:5] == ["RL", "SFT", "RL", "SFT", "RL"]
    (tmp_path / "zero" / "stage.json").write_text("{}")
    (tmp_path / "cold_start").mkdir()
    (tmp_path / "cold_start" / "stage.json").write_text("{")
    with pytest.raises(InputError, match=r"cold_start/stage.json: "):
        write_page(tmp_path)
