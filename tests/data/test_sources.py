import pytest

from r1jax.config import InputError
from r1jax.data.sources import read_countdown, read_gsm8k


def write(tmp_path, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_gsm8k(tmp_path):
    path = write(tmp_path, '{"question": "Q\u2028?", "answer": "So 1.\\n#### 1,234"}', "", "")
    (problem,) = read_gsm8k(path)
    assert (problem.kind, problem.prompt, problem.answer) == ("math", "Q\u2028?", "1234")
    assert (problem.id, problem.source) == ("gsm8k/rows/1", "gsm8k")


def test_all_of_gsm8k(data_dir):
    train = read_gsm8k(data_dir / "gsm8k" / "train.jsonl")
    test = read_gsm8k(data_dir / "gsm8k" / "test.jsonl")
    assert (len(train), len(test)) == (7_473, 1_319)
    assert train[0].answer == "72" and train[0].prompt.startswith("Natalia sold clips")
    assert len({problem.id for problem in train + test}) == 7_473 + 1_319


def test_countdown(tmp_path):
    path = write(
        tmp_path,
        '{"numbers": [3, 5, 7], "target": 22}',
        '{"id": 9, "numbers": [1, 1], "target": 0}',
    )
    first, second = read_countdown(path)
    assert (first.kind, first.numbers, first.answer) == ("countdown", (3, 5, 7), "22")
    assert first.prompt.startswith("Using the numbers [3, 5, 7], make 22.")
    assert (first.id, second.id) == ("countdown/rows/1", "countdown/9")


GOOD = '{"numbers": [3], "target": 3}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "invalid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"target": 3}', 'missing field "numbers"'),
        ('{"numbers": [3]}', 'missing field "target"'),
        ('{"numbers": "3", "target": 3}', '"numbers" must be of type list, got str'),
        ('{"numbers": [3], "target": true}', '"target" must be of type int, got bool'),
        ('{"numbers": [3], "target": 3.0}', '"target" must be of type int, got float'),
        ('{"numbers": [3, true], "target": 3}', '"numbers" must be a non-empty list of non-neg'),
        ('{"numbers": [3, 1.5], "target": 3}', '"numbers" must be'),
        ('{"numbers": [-3], "target": 3}', '"numbers" must be'),
        ('{"numbers": [], "target": 3}', '"numbers" must be'),
        ('{"numbers": [3], "target": 3, "id": [1]}', '"id" must be'),
        (f'{{"numbers": [3], "target": {"9" * 5000}}}', "invalid JSON"),
        ("[" * 200_000, "invalid JSON"),
    ],
)
def test_bad_countdown_rows_name_file_and_line(tmp_path, line, message):
    with pytest.raises(InputError, match=message) as error:
        read_countdown(write(tmp_path, GOOD, "", line))
    assert str(error.value).startswith(f"{tmp_path / 'rows.jsonl'}:3: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Q"}', 'missing field "answer"'),
        ('{"question": 1, "answer": "#### 1"}', '"question" must be of type str, got int'),
        ('{"question": " ", "answer": "#### 1"}', '"question" is empty'),
        ('{"question": "Q", "answer": "1"}', '"answer" must end in'),
        ('{"question": "Q", "answer": "#### "}', '"answer" must end in'),
        ('{"question": "Q", "answer": "#### one"}', '"answer" must end in'),
    ],
)
def test_bad_gsm8k_rows(tmp_path, line, message):
    with pytest.raises(InputError, match=f"rows.jsonl:1: .*{message}"):
        read_gsm8k(write(tmp_path, line))


@pytest.mark.parametrize("read", [read_gsm8k, read_countdown])
def test_bad_files(tmp_path, read):
    with pytest.raises(InputError, match=r"absent\.jsonl: No such file"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match=r"rows\.jsonl: no rows"):
        read(write(tmp_path, ""))
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"rows\.jsonl:1: not UTF-8"):
        read(tmp_path / "rows.jsonl")
