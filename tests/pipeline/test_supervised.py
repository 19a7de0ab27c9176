"""Supervised training on the right replies of another run: which they are, and what is done."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_run

from r1jax import optim
from r1jax.analysis.emergence.logs import read_log
from r1jax.analysis.emergence.measure import _control, denied
from r1jax.base import load_weights
from r1jax.checks import InputError
from r1jax.config import RunConfig
from r1jax.config_file import load_config
from r1jax.data.countdown import VOCABULARY
from r1jax.data.packing import pack
from r1jax.data.tasks import make_task
from r1jax.pipeline.supervised import batches_of, lessons_of
from r1jax.sft import sft_step

ID = {word: i for i, word in enumerate(VOCABULARY)}
RIGHT = "<think> right </think> <answer> 1 + 1 - 1 - 1 </answer>"
PROMPT = "use 1 1 1 1 to make 0 <think>"


def rows(*steps):
    """Of (step, outcome, text)."""
    given = {"problem_id": "p", "sample": 0, "prompt": PROMPT, "tokens": 9, "truncated": False}
    return [
        given | {"step": step, "split": "train", "outcome": outcome, "text": text}
        for step, outcome, text in steps
    ]


LOG = [
    *rows((0, "correct", RIGHT), (0, "incorrect", RIGHT), (0, "correct", RIGHT + " <answer>")),
    *rows((2, "incorrect", RIGHT), (3, "correct", RIGHT), (4, "incorrect", RIGHT)),
    *(row | {"split": "heldout"} for row in rows((0, "correct", RIGHT))),
    *(row | {"truncated": True} for row in rows((0, "correct", RIGHT))),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervised")
    config = tiny_run.inputs(folder, steps=9, checkpoint_every=2)
    source = folder / "source"
    source.mkdir()
    (source / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LOG))
    return config, source


@pytest.fixture(scope="module")
def learnt(inputs):
    config, source = inputs
    return tiny_run.run(config, source.parent / "learnt", f"--learn-from={source}")


def test_lessons_are_the_right_replies_of_training_at_their_steps(inputs):
    config, source = inputs
    lessons = lessons_of(source, make_task(load_config(RunConfig, config)))
    assert {step: len(docs) for step, docs in lessons.by_step.items()} == {0: 2, 3: 1}
    assert lessons.steps == 5
    prompt, reply = lessons.by_step[3][0]
    assert [VOCABULARY[i] for i in prompt] == PROMPT.split()
    assert [VOCABULARY[i] for i in reply] == [*RIGHT.split()[1:], "<eos>"]


def test_every_reply_is_in_one_update_and_few_sizes_are_compiled():
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 60):
        documents = [([1], [i + 2] * int(rng.integers(1, 8))) for i in range(count)]
        batches = batches_of(documents, 2, 8, 3, 0, np.random.default_rng(1))
        assert len(batches) == min(count, 2)
        assert {len(batch.tokens_BT) for batch in batches} <= {3, 6, 12, 24, 48}
        found = [set(b.tokens_BT[b.trained_BT].tolist()) for b in batches]
        assert sorted(i for one in found for i in one) == [i + 2 for i in range(count)]
    assert batches_of([], 2, 8, 3, 0, rng) == []


def test_it_is_supervised_training_on_them_and_nothing_else(inputs, learnt):
    cfg = load_config(RunConfig, learnt / "config.json")
    step, _, state = tiny_run.last_checkpoint(learnt)
    assert step == 5 and int(state.train.step) == 3  # two replies at step 0, one at step 3
    weights = load_weights(inputs[1].parent / "base.safetensors", cfg.model)
    want = optim.new_state(weights, cfg.optim)
    lessons = lessons_of(inputs[1], make_task(cfg)).by_step
    first = np.random.default_rng([cfg.seed, 2, 0]).permutation(2)
    pad = ID["<pad>"] if "<pad>" in ID else ID["<eos>"]
    for document in (lessons[0][first[0]], lessons[0][first[1]], lessons[3][0]):
        batch, _ = pack([document], 8, 28, pad)
        want, _ = sft_step(want, batch, model=cfg.model, cfg=cfg.optim)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        state.train.weights.params, jax.device_get(want.weights.params),
    )  # fmt: skip


def test_its_folder_is_that_of_a_run_which_a_verdict_knows_for_what_it_is(learnt):
    found = tiny_run.metrics(learnt)
    assert [row["step"] for row in found] == [0, 1, 2, 3, 4, 5]
    assert [row["replies/right"] for row in found[:5]] == [2, 0, 0, 1, 0]
    assert found[1]["nll"] is None and found[3]["nll"] > 0
    assert found[0]["heldout/accuracy"] is not None and found[5]["heldout/length"] > 0
    assert "finished: 5 steps" in (learnt / "report.html").read_text()
    log = read_log(learnt)
    assert _control(log) == "supervised" and denied(log, "random")
    assert {reply.split for reply in log.replies} == {"heldout"}
    plain = dataclasses.replace(log, config={**log.config, "learn_from": ""})
    assert denied(plain, "supervised") and not denied(log, "supervised")


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same(inputs, learnt, tmp_path):
    config, source = inputs
    out = tiny_run.run(config, tmp_path / "run", f"--learn-from={source}", "--steps=2")
    tiny_run.r1_zero.main(["--resume", f"--out={out}", "--steps=9"])
    assert tiny_run.metrics(out) == tiny_run.metrics(learnt)


@pytest.mark.parametrize(
    "lines, message",
    [
        (None, "no replies.jsonl"),
        (rows((0, "incorrect", RIGHT)), "none of its replies to train on is right"),
    ],
)
def test_a_folder_without_lessons_is_one_line(inputs, tmp_path, lines, message):
    if lines:
        (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(InputError, match=f"--learn-from=.*: {message}") as refusal:
        tiny_run.run(inputs[0], tmp_path / "out", f"--learn-from={tmp_path}")
    assert "\n" not in str(refusal.value) and not (tmp_path / "out").exists()
