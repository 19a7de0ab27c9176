"""Slips, verdicts and opened checks, against a plain forward of one attempt after the other."""

import jax
import numpy as np
import small

from r1jax.analysis.emergence import competence as module
from r1jax.analysis.emergence.competence import competence
from r1jax.data.conversation import make_conversation
from r1jax.data.countdown import VOCABULARY, problems, ways
from r1jax.data.tokenizer import Tokenizer
from r1jax.model.head import unembed
from r1jax.model.transformer import forward

MODEL = small.config(vocab=len(VOCABULARY), context=64)


@jax.jit
def after(weights, ids_1T, at):
    """Probabilities of the token behind place `at`, which nothing behind it changes."""
    hidden_1D = forward(weights, ids_1T, MODEL).hidden_BTD[:, at]
    return jax.nn.softmax(unembed(weights.params, hidden_1D, MODEL))[0]


def test_all_four_are_those_of_a_plain_forward(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 8)
    weights = small.weights(MODEL)
    conversation = make_conversation(Tokenizer.words(VOCABULARY), "")
    asked = [problems(3)[7], problems(4)[100]]
    word = VOCABULARY.index
    slips, accepts, rejects, opens = [], [], [], []
    for problem in asked:
        for signs in ways(len(problem.numbers)):
            said = [*problem.prompt.split(), "<think>", str(problem.numbers[0])]
            running = problem.numbers[0]

            def likely(said=said):
                ids = np.zeros((1, MODEL.context), np.int32)
                ids[0, : len(said)] = [word(w) for w in said]
                return np.asarray(after(weights, ids, len(said) - 1))

            for sign, n in zip(signs, problem.numbers[1:], strict=True):
                running += n if sign == "+" else -n
                said += [sign, str(n), "="]
                slips.append(1 - likely(said)[word(str(running))])
                said.append(str(running))
            opens.append(likely(said)[word("check")])
            p = likely([*said, "check", str(running), "=", problem.answer])
            right = p[word("right")] / (p[word("right")] + p[word("wrong")])
            if str(running) == problem.answer:
                rejects.append(1 - right)
            else:
                accepts.append(right)
    got = competence(weights, MODEL, conversation, asked)
    want = [np.mean(values) for values in (slips, accepts, rejects, opens)]
    found = [got.slips, got.accepts_wrong, got.rejects_right, got.opens]
    np.testing.assert_allclose(found, want, rtol=2e-5)
    assert len(rejects) == 2
