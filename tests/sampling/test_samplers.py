"""Temperature, top-k and top-p against NumPy, and the draws against their probabilities.

S slots  V vocabulary
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax.config import SamplingConfig
from r1jax.sampling.samplers import (
    Biases,
    Cutoffs,
    categorical,
    keep_top,
    sample,
    sample_keys,
)

KEY = jax.random.key(0)
LOGITS_SV = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
CONFIGS = {
    "plain": SamplingConfig(),
    "cool": SamplingConfig(temperature=0.6),
    "hot": SamplingConfig(temperature=2.0),
    "top-k": SamplingConfig(top_k=3),
    "top-p": SamplingConfig(top_p=0.7),
    "all": SamplingConfig(temperature=0.6, top_k=4, top_p=0.95),
    "k-beyond-the-vocabulary": SamplingConfig(top_k=100),
}


def probabilities(logits_V, cfg: SamplingConfig) -> np.ndarray:
    """What is left of softmax(logits / temperature), in float64, likeliest token by token."""
    p = np.exp(small.log_softmax(np.float64(logits_V) / cfg.temperature))
    order = np.argsort(-p)
    if cfg.top_k:
        p[order[cfg.top_k :]] = 0
        p /= p.sum()
    kept, reached = [], 0.0
    for token in order:
        if reached >= cfg.top_p:
            break
        kept.append(token)
        reached += p[token]
    return np.where(np.isin(np.arange(p.size), kept), p, 0) / p[kept].sum()


def draw(logits_SV, cfgs, key=KEY, bias=None):
    """Row i by cfgs[i % len(cfgs)]; with `bias` of tokens 0 and 1."""
    n = len(logits_SV)
    at = jnp.arange(n)

    def rows(name, dtype):
        return jnp.asarray([getattr(cfgs[i % len(cfgs)], name) for i in range(n)], dtype)

    cutoffs = biases = None
    if any(c.top_k or c.top_p < 1 for c in cfgs):
        cutoffs = Cutoffs(rows("top_k", jnp.int32), rows("top_p", jnp.float32))
    if bias is not None:
        biased = jnp.tile(jnp.int32([[0, 1, 9]]), (n, 1))  # 9 is no token
        biases = Biases(biased, jnp.tile(jnp.float32([[*bias, 99]]), (n, 1)))
    keys = sample_keys(key, at, at * 0, at * 0)
    return sample(jnp.asarray(logits_SV), keys, rows("temperature", jnp.float32), cutoffs, biases)


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_logp_is_of_the_distribution_drawn_from(cfg):
    token_S, logp_S = draw(LOGITS_SV, [cfg])
    p_SV = np.stack([probabilities(row, cfg) for row in LOGITS_SV])
    p_S = p_SV[np.arange(len(p_SV)), token_S]
    assert (p_S > 0).all()
    np.testing.assert_allclose(logp_S, np.log(p_S), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_draws_come_as_often_as_their_probabilities_say(cfg):
    n = 20_000
    token_S, _ = draw(np.tile(LOGITS_SV[:1], (n, 1)), [cfg])
    p_V = probabilities(LOGITS_SV[0], cfg)
    count_V = np.bincount(token_S, minlength=9)
    assert (count_V[p_V == 0] == 0).all()
    deviation_V = np.sqrt(n * p_V * (1 - p_V))
    assert (np.abs(count_V - n * p_V) <= 4 * deviation_V).all()


def test_greedy_takes_the_likeliest_for_certain():
    token_S, logp_S = draw(LOGITS_SV, [SamplingConfig(temperature=0.0, top_k=2, top_p=0.5)])
    np.testing.assert_array_equal(token_S, LOGITS_SV.argmax(axis=1))
    np.testing.assert_array_equal(logp_S, 0.0)


def test_every_row_is_drawn_as_it_asks():
    """As beside rows that ask for the same."""
    cfgs = [*CONFIGS.values(), SamplingConfig(temperature=0.0)]
    token_S, logp_S = draw(LOGITS_SV, cfgs)
    for i, cfg in enumerate(cfgs):
        alone_S, alone_logp_S = draw(LOGITS_SV, [cfg])
        np.testing.assert_array_equal(token_S[i :: len(cfgs)], alone_S[i :: len(cfgs)])
        np.testing.assert_allclose(
            logp_S[i :: len(cfgs)], alone_logp_S[i :: len(cfgs)], rtol=1e-5, atol=1e-6
        )


def test_draws_are_those_of_jax():
    """So that replies stay what they were."""
    at = jnp.arange(50)
    want = jax.vmap(jax.random.categorical)(sample_keys(KEY, at, at * 0, at * 0), LOGITS_SV / 0.7)
    np.testing.assert_array_equal(draw(LOGITS_SV, [SamplingConfig(temperature=0.7)])[0], want)


@pytest.mark.parametrize("vocab", [129, 1000, 1024])
def test_of_many_tokens_a_block_is_drawn_and_one_in_it(vocab):
    """Beside the same in float64 and token by token; none that may not be drawn."""
    n, rng, size = 200, np.random.default_rng(vocab), math.ceil(math.sqrt(vocab))
    logits_SV = (rng.normal(size=(n, vocab)) * 3).astype(np.float32)
    logits_SV[rng.random((n, vocab)) < 0.5] = -np.inf
    logits_SV[:, :size] = -np.inf  # a whole block
    keys_S = sample_keys(KEY, np.arange(n), np.zeros(n, int), np.zeros(n, int))
    got_S = categorical(jnp.asarray(logits_SV), keys_S)
    blocks = -(-vocab // size)
    noise_SM = jax.vmap(lambda key: jax.random.gumbel(key, (blocks + size,)))(keys_S)
    for row_V, noise_M, got in zip(np.float64(logits_SV), np.float64(noise_SM), got_S, strict=True):
        parts = [row_V[i : i + size] for i in range(0, vocab, size)]
        with np.errstate(divide="ignore"):
            whole = [np.log(np.exp(part).sum()) for part in parts]
        block = int(np.argmax(whole + noise_M[:blocks]))
        part = parts[block]
        want = block * size + int(np.argmax(part + noise_M[blocks : blocks + len(part)]))
        assert got == want and np.isfinite(row_V[want])


def test_draws_from_many_tokens_come_as_often_as_their_probabilities_say():
    n, logits_V = 20_000, np.random.default_rng(0).normal(size=1000).astype(np.float32)
    logits_V[::3] = -np.inf
    token_S, _ = draw(np.tile(logits_V, (n, 1)), [SamplingConfig()])
    p_V = np.exp(small.log_softmax(np.float64(logits_V)))
    count_V = np.bincount(token_S, minlength=1000)
    some = p_V > 0
    assert (count_V[~some] == 0).all()
    chi2 = np.sum((count_V - n * p_V)[some] ** 2 / (n * p_V)[some])
    free = some.sum() - 1
    assert abs(chi2 - free) < 4 * math.sqrt(2 * free)


@pytest.mark.parametrize(("vocab", "most"), [(100, 0.0), (1000, 1.0)])
def test_a_ban_changes_what_was_banned_and_little_else(vocab, most):
    """Paired replies, with and without a ban, stay together until it binds. most: of tokens that
    were not banned and change, for each that was."""
    n, logits_V = 5000, np.random.default_rng(1).normal(size=vocab).astype(np.float32) * 2
    banned_V = logits_V.copy()
    banned = np.argsort(logits_V)[-20:-10]
    banned_V[banned] = -np.inf
    free_S, bound_S = (
        np.asarray(draw(np.tile(a, (n, 1)), [SamplingConfig()])[0]) for a in (logits_V, banned_V)
    )
    binds_S = np.isin(free_S, banned)
    assert 0.02 < binds_S.mean() < 0.5
    assert (free_S != bound_S)[~binds_S].sum() <= most * binds_S.sum()


@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_a_bias_is_added_to_the_logits(temperature):
    cfg = SamplingConfig(temperature=temperature)
    biased_SV = LOGITS_SV + np.float32([1.5, -0.5, 0, 0, 0, 0, 0, 0, 0])[None]
    token_S, logp_S = draw(LOGITS_SV, [cfg], bias=(1.5, -0.5))
    want_S, want_logp_S = draw(biased_SV, [cfg])
    np.testing.assert_array_equal(token_S, want_S)
    np.testing.assert_allclose(logp_S, want_logp_S, rtol=1e-5, atol=1e-6)
    assert (token_S != draw(LOGITS_SV, [cfg])[0]).any()


def test_top_k_keeps_what_ties_with_the_kth():
    kept = keep_top(jnp.float32([[3, 1, 2, 2, 0]] * 2), jnp.int32([2, 0]), jnp.ones(2))
    np.testing.assert_array_equal(kept[0], [3, -np.inf, 2, 2, -np.inf])
    np.testing.assert_array_equal(kept[1], [3, 1, 2, 2, 0])


@pytest.mark.parametrize("p, kept", [(1e-6, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (1, 4)])
def test_top_p_keeps_the_fewest_that_reach_p_and_always_the_likeliest(p, kept):
    logits_V = np.log(np.float32([0.05, 0.5, 0.15, 0.3]))
    likeliest = np.isin(np.arange(4), [1, 3, 2, 0][:kept])
    got = keep_top(jnp.asarray(logits_V[None]), jnp.int32([0]), jnp.float32([p]))
    np.testing.assert_array_equal(got[0], np.where(likeliest, logits_V, -np.inf))


def test_a_top_p_of_one_keeps_what_rounding_would_drop():
    """The sum of many small probabilities reaches 1 before the last of them."""
    logits_V = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5000)) * 8, jnp.float32)
    got = keep_top(logits_V, jnp.int32([0]), jnp.float32([1]))
    np.testing.assert_array_equal(got, logits_V)


def test_a_key_is_its_question_sample_and_position_and_nothing_else():
    q, s, t = (a.reshape(-1) for a in np.meshgrid(range(5), range(4), range(3), indexing="ij"))
    data = jax.random.key_data(sample_keys(KEY, q, s, t))
    assert len(np.unique(data, axis=0)) == 60
    order = np.random.default_rng(0).permutation(60)[:7]
    again = jax.random.key_data(sample_keys(KEY, q[order], s[order], t[order]))
    np.testing.assert_array_equal(again, data[order])
    other = jax.random.key_data(sample_keys(jax.random.key(1), q, s, t))
    assert not (other == data).all(axis=1).any()


def test_slots_may_have_a_key_each():
    keys = jax.random.split(jax.random.key(5), 3)
    at = jnp.arange(3)
    for i, key in enumerate(keys):
        want = sample_keys(key, at, at + 1, at + 2)[i]
        assert sample_keys(keys, at, at + 1, at + 2)[i] == want
