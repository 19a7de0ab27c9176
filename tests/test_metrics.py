import io

import numpy as np
import pytest
from rich.console import Console

from r1jax.checks import InputError
from r1jax.metrics import MetricsLog, Progress, read_jsonl, summary

SAMPLE = {"components": {"accuracy": 1.0}, "reflective_terms": 0}


def write_steps(out, steps, resume_from=None):
    with MetricsLog(out, resume_from) as log:
        for step in steps:
            log.log(step, {"reward/mean": step / 2, "length/correct": None}, [{"step": step}] * 2)


def test_one_json_line_a_step_with_null_for_absent(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.log(0, {"kl": np.float32(0.5), "lr": 3e-4, "heldout/accuracy": None})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 0, "kl": 0.5, "lr": 0.0003, "heldout/accuracy": null}\n'
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 1


@pytest.mark.parametrize("value", [float("nan"), np.inf])
def test_a_metric_that_is_not_finite_raises_and_writes_nothing(tmp_path, value):
    with MetricsLog(tmp_path) as log, pytest.raises(ValueError, match="grad_norm"):
        log.log(0, {"grad_norm": value}, [{"step": 0}])
    assert not read_jsonl(tmp_path / "metrics.jsonl") + read_jsonl(tmp_path / "samples.jsonl")


def test_lines_are_readable_while_the_run_goes_on(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.log(3, {"kl": 0.1}, [{"step": 3, "text": "<think>é"}])
        assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 3, "kl": 0.1}]
        assert read_jsonl(tmp_path / "samples.jsonl") == [{"step": 3, "text": "<think>é"}]


def test_resuming_drops_later_steps_and_torn_lines(tmp_path):
    write_steps(tmp_path, range(6))
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"step": 6, "reward/me')
        assert read_jsonl(tmp_path / name)[-1]["step"] == 5
    write_steps(tmp_path, range(4, 8), resume_from=3)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == list(range(8))
    sampled = [row["step"] for row in read_jsonl(tmp_path / "samples.jsonl")]
    assert sampled == sorted([*range(8)] * 2)
    assert not list(tmp_path.glob("*.tmp"))


def test_all_replies_have_a_file_of_their_own_that_resuming_cuts_too(tmp_path):
    def write(steps, resume_from=None):
        with MetricsLog(tmp_path, resume_from, log="") as log:
            for step in steps:
                log.log(step, {}, [], [{"step": step, "sample": i} for i in (0, 1)])

    write(range(4))
    with (tmp_path / "replies.jsonl").open("a") as file:
        file.write('{"step": 4, "sam')
    write(range(2, 5), resume_from=1)
    steps = [row["step"] for row in read_jsonl(tmp_path / "replies.jsonl")]
    assert steps == sorted([*range(5)] * 2)
    write([], resume_from=2)  # also where no more are written
    assert read_jsonl(tmp_path / "replies.jsonl")[-1]["step"] == 2
    with pytest.raises(InputError, match="already holds a run"):
        MetricsLog(tmp_path)


def test_where_no_reply_is_logged_there_is_no_file_of_them(tmp_path):
    write_steps(tmp_path, range(2))
    assert not (tmp_path / "replies.jsonl").exists()


def test_resuming_keeps_a_last_line_that_lost_only_its_newline(tmp_path):
    write_steps(tmp_path, range(2))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    write_steps(tmp_path, [2], resume_from=1)
    assert [row["step"] for row in read_jsonl(path)] == [0, 1, 2]


def test_a_run_is_not_written_over_another_unless_told_to(tmp_path):
    write_steps(tmp_path, range(2))
    with pytest.raises(InputError, match="already holds a run"):
        MetricsLog(tmp_path)
    write_steps(tmp_path, [0], resume_from=-1)
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 1


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: not a line of JSON: Unterminated"):
        read_jsonl(path)


def shown(steps, total, **console):
    file = io.StringIO()
    with Progress(total, Console(file=file, width=80, **console)) as progress:
        for step in steps:
            metrics = {
                "reward/mean": 0.5,
                "heldout/accuracy": 0.25 if step % 10 == 0 else None,
                "length/mean": 40.0,
                "reflection/fraction": 0.125,
            }
            progress.update(step, metrics)
    return file.getvalue()


def test_progress_prints_a_few_plain_lines_when_not_on_a_terminal():
    lines = shown(range(1, 101), 100, force_terminal=False).splitlines()
    assert len(lines) == 11
    assert lines[0] == "step 1/100  reward 0.50  40 tokens  reflects 12%"
    assert "step 50/100" in lines[5] and "held-out 25%" in lines[5] and "left" in lines[5]
    assert len(shown(range(3), 3, force_terminal=False).splitlines()) == 3


def test_progress_stays_on_one_line_of_a_terminal():
    text = shown(range(1, 21), 20, force_terminal=True, legacy_windows=False)
    assert text.count("\n") == 1
    assert "20/20  reward 0.50  held-out 25%  40 tokens  reflects 12%" in text


def test_summary_says_what_became_of_the_run():
    start = {
        "step": 0,
        "heldout/accuracy": 0.18,
        "length/mean": 25.0,
        "reflection/fraction": 0.02,
        "reflection/per_response": 0.1,
    }
    end = {
        "step": 2,
        "heldout/accuracy": 0.64,
        "length/mean": 110.0,
        "reflection/fraction": 1.0,
        "reflection/per_response": 12.0,
    }
    between = dict.fromkeys(start) | {"step": 1}
    samples = [SAMPLE | {"step": 0}, SAMPLE | {"step": 1, "reflective_terms": 2}]
    text = "\n".join(summary([start, between, end, between], samples, "out/report.html"))
    for part in (
        "18.0% → 64.0%",
        "25 → 110 tokens (4.4x)",
        "2.0% → 100.0%",
        "first correct reply of samples.jsonl that reflects: step 1",
        "out/report.html",
    ):
        assert part in text


def test_summary_tells_whose_length_and_reflection_it_is():
    """Of the replies that the accuracy is of, where they were measured."""
    trained = {"step": 0, "length/mean": 25.0, "reflection/fraction": 0.5}
    assert [line.split()[0] for line in summary([trained], [])[:2]] == ["training"] * 2
    row = trained | {"heldout/length": 30.0, "heldout/reflection": 0.25}
    length, reflecting = summary([row, row | {"heldout/length": 60.0}], [])[:2]
    assert length == "held-out length     30 → 60 tokens (2.0x)"
    assert reflecting == "held-out reflecting 25.0% → 25.0% of replies"


def test_summary_of_one_step_compares_nothing_with_itself():
    """Its replies were drawn once, but for the held-out ones at its end."""
    rows = [{"heldout/accuracy": 0.18, "length/mean": 25.0}, {"heldout/accuracy": 0.64}]
    lines = summary(rows, [])
    assert lines[0].endswith("18.0% → 64.0%") and lines[1].endswith("  25 tokens")


def test_summary_of_a_run_that_logged_little():
    for metrics in [], [{"step": 0}], [{"step": 0, "heldout/accuracy": None}]:
        assert summary(metrics, []) == ["no reply of samples.jsonl is both correct and reflective"]
