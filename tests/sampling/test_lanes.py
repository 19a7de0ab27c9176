"""Several engines beside one: what is drawn must be the same, and a failure must be told."""

import dataclasses
import threading

import jax
import numpy as np
import pytest
import small

from r1jax.config import SamplingConfig
from r1jax.sampling import lanes as lanes_module
from r1jax.sampling.engine import Engine, Request
from r1jax.sampling.lanes import Lanes, cores, dealt
from r1jax.sharding import make_mesh

CFG = SamplingConfig(max_prompt=6, max_tokens=20, slots=12, refill=6)
KEY = jax.random.key(0)
rng = np.random.default_rng(0)
REQUESTS = [
    Request(prompt, q, s)
    for q, prompt in enumerate(rng.integers(1, small.CONFIG.vocab, (7, 5)).tolist())
    for s in range(3)
]


def new(monkeypatch, n: int, **changes) -> Lanes:
    monkeypatch.setattr(lanes_module, "cores", lambda mesh: n)
    monkeypatch.setattr(lanes_module, "LEAST", 4)
    return Lanes(small.CONFIG, dataclasses.replace(CFG, **changes), make_mesh("1"), [0])


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_lanes_draw_what_one_engine_draws(monkeypatch, temperature):
    weights, lanes = small.weights(), new(monkeypatch, 3, temperature=temperature)
    cfg = dataclasses.replace(CFG, temperature=temperature)
    want, _ = Engine(small.CONFIG, cfg, make_mesh("1"), [0]).generate(weights, REQUESTS, KEY)
    for _ in range(2):
        told = {}
        got, stats = lanes.generate(weights, REQUESTS, KEY, on_done=told.__setitem__)
        assert all(told[i].tokens is got[i].tokens for i in range(len(REQUESTS)))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.logps, b.logps, atol=1e-6)
            assert a.truncated == b.truncated
        assert stats.tokens == sum(len(c.tokens) for c in want)
        assert stats.prompt_tokens == 5 * len(REQUESTS)
    assert lanes.stats == stats + stats  # both times the same
    with lanes.loaded(weights):
        assert len(lanes.generate(weights, REQUESTS[:1], KEY)[0]) == 1  # fewer than lanes


def test_there_is_a_lane_a_core_and_none_of_few_slots(monkeypatch):
    def slots(cores: int, of: int) -> list[int]:
        return [e.cfg.slots for e in new(monkeypatch, cores, slots=of, refill=1)._engines]

    assert slots(1, 12) == [12]
    assert slots(2, 13) == [7, 7]
    assert slots(8, 12) == [4, 4, 4]
    assert slots(8, 3) == [3]


def test_only_one_device_of_a_cpu_has_cores_for_lanes(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    assert cores(make_mesh("1")) >= 1
    monkeypatch.setenv("NPROC", "3")  # as a sweep's worker is told
    assert cores(make_mesh("1")) == 3
    assert cores(make_mesh("2x1")) == 1


def test_replies_to_one_prompt_share_a_lane():
    parts = dealt(REQUESTS, 2)
    assert sorted([*parts[0], *parts[1]]) == list(range(len(REQUESTS)))
    questions = [{REQUESTS[i].question for i in part} for part in parts]
    assert questions == [{0, 2, 4, 6}, {1, 3, 5}]


def test_a_lane_that_fails_ends_the_others_and_is_what_is_told(monkeypatch):
    lanes = new(monkeypatch, 3)
    stopped, generate = threading.Event(), Engine.generate
    broken = lanes._engines[1]

    def some(engine, weights, requests, key, on_done):
        if engine is broken:
            raise ValueError("this one")
        try:
            while True:  # without end, but for the others' failure
                generate(engine, weights, requests, key, on_done=on_done)
        except InterruptedError:
            stopped.set()
            raise

    monkeypatch.setattr(Engine, "generate", some)
    with pytest.raises(ValueError, match="this one"):
        lanes.generate(small.weights(), REQUESTS, KEY)
    assert stopped.is_set()
    monkeypatch.setattr(Engine, "generate", generate)
    found, stats = lanes.generate(small.weights(), REQUESTS, KEY)
    assert stats.tokens == sum(len(c.tokens) for c in found)
    assert all(len(c.tokens) for c in found)
