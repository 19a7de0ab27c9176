"""The engine against plain decoding without a cache, and what must not change a sample.

N requests  T prompt and reply tokens  V vocabulary
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import small

from r1jax.config import InputError, SamplingConfig
from r1jax.model.params import weight_specs
from r1jax.sampling.engine import (
    BURST,
    Completion,
    Engine,
    EngineStats,
    Request,
    _collect,
    _decode,
    _empty,
    _news,
)
from r1jax.sharding import batch_sharding, make_mesh, shardings

STOP = 0
T = 26
KEY = jax.random.key(0)
CFG = SamplingConfig(max_prompt=6, max_tokens=T - 6, slots=16, refill=8)
MODEL = small.CONFIG
rng = np.random.default_rng(0)
REQUESTS = [  # 40, of prompts of 1 to 6 tokens: more than slots
    Request(rng.integers(1, MODEL.vocab, 1 + q % 6).tolist(), q, s)
    for q in range(10)
    for s in range(4)
]


def generate(requests=REQUESTS, model=MODEL, mesh="1", key=KEY, on_tokens=None, **changes):
    cfg = dataclasses.replace(CFG, **changes)
    mesh, weights = make_mesh(mesh), small.weights(model)
    if mesh.size > 1:
        weights = jax.device_put(weights, shardings(weight_specs(model), mesh))
    return Engine(model, cfg, mesh, [STOP]).generate(weights, requests, key, on_tokens)


@functools.cache
def sampled() -> tuple[list[Completion], EngineStats]:
    """Long-tailed: at each token, a few percent of the replies stop."""
    return generate()


@functools.cache
def in_few_slots(refill: int) -> tuple[list[Completion], EngineStats]:
    return generate(slots=6, refill=refill)


def rows(requests, completions) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and reply in rows of T, and which tokens are of the reply."""
    tokens, reply = np.zeros((len(requests), T), np.int32), np.zeros((len(requests), T), bool)
    for i, (r, c) in enumerate(zip(requests, completions, strict=True)):
        whole = [*r.prompt, *c.tokens]
        tokens[i, : len(whole)] = whole
        reply[i, len(r.prompt) : len(whole)] = True
    return tokens, reply


def full_log_probs(tokens, temperature=1.0) -> np.ndarray:
    """[N, T, V] of the token at each position, from one forward over whole rows."""
    logits, _ = small.logits(small.weights(), tokens)
    logp = small.log_softmax(np.float64(logits) / temperature)[:, :-1]
    return np.pad(logp, ((0, 0), (1, 0), (0, 0)))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_greedy_replies_are_those_of_plain_decoding(scan_layers):
    model = small.config(layers=2, dense_layers=1, scan_layers=scan_layers)
    requests = [r for r in REQUESTS if r.sample == 0]
    completions, _ = generate(requests, model, temperature=0.0)
    for request, c in zip(requests, completions, strict=True):
        tokens = list(request.prompt)
        while tokens[-1] != STOP and len(tokens) - len(request.prompt) < CFG.max_tokens:
            row = np.array([tokens + [0] * (T - len(tokens))])
            logits, _ = small.logits(small.weights(model), row, model)
            tokens.append(int(logits[0, len(tokens) - 1].argmax()))
        assert c.tokens.tolist() == tokens[len(request.prompt) :]
        np.testing.assert_array_equal(c.logps, 0.0)
    assert len({tuple(c.tokens) for c in completions}) > 5


def test_logps_are_those_of_a_full_forward():
    completions, _ = sampled()
    tokens, reply = rows(REQUESTS, completions)
    want = np.take_along_axis(full_log_probs(tokens), tokens[..., None], axis=2)
    got = np.concatenate([c.logps for c in completions])
    np.testing.assert_allclose(got, want[..., 0][reply], atol=1e-5)


def test_logps_are_of_the_distribution_that_temperature_top_k_and_top_p_leave():
    completions, _ = generate(temperature=0.7, top_k=6, top_p=0.8)
    tokens, reply = rows(REQUESTS, completions)
    p = np.exp(full_log_probs(tokens, temperature=0.7)[reply])
    drawn = p[np.arange(len(p)), tokens[reply]]
    six = -np.sort(-p, axis=1)[:, :6]
    share = six / six.sum(axis=1, keepdims=True)
    kept = np.cumsum(share, axis=1) - share < 0.8
    want = np.log(drawn / np.sum(six * kept, axis=1))
    got = np.concatenate([c.logps for c in completions])
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_reply_ends_with_the_stop_token_or_at_max_tokens():
    completions, _ = sampled()
    for c in completions:
        assert STOP not in c.tokens[:-1]
        assert c.truncated == (c.tokens[-1] != STOP)
        assert len(c.tokens) == len(c.logps) <= CFG.max_tokens
        assert not c.truncated or len(c.tokens) == CFG.max_tokens
    assert 5 < sum(c.truncated for c in completions) < 35  # both kinds, or this says little


def assert_same(got: list[Completion], want: list[Completion]):
    for a, b in zip(got, want, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist() and a.truncated == b.truncated
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-5)


def test_a_sample_does_not_change_with_its_place_in_the_batch():
    order = np.random.default_rng(1).permutation(len(REQUESTS))
    completions, _ = generate([REQUESTS[i] for i in order])
    assert_same(completions, [sampled()[0][i] for i in order])


def test_a_sample_does_not_change_with_how_few_are_asked_for():
    assert len(REQUESTS[5:8]) < CFG.refill
    assert_same(generate(REQUESTS[5:8])[0], sampled()[0][5:8])
    assert generate([])[0] == []


@pytest.mark.parametrize("refill", [2, 6])
def test_a_sample_does_not_change_with_slots_and_refill(refill):
    assert_same(in_few_slots(refill)[0], sampled()[0])


@pytest.mark.parametrize("mesh", ["2x4", "8x1"])
def test_a_sample_does_not_change_with_the_mesh(mesh):
    """Also where 6 slots, 2 refilled at a time, are rounded up to one for every device."""
    assert_same(generate(mesh=mesh, slots=6, refill=2)[0], sampled()[0])


def test_a_sample_changes_with_key_question_and_number():
    asked = [Request([3, 1], q, s) for q, s in [(0, 0), (0, 1), (1, 0), (0, 0)]]
    a, b, c, again = (tuple(x.tokens) for x in generate(asked)[0])
    other = tuple(generate(asked[:1], key=jax.random.key(1))[0][0].tokens)
    assert a == again and len({a, b, c, other}) == 4


def test_refilled_slots_wait_less_than_a_batch_for_its_longest():
    """Same slots, same requests; a plain batch is refilled all at once."""
    (completions, continuous), (_, plain) = in_few_slots(refill=2), in_few_slots(refill=6)
    # Each token but a reply's first, which the prefill draws, is one slot busy for one step.
    busy = sum(len(c.tokens) - 1 for c in completions)
    for stats in (continuous, plain):
        assert stats.utilization == pytest.approx(busy / (stats.decode_steps * 6))
    assert continuous.utilization > 1.2 * plain.utilization


@pytest.mark.parametrize("length", [0, CFG.max_prompt + 1])
def test_a_prompt_that_does_not_fit_is_one_clear_line(length):
    requests = [Request([1], 0, 0), Request([1] * length, 7, 0)]
    with pytest.raises(InputError, match=f"question 7 has {length} tokens.*max_prompt=6$"):
        generate(requests)


def test_a_context_that_cannot_hold_the_reply_is_one_clear_line():
    with pytest.raises(
        InputError, match=r"max_prompt \+ max_tokens = 106 .* ModelConfig.context=64"
    ):
        generate(max_tokens=100)


@pytest.mark.parametrize("mesh", ["1", "2x4"])
def test_tokens_are_told_as_they_are_drawn_and_change_nothing(mesh):
    """With fewer slots than requests, so that slots change their request."""
    told: dict[int, list[int]] = {}
    looks = []

    def on_tokens(request: int, tokens: list[int]) -> None:
        looks.append(len(tokens))
        told.setdefault(request, []).extend(tokens)

    completions, stats = generate(mesh=mesh, slots=6, refill=2, on_tokens=on_tokens)
    want, plain = generate(mesh=mesh, slots=6, refill=2)
    for a, b in zip(completions, want, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_array_equal(a.logps, b.logps)
    assert [told[i] for i in range(len(REQUESTS))] == [c.tokens.tolist() for c in completions]
    assert stats == plain and max(looks) <= BURST + 1 < max(len(c.tokens) for c in completions)


def test_looking_at_tokens_compiles_nothing_again():
    generate(on_tokens=lambda *_: None)
    before = _decode._cache_size(), _news._cache_size()
    generate(on_tokens=lambda *_: None, key=jax.random.key(1))
    generate()
    assert (_decode._cache_size(), _news._cache_size()) == before


def test_what_hosts_read_is_replicated():
    """A host can read no row of another's devices: whatever layout the compiler would choose, as
    here for indices that are split themselves."""
    mesh = make_mesh("2x4")
    with jax.set_mesh(mesh):
        slots = _empty(model=MODEL, cfg=dataclasses.replace(CFG, slots=8, refill=8), mesh=mesh)
        assert not slots.tokens_SM.sharding.is_fully_replicated
        which = jax.device_put(np.arange(8, dtype=np.int32), batch_sharding(mesh))
        read = [*_collect(slots, which, mesh=mesh)]
        read += _news(slots, np.zeros(8, np.int32))
    assert len(read) == 5 and all(a.sharding.is_fully_replicated for a in read)
