"""A whole run of `python -m experiments.r1_zero`: what it does and what it leaves."""

import collections
import dataclasses
import io
import itertools
import json
import shutil
import signal
import sys
from typing import get_args

import jax
import numpy as np
import pytest
import tiny_run

from experiments import export, generate, intervene
from r1jax.analysis.emergence.logs import read_log
from r1jax.analysis.reflection import count_terms
from r1jax.checks import InputError
from r1jax.config import RLConfig, RunConfig, SamplingConfig
from r1jax.config_file import load_config, save_config
from r1jax.data.conversation import make_conversation
from r1jax.data.countdown import VOCABULARY
from r1jax.data.pipeline import stream
from r1jax.data.tasks import make_task
from r1jax.data.tokenizer import Tokenizer
from r1jax.metrics import read_jsonl
from r1jax.pipeline import reinforcement
from r1jax.pipeline.reinforcement import base_weights
from r1jax.rewards.components import Outcome
from r1jax.rl.loop import Trainer, new_grader
from r1jax.run import Stopped
from r1jax.sharding import make_mesh

KEYS = {
    "step", "reward/mean", "reward/accuracy", "reward/format", "reward/unparseable",
    "reward/grader_failed", "outcome/correct", "outcome/incorrect", "outcome/unparseable",
    "outcome/failed", "heldout/accuracy",
    "heldout/greedy", "length/mean", "length/correct", "length/incorrect", "length/truncated",
    "reflection/per_response", "reflection/per_1k_tokens", "reflection/fraction",
    "reflection/wait_per_1k_tokens", "kl", "entropy", "clip/low", "clip/high", "clip/bounded",
    "grad_norm", "lr", "groups/zero_std", "reward/ungraded", "router/max_load",
    "sampler/logp_diff", "sampler/utilization", "sampler/tokens_per_device_second",
    "time/rollout", "time/reward", "time/update", "tokens_per_second",
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_run.inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def out(config, tmp_path_factory):
    return tiny_run.run(config, tmp_path_factory.mktemp("first") / "run")


def assert_left_everything(out, steps):
    assert sorted(int(p.name) for p in (out / "checkpoints").iterdir()) == steps[-2:]
    assert len(list((out / "figures").glob("*.png"))) >= 4
    assert "data:image/png;base64," in (out / "report.html").read_text()
    assert len(list((out / "tensorboard").glob("events.*"))) == 1
    rows = read_jsonl(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, *steps]
    assert all(row.keys() >= KEYS for row in rows)
    assert {row["step"] for row in read_jsonl(out / "samples.jsonl")} == {0, *steps}


def test_it_leaves_everything(out):
    assert_left_everything(out, [1, 2, 3])


def test_metrics_agree_with_each_other_and_with_the_configuration(out):
    *steps, last = read_jsonl(out / "metrics.jsonl")
    for row in steps:
        total = row["reward/accuracy"] + row["reward/format"]
        np.testing.assert_allclose(row["reward/mean"], total, rtol=1e-6)
        np.testing.assert_allclose(row["lr"], tiny_run.CONFIG.optim.lr)
        assert row["kl"] > 0 and row["entropy"] > 0 and row["grad_norm"] > 0
        assert row["sampler/logp_diff"] < 1e-5
        counts = {name: row[f"outcome/{name}"] for name in get_args(Outcome)}
        assert sum(counts.values()) == 16 and counts["correct"] == 16 * row["reward/accuracy"]
        assert counts["failed"] == row["reward/grader_failed"] == 0
        assert counts["unparseable"] == 16 * row["reward/unparseable"]
        assert 0 < row["length/mean"] <= tiny_run.CONFIG.sampling.max_tokens
        seconds = sum(row[f"time/{part}"] for part in ("rollout", "reward", "update"))
        tokens = row["length/mean"] * 16
        np.testing.assert_allclose(row["tokens_per_second"], tokens / seconds, rtol=1e-6)
        assert 0 < row["sampler/utilization"] <= 1
        rate = tokens / row["time/rollout"]  # on one device
        np.testing.assert_allclose(row["sampler/tokens_per_device_second"], rate, rtol=1e-6)
    evaluated = [row["step"] for row in (*steps, last) if row["heldout/accuracy"] is not None]
    assert evaluated == [0, 2, 3]  # the first, every second, the last
    assert all(last[name] is None for name in KEYS if name.split("/")[0] not in ("step", "heldout"))


def test_samples_say_what_was_asked_drawn_and_earned(out):
    samples = read_jsonl(out / "samples.jsonl")
    for row in samples:
        assert row["prompt"].startswith("use ") and row["prompt"].endswith(" <think>")
        assert row["text"].startswith("<think> ")
        # A reply of n tokens: the tag that the prompt gave it, n words or n - 1 and the end.
        assert len(row["text"].split()) == row["tokens"] + row["truncated"]
        assert row["reward"] == sum(row["components"].values())
        assert row["components"]["accuracy"] == (row["outcome"] == "correct")
        assert row["reflective_terms"] == sum(count_terms(row["text"]).values())
    assert {row["reward"] for row in samples} >= {0.0, 1.0}
    asked = {split: {r["prompt"] for r in samples if r["split"] == split} for split in
             ("train", "heldout")}  # fmt: skip
    assert asked["train"] and asked["heldout"] and not asked["train"] & asked["heldout"]


def test_every_sampled_reply_is_logged_once_in_the_form_that_a_verdict_reads(out):
    rows = read_jsonl(out / "replies.jsonl")
    counts = collections.Counter((row["step"], row["split"]) for row in rows)
    train = {(step, "train"): 16 for step in range(3)}
    assert counts == train | {(0, "heldout"): 16, (2, "heldout"): 8, (3, "heldout"): 16}
    keys = [(r["step"], r["split"], r["problem_id"], r["sample"]) for r in rows]
    assert len(set(keys)) == len(keys)
    shown = [r for r in read_jsonl(out / "samples.jsonl") if r["split"] != "tracked"]
    assert shown and all({k: r[k] for k in rows[0]} in rows for r in shown)
    log = read_log(out)
    assert log.whole and len(log.replies) == len(rows)
    right = np.mean([r.correct for r in log.replies if (r.step, r.split) == (0, "train")])
    assert right == read_jsonl(out / "metrics.jsonl")[0]["reward/accuracy"]


def test_interventions_ask_its_held_out_questions_and_stand_in_its_folder(out, tmp_path, capsys):
    copy = shutil.copytree(out, tmp_path / "run")
    intervene.main([str(copy), "--samples=3", "--conditions=ban,placebo,flip_verdict"])
    assert "2 questions x 3 replies, 4 conditions, at most 16 tokens" in capsys.readouterr().out
    raw = read_log(copy).intervention
    task = make_task(load_config(RunConfig, copy / "config.json"))
    assert raw["questions"] == [problem.id for problem in task.heldout]
    assert list(raw["conditions"]) == ["none", "placebo", "ban", "flip_verdict"]
    with pytest.raises(InputError, match=r"intervention.json is there already"):
        intervene.main([str(copy)])


@pytest.mark.slow
def test_its_config_runs_again_to_the_same_end(out, tmp_path):
    again = tiny_run.run(out / "config.json", tmp_path / "again")
    assert tiny_run.metrics(again) == tiny_run.metrics(out)
    assert read_jsonl(again / "samples.jsonl") == read_jsonl(out / "samples.jsonl")


@pytest.mark.slow
def test_another_seed_is_another_run(config, out, tmp_path):
    other = tiny_run.run(config, tmp_path / "other", "--seed=1", "--steps=1")
    assert tiny_run.metrics(other)[0] != tiny_run.metrics(out)[0]
    ours, others = (read_jsonl(folder / "samples.jsonl") for folder in (out, other))
    assert [row["text"] for row in ours[:8]] != [row["text"] for row in others[:8]]


def test_base_may_be_another_run(out):
    cfg = dataclasses.replace(load_config(RunConfig, out / "config.json"), base=str(out))
    got, want = base_weights(cfg, make_mesh("1")), tiny_run.last_checkpoint(out)[2].train.weights
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_the_export_of_embedded_words_writes_as_the_run_does(out, tmp_path, capsys):
    """Its tokenizer is written as a tokenizer.json of whole words, and the opened thought that its
    run adds to a question as a chat template."""
    target = tmp_path / "hf"
    export.main([f"--run={out}", f"--out={target}", "--dtype=float32"])
    loaded, words = Tokenizer.load(target), Tokenizer.words(VOCABULARY)
    text = "use 1 1 2 1 to make 3 <think> check </think> <eos>"
    assert loaded.encode(text) == words.encode(text)
    assert loaded.encode_prompt(text) == words.encode_prompt(text)
    assert (loaded.eos_id, loaded.pad_id, loaded.end_ids) == (
        words.eos_id, words.pad_id, words.end_ids,
    )  # fmt: skip
    capsys.readouterr()
    how = ["--prompt=use 1 1 2 1 to make 3", "--max-tokens=8", "--temperature=0", "--json"]
    replies = []
    for folder in (out, target):
        generate.main([f"--model={folder}", *how])
        replies.append(json.loads(capsys.readouterr().out))
        assert replies[-1].pop("prompt").rstrip() == "use 1 1 2 1 to make 3 <think>"
    asked = [reply.pop("conversation") for reply in replies]
    assert replies[0] == replies[1] and replies[0]["tokens"] > 0
    assert asked == ["embedded", "chat"]
    opened = Tokenizer.load(target).encode_prompt("use 1 1 2 1 to make 3 <think>")
    chat = make_conversation(loaded, target)
    for asked_for in ("use 1 1 2 1 to make 3", "use 1 1 2 1 to make 3 <think>"):
        assert chat.prompt_ids(asked_for) == opened
    assert chat.end_id == words.eos_id


def test_the_embedded_model_chats_a_line_at_a_time(out, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("use 1 1 1 1 to make 2\nuse 2 1 1 1 to make 1\n"))
    generate.main([f"--model={out}", "--chat", "--json", "--max-tokens=4"])
    told = capsys.readouterr()
    asked = [json.loads(line)["prompt"] for line in told.out.splitlines()]
    assert asked == ["use 1 1 1 1 to make 2 <think>", "use 2 1 1 1 to make 1 <think>"]
    assert told.err.count("one question at a time: each is asked alone") == 1


def test_ctrl_c_while_the_report_of_a_stopped_run_is_drawn_says_how_to_go_on(
    config, tmp_path, monkeypatch
):
    def drawing(_, run):
        run.stopped = signal.SIGINT
        raise KeyboardInterrupt

    monkeypatch.setattr(reinforcement, "closing", drawing)
    with pytest.raises(Stopped, match=r"stopped by Ctrl-C after step 1 of 1; to go on: .*--resume"):
        tiny_run.run(config, tmp_path / "run", "--steps=1")


def test_a_few_readable_lines(config, tmp_path, capfd):
    tiny_run.run(config, tmp_path / "run", "--steps=1")
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("R1-Zero: ") and "4 problems, 2 held out" in lines[0]
    assert lines[1].startswith("base: P(correct | reflective) = ")
    assert lines[-1].startswith("time ") and len(lines) <= 10
    assert max(map(len, lines[1:-2])) < 100


def test_a_run_chooses_its_reward(config, tmp_path):
    """Every component is logged apart; one without a weight is left out, of metrics, too."""
    flags = ["--reward.format=0.5", "--reward.repetition=2", "--reward.accuracy=0", "--steps=1"]
    out = tiny_run.run(config, tmp_path / "run", *flags)
    (row, _) = read_jsonl(out / "metrics.jsonl")
    parts = [0.5 * row["reward/format"], 2 * row["reward/repetition"]]
    np.testing.assert_allclose(row["reward/mean"], sum(parts), rtol=1e-6)
    assert "reward/accuracy" in row and "reward/language" not in row
    for sample in read_jsonl(out / "samples.jsonl"):
        assert set(sample["components"]) == {"accuracy", "format", "repetition"}
        parts = [0.5 * sample["components"]["format"], 2 * sample["components"]["repetition"]]
        assert sample["reward"] == sum(parts)


def trainer(config, **rl):
    cfg = load_config(RunConfig, config)
    cfg = dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, **rl))
    return Trainer(cfg, make_task(cfg), make_mesh("1"), new_grader(cfg))


def groups(samples, size=16):
    """Of each reply its problem, its text, and whether it is right."""
    rows = [(s.problem.id, s.text, s.grade.components["accuracy"]) for s in samples]
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def is_mixed(group):
    """DAPO's eq. 11: not none right and not all, whatever else the rewards differ by."""
    return 0 < sum(right for *_, right in group) < len(group)


def test_dynamic_sampling_puts_mixed_groups_first_and_stops_when_there_are_enough(config):
    """Against three rollouts drawn one by one."""
    weights, sizes = tiny_run.weights(), {"questions": 1, "group": 16}
    once, thrice = (trainer(config, max_draws=n, **sizes) for n in (1, 3))
    can_happen, seen = {2, 3, "mixed", "filled"}, set()
    for step in range(60):
        rollouts = [groups(once.rollout(weights, step, i)[0]) for i in range(3)]
        mixed_so_far = itertools.accumulate(sum(map(is_mixed, r)) for r in rollouts)
        draws = next((i for i, n in enumerate(mixed_so_far, 1) if n >= 1), 3)
        drawn = [group for rollout in rollouts[:draws] for group in rollout]
        want = sorted(drawn, key=lambda group: not is_mixed(group))[:1]
        samples, _, position = thrice.rollout(weights, step, 0)
        assert groups(samples) == want and position == draws
        seen |= {draws, "mixed" if all(map(is_mixed, want)) else "filled"}
        if seen >= can_happen:
            break
    assert seen >= can_happen


def test_dynamic_sampling_draws_what_is_missing(config):
    """Never a mixed group more than is trained on."""
    weights, asked = tiny_run.weights(), []
    several = trainer(config, max_draws=4, questions=4, group=4)
    for step in range(8):
        drawn, _, position = several.rollout(weights, step, 0)
        left, at, draws = 4, 0, 0
        while left and draws < 4:  # one by one, as each question's replies depend on its number
            alone = trainer(config, questions=left, group=4)
            left -= sum(map(is_mixed, groups(alone.rollout(weights, step, at)[0], 4)))
            at, draws = at + alone.cfg.rl.questions, draws + 1
        assert position == at and sum(map(is_mixed, groups(drawn, 4))) == 4 - left
        asked.append(position)
    assert min(asked) < 16 and len(set(asked)) > 1


def test_overlong_shaping_takes_from_the_reward_what_a_reply_is_too_long(config):
    """Half of it: DAPO's right and wrong are 2 apart, these 1."""
    shaped, _, _ = trainer(config, overlong_buffer=8).rollout(tiny_run.weights(), 0, 0)
    lengths = [len(s.completion.tokens) for s in shaped]
    penalties = [-max(0, n - 8) / 8 for n in lengths]
    np.testing.assert_allclose([s.grade.components["overlong"] for s in shaped], penalties)
    plain = [s.grade.components["accuracy"] + s.grade.components["format"] for s in shaped]
    want = np.add(plain, 0.5 * np.array(penalties))
    np.testing.assert_allclose([s.grade.reward for s in shaped], want)
    assert min(lengths) < 8 < max(lengths)


def test_every_problem_once_an_epoch_and_no_heldout_one(config):
    task = make_task(load_config(RunConfig, config))
    n = len(task.train)
    drawn = stream(task.mixture, seed=3)
    epochs = [[drawn[i].id for i in range(n * e, n * (e + 1))] for e in range(6)]
    assert all(sorted(epoch) == sorted(p.id for p in task.train) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_a_problem_given_twice_is_on_one_side(tmp_path):
    """Also where its numbers come in another order: what the model reads is the same."""
    rows = [{"numbers": [a, b, 1, 1], "target": 2} for a in range(1, 9) for b in range(1, 9)]
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = dataclasses.replace(tiny_run.CONFIG, data=str(tmp_path / "twice.jsonl"))
    task = make_task(cfg)
    train, heldout = ({p.prompt for p in side} for side in (task.train, task.heldout))
    assert len(task.train) + len(task.heldout) == 64 and len(train | heldout) == 36
    assert not train & heldout and len(heldout) == round(0.3 * 36)


@pytest.fixture(scope="module")
def gsm8k(data_dir):
    """The real problems and the real DeepSeek tokenizer, for a very small model."""
    return RunConfig(
        model=dataclasses.replace(
            tiny_run.CONFIG.model, vocab=0, context=400, logits_chunk=16, tied_head=True
        ),
        task="gsm8k",
        data=str(data_dir / "gsm8k" / "train.jsonl"),
        tokenizer=str(data_dir / "tokenizers" / "deepseek_r1" / "tokenizer.json"),
        base="random",
        steps=1,
        evaluate_samples=2,
        final_samples=2,
        sampling=SamplingConfig(max_prompt=384, max_tokens=8, slots=4, refill=4),
        rl=RLConfig(questions=2, group=2, minibatches=1),
    )


def test_gsm8k_is_asked_in_r1_zeros_words_and_graded_by_its_answer(gsm8k):
    task = make_task(gsm8k)
    assert len(task.train) + len(task.heldout) == 7_473
    assert not {p.prompt for p in task.train} & {p.prompt for p in task.heldout}
    problem = next(p for p in task.train if p.id == "gsm8k/train/1")
    prompt = task.tokenizer.decode(task.prompt(problem))
    assert prompt.startswith("<｜begin▁of▁sentence｜>A conversation between User and Assistant.")
    assert "User: Natalia sold clips to 48 of her friends in April" in prompt
    assert prompt.endswith("Assistant:")
    replies = [f"<think> 48 + 24 </think> <answer> {answer} </answer>" for answer in ("72", "73")]
    ids = [[*task.tokenizer.encode(reply), task.tokenizer.eos_id] for reply in replies]
    with new_grader(gsm8k) as grader:
        grades = grader.grade([problem] * 2, [task.text(reply) for reply in ids])
    assert [grade.reward for grade in grades] == [2.0, 1.0]


@pytest.mark.slow
def test_gsm8k_run(gsm8k, tmp_path):
    save_config(gsm8k, tmp_path / "config.json")
    out = tiny_run.run(tmp_path / "config.json", tmp_path / "run")
    assert_left_everything(out, [1])
    assert load_config(RunConfig, out / "config.json").model.vocab == 128_815
