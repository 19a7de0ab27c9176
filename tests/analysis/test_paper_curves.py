import csv

import pytest

from r1jax.analysis import paper_curves


@pytest.fixture
def read_csv(data_dir):
    def read(name):
        path = data_dir / "r1_zero_curves" / name
        if not path.exists():
            pytest.skip(f"{path} is absent")
        with path.open() as file:
            return list(csv.DictReader(file))

    return read


def test_aime_matches_the_points_read_off_the_figure(read_csv):
    rows = read_csv("figure2_aime_accuracy.csv")
    assert [step for step, _, _ in paper_curves.AIME] == [int(row["step"]) for row in rows]
    for (_, pass_at_1, cons_at_16), row in zip(paper_curves.AIME, rows, strict=True):
        assert pass_at_1 == pytest.approx(float(row["pass_at_1"]), abs=5e-4)
        assert cons_at_16 == pytest.approx(float(row["cons_at_16"]), abs=5e-4)


def test_length_matches_the_points_read_off_the_figure(read_csv):
    rows = read_csv("figure3_response_length.csv")
    tokens = {int(row["step"]): int(row["smoothed_mean_length"]) for row in rows}
    assert dict(paper_curves.RESPONSE_LENGTH).items() <= tokens.items()
    assert paper_curves.RESPONSE_LENGTH[0][0] == min(tokens)
    assert paper_curves.RESPONSE_LENGTH[-1][0] == max(tokens)


def test_aime_ends_where_the_paper_says():
    assert [round(paper_curves.AIME[i][1], 3) for i in (0, -1)] == [0.156, 0.710]
