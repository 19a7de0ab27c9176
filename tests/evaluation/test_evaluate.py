"""`python -m experiments.evaluate` on the shipped model: what it leaves, and goes on from."""

import json

import pytest
import tiny_run
from test_bad_input import error_of  # noqa: F401
from two_processes import finish, start

from experiments import evaluate
from r1jax.checks import InputError
from r1jax.data import countdown
from r1jax.evaluation.local import Local
from r1jax.evaluation.swebench import patch_of
from r1jax.rewards.countdown import check_countdown
from r1jax.rewards.format import final_answer
from r1jax.sampling.engine import Engine

SMALL = ("--limit=12", "--k=4", "--max-tokens=64")


def run(out, *flags):
    evaluate.main([f"--out={out}", *SMALL, *map(str, flags)])
    return json.loads((out / "results.json").read_text())


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Never stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(out)
    return out


def figures(out):
    return json.loads((out / "results.json").read_text())["benchmarks"]


def by_key(file):
    return {(r["benchmark"], r["id"], r["sample"]): r for r in rows(file)}


def test_its_figures_are_those_of_its_replies(whole):
    """Graded here once more, by the rule for countdown alone."""
    replies, found = rows(whole / "replies.jsonl"), figures(whole)["countdown"]
    problems = {p.id: p for p in countdown.split(4)[1]}
    assert len(replies) == 48 and len({r["id"] for r in replies}) == 12
    right: dict[str, list[bool]] = {}
    for r in replies:
        p, answer = problems[r["id"]], final_answer(r["completion"], "countdown") or ""
        right.setdefault(r["id"], []).append(
            check_countdown(answer, p.numbers, int(p.answer)) is True
        )
        assert r["completion"].startswith("<think> ") and r["finish_reason"] == "stop"
        thought, _, rest = r["completion"].partition("</think>")
        assert r["thinking_tokens"] == len(thought.split()) - 1
        assert r["tokens"] == len(thought.split()) + len(rest.split()) + 1  # the one that ends it
    assert (
        found["pass@1"] == pytest.approx(sum(map(sum, right.values())) / 48) and found["of"] == 12
    )
    assert found["pass@k"]["4"] == pytest.approx(sum(map(any, right.values())) / 12)
    assert 0 < found["pass@1"] < found["pass@k"]["4"] and found["se_questions"] > 0
    assert (found["truncated"], found["unparseable"], found["grader_failed"]) == (0, 0, 0)
    asked = rows(whole / "questions.jsonl")
    assert len(asked) == 12 and asked[0]["prompt"].endswith("<think>")


def test_asked_again_it_draws_nothing_and_the_grades_are_made_anew(whole, monkeypatch, capsys):
    before = (whole / "results.json").read_bytes()
    (whole / "grades.jsonl").unlink()
    monkeypatch.setattr(Local, "draw", None)
    run(whole)
    assert (whole / "results.json").read_bytes() == before
    out = capsys.readouterr().out
    assert "48 of 48 replies are there" in out and "written to" in out
    header, line = out.splitlines()[1:3]
    assert header.split()[:4] == ["benchmark", "asked", "k", "pass@1"] and line[:9] == "countdown"


def test_problems_that_have_changed(tmp_path, monkeypatch, error_of):  # noqa: F811
    """An answer that is another one is graded by; another question's reply is none."""
    data, out = tmp_path / "own.jsonl", tmp_path / "out"
    row = {"id": "a", "kind": "math", "prompt": "use 1 2 3 4 to make 6", "answer": "0"}

    def ask(**changes):
        data.write_text(json.dumps(row | changes) + "\n")
        flags = (f"--benchmarks={data}", f"--out={out}", "--k=2", "--max-tokens=64")
        return lambda: evaluate.main([*flags, "--directives=false"])

    ask()()
    first = rows(out / "grades.jsonl")
    monkeypatch.setattr(Local, "draw", None)
    ask()()
    assert rows(out / "grades.jsonl") == first
    ask(answer=first[0]["answer"])()
    again = rows(out / "grades.jsonl")
    assert len(again) == 4 and again[2]["outcome"] == "correct"
    with pytest.raises(InputError, match=r"replies.jsonl: the reply to own .* is to another text"):
        ask(prompt="use 1 2 3 4 to make 7")()


@pytest.mark.parametrize("cut", [0, 1, 500, 5000, -1])
def test_it_goes_on_behind_a_file_that_was_cut_anywhere(whole, tmp_path, cut):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("evaluation.json", "replies.jsonl", "grades.jsonl"):
        (out / name).write_bytes((whole / name).read_bytes())
    text = (out / "replies.jsonl").read_bytes()[:cut]
    (out / "replies.jsonl").write_bytes(text)
    (out / "grades.jsonl").write_bytes((out / "grades.jsonl").read_bytes()[: max(cut, 0) // 3])
    run(out)
    kept = text[: text.rfind(b"\n") + 1]
    assert (out / "replies.jsonl").read_bytes().startswith(kept)
    assert by_key(out / "replies.jsonl") == by_key(whole / "replies.jsonl")
    assert figures(out) == figures(whole)


def test_more_replies_and_questions_are_added(whole, tmp_path):
    out = tmp_path / "out"
    run(out, "--k=2", "--limit=6")
    first = by_key(out / "replies.jsonl")
    run(out)
    assert first.items() <= by_key(out / "replies.jsonl").items()
    assert figures(out) == figures(whole)


def test_a_benchmark_beside_it_changes_no_reply(whole, tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text(
        json.dumps(
            {
                "id": "x",
                "kind": "countdown",
                "prompt": "use 9 5 4 2 to make 8",
                "numbers": [9, 5, 4, 2],
                "target": 8,
            }
        )
    )
    out = tmp_path / "out"
    found = run(out, f"--benchmarks=mine={data},countdown")["benchmarks"]
    assert found["countdown"] == figures(whole)["countdown"]
    assert found["mine"]["questions"] == 1 and found["mine"]["k"] == 4


def test_a_reply_ends_where_the_context_does_whatever_is_asked_beside_it(tmp_path, monkeypatch):
    """A prompt of 250 tokens in a context of 256 has room for 5 tokens, and not for 9; a reply of
    the protocol's 32,768 may have what its own prompt leaves of the context."""
    drawn = []
    generate = Engine.generate

    def spy(self, weights, requests, *args, **kwargs):
        drawn.extend(requests)
        return generate(self, weights, requests, *args, **kwargs)

    monkeypatch.setattr(Engine, "generate", spy)
    row = {"kind": "countdown", "numbers": [1, 1], "target": 2}
    long = " ".join(["1"] * 245)
    prompts = {"short": "use 1 1 to make 2", "long": f"use {long} to make 2"}
    data = tmp_path / "mine.jsonl"
    rows_of = [row | {"id": name, "prompt": prompt} for name, prompt in prompts.items()]
    data.write_text("".join(json.dumps(one) + "\n" for one in rows_of))
    flags = ["--k=1", f"--benchmarks=mine={data}", f"--out={tmp_path / 'out'}", "--max-tokens=5"]
    evaluate.main(flags)
    assert {(len(r.prompt), r.max_tokens) for r in drawn} == {(7, 5), (250, 5)}
    drawn.clear()
    evaluate.main([*flags[:2], f"--out={tmp_path / 'b'}", "--max-tokens=9", "--unasked=drop"])
    assert {(len(r.prompt), r.max_tokens) for r in drawn} == {(7, 9)}
    drawn.clear()
    mixed = f"--benchmarks=mine={data},countdown"
    evaluate.main(["--k=1", "--limit=2", mixed, f"--out={tmp_path / 'c'}", "--unasked=drop"])
    assert {(len(r.prompt), r.max_tokens) for r in drawn} == {(7, 249), (9, 247)}


def test_greedy_replies_are_drawn_once(tmp_path):
    flags = ("--temperature=0", "--limit=6", "--max-tokens=64", f"--out={tmp_path / 'out'}")
    evaluate.main(list(flags))
    found = figures(tmp_path / "out")["countdown"]
    assert found["k"] == 1 and found["se_samples"] is None


def test_what_it_cannot_read_is_refused_or_left_out_and_counted(tmp_path, error_of):  # noqa: F811
    data = tmp_path / "gsm8k.jsonl"
    data.write_text('{"question": "Why?", "answer": "#### 1"}\n')
    flags = (f"--out={tmp_path / 'out'}", "--benchmarks=countdown,gsm8k", f"--data={tmp_path}")
    error = error_of(*flags, *SMALL, main=evaluate.main)
    assert (
        "1 questions cannot be put into the model's tokens, the first of them gsm8k, gsm" in error
    )
    assert "--unasked=drop" in error and not (tmp_path / "out").exists()
    found = run(tmp_path / "out", *flags, "--unasked=drop")["benchmarks"]
    assert found["gsm8k"]["questions"] == 0 and found["gsm8k"]["pass@1"] is None
    assert found["gsm8k"]["left_out"] == {"cannot be put into the model's tokens": 1}


def test_training_data_that_shares_words(tmp_path):
    """A question of nine words is looked for whole, one of four in nothing of another order."""
    out, training = tmp_path / "out", tmp_path / "training.jsonl"
    problems = countdown.split(4)[1]
    told = problems[0].prompt
    training.write_text(
        json.dumps({"id": "seen", "kind": "own", "prompt": f"Please {told}, and explain."})
    )
    found = run(out, f"--training=problems={training}")["benchmarks"]["countdown"]
    assert found["contaminated"]["questions"] == {problems[0].id: "seen"}
    assert found["contaminated"]["share"] == pytest.approx(1 / 12)
    assert found["contaminated"]["without"]["of"] == 11


def test_predictions_for_the_official_harness(tmp_path):
    data = tmp_path / "swebench.jsonl"
    data.write_text(
        json.dumps(
            {
                "instance_id": "a__b-1",
                "repo": "a/b",
                "problem_statement": "",
                "text": "use 9 5 4 2 to make 8",
            }
        )
    )
    out = tmp_path / "out"
    found = run(out, "--benchmarks=swebench", f"--data={tmp_path}", "--k=1")
    assert found["benchmarks"]["swebench"]["metric"] == "predictions"
    assert rows(out / "predictions.jsonl") == [
        {"instance_id": "a__b-1", "model_name_or_path": "embedded", "model_patch": ""}
    ]
    assert (out / "grades.jsonl").read_text() == ""


DIFF = "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.mark.parametrize(
    "reply",
    [
        f"<think>```diff\n--- a/y\n```</think>Fixed:\n```diff\n{DIFF}```\nDone.",
        f"<patch>\n{DIFF}</patch>",
        f"Here it is.\n{DIFF}",
        f"```python\nx = 1\n```\n```\n{DIFF}```",
    ],
)
def test_a_patch_is_found(reply):
    assert patch_of(reply) == DIFF


def test_no_patch():
    assert patch_of("I would change x.") == patch_of(f"<think>{DIFF}</think>") == ""


def test_bad_input_is_one_line(whole, tmp_path, error_of):  # noqa: F811
    def error(*flags):
        return error_of(*SMALL, *flags, main=evaluate.main)

    assert "holds an evaluation with temperature=0.6, not 1.0" in error(
        f"--out={whole}", "--temperature=1"
    )
    assert "--top-p must lie in (0, 1]" in error("--top-p=2")
    assert "--since=August: expected a day" in error("--since=August")
    assert "no such directory" in error("--model=nowhere", f"--out={tmp_path / 'a'}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.json").write_text("{}")
    assert "holds something else" in error(f"--out={tmp_path / 'other'}")
    assert "has no system prompt" in error("--system=Hi", f"--out={tmp_path / 'b'}")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "evaluation.json").write_bytes((whole / "evaluation.json").read_bytes())
    (broken / "replies.jsonl").write_text('{"benchmark": "countdown"}\n')
    assert "replies.jsonl:1: not a reply" in error(f"--out={broken}")
    (tmp_path / "math500.jsonl").write_text('{"problem": "1?", "answer": "1"}\n{"problem": "2?"}\n')
    assert "math500.jsonl:2: missing field" in error(
        "--benchmarks=math500", f"--data={tmp_path}", f"--out={tmp_path / 'c'}"
    )


EVALUATE = """
from experiments import cli, evaluate
cli.run(evaluate.main)
"""


@pytest.mark.slow
def test_on_two_processes_the_figures_are_the_same(whole, tmp_path):
    out = tmp_path / "out"
    flags = [f"--out={out}", "--mesh=4x2", *SMALL, "--distributed"]
    finish(start(EVALUATE, flags, tmp_path / "cache"))
    assert by_key(out / "replies.jsonl") == by_key(whole / "replies.jsonl")
    assert figures(out) == figures(whole)
    lines = (out / "replies.jsonl").read_bytes().splitlines(keepends=True)
    (out / "replies.jsonl").write_bytes(b"".join(lines[:20]) + lines[20][:9])
    finish(start(EVALUATE, flags, tmp_path / "cache"))
    assert figures(out) == figures(whole)


@pytest.mark.slow
def test_kill_9_loses_the_replies_under_way_at_most(whole, tmp_path):
    out = tmp_path / "out"
    tiny_run.killed_then_finished("experiments.evaluate", SMALL, out, tmp_path / "cache")
    assert by_key(out / "replies.jsonl") == by_key(whole / "replies.jsonl") and figures(
        out
    ) == figures(whole)


def test_a_runs_folder_and_the_state_that_it_is_in(tmp_path, error_of):  # noqa: F811
    """A run that was trained on is another model."""
    trained, out = tmp_path / "run", tmp_path / "out"
    config = tiny_run.inputs(tmp_path)
    tiny_run.run(config, trained, "--steps=1")
    flags = (f"--model={trained}", f"--out={out}", "--limit=4", "--k=2")
    evaluate.main(list(flags))
    found = json.loads((out / "results.json").read_text())
    assert found["weights"] == "step 1" and found["benchmarks"]["countdown"]["questions"] == 4
    tiny_run.run(config, trained, "--steps=2", "--resume")
    assert "holds an evaluation with weights='step 1', not 'step 2'" in error_of(
        *flags, main=evaluate.main
    )


def test_who_stops_it_is_told_what_is_kept(tmp_path, monkeypatch, capsys):
    def stopped(self):
        (tmp_path / "replies.jsonl").write_text("{}\n{}\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.Evaluation, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main([f"--out={tmp_path}", "--workers=1"])
    assert capsys.readouterr().out.startswith("2 replies are kept in ")
