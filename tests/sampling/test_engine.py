"""The engine against plain decoding without a cache, and what must not change a sample.

N requests  T prompt and reply tokens  V vocabulary
"""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest
import small

from r1jax.checks import InputError
from r1jax.config import SamplingConfig
from r1jax.model.params import weight_specs
from r1jax.sampling import engine as engine_module
from r1jax.sampling import slots
from r1jax.sampling.engine import BURST, Completion, Engine, EngineStats, Event, Request
from r1jax.sampling.sizes import ladder
from r1jax.sharding import make_mesh, shardings

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
    weights, engine = new(model, mesh, **changes)
    return engine.generate(weights, requests, key, on_tokens)


def new(model=MODEL, mesh="1", **changes):
    """(weights, engine)"""
    cfg = dataclasses.replace(CFG, **changes)
    mesh, weights = make_mesh(mesh), small.weights(model)
    if mesh.size > 1:
        weights = jax.device_put(weights, shardings(weight_specs(model), mesh))
    return weights, Engine(model, cfg, mesh, [STOP])


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
    for stats in (continuous, plain):
        assert stats.tokens == sum(len(c.tokens) for c in completions)
        assert stats.utilization == pytest.approx(stats.tokens / (stats.decode_steps * 6))
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


def programs() -> dict[str, int]:
    """How often each compiled function was compiled."""
    names = ("new_cache", "prefill", "place", "share", "refit", "decode")
    return {name: getattr(slots, name)._cache_size() for name in names}


def test_a_second_rollout_compiles_nothing_whatever_it_asks():
    """Other keys and weights, looked at or not, greedy or not, and lengths on the same rungs."""
    jax.clear_caches()
    weights, engine = new()
    engine.generate(weights, REQUESTS, KEY)
    before = programs()
    assert before["decode"] == 1 and sum(before.values()) <= 8
    engine.generate(weights, REQUESTS, jax.random.key(1), lambda *_: None)
    changes = [{"temperature": 0.0}, {"temperature": 0.3}, {"max_tokens": 4}, {"stop": [3, 5, 7]}]
    asked = [dataclasses.replace(r, **changes[i % 4]) for i, r in enumerate(REQUESTS)]
    engine.generate(jax.tree.map(lambda a: 2 * a, weights), asked, KEY)
    after = programs()
    assert after["prefill"] <= 2  # four prompts at a time, and one
    assert after | {"prefill": 0, "place": 0} == before | {"prefill": 0, "place": 0}
    filtered = [dataclasses.replace(r, top_p=0.9) for r in REQUESTS]
    engine.generate(weights, filtered, KEY)
    assert programs()["decode"] == 2


def joined(events: list[Event]) -> Completion:
    tokens, logps = (np.concatenate([getattr(e, f) for e in events]) for f in ("tokens", "logps"))
    assert [bool(e.finish) for e in events] == [False] * (len(events) - 1) + [True]
    return Completion(tokens, logps, events[-1].finish == "length")


@pytest.mark.parametrize("mesh", ["1", "4x2"])
def test_requests_come_and_go_while_others_are_drawn(mesh):
    """Submitted one by one, some cancelled early, late or before they began: the others are what a
    rollout of all gives."""
    weights, engine = new(mesh=mesh, slots=8, refill=1)
    engine.load(weights)
    ids: list[int] = []
    found: dict[int, list[Event]] = collections.defaultdict(list)

    def step() -> None:
        for event in engine.step(2):
            found[event.id].append(event)

    for i, r in enumerate(REQUESTS):
        ids.append(engine.submit(r, KEY))
        if i % 2:
            step()
        if i % 6 == 5:
            engine.cancel(ids[i - 3])
        if i % 8 == 7:
            engine.cancel(ids[i])
    while engine.busy:
        step()
    finished = [bool(found[i]) and bool(found[i][-1].finish) for i in ids]
    for i, completion in zip(ids, sampled()[0], strict=True):
        if found[i] and found[i][-1].finish:
            assert_same([joined(found[i])], [completion])
        elif found[i]:  # cancelled on its way: what it drew was the same
            drawn = np.concatenate([e.tokens for e in found[i]])
            np.testing.assert_array_equal(drawn, completion.tokens[: len(drawn)])
    cut = len(ids) - sum(finished)
    assert 5 <= cut <= 11 and any(
        found[i] for i, done in zip(ids, finished, strict=True) if not done
    )
    assert engine.step() == []


def test_a_request_says_how_it_is_drawn():
    """Each beside others that ask for something else, and as an engine gives that draws all so."""
    ways = [
        {"temperature": 0.0}, {"temperature": 0.7}, {"temperature": 0.7, "top_k": 3},
        {"top_p": 0.6}, {"max_tokens": 5}, {},
    ]  # fmt: skip
    mixed = [dataclasses.replace(r, **ways[i % 6]) for i, r in enumerate(REQUESTS)]
    got = generate(mixed)[0]
    for i, way in enumerate(ways):
        assert_same(got[i::6], generate(**way)[0][i::6])
    assert not any(c.logps.any() for c in got[::6]) and all(c.logps.all() for c in got[1::6])


def test_a_string_ends_a_reply_with_the_token_that_completes_it():
    """Tokens print as bits: "101" may begin in one and end in the next. Whenever it is looked for,
    the reply is the plain one, cut."""

    def text(tokens):
        return "".join(f"{t:b}" for t in tokens)

    asked = [dataclasses.replace(r, stop_strings=["101", "0000"]) for r in REQUESTS]
    weights, engine = new(slots=6, refill=2)
    engine.text = text
    got = engine.generate(weights, asked, KEY)[0]
    told, _ = engine.generate(weights, asked, KEY, lambda *_: None)
    assert_same(got, told)
    found = 0
    for c, plain in zip(got, sampled()[0], strict=True):
        np.testing.assert_array_equal(c.tokens, plain.tokens[: len(c.tokens)])
        np.testing.assert_allclose(c.logps, plain.logps[: len(c.tokens)], atol=1e-5)
        whole = text(c.tokens)
        ended = "101" in whole or "0000" in whole
        before = text(c.tokens[:-1])
        assert "101" not in before and "0000" not in before
        assert ended or len(c.tokens) == len(plain.tokens)
        assert c.truncated == (plain.truncated and not ended)
        found += ended and len(c.tokens) > 1
    assert found > 10


def test_a_request_has_its_own_stop_tokens_bias_and_seed():
    stops = [dataclasses.replace(r, stop=[3, 5]) for r in REQUESTS]
    for c in generate(stops)[0]:
        assert not {3, 5} & set(c.tokens[:-1].tolist())
        assert c.truncated == (c.tokens[-1] not in (3, 5))
    banned = [dataclasses.replace(r, bias={STOP: -1e9, 3: -1e9, 4: 3.0}) for r in REQUESTS]
    drawn = np.concatenate([c.tokens for c in generate(banned)[0]])
    assert not np.isin(drawn, [STOP, 3]).any() and len(drawn) == len(REQUESTS) * CFG.max_tokens
    plain = np.concatenate([c.tokens for c in sampled()[0]])
    assert (drawn == 4).mean() > 2 * (plain == 4).mean()
    weights, engine = new()
    engine.load(weights)
    ids = [engine.submit(Request([3, 1], 0, 0, seed=s)) for s in (0, 1, 0)]
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
    a, b, again = (joined([e for e in events if e.id == i]) for i in ids)
    assert_same([a, again], generate([Request([3, 1], 0, 0)] * 2, key=jax.random.key(0))[0])
    assert a.tokens.tolist() != b.tokens.tolist()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"temperature": -1.0}, "Request.temperature must be finite and not negative, got -1.0"),
        ({"top_p": 0.0}, r"Request.top_p must lie in \(0, 1\], got 0.0"),
        ({"top_k": -1}, "Request.top_k must not be negative, got -1"),
        ({"max_tokens": 21}, "between 1 and SamplingConfig.max_tokens=20, got 21"),
        ({"stop_strings": ["x", ""]}, "stop_strings must be texts with something in them"),
        ({"stop_strings": ["x"]}, "stop_strings: the engine was given no way to read text"),
        ({"stop": range(9)}, "Request.stop has 9 tokens, at most 8"),
        ({"bias": {16: 1.0}}, "Request.bias: the model has no token 16"),
        ({"bias": {1: np.nan}}, "Request.bias of token 1 must be finite, got nan"),
        ({"bias": dict.fromkeys(range(33), 1.0)}, "Request.bias has 33 tokens, at most 32"),
    ],
)
def test_what_a_request_cannot_ask_is_one_clear_line(change, said):
    with pytest.raises(InputError, match=said):
        generate([dataclasses.replace(REQUESTS[0], **change)])


def test_an_engine_is_fit_for_use_after_a_rollout_that_failed():
    weights, engine = new()

    def fails(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(weights, REQUESTS, KEY, fails)
    assert_same(engine.generate(weights, REQUESTS, KEY)[0], sampled()[0])


LONG = small.config(context=2000)
PROMPTS = [rng.integers(1, MODEL.vocab, n).tolist() for n in (30, 3, 19)]


def test_a_sample_does_not_change_with_growth_moving_and_sharing(monkeypatch):
    """36 replies, of prompts of three lengths, in slots that grow from 8 to 72 and are moved
    together as few are left, over caches that grow from 64 positions to 340; and in an engine that
    is as large as it will be from the start."""
    monkeypatch.setattr("r1jax.sampling.engine.LEAST_LENGTH", 64)
    monkeypatch.setattr("r1jax.sampling.engine.SMALL", 8)
    sizes = {"max_prompt": 40, "max_tokens": 300, "slots": 72, "refill": 1}
    asked = [Request(p, q, s) for q, p in enumerate(PROMPTS) for s in range(12)]
    asked[0], asked[20] = (dataclasses.replace(asked[i], bias={STOP: -1e9}) for i in (0, 20))
    weights, engine = new(LONG, **sizes)
    engine.load(weights)
    order, ids, seen = np.random.default_rng(3).permutation(36), [], set()
    found: dict[int, list[Event]] = {}
    for at, i in enumerate(order):
        ids.append(engine.submit(asked[i], KEY))
        for event in engine.step(1) if at in (3, 7, 11, 15) else ():
            found.setdefault(event.id, []).append(event)
        seen.add((engine._per, engine._length))
    while engine.busy:
        for event in engine.step():
            found.setdefault(event.id, []).append(event)
        seen.add((engine._per, engine._length))
    got = {i: joined(found[id]) for i, id in zip(order, ids, strict=True)}
    monkeypatch.setattr("r1jax.sampling.engine.SMALL", 32)
    monkeypatch.setattr("r1jax.sampling.engine.LEAST_SLOTS", 72)
    monkeypatch.setattr("r1jax.sampling.engine.LEAST_LENGTH", 340)
    assert_same([got[i] for i in range(36)], generate(asked, LONG, **sizes)[0])
    assert {(8, 64), (16, 64), (72, 64), (32, 64), (8, 340)} <= seen, seen
    assert engine.stats.prefilled == 3


def test_weights_are_laid_out_once_however_often_is_drawn(monkeypatch):
    weights, engine = new()
    calls = []
    laid = engine_module.lay_out
    monkeypatch.setattr(engine_module, "lay_out", lambda w, **k: calls.append(w) or laid(w, **k))
    with engine.loaded(weights):
        first = engine.generate(weights, REQUESTS, KEY)[0]
        again = engine.generate(weights, REQUESTS, KEY)[0]
    assert len(calls) == 1 and engine._weights is None
    assert_same(first, again)
    engine.generate(weights, REQUESTS[:1], KEY)
    assert len(calls) == 2 and engine._weights is None


def test_a_group_reads_its_prompt_once():
    weights, engine = new(max_prompt=6, slots=16)
    asked = [Request([5, 4, 3, 2, 1], 0, s) for s in range(16)]
    completions, stats = engine.generate(weights, asked, KEY)
    assert stats.prefilled == 1
    for r, c in zip(asked, completions, strict=True):
        assert_same([c], generate([r])[0])
    # Also those that find the first of it in their slots, or finished there.
    few, stats = generate(asked, slots=3, refill=1)
    assert_same(few, completions)
    assert stats.prefilled == 1


def test_other_weights_read_prompts_again():
    weights, engine = new(refill=1)
    asked = Request([5, 4, 3, 2, 1], 0, 0)
    engine.load(weights)
    for _ in range(2):
        engine.submit(dataclasses.replace(asked, max_tokens=20, bias={STOP: -1e9}), KEY)
        engine.step(1)
    assert engine.stats.prefilled == 1
    other = jax.tree.map(lambda a: -a, weights)
    engine.load(other)
    i = engine.submit(asked, KEY)
    found: list[Event] = []
    while engine.busy:
        found += [e for e in engine.step() if e.id == i]
    assert engine.stats.prefilled == 2
    assert_same(
        [joined(found)], Engine(MODEL, CFG, make_mesh("1"), [STOP]).generate(other, [asked], KEY)[0]
    )


def test_few_requests_cost_few_slots_and_short_replies_short_caches():
    weights, engine = new(LONG, max_prompt=40, max_tokens=1900, slots=256)
    engine.load(weights)
    for s in range(8):
        engine.submit(Request([1, 2, 3], 0, s, max_tokens=24), KEY)
    while engine.busy:
        engine.step()
        assert (engine._per, engine._length) == (8, 256)


@pytest.mark.parametrize(
    "wanted, least, most, size",
    [(1, 8, 256, 8), (9, 8, 256, 16), (65, 8, 128, 128), (129, 64, 188, 188), (64, 64, 188, 64),
     (65, 64, 188, 188), (3, 8, 6, 6), (1, 8, 1, 1), (0, 16, 40, 16)],
)  # fmt: skip
def test_the_ladder(wanted, least, most, size):
    assert ladder(wanted, least, most) == size >= wanted


def test_what_hosts_read_is_replicated():
    """A host can read no row of another's devices, whatever layout the compiler would choose."""
    weights, engine = new(mesh="2x4", slots=8)
    engine.load(weights)
    engine.submit(REQUESTS[0], KEY)
    with jax.set_mesh(engine.mesh):
        engine._admit()
        assert not jax.tree.leaves(engine._cache)[-1].sharding.is_fully_replicated
        out = slots.decode(
            engine._weights, engine._cache, engine._rows, np.int32(0), np.int32(1), model=MODEL
        )
    read = jax.tree.leaves(out[1:])
    assert len(read) == 3 and all(a.sharding.is_fully_replicated for a in read)


def test_running_slots_may_become_so_few_that_they_are_moved_twice(monkeypatch):
    """From 64 to 16 to 8: most replies end in one step, and the call must not wait for none."""
    monkeypatch.setattr("r1jax.sampling.engine.SMALL", 4)
    weights, engine = new(slots=64, refill=64, max_tokens=24)
    requests = [Request([1, 2, 3], 0, i, max_tokens=24 if i < 2 else 1, stop=[]) for i in range(64)]
    completions, _ = engine.generate(weights, requests, KEY)
    assert [len(c.tokens) for c in completions] == [24, 24] + [1] * 62
