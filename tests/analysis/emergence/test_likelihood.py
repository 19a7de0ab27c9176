"""Perplexities and entropies against NumPy over plain logits."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax.analysis.emergence.likelihood import FORKS, Written, likelihood, token_values
from r1jax.analysis.emergence.page import _likely

MODEL = small.CONFIG
BASE, RUN = small.weights(seed=1), small.weights(seed=2)


def written(seed, count=70):
    """More than a batch, of prompts and replies of any length from 1 on; four to a question."""
    rng = np.random.default_rng(seed)

    def some(least, most):
        lengths = rng.integers(least, most, count)
        return [rng.integers(0, MODEL.vocab, n).tolist() for n in lengths]

    return Written(some(1, 5), some(1, 12), np.arange(count) // 4, rng.random(count) < 0.4)


def plain(weights, of):
    """[(log-probability, entropy)] of each token of each reply, one reply at a time."""
    found = []
    for prompt, reply in zip(of.prompts, of.replies, strict=True):
        tokens = np.zeros((1, 16), int)  # what comes behind changes nothing before
        tokens[0, : len(prompt) + len(reply)] = [*prompt, *reply]
        logp_TV = small.log_softmax(small.logits(weights, jnp.asarray(tokens), MODEL)[0])[0]
        at = np.arange(len(prompt) - 1, len(prompt) + len(reply) - 1)
        entropy_T = -(np.exp(logp_TV) * logp_TV).sum(-1)
        found.append((logp_TV[at, tokens[0, at + 1]], entropy_T[at]))
    return found


def perplexity(values, mask):
    kept = np.concatenate([logp for (logp, _), m in zip(values, mask, strict=True) if m])
    return np.exp(-kept.mean())


@pytest.fixture(scope="module")
def values():
    own, drawn = written(3), written(4)
    return own, drawn, plain(BASE, own), plain(BASE, drawn), plain(RUN, drawn)


def test_each_token_has_the_log_probability_and_entropy_of_its_place(values):
    _, drawn, _, under_base, _ = values
    for got, want in zip(token_values(BASE, MODEL, drawn), under_base, strict=True):
        np.testing.assert_allclose(got[0], want[0], atol=1e-5)
        np.testing.assert_allclose(got[1], want[1], atol=1e-5)


def test_perplexity_entropy_and_forks_are_those_of_the_definitions(values):
    own, drawn, of_own, under_base, under_run = values
    found = likelihood(BASE, RUN, MODEL, own, drawn)
    everything, reflects = np.ones(70, bool), drawn.reflects
    want = {
        "base": perplexity(of_own, everything),
        "run": perplexity(under_base, everything),
        "run, reflective": perplexity(under_base, reflects),
        "run, others": perplexity(under_base, ~reflects),
        "run, under itself": perplexity(under_run, everything),
    }
    assert found.perplexity.keys() == want.keys()
    for name, value in want.items():
        got = found.perplexity[name]
        assert got.value == pytest.approx(value, rel=1e-4) and got.low < value < got.high
    assert found.perplexity["run, reflective"].n == reflects.sum()

    def entropies(of):
        return np.concatenate([entropy for _, entropy in of])

    run, base = entropies(under_run), entropies(under_base)
    assert found.entropy["run"].value == pytest.approx(run.mean(), rel=1e-4)
    assert found.entropy["base"].value == pytest.approx(entropies(of_own).mean(), rel=1e-4)
    count = round(FORKS * len(run))
    at = np.argsort(run)[-count:]
    assert abs(found.forks["run"].n - count) <= 1
    assert found.forks["run"].value == pytest.approx(run[at].mean(), rel=0.01)
    assert found.base_at_forks.value == pytest.approx(base[at].mean(), rel=0.01)
    shared = len(set(at) & set(np.argsort(base)[-count:])) / count
    assert found.shared.value == pytest.approx(shared, abs=0.03)
    assert found.forks["run"].value > found.entropy["run"].value


def test_the_report_has_them_beside_its_other_numbers(values):
    own, drawn, *_ = values
    told = {"likelihood": dataclasses.asdict(likelihood(BASE, RUN, MODEL, own, drawn))}
    rows = {label: (start, end) for label, start, end in _likely(json.loads(json.dumps(told)))}
    base, run = rows["perplexity under the base"]
    assert float(base.split()[0]) > 1 and float(run.split()[0]) > 1 and " to " in run
    assert rows["of replies that reflect"][0] == "—"
    assert all(cell != "—" for cell in rows["entropy at forks, nats a token"])
    assert _likely({}) == []


def test_a_run_that_is_its_base_shares_all_its_forks():
    own = written(5, count=9)
    found = likelihood(BASE, BASE, MODEL, own, own)
    assert found.shared.value == 1
    assert found.perplexity["base"] == found.perplexity["run"]
    assert found.base_at_forks == found.forks["run"] == found.forks["base"]


def test_without_a_reflective_reply_there_is_no_perplexity_of_them():
    own = written(6, count=9)
    none = Written(own.prompts, own.replies, own.question, np.zeros(9, bool))
    found = likelihood(BASE, RUN, MODEL, own, none)
    assert found.perplexity["run, reflective"].value is None
    assert found.perplexity["run, others"] == found.perplexity["run"]
