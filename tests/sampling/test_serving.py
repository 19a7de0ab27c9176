"""What serving asks of the engine: prompts found in part, guides, likeliest tokens and scores."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import small

from r1jax.checks import InputError
from r1jax.config import SamplingConfig
from r1jax.model.params import weight_specs
from r1jax.sampling import slots
from r1jax.sampling.admission import assign, common
from r1jax.sampling.engine import Engine, Request
from r1jax.sharding import make_mesh, shardings

STOP, MODEL = 0, small.CONFIG
CFG = SamplingConfig(max_prompt=63, max_tokens=63, slots=8, refill=8)
SYSTEM = np.random.default_rng(0).integers(1, MODEL.vocab, 24).tolist()
ASKED = [Request([*SYSTEM, *([q + 1] * (1 + q))], q, 0, q, max_tokens=12) for q in range(12)]


def new(mesh="1", cfg=CFG, **more) -> Engine:
    mesh, weights = make_mesh(mesh), small.weights()
    if mesh.size > 1:
        weights = jax.device_put(weights, shardings(weight_specs(MODEL), mesh))
    engine = Engine(MODEL, cfg, mesh, [STOP], positions=64, **more)
    engine.load(weights)
    return engine


def run(engine: Engine, requests) -> list[dict]:
    """Of each: its tokens, log-probabilities, tops, how it ended, what was cached."""
    found = {engine.submit(r): {"tokens": [], "logps": [], "tops": []} for r in requests}
    while engine.busy:
        for e in engine.step(3):
            one = found[e.id]
            one["tokens"] += e.tokens.tolist()
            one["logps"] += e.logps.tolist()
            one["tops"].append(e.tops)
            one["finish"], one["cached"] = e.finish, e.cached
    return list(found.values())


@functools.cache
def plain() -> list[dict]:
    return run(new(), ASKED)


def same(got: list[dict], want: list[dict]) -> None:
    assert [g["tokens"] for g in got] == [w["tokens"] for w in want]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g["logps"], w["logps"], atol=1e-4)


@pytest.mark.parametrize("mesh", ["1", "2x4"])
def test_what_is_found_in_the_cache_changes_no_reply(mesh):
    engine = new(mesh, reuse=True)
    first = run(engine, ASKED[:1])  # idle after it
    assert first[0]["cached"] == 0
    rest = run(engine, ASKED[1:])
    same(first + rest, plain())
    cached = [one["cached"] for one in rest]
    least = 24 if mesh == "1" else 0  # a prompt is on the device that read it
    assert all(n >= least for n in cached) and max(cached) >= 24
    again = run(engine, ASKED[3:4])
    same(again, plain()[3:4])
    assert again[0]["cached"] == len(ASKED[3].prompt) - 1 or mesh != "1"
    assert engine.stats.cached_tokens >= sum(cached)


def test_prompts_that_wait_are_read_together_though_no_slot_waits(monkeypatch):
    """refill=1: a slot is given away as soon as it is free, and yet 12 prompts are 2 reads."""
    read, prefill = [], slots.prefill
    monkeypatch.setattr(
        slots, "prefill", lambda w, t, **how: (read.append(len(t)), prefill(w, t, **how))[1]
    )
    engine = new(cfg=dataclasses.replace(CFG, refill=1, slots=12), together=8)
    same(run(engine, ASKED), plain())
    assert read == [8, 4]


def test_a_turn_goes_on_from_the_reply_before():
    engine, other = new(reuse=True), new()
    turn, read = [ASKED[5]], 1
    for _ in range(3):
        reply, want = run(engine, turn), run(other, turn)
        same(reply, want)
        assert reply[0]["cached"] >= read - 1
        whole = [*turn[0].prompt, *reply[0]["tokens"]]
        read, turn = len(whole), [Request([*whole, 3, 4], 1, 0, 9, max_tokens=4)]


def test_after_other_weights_nothing_is_found():
    engine = new(reuse=True)
    run(engine, ASKED[:2])
    engine.load(small.weights(seed=1))
    assert [one["cached"] for one in run(engine, ASKED[:1])] == [0]


def test_without_reuse_nothing_is_kept():
    engine = new()
    run(engine, ASKED[:1])
    assert run(engine, ASKED[:1])[0]["cached"] == 0


class Held:
    """A request with a prefix."""

    def __init__(self, *tokens: int):
        self.prefix = np.array(tokens, np.int32).tobytes()


def test_who_is_used_longest_ago_makes_room():
    texts = [Held(*[i] * 20).prefix for i in range(4)]
    prefix = {2: texts[2], 0: texts[0], 1: texts[1], 3: texts[3]}  # 2 was used longest ago
    found = assign([Held(*[9] * 20)], 1, 4, {1}, prefix, partly=True)
    assert list(found.slots) == [2] and found.read == [[(Held(*[9] * 20).prefix, [2])]]
    # What goes on stays in its slot; what branches off is a copy.
    more = Held(*[0] * 20, 5)
    found = assign([more], 1, 4, {1}, prefix, partly=True)
    assert list(found.slots) == [0] and found.shared == [[]] and found.cached == {0: 20}
    assert [(p, r.held, r.rows) for p, r in found.rest[0]] == [(more.prefix, 20, [0])]
    branch = Held(*[9] * 18, 7, 7)
    found = assign([branch, branch], 1, 4, {1}, prefix, partly=True)
    ((_, rest),) = found.rest[0]
    assert list(found.slots) == rest.rows == [3, 2] and rest.held == 18
    assert found.shared == [[(2, 3)]]
    assert common(texts[0], more.prefix) == 20 and common(b"", texts[0]) == 0


class Only:
    """A guide: after `free` tokens only those in `tokens`."""

    def __init__(self, free: int, tokens, pauses=()):
        self.free, self.tokens, self.pauses, self.seen = free, tokens, pauses, []

    def next(self):
        left = self.free - len(self.seen)
        if left > 0:
            return None, left
        may = np.zeros(32, bool)
        may[list(self.tokens)] = True
        return np.packbits(may, bitorder="little").view(np.uint32), 2

    def feed(self, tokens):
        self.seen += tokens
        if set(self.seen) & set(self.pauses):
            self.free = 0


def test_a_guide_binds_its_own_reply_alone():
    guides = [Only(5, [7]), Only(0, [2, 11]), Only(99, [7])]
    asked = [
        Request(r.prompt, r.question, 0, r.seed, max_tokens=12, guide=g)
        for r, g in zip(ASKED[:3], guides, strict=True)
    ]
    got = run(new(), [*asked, *ASKED[3:6]])
    same(got[2:], plain()[2:6])
    first, second = got[0]["tokens"], got[1]["tokens"]
    assert first[:5] == plain()[0]["tokens"][:5] and set(first[5:]) <= {7}
    assert set(second) == {2, 11} and len(second) == 12  # both are drawn
    np.testing.assert_allclose(got[0]["logps"][5:], 0, atol=1e-6)
    assert [g.seen for g in guides] == [one["tokens"] for one in got[:3]]
    assert [one["tokens"] for one in run(new(), [Request(
        ASKED[1].prompt, 1, 0, 1, max_tokens=12, guide=Only(0, [2, 11]))])] == [second]  # fmt: skip


def test_a_pause_is_heard_at_once():
    free = plain()[1]["tokens"]
    at = next(i for i, t in enumerate(free) if t != STOP)
    guide = Only(99, [7], pauses=[free[at]])
    got = run(new(), [Request(ASKED[1].prompt, 1, 0, 1, max_tokens=12, guide=guide)])[0]["tokens"]
    assert got == [*free[: at + 1], *[7] * (11 - at)]


def full(tokens) -> np.ndarray:
    logits, _ = small.logits(small.weights(), np.array([tokens]))
    return small.log_softmax(logits[0])


def test_the_likeliest_tokens_are_the_models_own():
    """Whatever the temperature, and beside replies that are not told."""
    asked = [Request(ASKED[0].prompt, 0, 0, 0, max_tokens=9, temperature=2.0, top_k=5, tops=True)]
    told, other = run(new(), [*asked, ASKED[1]])
    same([other], plain()[1:2])
    assert other["tops"][0] is None
    whole, n = [*ASKED[0].prompt, *told["tokens"]], len(ASKED[0].prompt)
    want = full(whole)[n - 1 : -1]
    logp = np.concatenate([t.logp_T for t in told["tops"]])
    np.testing.assert_allclose(logp, want[np.arange(len(logp)), told["tokens"]], atol=1e-4)
    best = np.concatenate([t.logp_TK for t in told["tops"]])
    np.testing.assert_allclose(best, -np.sort(-want, axis=1), atol=1e-4)  # K is the vocabulary
    tokens = np.concatenate([t.token_TK for t in told["tops"]])
    np.testing.assert_allclose(np.take_along_axis(want, tokens, 1), best, atol=1e-4)


@pytest.mark.parametrize("mesh", ["1", "2x4"])
def test_scores_are_those_of_a_full_forward(mesh):
    texts = [r.prompt[:n] for r, n in zip(ASKED, (1, 2, 9, 25, 26, 27, 28, 30, 31), strict=False)]
    for text, told in zip(texts, new(mesh).score(texts), strict=True):
        want = full(text)[:-1]
        assert told.logp_T.shape == (len(text) - 1,)
        np.testing.assert_allclose(told.logp_T, want[np.arange(len(want)), text[1:]], atol=1e-4)
        np.testing.assert_allclose(told.logp_TK[:, :3], -np.sort(-want, 1)[:, :3], atol=1e-4)


def test_prompt_and_reply_have_to_fit_together():
    engine = new()
    engine.submit(Request([1] * 60, 0, 0, max_tokens=4))
    with pytest.raises(InputError, match="are 65 tokens together, more than 64"):
        engine.submit(Request([1] * 60, 0, 0, max_tokens=5))
    with pytest.raises(InputError, match="a text of 65 tokens: takes 1 to 64"):
        engine.score([[1] * 65])
