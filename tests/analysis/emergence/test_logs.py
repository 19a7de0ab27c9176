import json

import pytest
from hand_made import CORRECTS, GUESS_WRONG, PROMPT, write_jsonl

from r1jax.analysis.emergence.logs import find_runs, format_of, read_log
from r1jax.checks import InputError

VERL = {"input": "user\n2+2?", "output": "5\nwait, \\boxed{4}", "gts": "4", "score": 1.0}
PLAIN = {"prompt": "2+2?", "reply": "4", "correct": True}


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)


def test_verl_rollouts_are_counted_from_the_policy_before_the_first_update(tmp_path):
    for step in (1, 2, 10):
        write_jsonl(tmp_path / f"{step}.jsonl", [VERL | {"step": step}] * 2)
    log = read_log(tmp_path)
    assert format_of(tmp_path) == "verl"
    assert [r.step for r in log.replies] == [0, 0, 1, 1, 9, 9] and log.offset == 1
    assert log.replies[0].correct and log.replies[0].references == ("4",)
    # Validation at step 0 is already counted so; DAPO's manager scores 1 and -1, and logs acc.
    write_jsonl(tmp_path / "0.jsonl", [VERL | {"step": 0, "score": -1.0, "acc": False}])
    log = read_log(tmp_path, "verl")
    assert [r.step for r in log.replies][:3] == [0, 1, 1] and log.offset == 0
    assert log.replies[0].correct is False


def test_trl_completions_are_read_with_the_reward_that_is_of_accuracy(tmp_path):
    row = {"prompt": "2+2?", "completion": "\\boxed{4}", "advantage": 0.5}
    rows = [
        row | {"step": 1, "accuracy_reward": 1.0, "format_reward": 0.0},
        row | {"step": 1, "accuracy_reward": None, "format_reward": 1.0},
    ]
    write_parquet(tmp_path / "completions" / "completions_00001.parquet", rows)
    write_parquet(
        tmp_path / "completions" / "completions_00005.parquet", [row | rows[0] | {"step": 5}]
    )
    log = read_log(tmp_path)
    assert format_of(tmp_path) == "trl"
    assert [(r.step, r.correct) for r in log.replies] == [(0, True), (0, None), (4, True)]
    assert {r.tokens for r in log.replies} == {0}


def test_a_run_is_read_from_all_replies_where_it_kept_them(tmp_path):
    row = {
        "step": 0, "split": "train", "problem_id": "a", "sample": 0, "prompt": PROMPT,
        "text": CORRECTS, "tokens": 30, "truncated": False, "outcome": "correct", "reward": 2.0,
        "components": {"accuracy": 1.0}, "reflective_terms": 4,
    }  # fmt: skip
    run = tmp_path / "a" / "b"
    write_jsonl(run / "metrics.jsonl", [{"step": 0, "reflection/fraction": 0.5}])
    write_jsonl(run / "samples.jsonl", [row])
    (run / "config.json").write_text(json.dumps({"seed": 3}))
    log = read_log(run)
    assert not log.whole and log.config == {"seed": 3} and log.replies[0].correct
    write_jsonl(run / "replies.jsonl", [row, row | {"text": GUESS_WRONG, "outcome": "failed"}])
    log = read_log(run)
    assert log.whole and [r.correct for r in log.replies] == [True, None]
    assert find_runs(run) == [run] and find_runs(tmp_path) == [run]


@pytest.mark.parametrize(
    "rows, says",
    [
        ([{"prompt": "a", "reply": "b", "step": 0}], 'r.jsonl:1: missing field "correct"'),
        ([PLAIN | {"step": 0}, PLAIN], 'r.jsonl:2: missing field "step"'),
        (
            [{"reply": "b", "correct": 1, "step": 0}],
            'missing field "prompt"; it has reply, correct',
        ),
        ([PLAIN | {"step": 1.5}], 'field "step" must be a whole number from 0 on, got 1.5'),
        (
            [PLAIN | {"step": 0, "correct": "yes"}],
            'field "correct" must be true, false or a number',
        ),
        ([PLAIN | {"step": 0, "reply": 3}], 'field "reply" must be text, got int'),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, rows, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        read_log(write_jsonl(tmp_path / "r.jsonl", rows))


def test_rewards_of_which_none_says_what_is_right_are_refused(tmp_path):
    row = {"step": 1, "prompt": "a", "completion": "b", "len": 1.0, "form": 0.0, "advantage": 0.1}
    path = write_jsonl(tmp_path / "c.jsonl", [row])
    with pytest.raises(InputError, match="none of len, form has"):
        read_log(path, "trl")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        read_log(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"neither a run's folder nor one of \.jsonl"):
        read_log(tmp_path)
