"""Biases of logits as a condition of a run: how they are named, and that a whole run keeps them."""

import pytest
import tiny_run

from r1jax.checks import InputError
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tokenizer import Tokenizer
from r1jax.metrics import read_jsonl
from r1jax.rl.biases import bias_vector, biases_of

TOKENIZER = Tokenizer.words(VOCABULARY)


def test_a_token_by_its_text_and_reflective_ones_together():
    found = biases_of("reflective=-1e9,puzzle=2.5", TOKENIZER, verdicts=True)
    words = {TOKENIZER.decode([token]): bias for token, bias in found.items()}
    assert words["puzzle"] == 2.5
    assert {"wait", "check", "wrong", "right"} <= {w for w, b in words.items() if b == -1e9}
    bias_V = bias_vector(found, len(VOCABULARY))
    assert bias_V.shape == (len(VOCABULARY),) and bias_V.nonzero()[0].size == len(found)
    assert bias_vector(biases_of("", TOKENIZER), 10) is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("wait", "--logit-bias=wait: expected NAME=BIAS"),
        ("wait=much", "--logit-bias=wait=much: expected NAME=BIAS, a number"),
        ("wait=inf", "--logit-bias=wait=inf: expected NAME=BIAS, a number"),
        ("hello=1", "--logit-bias=hello=1: "),
        ("check wait=1", "--logit-bias=check wait=1: 'check wait' is 2 tokens, expected one"),
        ("wait=1,reflective=2", "--logit-bias=reflective=2: 'wait' has a bias already"),
    ],
)
def test_what_is_none_is_one_line(text, message):
    with pytest.raises(InputError) as error:
        biases_of(text, TOKENIZER)
    assert str(error.value).startswith(message)


def test_a_run_that_is_banned_from_reflection_never_reflects(tmp_path):
    """Nor do its held-out replies; sampler and update agree on the distribution."""
    config = tiny_run.inputs(tmp_path)
    out = tiny_run.run(config, tmp_path / "run", "--logit-bias=reflective=-1e9", "--steps=2")
    replies = read_jsonl(out / "replies.jsonl")
    assert {row["split"] for row in replies} >= {"train", "heldout"}
    banned = {"wait", "check", "wrong", "right"}
    assert not any(banned & set(row["text"].split()) for row in replies)
    for row in read_jsonl(out / "metrics.jsonl"):
        assert row["reflection/fraction"] in (0, None) and row["heldout/reflection"] in (0, None)
        assert row["sampler/logp_diff"] is None or row["sampler/logp_diff"] < 1e-5
    free = tiny_run.run(config, tmp_path / "free", "--steps=2")
    assert any(banned & set(row["text"].split()) for row in read_jsonl(free / "replies.jsonl"))
