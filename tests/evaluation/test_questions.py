"""Every loader: the real files, and the published forms of those that are not here."""

import base64
import json
import pickle
import zlib

import pytest

from r1jax.checks import InputError
from r1jax.evaluation.benchmarks import BENCHMARKS
from r1jax.evaluation.questions import Choice, evenly, load, named, number_of, shuffled

ALL = Choice()


def one(tmp_path, name, *rows, how=ALL, file=None):
    """The benchmark of that name, of a folder that holds these rows as its file."""
    path = tmp_path / (file or f"{BENCHMARKS[name].names[-1]}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = named(name, str(tmp_path))
    return load(*found, how)


COUNTS = {
    "aime24": 30, "aime25": 30, "amc": 40, "math500": 500, "gsm8k": 1319, "svamp": 1000,
    "humaneval": 164, "mbpp": 500, "mbpp_sanitized": 257, "mmlu_stem": 3018,
}  # fmt: skip


def test_all_that_a_folder_holds(data_dir):
    found = {name: load(name, b, path, ALL) for name, b, path in named("", str(data_dir))}
    assert {name: len(asked.questions) for name, asked in found.items()} == COUNTS
    assert found["gsm8k"].path.endswith("test.jsonl")  # and not the training set
    assert found["mbpp"].left_out == {"not of the test split": 474}
    assert len({q.meta["subject"] for q in found["mmlu_stem"].questions}) == 18
    assert {q.meta["subject"] for q in found["math500"].questions} >= {"Precalculus", "Algebra"}


def test_without_a_folder_it_is_the_embedded_one():
    (found,) = named("", "")
    asked = load(*found, ALL)
    assert asked.name == "countdown" and len(asked.questions) == 262
    assert load(*found, Choice(limit=10)).questions == [
        asked.questions[i] for i in evenly(len(asked.questions), 10)
    ]
    assert load(*found, Choice(tier=3)).questions != asked.questions


GPQA = {
    "Record ID": "rec1",
    "Question": "Which?",
    "Correct Answer": "right",
    **{f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)},
    "Subdomain": "Optics",
}


def test_gpqa_is_shuffled_by_the_seed(tmp_path):
    orders = set()
    for seed in range(24):
        asked = one(tmp_path, "gpqa", GPQA, how=Choice(seed=seed))
        (question,) = asked.questions
        p = question.problem
        assert p.choices["ABCD".index(p.answer)] == "right" and p.source == "gpqa"
        assert f"{p.answer}. right" in p.prompt and p.prompt.startswith("Which?\n\nA. ")
        orders.add(p.choices)
        assert one(tmp_path, "gpqa", GPQA, how=Choice(seed=seed)) == asked
    assert len(orders) > 8 and question.meta == {"subject": "Optics"}
    kept = {one(tmp_path, "gpqa", GPQA, how=Choice(seed=s, shuffle="none")).questions[0].problem
            for s in range(4)}  # fmt: skip
    assert len(kept) == 1


def test_what_is_no_choice_is_not_shuffled(tmp_path):
    asked = one(tmp_path, "gsm8k", {"question": "1+1?", "answer": "#### 2"})
    problem = asked.questions[0].problem
    assert shuffled(problem, 3) is problem


def test_forms_of_mmlu(tmp_path):
    pro = {"question_id": 7, "question": "Q?", "options": list("abcdefghij"), "answer": "J",
           "answer_index": 9, "category": "law"}  # fmt: skip
    asked = one(tmp_path, "mmlu_pro", pro)
    (question,) = asked.questions
    assert question.problem.answer == "J" and question.problem.prompt.endswith("J. j")
    assert question.id == "mmlu_pro/7" and question.meta == {"subject": "law"}
    mmlu = {"question": "Q?", "choices": ["a", "b", "c", "d"], "answer": 1}
    redux = [
        mmlu | {"error_type": "ok"},
        mmlu | {"error_type": "wrong_groundtruth", "correct_answer": "c"},
        mmlu | {"error_type": "wrong_groundtruth", "correct_answer": "D"},
        mmlu | {"error_type": "wrong_groundtruth", "correct_answer": "0"},
        mmlu | {"error_type": "no_correct_answer", "correct_answer": None},
        mmlu | {"error_type": "wrong_groundtruth", "correct_answer": None},
    ]
    asked = one(tmp_path, "mmlu_redux", *redux)
    assert [q.problem.answer for q in asked.questions] == ["B", "C", "D", "A"]
    assert asked.left_out == {"no_correct_answer": 1, "wrong_groundtruth": 1}


def test_a_folder_of_subjects(tmp_path):
    """MMLU as first published, and C-Eval: a .csv a subject, the first without names."""
    folder = tmp_path / "mmlu" / "test"
    folder.mkdir(parents=True)
    (folder / "anatomy_test.csv").write_text("Q1,a,b,c,d,A\n")
    (folder / "virology_test.csv").write_text('"Q2, then",a,b,c,d,D\n')
    (found,) = named("mmlu", str(tmp_path))
    asked = load(*found, ALL)
    assert [q.problem.answer for q in asked.questions] == ["A", "D"]
    folder = tmp_path / "ceval" / "val"
    folder.mkdir(parents=True)
    (folder / "law_val.csv").write_text(
        "id,question,A,B,C,D,answer\n0,题一,甲,乙,丙,丁,C\n", "utf-8"
    )
    (found,) = named("ceval", str(tmp_path))
    (question,) = load(*found, ALL).questions
    assert question.problem.answer == "C" and question.problem.prompt.endswith("D. 丁")
    assert [name for name, *_ in named("", str(tmp_path))] == ["mmlu", "ceval"]


IFEVAL = {
    "key": 1000,
    "prompt": "Write a poem.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    # As on the Hub: every argument there is, null where it is not given.
    "kwargs": [
        {"num_words": None, "relation": None},
        {"num_words": 300, "relation": "at least", "keyword": None},
    ],
}


def test_ifeval(tmp_path):
    asked = one(tmp_path, "ifeval", IFEVAL)
    (question,) = asked.questions
    assert question.problem.kind == "instructions" and question.id == "ifeval/1000"
    assert json.loads(question.problem.answer) == [
        ["punctuation:no_comma", {}],
        ["length_constraints:number_words", {"num_words": 300, "relation": "at least"}],
    ]
    bad = IFEVAL | {"instruction_id_list": ["punctuation:no_comma", "keywords:rhyme"]}
    with pytest.raises(InputError, match=r"ifeval.jsonl:2: no instruction is called 'keywords:rhy"):
        one(tmp_path, "ifeval", IFEVAL, bad)


def livecodebench(name, date):
    cases = [{"input": "1 2", "output": "3", "testtype": "stdin"}]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()
    return {
        "question_id": name, "question_content": "Add.", "starter_code": "", "platform": "atcoder",
        "difficulty": "easy", "contest_date": date, "metadata": "{}",
        "public_test_cases": json.dumps(cases), "private_test_cases": packed,
    }  # fmt: skip


def test_livecodebench_by_its_window(tmp_path):
    dates = "2024-07-31T00:00:00", "2024-08-01T00:00:00", "2025-01-31T00:00:00", "2025-02-01"
    rows = [livecodebench(name, date) for name, date in zip("abcd", dates, strict=True)]
    asked = one(tmp_path, "livecodebench", *rows, how=Choice("2024-08-01", "2025-01-31"))
    assert [q.id for q in asked.questions] == ["livecodebench/b", "livecodebench/c"]
    assert asked.left_out == {"outside the dates": 2}
    assert asked.questions[0].problem.tests.stdio == (("1 2", "3"), ("1 2", "3"))
    with pytest.raises(InputError, match=r"no question of LiveCodeBench is left: \{'outside the"):
        one(tmp_path, "livecodebench", rows[0], how=Choice(since="2025-01-01"))


def test_codeforces(tmp_path):
    row = {"id": "1A", "description": "Add.", "rating": 800, "official_tests": [
        {"input": "1", "output": "2"}], "input_mode": "stdio"}  # fmt: skip
    asked = one(tmp_path, "codeforces", row, row | {"id": "1B", "generated_checker": "x"})
    (question,) = asked.questions
    assert question.meta == {"rating": 800.0}
    assert asked.left_out == {"it has a checker: its answers are not unique": 1}


def test_swebench(tmp_path):
    row = {"instance_id": "astropy__astropy-1", "repo": "astropy/astropy", "base_commit": "0",
           "problem_statement": "It breaks."}  # fmt: skip
    asked = one(tmp_path, "swebench", row, row | {"instance_id": "b", "text": "<issue>"})
    first, second = (q.problem for q in asked.questions)
    assert "astropy/astropy" in first.prompt and first.prompt.endswith("It breaks.")
    assert second.prompt == "<issue>" and first.id == "swebench/astropy__astropy-1"


def test_files_of_the_user(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "x", "kind": "math", "prompt": "1+1?", "answer": 2}\n')
    for told in (f"mine={file}", str(file)):
        (found,) = named(told, "")
        asked = load(*found, ALL)
        assert (asked.name, asked.questions[0].problem.answer) == ("mine", "2")
    file.write_text('{"problem": "1+1?", "answer": "002"}\n')
    (found,) = named(f"aime24={file}", "")
    assert load(*found, ALL).benchmark.k == 64


@pytest.mark.parametrize(
    ("benchmarks", "data", "message"),
    [
        ("math50", ".", "no benchmark is called 'math50': did you mean math500?"),
        ("chess", ".", "no benchmark is called 'chess'; there are countdown, aime24, "),
        ("math500", "", "--benchmarks=math500 needs --data=DIR, or math500=FILE"),
        ("math500", ".", r"--benchmarks=math500: . has no math500{.jsonl,.json,.csv,.parquet} or "),
        ("gsm8k=none.jsonl", "", "--benchmarks=gsm8k=none.jsonl: no such file: none.jsonl"),
        ("=a", "", "expected NAME=FILE"),
        ("countdown,countdown", "", "countdown twice"),
        ("", "nowhere", "--data=nowhere: no such folder"),
        ("", ".", "--data=.: holds none of countdown, aime24"),
    ],
)
def test_what_is_not_there(benchmarks, data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        named(benchmarks, data)
    assert message in str(error.value)


def test_broken_rows_and_ids(tmp_path):
    good = {"problem": "1+1?", "answer": "2", "unique_id": "a"}
    with pytest.raises(InputError, match=r'math_500.jsonl:2: missing field "solution"'):
        one(tmp_path, "math500", good, {"problem": "2?"})
    with pytest.raises(InputError, match="2 questions have the id 'math/a'"):
        one(tmp_path, "math500", good, good)
    skipped = one(tmp_path, "math500", good, {"problem": "2?"}, how=Choice(bad_rows="skip"))
    assert len(skipped.questions) == 1
    (tmp_path / "svamp").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "svamp" / name).write_text("{}\n")
    with pytest.raises(InputError, match=r"which of a\.jsonl, b\.jsonl is the test set"):
        named("svamp", str(tmp_path))


def test_a_question_draws_the_same_whatever_is_asked_beside_it():
    numbers = {number_of(b, i) for b in ("aime24", "aime25") for i in ("1", "2")}
    assert len(numbers) == 4 and all(0 <= n < 2**31 for n in numbers)
    assert number_of("aime24", "1") == 947378162
