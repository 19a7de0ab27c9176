import itertools

import numpy as np
import pytest

from r1jax.analysis import figures
from r1jax.analysis.figures import FIGURES, figures_of, save_figures, smooth, takeoff_steps


def rows(accuracy, **metrics):
    return [{"step": i, "reward/accuracy": float(a)} | metrics for i, a in enumerate(accuracy)]


SIGMOID = 0.1 + 0.9 / (1 + np.exp(-(np.arange(100) - 30) / 2))  # 10% at 25.6, 90% at 34.4


def test_the_take_off_is_found_where_accuracy_rises():
    first, last = takeoff_steps(rows(SIGMOID))
    assert (first, last) == (26 - 9, 35 + 9)
    # As in the embedded run: the rise is at the very start, and short.
    assert takeoff_steps(rows([0.1, 0.2, 0.5, 0.9, *[0.95] * 46])) == (0, 6)


@pytest.mark.parametrize(
    "accuracy", [[0.5] * 50, [0.9, *[0.1] * 49], np.linspace(0, 1, 50), [0.3], [0, 1]]
)
def test_no_closer_look_at_what_is_flat_or_falls_or_takes_the_whole_run(accuracy):
    assert takeoff_steps(rows(accuracy)) is None


def test_a_dip_after_the_rise_is_not_its_beginning():
    assert takeoff_steps(rows([*SIGMOID, *[0.0] * 5]))[0] == 26 - 9


def test_figures_without_something_to_show_are_left_out_and_old_ones_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.Figure, "savefig", lambda self, path: path.write_bytes(b""))
    tiers = {"accuracy/3_numbers": 0.5, "length/3_numbers": 20.0, "accuracy/4_numbers": 0.2}
    assert set(save_figures(rows(SIGMOID, **{"reflection/fraction": 0.1, **tiers}), tmp_path)) == {
        draw.__name__ for draw in FIGURES
    }
    left = set(save_figures(rows([0.5] * 5), tmp_path))
    assert left == {draw.__name__ for draw in FIGURES} - {"moment", "reflection", "sources"}
    assert len(list(tmp_path.iterdir())) == 2 * len(left)


@pytest.mark.parametrize("narrow", [False, True])
def test_every_axis_says_its_unit_and_narrow_panels_stand_in_one_column(narrow):
    some = rows(SIGMOID, **{"heldout/accuracy": 0.5, "heldout/greedy": 0.4})
    names = "kl entropy clip/low clip/high grad_norm groups/zero_std sampler/logp_diff length/mean"
    names += " router/max_load time/rollout length/truncated reflection/fraction"
    names += " reflection/per_response reflection/per_1k_tokens"
    some = [row | dict.fromkeys(names.split(), 0.1) for row in some]
    for draw in figures_of(some):
        figure = draw(some, narrow)
        for ax in figure.axes:
            assert ax.get_xlabel() == "step" and ax.get_ylabel() and ax.get_title()
        if narrow:
            lefts = {round(ax.get_position().x0, 3) for ax in figure.axes}
            assert len(lefts) == 1


def test_a_run_of_one_step_is_drawn_and_says_what_it_has_not():
    figure = figures.takeoff(rows([0.3]), narrow=True)
    accuracy, length = figure.axes
    assert accuracy.get_xlim() == (-1, 1) and accuracy.get_title() == "Training accuracy"
    assert [text.get_text() for text in length.texts] == ["no values"]


def test_labels_beside_lines_do_not_overlap():
    some = rows(SIGMOID, **{"heldout/accuracy": 0.99, "heldout/greedy": 1.0})
    for narrow in (False, True):
        figure = figures.accuracy(some, narrow)
        figure.draw_without_rendering()
        boxes = sorted(
            t.get_window_extent().get_points()[:, 1].tolist() for t in figure.axes[0].texts
        )
        assert len(boxes) == 3
        assert all(low[1] <= high[0] for low, high in itertools.pairwise(boxes))


@pytest.mark.parametrize("n", [10, 11, 400])
def test_smoothing_keeps_constants_and_length(n):
    np.testing.assert_allclose(smooth(np.full(n, 3.0)), 3.0)
    assert len(smooth(np.arange(n))) == n
