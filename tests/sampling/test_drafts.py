"""Speculative decoding: the replies of an engine that guesses are those of one that does not.

N requests  L positions  J drafts  V vocabulary
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import small
from test_serving import Only

from r1jax.architecture import GQAConfig
from r1jax.checks import InputError
from r1jax.config import SamplingConfig
from r1jax.model.head import unembed
from r1jax.model.layers import rms_norm
from r1jax.model.mtp import ahead
from r1jax.model.params import weight_specs
from r1jax.model.transformer import forward, place_of
from r1jax.sampling.drafts import MOST, looked_up
from r1jax.sampling.engine import Engine, EngineStats, Request
from r1jax.sharding import make_mesh, shardings

STOP, KEY = 0, jax.random.key(0)
CFG = SamplingConfig(max_prompt=40, max_tokens=24, slots=16, refill=4)
MODEL = small.config(layers=2, dense_layers=1, mtp_depth=1, scan_layers=False)
# Eight times its size, so that some tokens are likely and drafts have a chance.
SHARP = 8.0


def weights_of(model, mesh=None):
    weights = small.weights(model)
    head = weights.params.embed_VD.T if model.tied_head else weights.params.head_DV
    weights = weights.replace(params=weights.params.replace(head_DV=SHARP * head))
    if mesh is not None and mesh.size > 1:
        weights = jax.device_put(weights, shardings(weight_specs(model), mesh))
    return weights


def new(drafts: str, count: int = 2, model=MODEL, mesh="1", **more) -> Engine:
    text = "".join(chr(97 + t) for t in range(model.vocab)).__getitem__
    changes = {name: more.pop(name) for name in list(more) if hasattr(CFG, name)}
    cfg = dataclasses.replace(CFG, drafts=drafts, draft_tokens=count, **changes)
    mesh = make_mesh(mesh)
    engine = Engine(
        model, cfg, mesh, [STOP], lambda tokens: "".join(map(text, tokens)), positions=64, **more
    )
    engine.load(weights_of(model, mesh))
    return engine


WAYS = [
    {}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8}, {"max_tokens": 3},
    {"bias": {STOP: -1e9, 4: 2.0}}, {"stop": [3, 5]}, {"stop_strings": ["bb", "ca", "d"]},
    {"tops": True}, {"routing": True}, {"tops": True, "routing": True, "bias": {STOP: -1e9}},
]  # fmt: skip


def asked(questions: int) -> list[Request]:
    """Four replies to each, every fourth prompt beginning as another does."""
    rng = np.random.default_rng(0)
    begin = rng.integers(1, MODEL.vocab, 24).tolist()
    prompts = [
        (begin * (q % 4 == 0) + rng.integers(1, MODEL.vocab, 1 + q % 7).tolist())
        for q in range(questions)
    ]
    ways = itertools.cycle(WAYS)
    return [Request(p, q, s, seed=q, **next(ways)) for q, p in enumerate(prompts) for s in range(4)]


def run(engine: Engine, requests) -> list[dict]:
    """Of each: its tokens, log-probabilities, tops, experts, and how it ended."""
    found = {engine.submit(r): {"tokens": [], "logps": [], "tops": []} for r in requests}
    while engine.busy:
        for e in engine.step(7):
            one = found[e.id]
            one["tokens"] += e.tokens.tolist()
            one["logps"] += e.logps.tolist()
            one["tops"].append(e.tops)
            one["finish"], one["experts"] = e.finish, e.experts
    return list(found.values())


def same(got: list[dict], want: list[dict]) -> None:
    assert [g["tokens"] for g in got] == [w["tokens"] for w in want]
    assert [g["finish"] for g in got] == [w["finish"] for w in want]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g["logps"], w["logps"], atol=1e-4)
        for name in ("logp_T", "logp_TK"):
            a, b = (
                np.concatenate([np.asarray(getattr(t, name)) for t in one["tops"] if t] or [[]])
                for one in (g, w)
            )
            np.testing.assert_allclose(a, b, atol=1e-4)
        np.testing.assert_array_equal(g["experts"], w["experts"])


def check_counts(stats: EngineStats, replies: list[dict]) -> None:
    assert stats.tokens >= sum(len(r["tokens"]) for r in replies)  # a string may end one early
    gained = stats.tokens - stats.drawing
    assert 0 < gained <= stats.accepted_tokens < stats.draft_tokens
    assert sum(stats.accepted_at) == stats.accepted_tokens
    assert list(stats.accepted_at) == sorted(stats.accepted_at, reverse=True)
    assert stats.drafts <= stats.drawing <= stats.slot_steps and stats.utilization <= 1


@functools.cache
def plain(questions: int) -> list[dict]:
    return run(new("none", routing=True, reuse=True), asked(questions))


@pytest.mark.parametrize("drafts, count", [("lookup", 3), ("mtp", 2)])
def test_replies_are_the_same_whatever_guesses(drafts, count, monkeypatch):
    """240 of mixed settings, in slots that are filled again, over a cache that grows; parts of
    prompts and replies found in it."""
    monkeypatch.setattr("r1jax.sampling.engine.LEAST_LENGTH", 16)
    monkeypatch.setattr("r1jax.sampling.engine.ROOM", 4)
    engine = new(drafts, count, routing=True, reuse=True)
    got = run(engine, asked(60))
    same(got, plain(60))
    check_counts(engine.stats, got)
    assert engine.stats.cached_tokens > 0 and engine._length == 64


@pytest.mark.slow
@pytest.mark.parametrize("drafts, count", [("lookup", 7), ("mtp", 1)])
@pytest.mark.parametrize("kind", ["scanned", "gqa", "normed", "grouped"])
def test_replies_are_the_same_of_any_model(drafts, count, kind):
    changes = {
        "scanned": {"scan_layers": True, "layers": 3},
        "gqa": {"attention": GQAConfig(heads=4, kv_heads=2, head_dim=8)},
        "normed": {"mtp_hidden": "normed"},
        "grouped": {"experts_multiply": "grouped"},
    }[kind]
    model = dataclasses.replace(MODEL, **changes)
    want = run(new("none", model=model, routing=True), asked(60))
    engine = new(drafts, count, model, routing=True)
    got = run(engine, asked(60))
    same(got, want)
    check_counts(engine.stats, got)


@pytest.mark.parametrize("drafts", ["lookup", "mtp"])
def test_replies_are_the_same_on_a_mesh(drafts):
    engine = new(drafts, mesh="2x4", routing=True)
    same(run(engine, asked(12)), plain(60)[:48])
    assert engine.stats.accepted_tokens > 0


def test_guides_bind_as_they_do_without_drafts():
    """Also where what may be drawn changes within what a step would draw, beside free replies."""
    free = [dataclasses.replace(r, guide=None, tops=False, routing=False) for r in asked(6)]

    def guided():
        guides = [Only(5, [7]), Only(0, [2, 11]), Only(9, [7, 3], pauses=[4, 6]), Only(99, [7])]
        return [
            dataclasses.replace(r, guide=g, stop=[STOP], bias={}, stop_strings=())
            for r, g in zip(free, guides, strict=False)
        ] + free[4:]

    engine = new("lookup", 3)
    got_of, want_of = guided(), guided()
    got, want = run(engine, got_of), run(new("none"), want_of)
    same(got, want)
    for r, one in zip(got_of[:4], got, strict=False):
        assert r.guide is not None and r.guide.seen == one["tokens"]
    check_counts(engine.stats, got)


def test_who_leaves_changes_no_other():
    engine, requests = new("lookup", 3, routing=True), asked(12)
    ids, found = [engine.submit(r) for r in requests], {}
    for turn in range(1000):
        for e in engine.step(2):
            found.setdefault(e.id, []).extend(e.tokens.tolist())
        if turn % 2 == 0 and turn // 2 < 12:
            engine.cancel(ids[turn // 2 * 4])
        if not engine.busy:
            break
    for i, want in zip(ids, plain(60), strict=False):
        whole = (i - ids[0]) % 4 != 0
        drawn = found.get(i, [])
        assert drawn == want["tokens"] if whole else drawn == want["tokens"][: len(drawn)]


def brute(tokens: list[int], drafts: int) -> list[int]:
    """The longest end of `tokens`, of MOST at most, that came before, the last time it did."""
    for run in range(MOST, 0, -1):
        for place in range(len(tokens) - 2, run - 2, -1):
            if tokens[place - run + 1 : place + 1] == tokens[len(tokens) - run :]:
                whole = list(tokens)
                for j in range(drafts):
                    whole.append(whole[place + 1 + j])
                return whole[len(tokens) :]
    return [-1] * drafts


def test_lookup_is_the_plain_search():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 33, 200)
    tokens = np.stack([rng.integers(0, 2 + i % 7, 32) for i in range(200)])
    got = looked_up(jnp.asarray(tokens), jnp.asarray(lengths - 1), 5)
    want = [brute(t[:n].tolist(), 5) for t, n in zip(tokens, lengths, strict=True)]
    np.testing.assert_array_equal(got, want)
    assert (np.array(want)[:, 0] < 0).any()


def test_what_repeats_itself_takes_a_fraction_of_the_steps():
    """Twenty alike tokens: one, one again, which says that they repeat, and then four a step."""
    engine = new("lookup", 3)
    run(engine, [Request([1, 2, 3], 0, 0, temperature=0.0, max_tokens=20, bias={4: 1e6})])
    s = engine.stats
    assert (s.tokens, s.decode_steps, s.drawing) == (20, 7, 7)
    # The last step has room for two.
    assert (s.drafts, s.draft_tokens, s.accepted_at) == (5, 15, (5, 5, 4))
    assert s.acceptance == 14 / 15 and s.tokens_a_step == 20 / 7


@pytest.mark.parametrize("reads", ["unnormed", "normed"])
def test_mtp_drafts_are_what_the_module_says(reads):
    """The first by a forward over all that is known, the second from the module's own output; and
    the two hidden states that it may read are not the same to it."""
    model, other = (
        dataclasses.replace(MODEL, mtp_hidden=name)
        for name in (reads, "normed" if reads == "unnormed" else "unnormed")
    )
    weights = weights_of(model)
    p, eps = weights.params, model.norm_eps
    own = p.mtp[0].norm_D

    def module(hidden, tokens):
        at = jnp.arange(len(tokens))[None]
        place = place_of(at, jnp.ones_like(at), MODEL)
        return ahead(weights, 1, hidden, own, jnp.roll(tokens, -1)[None], place, MODEL)[0][0]

    def likeliest(hidden_D):
        return unembed(p.replace(norm_D=own), hidden_D[None], MODEL).argmax()

    @functools.partial(jax.jit, static_argnames="model")
    def guesses(tokens, n, model):
        """Of n known tokens."""

        def read(hidden, norm_D):
            return rms_norm(hidden, norm_D, eps) if model.mtp_hidden == "normed" else hidden

        hidden = read(forward(weights, tokens[None], MODEL).hidden_BTD, p.norm_D)
        out = module(hidden, tokens)
        first = likeliest(out[n - 2])
        out = module(hidden.at[0, n - 1].set(read(out[n - 2], own)), tokens.at[n].set(first))
        return jnp.stack([first, likeliest(out[n - 1])])

    engine = new("mtp", 2, model)
    ids = [engine.submit(Request([1 + i], i, 0, temperature=0.0, max_tokens=9)) for i in range(12)]
    known = {id: [1 + i] for i, id in enumerate(ids)}
    compared = differs = 0
    while engine.busy:
        for e in engine.step(1):
            known[e.id] += e.tokens.tolist()
        for slot, reply in engine._running.items():
            whole = np.array(known[reply.id])
            args = jnp.pad(whole, (0, 16 - len(whole))), len(whole)
            np.testing.assert_array_equal(engine._rows.draft_SJ[slot], guesses(*args, model))
            compared += 1
            differs += not np.array_equal(guesses(*args, model), guesses(*args, other))
    assert compared > 20 and differs > 0


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"drafts": "mtp"}, "drafts=mtp: the model has no module of multi-token prediction"),
        ({"drafts": "lookup", "draft_tokens": 8}, "draft_tokens must be at most 7, got 8"),
        ({"drafts": "ngram"}, "drafts must be one of none, lookup, mtp, got 'ngram'"),
    ],
)
def test_what_cannot_guess_is_one_clear_line(changes, said):
    with pytest.raises(InputError, match=f"SamplingConfig.{said}"):
        cfg = dataclasses.replace(CFG, **changes)
        Engine(small.CONFIG, cfg, make_mesh("1"), [STOP])


@pytest.mark.slow
@pytest.mark.parametrize("drafts", ["none", "lookup", "mtp"])
def test_100_000_replies_are_of_the_models_own_distribution(drafts):
    """Of three tokens each, all of them together, by a chi-square test; and so with a module of MTP
    whose weights are random, which guesses wrong."""
    model = dataclasses.replace(MODEL, vocab=8)
    prompt, n = [1, 2, 1, 2], 100_000
    engine = new(drafts, 2, model, slots=256, refill=64)
    weights = weights_of(model)
    requests = [
        Request(prompt, 0, s, temperature=1.3, max_tokens=3, stop=[], bias={3: 0.5})
        for s in range(n)
    ]
    completions, stats = engine.generate(weights, requests, KEY)
    drawn = np.stack([c.tokens for c in completions])
    seen = np.bincount(drawn @ [64, 8, 1], minlength=512)
    every = np.array(list(itertools.product(range(8), repeat=3)))
    logits, _ = small.logits(
        weights, np.concatenate([np.tile(prompt, (512, 1)), every], axis=1), model
    )
    logp = small.log_softmax((np.float64(logits) + 0.5 * (np.arange(8) == 3)) / 1.3)[:, 3:6]
    p = np.exp(np.take_along_axis(logp, every[..., None], axis=2)[..., 0].sum(axis=1))
    few = n * p < 5
    observed = np.append(seen[~few], seen[few].sum())
    expected = np.append(n * p[~few], n * p[few].sum())
    expected *= n / expected.sum()
    value = scipy.stats.chisquare(observed, expected).pvalue
    print(f"{drafts}: p = {value:.3f}, {len(observed)} cells, {stats.acceptance:.1%} right")
    assert value > 1e-3
    assert drafts == "none" or 0 < stats.acceptance < 0.9
