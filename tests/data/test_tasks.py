"""What --data names: files of any form, pooled or mixed by weight."""

import dataclasses
import json
from collections import Counter

import pytest
import tiny_run

from r1jax.config import InputError
from r1jax.data.pipeline import stream
from r1jax.data.tasks import make_task, parse_data


@pytest.mark.parametrize(
    "data, want",
    [
        ("a.jsonl", [("", "a.jsonl", None)]),
        ("gsm8k=a.jsonl,b.csv", [("gsm8k", "a.jsonl", None), ("", "b.csv", None)]),
        ("a.jsonl:2,math=b/c:0.5", [("", "a.jsonl", 2.0), ("math", "b/c", 0.5)]),
        ("x=1/a.jsonl", [("", "x=1/a.jsonl", None)]),
        ("math=x=1/a.jsonl", [("math", "x=1/a.jsonl", None)]),
    ],
)
def test_parse_data(data, want):
    assert parse_data(data) == want


@pytest.mark.parametrize(
    "data, message",
    [
        ("a,b:1", "give all files a weight, FILE:WEIGHT, or none"),
        ("a:x", "'x' is not a weight"),
        ("a:0", "the weight must be positive"),
        ("a:inf", "the weight must be positive"),
        ("a:nan", "the weight must be positive"),
        ("a,,b", "a file has no name"),
        ("gsm8k=", "a file has no name"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(InputError, match=message):
        parse_data(data)


@pytest.fixture
def files(data_dir, tmp_path):
    """Flags for 40 countdown problems and 20 of GSM8K, and a tokenizer for both."""
    rows = [{"numbers": [a, b], "target": a + b} for a in range(1, 9) for b in range(1, 6)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (data_dir / "gsm8k" / "train.jsonl").open() as file:
        (tmp_path / "b.jsonl").write_text("".join(next(file) for _ in range(20)) + "oops\n")
    tokenizer = data_dir / "tokenizers" / "deepseek_r1" / "tokenizer.json"
    return tmp_path / "a.jsonl", tmp_path / "b.jsonl", str(tokenizer)


def test_files_mixed_by_weight(files):
    a, b, tokenizer = files
    cfg = dataclasses.replace(
        tiny_run.CONFIG, data=f"{a}:1,gsm8k={b}:3", bad_rows="skip", tokenizer=tokenizer
    )
    task = make_task(cfg)
    assert len(task.train) + len(task.heldout) == 60 and len(task.heldout) == 18
    assert not {p.id for p in task.train} & {p.id for p in task.heldout}
    questions = stream(task.mixture, cfg.seed)
    drawn = Counter(questions[i].source for i in range(80))
    assert drawn == {"countdown": 20, "gsm8k": 60}
    pooled = make_task(dataclasses.replace(cfg, data=f"{a},gsm8k={b}"))
    assert (pooled.train, pooled.heldout) == (task.train, task.heldout)
    assert len(pooled.mixture) == 1


def test_a_malformed_row_of_the_data_stops_the_run(files):
    a, b, tokenizer = files
    cfg = dataclasses.replace(tiny_run.CONFIG, data=f"{a},gsm8k={b}", tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"b\.jsonl:21: invalid JSON"):
        make_task(cfg)


def test_embedded_words_read_only_countdown(files):
    _, b, _ = files
    cfg = dataclasses.replace(tiny_run.CONFIG, data=f"gsm8k={b}", bad_rows="skip")
    with pytest.raises(InputError, match="problem gsm8k/b/1: the embedded tokenizer knows four"):
        make_task(cfg)
