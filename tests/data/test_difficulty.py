"""What is too easy or too hard is dropped, and only where it can be told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.checks import InputError
from r1jax.data.difficulty import OUTCOMES, Tally, by_difficulty, read_tallies
from r1jax.data.problems import Problem

outcomes = st.lists(st.sampled_from(OUTCOMES), max_size=8)


@given(st.lists(outcomes, max_size=6), st.integers(1, 5))
def test_by_definition(tmp_path_factory, graded, min_samples):
    path = tmp_path_factory.mktemp("grades") / "grades.jsonl"
    rows = [{"id": str(i), "outcome": o} for i, some in enumerate(graded) for o in some]
    tallies = {}
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tallies = read_tallies(path)
    problems = [Problem(str(i), "math", "?") for i in range(len(graded))]
    found = by_difficulty(problems, tallies, min_samples=min_samples)
    for p, some in zip(problems, graded, strict=True):
        said = {o == "correct" for o in some if o != "failed"}
        told = sum(o != "failed" for o in some) >= min_samples
        assert (p in found.never) == (told and said == {False})
        assert (p in found.always) == (told and said == {True})
        assert (p in found.unknown) == (not told)
    dropped = found.never + found.always
    assert found.kept == [p for p in problems if p not in dropped]


def test_bounds_are_excluded():
    problems = [Problem(str(n), "math", "?") for n in range(11)]
    tallies = {str(n): Tally(n, 10) for n in range(11)}
    found = by_difficulty(problems, tallies, lowest=0.2, highest=0.9)
    assert [p.id for p in found.kept] == [str(n) for n in range(3, 9)]
    assert [len(found.never), len(found.always), len(found.unknown)] == [3, 2, 0]
    with pytest.raises(InputError, match=r"0 <= lowest < highest <= 1, got 0\.9, 0\.2"):
        by_difficulty(problems, tallies, lowest=0.9, highest=0.2)
    with pytest.raises(InputError, match="min_samples must be positive, got 0"):
        by_difficulty(problems, tallies, min_samples=0)


def test_rows_of_a_run(tmp_path):
    (tmp_path / "samples.jsonl").write_text(
        '{"problem_id": "a", "outcome": "correct", "step": 0}\n'
        '{"problem_id": "a", "outcome": "failed", "step": 1}\n'
        '{"problem_id": "a", "outcome": "unparseable", "step": 2}\n'
    )
    assert read_tallies(tmp_path / "samples.jsonl") == {"a": Tally(1, 2)}


@pytest.mark.parametrize(
    "row, message",
    [
        ({"outcome": "correct"}, 'missing field "id"'),
        ({"id": "a"}, 'missing field "outcome"'),
        ({"id": "a", "outcome": "fine"}, '"outcome" must be one of correct, incorrect'),
    ],
)
def test_bad_rows(tmp_path, row, message):
    (tmp_path / "grades.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=rf"grades\.jsonl:1: .*{message}"):
        read_tallies(tmp_path / "grades.jsonl")
