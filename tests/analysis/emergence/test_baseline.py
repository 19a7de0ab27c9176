"""The largest probability of a first reflective token, against a plain forward of every reply."""

import jax
import numpy as np
import pytest
import small

from r1jax.analysis.emergence import baseline
from r1jax.analysis.emergence.baseline import first_token_probability, reflective
from r1jax.analysis.emergence.logs import Reply
from r1jax.model.head import unembed
from r1jax.model.transformer import forward


@pytest.mark.parametrize("seed", range(3))
def test_probability_is_that_of_a_plain_forward_up_to_the_first(seed, monkeypatch):
    monkeypatch.setattr(baseline, "ROWS", 4)
    monkeypatch.setattr(baseline, "CHUNK", 8)
    model, weights = small.CONFIG, small.weights(seed=seed)
    rng = np.random.default_rng(seed)
    wanted = {3, 5}
    prompts = [rng.integers(6, model.vocab, rng.integers(1, 6)).tolist() for _ in range(7)]
    replies = [rng.integers(0, model.vocab, rng.integers(1, 12)).tolist() for _ in range(7)]
    replies[2][:] = [3, *replies[2][1:]]  # the very first token is one
    replies[3] = [t for t in replies[3] if t not in wanted] or [0]  # none is
    most = 0.0
    for prompt, reply in zip(prompts, replies, strict=True):
        row = np.array([prompt + reply])
        hidden = forward(weights, row, model).hidden_BTD
        p_TV = np.asarray(jax.nn.softmax(unembed(weights.params, hidden, model)))[0]
        for k, token in enumerate(reply):
            most = max(most, float(p_TV[len(prompt) + k - 1, sorted(wanted)].sum()))
            if token in wanted:
                break
    got = first_token_probability(weights, model, prompts, replies, sorted(wanted))
    np.testing.assert_allclose(got, most, rtol=1e-5)


def test_replies_are_read_as_a_verdict_reads_them():
    prompt = "use 9 5 4 2 to make 8 <think>"
    guess = "9 + 5 = 14 - 4 = 10 - 2 = 8 </think> <answer> 9 + 5 - 4 - 2 </answer>"
    checks = guess.replace("8 </think>", "8 check 8 = 8 right </think>")
    found = reflective([Reply(0, "q", prompt, text) for text in (guess, checks)])
    assert found == [False, True]
    words = [Reply(0, "q", "Why?", text) for text in ("So.", "Hmm, wait, let me check: 4.")]
    assert reflective(words) == [False, True]
