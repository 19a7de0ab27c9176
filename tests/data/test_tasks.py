"""What --data names: files of any form, pooled or mixed by weight."""

import dataclasses
import json
from collections import Counter

import pytest
import tiny_run

from r1jax.checks import InputError
from r1jax.config import CorpusConfig, RunConfig
from r1jax.data.pipeline import stream
from r1jax.data.problems import Problem
from r1jax.data.tasks import fit_prompts, make_task, parse_data
from r1jax.presets import r1_zero_tiny


@pytest.mark.parametrize(
    "data, want",
    [
        ("a.jsonl", [("", "a.jsonl", None)]),
        ("gsm8k=a.jsonl,b.csv", [("gsm8k", "a.jsonl", None), ("", "b.csv", None)]),
        ("a.jsonl:2,math=b/c:0.5", [("", "a.jsonl", 2.0), ("math", "b/c", 0.5)]),
        ("./x=1/a.jsonl", [("", "./x=1/a.jsonl", None)]),
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
        ("gsn8k=a.jsonl", r"no task is called 'gsn8k' \(did you mean gsm8k\?\), and there is no"),
        ("gsm8k=a,xyzzy=b.jsonl", r"no task is called 'xyzzy' \(there are problems, countdown"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(InputError, match=message):
        parse_data(data)


def test_a_file_that_exists_may_have_the_sign_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=a.jsonl").touch()
    assert parse_data("x=a.jsonl:2") == [("", "x=a.jsonl", 2.0)]


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
    with pytest.raises(
        InputError, match="problem gsm8k/b/1 is of the kind math: the embedded model is asked"
    ):
        make_task(cfg)


def test_shares_that_leave_nothing(files, tmp_path):
    """One line each: no problem to train on, none of one file, none held out."""
    a, _, tokenizer = files

    def error(data, **fields):
        with pytest.raises(InputError) as raised:
            make_task(dataclasses.replace(tiny_run.CONFIG, data=data, **fields))
        return str(raised.value)

    one = tmp_path / "one.jsonl"
    one.write_text('{"numbers": [1, 2, 3, 4], "target": 10}\n')
    assert "one.jsonl: there is one problem" in error(str(one))
    two = tmp_path / "two.jsonl"
    two.write_text(one.read_text() + '{"numbers": [1, 2, 3, 5], "target": 11}\n')
    given = {"heldout_share": 0.99}
    assert "leaves 0 problems to train on and 2 held out" in error(str(two), **given)
    mixed = error(f"{two}:1,{a}:1", tokenizer=tokenizer, heldout_share=0.9)
    assert f"of {two} all are held out" in mixed
    assert "0 held out" in error("", heldout_share=1e-6)


def with_prompts(*lengths):
    task = make_task(dataclasses.replace(tiny_run.CONFIG))
    problems = [Problem(str(n), "countdown", f"use {' '.join('1' * n)} to make 1") for n in lengths]
    return dataclasses.replace(
        task, mixture=[(problems[:2], 1.0), (problems[2:4], 2.0)], heldout=problems[4:]
    )


def test_long_prompts_are_counted_and_the_longest_named():
    task = with_prompts(1, 2, 8, 3, 1, 9)
    limit = len(task.prompt(task.train[-1]))
    assert fit_prompts(task, limit + 6, "stop") == (task, "")
    for policy in ("stop", "drop"):
        fits = fit_prompts(task, limit + 6, policy)
        assert fits[0] is task
    said = rf"2 of 6 prompts have more than --sampling.max-prompt={limit} tokens; the longest, "
    longest = rf"of problem 9, has {limit + 6}"
    with pytest.raises(InputError, match=f"{said}{longest}: --sampling.max-prompt={limit + 6} "):
        fit_prompts(task, limit, "stop")
    fitting, message = fit_prompts(task, limit, "drop")
    assert message == f"{said}{longest}: left out"
    assert [[p.id for p in some] for some, _ in fitting.mixture] == [["1", "2"], ["3"]]
    assert [p.id for p in fitting.heldout] == ["1"]


@pytest.mark.parametrize("lengths", [(1, 2, 8, 9, 1), (1, 2, 3, 4, 9)])
def test_long_prompts_leave_something_of_every_source_and_held_out(lengths):
    task = with_prompts(*lengths)
    with pytest.raises(InputError, match="a file has none left to train on, or none is held out"):
        fit_prompts(task, 10, "drop")


def test_tiers_are_asked_and_held_out_equally_often():
    cfg = dataclasses.replace(r1_zero_tiny(), tiers="3,5,6")
    task = make_task(cfg)
    assert task.sources == ["3_numbers", "5_numbers", "6_numbers"]
    drawn = [len(stream(task.mixture, 0)[i].numbers) for i in range(300)]
    assert Counter(drawn) == {3: 100, 5: 100, 6: 100}
    held = Counter(len(p.numbers) for p in task.heldout)
    assert set(held) == {3, 5, 6} and len(set(held.values())) == 1
    assert len({p.id for p in task.heldout}) == len(task.heldout)
    longest = max(len(task.prompt(p)) for p in (*task.train, *task.heldout))
    assert longest <= cfg.sampling.max_prompt
    assert make_task(r1_zero_tiny()).sources == []


@pytest.mark.parametrize("tiers", ["", "2", "7", "4,4", "three", "3;4"])
def test_bad_tiers_are_one_line(tiers):
    for kind in (RunConfig.__name__, CorpusConfig.__name__):
        with pytest.raises(InputError, match=rf"{kind}.tiers must name tiers from 3, 4, 5, 6 by"):
            if kind == "RunConfig":
                dataclasses.replace(r1_zero_tiny(), tiers=tiers)
            else:
                CorpusConfig(tiers=tiers)
