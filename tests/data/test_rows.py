"""Rows of every form of file are the same rows; a bad one is named by file and line."""

import csv
import gzip
import json

import pytest

from r1jax.checks import InputError
from r1jax.data.rows import Place, read_rows

ROWS = [
    {"text": "a \u2028 line\nbreak, \"quotes\" and 'more'", "n": "1"},
    {"text": "ünïcödé 数学 🙂", "n": "2"},
    {"text": "", "n": "3"},
]
LINES = "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(ROWS))


def as_csv(path):
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["text", "n"])
        writer.writeheader()
        writer.writerows(ROWS)


def as_parquet(path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)


FORMS = {
    "rows.jsonl": lambda path: path.write_text(LINES, "utf-8"),
    "rows.txt": lambda path: path.write_text("\ufeff" + LINES.replace("\n", "\r\n\n"), "utf-8"),
    "lines.json": lambda path: path.write_text(LINES, "utf-8"),
    "array.json": lambda path: path.write_text(json.dumps(ROWS, indent=1), "utf-8"),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode(), mtime=0)),
    "array.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "rows.csv": as_csv,
    "rows.parquet": as_parquet,
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form(tmp_path, name):
    FORMS[name](tmp_path / name)
    rows = read_rows(tmp_path / name, lambda row, place: (row, place.name))
    assert rows == [(row, name.split(".")[0]) for row in ROWS]


def test_a_folder_is_its_files_in_order(tmp_path):
    for name in ("b/2.json", "b/1.json", "a/1.json", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"name": name}))
    places = read_rows(tmp_path, lambda row, place: (row["name"], place))
    assert places == [
        (name, Place(tmp_path / name, name.removesuffix(".json"), 1))
        for name in ("a/1.json", "b/1.json", "b/2.json")
    ]


def positive(row, place):
    if row["n"] < 0:
        raise InputError("negative")
    return row["n"]


MIXED = """{"n": 1}

{"n": -2}
[3]
{"n": 4}
{"n": 5
\xff
{"n": 6, "text": "\\ud83d"}
{"n": 7}
"""


def test_bad_rows_are_said_and_counted_and_the_run_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(MIXED.encode("latin-1"))
    said = []
    assert read_rows(path, positive, "skip", said.append) == [1, 4, 7]
    assert [line.removeprefix(f"skipped {path}:")[:20] for line in said[:-1]] == [
        "3: negative",
        "4: expected a JSON o",
        "6: invalid JSON: Exp",
        "7: not UTF-8 text",
        "8: holds half of a c",
    ]
    assert said[-1] == f"{path}: skipped 5 of 8 rows"


def test_or_the_run_stops_at_the_first(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(MIXED.encode("latin-1"))
    with pytest.raises(InputError) as error:
        read_rows(path, positive)
    assert str(error.value) == f"{path}:3: negative"


def test_lines_of_csv_are_those_that_rows_begin_in(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n"one\ntwo",2\n3\n4,5,6\n7,8\n')
    said = []
    rows = read_rows(path, lambda row, place: (row["a"], place.number), "skip", said.append)
    assert rows == [("one\ntwo", 2), ("7", 6)]
    assert said[0] == f"skipped {path}:4: 1 fields, 2 have names"
    assert said[1] == f"skipped {path}:5: 3 fields, 2 have names"


def test_columns_of_a_csv_without_a_line_of_names(tmp_path):
    (tmp_path / "rows.csv").write_text("1,2\n3,4\n")
    rows = read_rows(tmp_path / "rows.csv", lambda row, place: row, columns=("a", "b"))
    assert rows == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


PACKED = gzip.compress(LINES.encode(), mtime=0)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("rows.jsonl", b"", "rows.jsonl: no rows"),
        ("rows.jsonl.gz", PACKED[:-9], "rows.jsonl.gz: Compressed file ended before"),
        ("rows.jsonl.gz", LINES.encode(), "rows.jsonl.gz: Not a gzipped file"),
        ("rows.jsonl.gz", PACKED[:40] + b"?" * 20 + PACKED[60:], "rows.jsonl.gz: Error -3"),
        ("rows.json", b'[{"n": 1},\n{"n": }]', "rows.json: invalid JSON: .* line 2"),
        ("rows.json", b'{"n": \n}\n{"n": }', "rows.json:1: invalid JSON|no rows that are good"),
        ("rows.json", b"[" * 200_000, "rows.json: invalid JSON"),
        ("rows.csv", b"a,b\n\xff,1\n", "rows.csv: not UTF-8 text"),
        ("rows.csv", b"a,b\n", "rows.csv: no rows"),
        ("rows.csv", b'a\n"' + b"x" * 200_000, "rows.csv: field larger than"),
        ("rows.parquet", b"PAR1", "rows.parquet: (not readable as parquet|.* need pyarrow)"),
    ],
)
@pytest.mark.parametrize("bad", ["stop", "skip"])
def test_files_that_cannot_be_read(tmp_path, name, content, message, bad):
    """Half a file is no file: what was lost cannot be skipped."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / name, lambda row, place: row, bad, lambda line: None)


def test_no_good_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text("1\n2\n")
    with pytest.raises(InputError, match=r"rows\.jsonl: no rows that are good"):
        read_rows(tmp_path / "rows.jsonl", lambda row, place: row, "skip", lambda line: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no rows"):
        read_rows(tmp_path / "empty", lambda row, place: row)
    with pytest.raises(InputError, match="hf download --repo-type dataset openai/gsm8k"):
        read_rows("openai/gsm8k", lambda row, place: row)
    with pytest.raises(InputError, match=r"absent: No such file or directory$"):
        read_rows(tmp_path / "absent", lambda row, place: row)
