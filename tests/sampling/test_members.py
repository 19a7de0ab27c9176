"""Several models' replies from one program: each one's own engine is the oracle."""

import dataclasses
import functools

import hlo
import jax
import numpy as np
import pytest
import small

from r1jax.checks import InputError
from r1jax.config import SamplingConfig
from r1jax.sampling.engine import Engine, Request
from r1jax.sampling.members import Asked, MembersEngine, members_mesh
from r1jax.sampling.requests import how
from r1jax.sharding import make_mesh

STOP = (0,)
MODEL = small.CONFIG
CFG = SamplingConfig(max_prompt=6, max_tokens=20, slots=32, refill=8)


def requests(seed, count, **given):
    """To prompts of 1 to 6 tokens, some of them asked several times."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(1, MODEL.vocab, 1 + q % 6).tolist() for q in range(9)]
    return [Request(prompts[i // 4 % 9], i // 4, i % 4, **given) for i in range(count)]


def asked(some, cfg=CFG, key=0):
    data = np.asarray(jax.random.key_data(jax.random.key(key)))
    return Asked(some, [how(r, cfg, STOP, MODEL.vocab) for r in some], data)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def alone(some, seed, cfg=CFG, key=0):
    engine = Engine(MODEL, cfg, make_mesh("1"), STOP)
    return engine.generate(small.weights(seed=seed), some, jax.random.key(key))


def assert_same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-5)
        assert a.truncated == b.truncated and a.tokens.dtype == b.tokens.dtype


@functools.cache
def of_three():
    """Members of different weights, keys and numbers of requests, one of none, one greedy in part;
    more requests than slots, and a long tail: slots are refilled, and then moved together."""
    cfg = dataclasses.replace(CFG, slots=128, refill=16)
    some = [
        requests(1, 200),
        [],
        requests(2, 9, temperature=0.0) + requests(3, 25, bias={3: -1e9, 5: 2.0}),
    ]
    weights = stacked([small.weights(seed=seed) for seed in (4, 5, 6)])
    engine = MembersEngine(MODEL, cfg, members_mesh(jax.devices()[:1]), 3, STOP)
    found = engine.generate(
        weights, [asked(r, cfg, key) for r, key in zip(some, (7, 8, 9), strict=True)]
    )
    return cfg, some, engine, found


def test_each_member_draws_what_it_would_alone():
    cfg, some, _, found = of_three()
    for i, key in ((0, 7), (2, 9)):
        want, _ = alone(some[i], 4 + i, cfg, key)
        assert_same(found[i][0], want)
    assert found[1][0] == []
    assert not any(3 in c.tokens for c in found[2][0][9:])


def test_what_was_drawn_is_counted_by_member():
    _, some, _, found = of_three()
    for (completions, stats), asked_ in zip(found, some, strict=True):
        assert stats.tokens == sum(len(c.tokens) for c in completions)
        assert 0 < stats.utilization <= 1 if asked_ else stats.tokens == 0
    assert {stats.decode_steps for _, stats in found} == {found[0][1].decode_steps}
    assert 9 <= found[0][1].prefilled < 200  # each prompt once or a few times, not for every reply


def test_one_program_for_each_number_of_slots():
    _, _, engine, _ = of_three()
    assert [f._cache_size() for f in (engine._decode, engine._shrink)] == [2, 1]  # 128, then 32
    assert engine._admit._cache_size() == engine._lay_out._cache_size() == 1


@pytest.mark.slow
def test_members_are_spread_over_devices_and_nothing_is_sent():
    """Eight devices, ten members and six seats of none."""
    mesh, cfg = members_mesh(jax.devices()), dataclasses.replace(CFG, slots=8, refill=8)
    engine = MembersEngine(MODEL, cfg, mesh, 16, STOP)
    weights = stacked([small.weights(seed=i % 3) for i in range(16)])
    some = [requests(i, 8) if i < 10 else [] for i in range(16)]
    texts = []
    for name in ("_lay_out", "_admit", "_decode"):
        compiled = getattr(engine, name)

        def call(*args, compiled=compiled):
            texts.append(compiled.lower(*args).compile().as_text())
            return compiled(*args)

        setattr(engine, name, call)
    found = engine.generate(weights, [asked(r, cfg, key=i) for i, r in enumerate(some)])
    assert len(texts) == 3 and [hlo.largest(text) for text in texts] == [0, 0, 0]
    assert all("num_partitions=8" in text for text in texts)
    for i in (0, 9):
        assert_same(found[i][0], alone(some[i], i % 3, cfg, key=i)[0])
    assert all(found[i][0] == [] for i in range(10, 16))


def test_drafts_are_refused():
    cfg = dataclasses.replace(CFG, drafts="lookup")
    with pytest.raises(InputError, match="drafts=lookup: not of several members"):
        MembersEngine(MODEL, cfg, members_mesh(jax.devices()[:1]), 2, STOP)
