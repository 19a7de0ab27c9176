"""The table of stages: errors against formulas, agreement by hand."""

import numpy as np
import pytest

from r1jax.pipeline.measures import MEASURES, measure
from r1jax.pipeline.table import COLUMNS, Value, _value, agreement, lines


def test_a_value_is_the_mean_over_questions_of_means_over_replies():
    got = _value({"a": [1.0, 0.0], "b": [1.0, 1.0, 1.0], "c": [0.0]})
    means = np.array([0.5, 1.0, 0.0])
    assert got.mean == pytest.approx(means.mean())
    assert got.se == pytest.approx(means.std(ddof=1) / 3**0.5)
    assert got.questions == 3


def by_model(values, se=0.01):
    return {name: {"reasoning": Value(v, se, 100)} for name, v in zip(COLUMNS, values, strict=True)}


def test_agreement_is_of_directions_and_says_what_cannot_be_told_apart():
    one = measure("reasoning")  # 77.9, 59.0, 74.0, 78.1, 79.8: down, up, up, up
    assert agreement(one, by_model([0.9, 0.5, 0.8, 0.9, 0.95])) == "4 of 4 agree"
    assert agreement(one, by_model([0.9, 0.95, 0.8, 0.9, 0.9])) == (
        "1 of 4 agree; other way: Zero → Dev1, Dev1 → Dev2; not told apart: Dev3 → R1"
    )
    assert agreement(one, by_model([0.9, 0.5, 0.8, 0.9, 0.95], se=1.0)).startswith("0 of 4 agree")
    assert agreement(measure("language"), by_model([1, 1, 1, 1, 1])) == ""


def test_the_published_figures_are_those_of_the_table():
    for one in MEASURES:
        assert len(one.paper) in (0, len(COLUMNS))
        assert bool(one.paper) == bool(one.source)
    assert measure("reasoning").paper == (77.9, 59.0, 74.0, 78.1, 79.8)
    assert measure("followed").paper == (46.6, 71.7, 72.0, 78.1, 83.3)


def test_it_is_printed_with_the_papers_figures_below_its_own():
    text = lines({"Base": {}, **by_model([0.9, 0.5, 0.8, 0.9, 0.95])})
    row = next(i for i, line in enumerate(text) if line.startswith("Reasoning"))
    assert text[row].split()[2:] == ["90.0", "50.0", "80.0", "90.0", "95.0"]
    assert (
        text[row + 1].split()[-8:]
        == ["77.9", "59.0", "74.0", "78.1", "79.8", "4", "of", "4", "agree"][-8:]
    )
