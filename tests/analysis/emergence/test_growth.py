import numpy as np
import pytest

from r1jax.analysis.emergence.growth import fit, gaps, grid_of, isotonic, phases, shape_of, timing

STEPS = np.arange(61.0)
ONES = np.ones(61)


def rise(middle, width, low=0.1, high=0.8, steps=STEPS):
    return low + (high - low) / (1 + np.exp(-(steps - middle) * 2 * np.log(9) / width))


def noisy(y, draws=200, spread=0.02, seed=0):
    return y + np.random.default_rng(seed).normal(0, spread, (draws, len(y)))


def test_the_fit_is_the_best_of_all_curves_by_brute_force():
    grid, y = grid_of(STEPS), noisy(rise(30, 15), 1)
    found = fit(STEPS, y, ONES, grid)
    errors = []
    for curve in grid.curve_GT:
        design = np.stack([np.ones(61), curve], 1)
        (base, slope), *_ = np.linalg.lstsq(design, y[0], rcond=None)
        good = slope > 0 and curve.std() > 1e-4
        errors.append(((design @ (base, slope) - y[0]) ** 2).sum() if good else np.inf)
    best = int(np.argmin(errors))
    assert found.t50[0] == grid.midpoint_G[best]
    assert (found.t90 - found.t10)[0] == pytest.approx(grid.width_G[best])
    assert found.low[0] == pytest.approx(0.1, abs=0.03)
    assert found.high[0] == pytest.approx(0.8, abs=0.03)


def test_onset_half_way_and_end_of_a_planted_rise():
    y = rise(30, 20)
    found = timing(STEPS, noisy(y, 1)[0], noisy(y))
    for (_, low, high), truth in ((found.t10, 20), (found.t50, 30), (found.t90, 40)):
        assert low <= truth <= high and high - low < 6


def test_the_isotonic_fit_is_the_closest_that_never_falls():
    def pooled(y):  # adjacent violators
        blocks = []
        for value in y:
            blocks.append([value, 1])
            while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
                (b, m), (a, n) = blocks.pop(), blocks.pop()
                blocks.append([(a * n + b * m) / (n + m), n + m])
        return [value for value, n in blocks for _ in range(n)]

    y_BT = np.random.default_rng(0).normal(np.linspace(0, 1, 25), 0.5, (4, 25))
    np.testing.assert_allclose(isotonic(y_BT, np.ones(25)), [pooled(y) for y in y_BT])


def test_two_rises_are_timed_by_a_curve_that_has_them():
    y = rise(10, 4, 0.0, 0.3) + rise(45, 8, 0.0, 0.5)
    found = timing(STEPS, noisy(y, 1)[0], noisy(y))
    assert found.curve == "isotonic"
    assert found.t10[1] <= 9.5 <= found.t10[2] and found.t10[2] - found.t10[1] < 4
    assert timing(STEPS, noisy(rise(30, 20), 1)[0], noisy(rise(30, 20))).curve == "logistic"


def test_what_does_not_rise_has_no_onset():
    assert timing(STEPS, noisy(0 * STEPS, 1)[0], noisy(0 * STEPS)) is None
    assert timing(STEPS, 1 - rise(30, 9), noisy(1 - rise(30, 9))) is None
    assert timing(STEPS, ONES, noisy(ONES)) is None


def test_onsets_have_an_order_with_intervals():
    early, late = rise(20, 10), rise(40, 10)
    found = {
        name: timing(STEPS, y, noisy(y, seed=seed))
        for seed, (name, y) in enumerate({"a": early, "b": late, "c": late}.items())
    }
    ab, ac, bc = gaps(found)
    assert ab.order == "a before b" and ab.low <= 20 <= ab.high
    assert ac.order == "a before c" and bc.order == "b and c cannot be told apart"


@pytest.mark.parametrize("width, sudden", [(0.5, True), (3, True), (15, False), (50, False)])
def test_sudden_or_gradual(width, sudden):
    found = shape_of(STEPS, noisy(rise(30, width), 1)[0], ONES, most=0.1)
    assert found.sudden is sudden
    assert found.width == pytest.approx(width / 60, abs=0.12)


def test_a_line_is_gradual_whatever_its_scores():
    found = shape_of(STEPS, noisy(STEPS / 60, 1)[0], ONES, most=0.1)
    assert not found.sudden and found.scores["linear"] > found.scores["step"]


def test_phases_are_of_the_smoothed_share():
    share = np.array([0.0] * 20 + [0.05] * 20 + [0.6] * 20)
    share[5] = 0.03  # one reply
    names = phases(np.arange(60), share, 0.02, 0.10)
    assert [name for name, *_ in names] == ["virtually absent", "sporadic", "marked"]
    assert names[0][1] == 0 and names[-1][2] == 59
    assert abs(names[1][1] - 20) <= 2 and abs(names[2][1] - 40) <= 3
