"""`python -m experiments.filter_data`: what is chosen, what is said, and what is refused."""

import json

import pytest

from experiments import filter_data
from r1jax.checks import InputError
from r1jax.data.sources import READERS


@pytest.fixture
def folder(tmp_path):
    """Six problems; the first is of the evaluation set, b is always solved, c never."""
    words = " ".join(f"word{i}" for i in range(12))
    problems = [("a", f"So {words}?"), *((name, f"{name}?") for name in "bcdef")]
    rows = [{"id": i, "kind": "math", "prompt": p, "answer": "1"} for i, p in problems]
    evaluation = [
        {"question": f"{words}.", "answer": "#### 1"},
        {"question": "Q", "answer": "#### 1"},
    ]
    passed = {"a": "1100", "b": "1111", "c": "0000", "d": "0100", "e": "000", "other": "1"}
    grades = [
        {"id": i, "outcome": "correct" if mark == "1" else "incorrect"}
        for i, marks in passed.items()
        for mark in marks
    ]
    for name, some in (("problems", rows), ("test", evaluation), ("grades", grades)):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return tmp_path


def run(folder, *flags):
    filter_data.main(
        [f"--data={folder}/problems.jsonl", f"--out={folder}/out.jsonl", *map(str, flags)]
    )


def test_both_filters(folder, capsys):
    run(
        folder,
        f"--against=gsm8k={folder}/test.jsonl",
        f"--grades={folder}/grades.jsonl",
        f"--dropped={folder}/dropped.jsonl",
    )
    assert [p.id for p in READERS["problems"](folder / "out.jsonl")] == ["d", "e", "f"]
    dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    shared = " ".join(f"word{i}" for i in range(10))
    assert {row["id"]: row["reason"] for row in dropped} == {
        "a": f"shares with gsm8k/test/1: {shared}",
        "b": "always solved: 4 of 4",
        "c": "never solved: 0 of 4",
    }
    said = capsys.readouterr().out
    assert "dropped 1 of 6 problems, which share 10 words" in said
    assert "1 evaluation problems have less than 3 words" in said
    assert "dropped 1 problems that are never solved\n  c: never solved: 0 of 4" in said
    assert "kept 2 with less than 4 graded replies" in said
    assert "2 graded problems are not among these" in said
    assert said.endswith("out.jsonl: 3 of 6 problems\n")


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--against=FILE or --grades=FILE is needed"),
        (["--grades={}/grades.jsonl", "--out="], "--out=FILE is needed"),
        (["--grades={}/absent.jsonl"], "absent.jsonl: No such file"),
        (["--grades={}/grades.jsonl", "--out={}/problems.jsonl"], "this file is read"),
        (["--grades={}/grades.jsonl", "--out={}/./grades.jsonl"], "this file is read"),
        (["--grades={}/grades.jsonl", "--out={}/absent/o"], "no such folder"),
        (["--grades={}/grades.jsonl", "--dropped={}"], "--dropped=.*: a folder, not a file"),
        (["--grades={}/grades.jsonl", "--dropped={}/out.jsonl"], "are the same file"),
        (["--grades={}/grades.jsonl", "--data={}/problems.jsonl:2"], "files are not weighted"),
        (
            ["--grades={}/grades.jsonl", "--data={0}/problems.jsonl,{0}/problems.jsonl"],
            "2 problems",
        ),
        (["--grades={}/grades.jsonl", "--lowest=0.9", "--highest=0.99"], "no problem is left"),
    ],
)
def test_refusals_write_nothing(folder, flags, message):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    if "no problem" in message:  # neither d, nor those of which it cannot be told
        flags = [*flags, "--min-samples=1"]
        lines = (folder / "problems.jsonl").read_text().splitlines(True)
        (folder / "problems.jsonl").write_text("".join(lines[:4]))
        before[folder / "problems.jsonl"] = (folder / "problems.jsonl").read_bytes()
    with pytest.raises(InputError, match=message):
        run(folder, *(flag.format(folder) for flag in flags))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "name, file",
    [
        ("gsm8k", "gsm8k/test.jsonl"),
        ("humaneval", "humaneval/HumanEval.jsonl.gz"),
        ("mbpp", "mbpp/sanitized-mbpp.json"),
        ("mmlu", "mmlu_stem/test.jsonl"),
        ("math", "math500/test.jsonl"),
    ],
)
def test_what_is_written_is_what_was_read(data_dir, tmp_path, name, file):
    problems = READERS[name](data_dir / file)
    filter_data.write_problems(problems, tmp_path / "out.jsonl")
    assert READERS["problems"](tmp_path / "out.jsonl") == problems
