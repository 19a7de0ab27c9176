"""What the engine records of routing is what one forward over the same tokens chooses."""

import dataclasses

import jax
import numpy as np
import pytest
import small
from hlo import largest
from test_engine import CFG, KEY, REQUESTS, STOP, rows

from r1jax.architecture import ModelConfig, RouterConfig
from r1jax.checks import InputError
from r1jax.model.cache import expert_dtype
from r1jax.model.params import weight_specs
from r1jax.sampling import slots
from r1jax.sampling.engine import Completion, Engine
from r1jax.sharding import make_mesh, shardings

# Four replies to each of ten prompts.
PLAIN = [dataclasses.replace(r, prompt=REQUESTS[4 * r.question].prompt) for r in REQUESTS]
ASKED = [dataclasses.replace(r, routing=True) for r in PLAIN]


def new(model: ModelConfig, mesh_text: str, **changes):
    """(weights, an engine that records)"""
    mesh, weights = make_mesh(mesh_text), small.weights(model)
    if mesh.size > 1:
        weights = jax.device_put(weights, shardings(weight_specs(model), mesh))
    cfg = dataclasses.replace(CFG, **changes)
    text = "".join(chr(97 + t) for t in range(model.vocab)).__getitem__
    return weights, Engine(
        model, cfg, mesh, [STOP], lambda tokens: "".join(map(text, tokens)), routing=True
    )


def assert_recorded(model: ModelConfig, requests, completions: list[Completion]) -> None:
    """In float32; as sets, each of them of the token that it stands beside."""
    tokens, _ = rows(requests, completions)
    _, stats = small.logits(small.weights(model), tokens, model)
    want_LNTK = np.sort(stats.experts_BTK, axis=-1)
    assert len(np.unique(want_LNTK, axis=1)) == model.moe_layers  # layers differ
    for i, (r, c) in enumerate(zip(requests, completions, strict=True)):
        assert c.experts is not None and c.experts.dtype == np.uint8
        read = len(r.prompt) + len(c.tokens) - 1  # not the last one
        assert c.experts.shape == (read, model.moe_layers, model.router.active)
        got = np.moveaxis(np.sort(c.experts, axis=-1), 1, 0)
        np.testing.assert_array_equal(got, want_LNTK[:, i, :read])


def test_recorded_are_the_choices_of_a_forward(monkeypatch):
    """Of prompts that are read once for four replies, in slots that are filled again, moved
    together and given more positions; and of replies that a string ends."""
    monkeypatch.setattr("r1jax.sampling.engine.LEAST_LENGTH", 16)
    monkeypatch.setattr("r1jax.sampling.engine.ROOM", 4)
    monkeypatch.setattr("r1jax.sampling.engine.SMALL", 4)
    model = small.config(layers=3, dense_layers=1, scan_layers=False)
    weights, engine = new(model, "1", slots=16, refill=4)
    seen, decode = set(), engine._decode

    def spy(steps):
        seen.add((engine._per, engine._length))
        return decode(steps)

    monkeypatch.setattr(engine, "_decode", spy)
    completions, stats = engine.generate(weights, ASKED, KEY)
    assert stats.prefilled < len(ASKED) / 2
    assert len({per for per, _ in seen}) > 1 < len({length for _, length in seen}), seen
    assert_recorded(model, ASKED, completions)
    ended = [dataclasses.replace(r, stop_strings=["b", "c"]) for r in ASKED]
    cut, _ = engine.generate(weights, ended, KEY)
    assert sum(len(a.tokens) < len(b.tokens) for a, b in zip(cut, completions, strict=True)) > 5
    assert_recorded(model, ended, cut)
    # Who does not ask is not told, and draws the same.
    plain, _ = engine.generate(weights, PLAIN, KEY)
    assert not any(c.experts is not None for c in plain)
    assert [c.tokens.tolist() for c in plain] == [c.tokens.tolist() for c in completions]


def test_every_device_records_its_own_slots():
    model = small.config(layers=2)
    weights, engine = new(model, "2x4", slots=16, refill=4)
    completions, _ = engine.generate(weights, ASKED, KEY)
    assert_recorded(model, ASKED, completions)


def test_what_hosts_read_is_all_that_travels():
    """Eight slots of sixteen, 64 positions each, two layers of two experts; not the cache."""
    model, mesh = small.config(layers=2), make_mesh("2x4")
    with jax.set_mesh(mesh):
        cache = slots.new_cache(model=model, slots=16, length=64, routing=True)
        lowered = slots.routing_of.lower(cache.experts, np.zeros(8, np.int32), model=model)
        assert largest(lowered.compile().as_text()) == 8 * 64 * 4 < cache.experts.size


def test_where_nothing_is_recorded_nothing_is_kept():
    model = small.CONFIG
    engine = Engine(model, CFG, make_mesh("1"), [STOP])
    with pytest.raises(InputError, match=r"^Request.routing: the engine records none$"):
        engine.submit(ASKED[0], KEY)
    engine.load(small.weights())
    engine.submit(PLAIN[0], KEY)
    with jax.set_mesh(engine.mesh):
        engine._admit()
    assert engine._cache is not None and engine._cache.experts is None
    dense = small.config(dense_layers=1)
    with pytest.raises(InputError, match="no MoE layers, so there is no routing"):
        Engine(dense, CFG, make_mesh("1"), [STOP], routing=True)


@pytest.mark.parametrize("experts, bytes", [(8, 1), (256, 1), (257, 2)])
def test_numbers_of_experts_take_as_few_bytes_as_they_need(experts, bytes):
    dtype = expert_dtype(small.config(router=RouterConfig(experts, 2)))
    assert dtype.itemsize == bytes and np.iinfo(dtype).max >= experts - 1
