import json
import math
import subprocess
import sys

import pytest

from experiments import grade
from r1jax.rewards import checks
from r1jax.rewards.format import RULES

DATA = [
    {"id": "c1", "kind": "countdown", "prompt": "make 8", "answer": "8", "numbers": [3, 5]},
    {"id": "m1", "kind": "math", "prompt": "half of 1?", "answer": r"\frac{1}{2}"},
    {"id": 7, "kind": "math", "prompt": "how many?", "answer": "72"},
    {"id": "w1", "kind": "words", "prompt": "a story", "answer": "dog fire"},
]
COMPLETIONS = [
    {"id": "m1", "completion": "<think> so it is </think> <answer> 0.5 </answer>"},
    {"id": "m1", "completion": r"\boxed{2}", "correct": True},
    {"id": 7, "completion": "72", "outcome": "correct"},
    {"id": "m1", "completion": "1/2", "correct": False},
    {"id": "7", "completion": "<think> hmm", "correct": False},
    {"id": "w1", "completion": "The dog ran."},
]
OUTCOMES = ["correct", "incorrect", "correct", "correct", "unparseable", "incorrect"]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "data.jsonl", DATA)
    write(tmp_path / "completions.jsonl", COMPLETIONS)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def flags(folder, *more):
    return [f"--data={folder}/data.jsonl", f"--completions={folder}/completions.jsonl", *more]


def test_grades_of_a_file(folder, capfd):
    grade.main(flags(folder, f"--out={folder}/grades.jsonl"))
    rows = [json.loads(line) for line in (folder / "grades.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(c["id"]) for c in COMPLETIONS]
    assert [row["outcome"] for row in rows] == OUTCOMES
    assert [row["correct"] for row in rows] == [outcome == "correct" for outcome in OUTCOMES]
    assert {tuple(row) for row in rows} == {("id", "outcome", "correct", "components", "seconds")}
    names = ["accuracy", "format", "partial", "language", "repetition"]
    assert {tuple(row["components"]) for row in rows} == {tuple(names)}
    first, *_, last = (row["components"] for row in rows)
    assert first == dict(zip(names, [1, 1, 1, 1, 0], strict=True))
    assert (last["accuracy"], last["partial"], last["format"]) == (0, 0.5, 1)
    assert all(math.isfinite(row["seconds"]) and row["seconds"] >= 0 for row in rows)
    assert rows[3]["seconds"] > 0


def test_summary(folder, capfd):
    grade.main(flags(folder))
    said = capfd.readouterr().out
    table = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.strip()}
    heads = ["problems", "completions", "accuracy", *OUTCOMES[:2], "unparseable", "failed"]
    assert table["source"] == heads
    assert table["math"] == ["2", "5", "60.0%", "3", "1", "1", "0"]
    assert table["words"] == ["1", "1", "0.0%", "0", "1", "0", "0"]
    assert table["all"] == ["3", "6", "50.0%", "3", "2", "1", "0"]
    assert "completions that disagree: 2 of 2 problems with several" in said
    assert "  m1: 2 correct, 1 incorrect\n" in said
    assert "  7: 1 correct, 1 unparseable\n" in said
    assert "lines that say otherwise: 2 of 4 that say anything" in said
    path = f"{folder}/completions.jsonl"
    assert f"{path}:2: m1: the file says correct, graded incorrect: '2' for '\\\\frac{{1}}" in said
    assert f"{path}:4: m1: the file says not correct, graded correct: '1/2' for" in said
    assert f"{path}:5" not in said and f"{path}:3" not in said
    assert "1 of 4 problems have no completion" in said
    assert f"graded in {said.rpartition('graded in ')[2]}" in said and "2 workers" in said


def test_explain(folder, capfd):
    grade.main(flags(folder, "--explain=m1"))
    said = capfd.readouterr().out
    assert said.startswith(
        "problem m1, of kind math:\n  half of 1?\n  reference     '\\\\frac{1}{2}'"
    )
    assert said.count("completion at line") == 3 and "7" not in said.partition("seconds")[0]
    for line, text in ((1, "<think> so it is </think>"), (2, r"\boxed{2}"), (4, "1/2")):
        assert f"completion at line {line}, " in said and f"  | {text}" in said
    rule = f"  read by       whole text: {RULES['whole text']}\n"
    checked = "  checked by    formulas\n  verdict       correct\n"
    assert f"  answer read   '0.5'\n{rule}{checked}" in said
    assert f"  read by       box: {RULES['box']}\n" in said
    assert "  components    accuracy 1, format 1, partial 1, language 1, repetition 0\n" in said
    assert "  verdict       incorrect\n" in said and "accuracy by" not in said
    grade.main(flags(folder, "--explain=7"))
    said = capfd.readouterr().out
    assert "answer read   none found\n  read by       no rule\n  checked by    nothing: th" in said
    assert said.count("checked by    exact numbers") == 1


def test_every_form_of_problems_and_cut_replies(folder, capfd):
    """[TASK=]FILE, as training reads it; what generate says was cut has no answer, as there."""
    (folder / "gsm8k.jsonl").write_text('{"question": "2+2?", "answer": "So.\\n#### 4"}\n')
    row = {"id": "gsm8k/1", "completion": r"\boxed{4}"}
    write(folder / "completions.jsonl", [row | {"finish_reason": r} for r in ("stop", "length")])
    given = f"--completions={folder}/completions.jsonl"
    for data in (f"--data=gsm8k={folder}/gsm8k.jsonl", f"--data={folder}/gsm8k.jsonl"):
        grade.main([data, *(() if "=gsm8k=" in data else ("--task=gsm8k",)), given])
        said = capfd.readouterr().out
        assert [line.split()[1:] for line in said.splitlines() if line.startswith("gsm8k ")] == [
            ["1", "2", "50.0%", "1", "0", "1", "0"]
        ]
    grade.main([f"--data=gsm8k={folder}/gsm8k.jsonl", given, "--explain=gsm8k/1"])
    assert "read by       no rule: the reply was cut\n" in capfd.readouterr().out
    with pytest.raises(grade.InputError, match=r"no task is called .gsm9k. .did you mean gsm8k"):
        grade.main([f"--data=gsm9k={folder}/gsm8k.jsonl", given])


def test_the_format_of_a_chat_model(folder, capfd):
    """It has no <answer> tags: as the lines say, as generate's do, or as is told."""
    chat = {"id": "7", "completion": "<think>\nso\n</think>\n\n72"}
    said, r1 = chat | {"conversation": "chat"}, chat | {"conversation": "r1_zero"}

    def formats(rows, *more):
        write(folder / "completions.jsonl", rows)
        grade.main(flags(folder, f"--out={folder}/grades.jsonl", *more))
        lines = (folder / "grades.jsonl").read_text().splitlines()
        return [json.loads(line)["components"]["format"] for line in lines]

    assert formats([said]) == formats([chat, r1], "--conversation=chat")[:1] == [1]
    assert formats([chat]) == formats([r1]) == formats([said], "--conversation=r1_zero") == [0]
    with pytest.raises(grade.InputError, match=r"completions.jsonl:2: of another conversation tha"):
        formats([said, chat])
    with pytest.raises(grade.InputError, match=r'2: field "conversation" must be of type str'):
        formats([said, chat | {"conversation": 1}])


def test_graders_that_fail_are_reported(folder, capfd, monkeypatch):
    def broken(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(checks, "compare_numbers", broken)
    grade.main(flags(folder))
    assert "failed 4 times: \"KeyError: 'a bug'\"" in capfd.readouterr().out
    write(folder / "completions.jsonl", COMPLETIONS[:3])
    with pytest.raises(grade.InputError, match=r"every grader failed: KeyError: 'a bug'"):
        grade.main(flags(folder, f"--out={folder}/grades.jsonl"))
    assert '"failed"' in (folder / "grades.jsonl").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--workers=0"], "--workers must be positive, got 0"),
        (["--workers=many"], "--workers"),
        (["--timeout=-1"], "--timeout must be positive, got -1"),
        (["--language=xx"], "language 'xx' is not known"),
        (["--explain=zz"], "--explain=zz: no line of"),
        (["--explain=m1", "--out=x"], "leave out --out"),
        (["--out=/tmp"], "--out=/tmp: a folder, not a file"),
        (["--out=/no/such/folder/x"], "--out=/no/such/folder/x: no such folder"),
        (["--data="], "--data=FILE is needed"),
        (["--completions=/no/file"], "/no/file: No such file or directory"),
        (["--what=1"], "Unrecognized options: --what=1"),
    ],
)
def test_bad_flags(folder, more, message):
    with pytest.raises(grade.InputError, match=message.replace("[", r"\[")):
        grade.main(flags(folder, *more))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": "72"}, 'missing field "id"'),
        ({"id": None, "completion": "72"}, 'field "id" must be a string or an integer'),
        ({"id": "7"}, 'missing field "completion"'),
        ({"id": "7", "completion": 72}, 'field "completion" must be of type str, got int'),
        ({"id": "7", "completion": "", "correct": 1}, 'field "correct" must be of type bool'),
        ({"id": "9", "completion": "72"}, "no problem in .* has id '9'"),
        ([1], "expected a JSON object, got list"),
    ],
)
def test_bad_completions_are_named_by_line(folder, row, message):
    write(folder / "completions.jsonl", [*COMPLETIONS[:2], row])
    with pytest.raises(grade.InputError, match=f"completions.jsonl:3: {message}"):
        grade.main(flags(folder))


def test_an_id_names_one_problem(folder):
    write(folder / "data.jsonl", [*DATA, DATA[2]])
    with pytest.raises(grade.InputError, match=r"data\.jsonl: 2 problems have the id '7'"):
        grade.main(flags(folder))


@pytest.mark.slow
def test_as_a_command(folder):
    command = [sys.executable, "-m", "experiments.grade", *flags(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "completions that disagree: 2 of 2" in done.stdout and not done.stderr
    write(folder / "completions.jsonl", [{"id": "9", "completion": ""}])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "has id '9'" in done.stderr
