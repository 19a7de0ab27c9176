"""How tokens reach their experts, and how these multiply: plain sums, at any imbalance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from r1jax.architecture import RouterConfig
from r1jax.model import experts as multiplying
from r1jax.model import travel
from r1jax.sharding import AXES, EXPERT, FSDP, make_mesh

X, E, K, D, F = 8, 16, 3, 6, 5  # devices, experts, experts a token, d_model, FFN width
N = 32  # tokens a device
ROWS = P((FSDP, EXPERT))


def routing(kind: str, rng) -> np.ndarray:
    """[tokens, K], distinct experts of each token; or of each the same one, and no other."""
    tokens = X * N
    if kind == "only-one":
        return np.full((tokens, 1), 5, np.int32)
    if kind == "one-expert":  # and two others
        first = np.full(tokens, 5)
        others = [rng.choice(np.delete(np.arange(E), 5), 2, replace=False) for _ in range(tokens)]
        return np.concatenate([first[:, None], others], axis=1).astype(np.int32)
    if kind == "two-devices":  # all others get nothing, and hold empty experts
        return np.tile(np.int32([6, 7, 8]), (tokens, 1))
    popular = rng.permutation(np.exp(-np.arange(E) / 3)) if kind == "skewed" else np.ones(E)
    draw = functools.partial(rng.choice, E, K, replace=False, p=popular / popular.sum())
    return np.stack([draw() for _ in range(tokens)]).astype(np.int32)


def oracle(x, gates, experts, weights):
    """Pair by pair in float64: [tokens, D]."""
    gate, up, down = (np.float64(w) for w in weights)
    out = np.zeros(x.shape)
    for n, k in np.ndindex(*experts.shape):
        e = experts[n, k]
        a = np.float64(x[n]) @ gate[e]
        out[n] += gates[n, k] * (a / (1 + np.exp(-a)) * (np.float64(x[n]) @ up[e])) @ down[e]
    return out


def case(kind: str, seed: int = 0):
    rng = np.random.default_rng(seed)
    x, d = rng.normal(size=(2, X * N, D)).astype(np.float32)
    experts = routing(kind, rng)
    gates = rng.random(experts.shape).astype(np.float32)
    weights = tuple(
        rng.normal(size=s).astype(np.float32) / 2 for s in [(E, D, F), (E, D, F), (E, F, D)]
    )
    return x, gates, experts, weights, d


@pytest.fixture(autouse=True, scope="module")
def small():
    """Buffers of what is here, and groups that travel in two parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiplying, "FEW", 0)
        patch.setattr(travel, "FEW", 0)
        patch.setattr(travel, "AT_ONCE", 4 * N)
        yield


@functools.cache
def gradients(mesh_text: str, name: str, multiply: str, room: float, active: int):
    """Compiled once for all kinds of routing."""
    cfg = tiny.config(
        router=RouterConfig(experts=E, active=active),
        experts_multiply=multiply,
        experts_travel=name,
        experts_room=room,
    )
    mesh = make_mesh(mesh_text)
    to_experts = travel.of(cfg, mesh.abstract_mesh)
    route = functools.partial(to_experts, multiply=multiplying.of(cfg))

    def loss(x, gates, weights, experts, d):
        on_mesh = jax.shard_map(
            route, in_specs=(ROWS, ROWS, ROWS, P(EXPERT)), out_specs=ROWS, check_vma=False
        )
        out = on_mesh(x, gates, experts, weights)
        return jnp.sum(out * d), out

    @tiny.jit
    def grad(x, gates, experts, weights, d):
        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x, gates, weights, experts, d)

    return mesh, grad


@functools.cache
def plain(kind: str):
    """By one device that has all experts, each applied to all tokens."""
    x, gates, experts, weights, d = case(kind)

    def loss(x, gates, weights):
        out = multiplying.dense(x, gates, experts, weights)
        return jnp.sum(out * d), out

    grads, out = tiny.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(x, gates, weights)
    np.testing.assert_allclose(out, oracle(x, gates, experts, weights), rtol=1e-4, atol=1e-5)
    return grads, out


# The room is of the all-to-all and of the grouped product; the small ones need several parts.
CASES = [
    ("1x8", "ring", "grouped", 0.3),
    ("1x8", "all_to_all", "grouped", 0.3),
    ("2x4", "all_to_all", "grouped", 1.25),
    ("2x4", "all_to_all", "dense", 0.1),
    ("2x4", "ring", "grouped", 0.3),
    ("2x4", "ring", "blocked", 1.0),
]


@pytest.mark.parametrize(("mesh", "name", "multiply", "room"), CASES)
@pytest.mark.parametrize("kind", ["even", "skewed", "one-expert", "two-devices", "only-one"])
def test_nothing_is_dropped(kind, mesh, name, multiply, room):
    args = case(kind)
    mesh, grad = gradients(mesh, name, multiply, room, args[1].shape[1])
    with jax.set_mesh(mesh):
        (d_x, d_gates, d_weights), out = jax.device_get(grad(*args))
    (want_x, want_gates, want_weights), want = plain(kind)
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d_x, want_x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d_gates, want_gates, rtol=1e-4, atol=1e-5)
    for got, expected in zip(d_weights, want_weights, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_cases_are_worth_their_names():
    """The rooms of 0.3 and less need several parts, and skewed routing more than even does."""
    room, usual = 0.3, N * K
    assert multiplying.rows_of(usual, X * N, K, E // X, room)[0] < usual
    loads = {}
    for kind in ("even", "skewed", "one-expert", "two-devices"):
        experts = routing(kind, np.random.default_rng(0))
        loads[kind] = np.bincount(experts.ravel() // (E // X), minlength=X)
    assert loads["even"].max() < loads["skewed"].max() < X * N * K
    assert loads["one-expert"].max() >= X * N
    assert (loads["two-devices"] == 0).sum() == X - 2


@pytest.mark.parametrize("seed", range(3))
def test_exchange_is_what_jax_says_of_ragged_all_to_all(seed):
    """The emulation of a CPU, against the loop in jax.lax.ragged_all_to_all's documentation."""
    rng = np.random.default_rng(seed)
    rows, size = 12, 20
    operand = rng.normal(size=(X, rows, 2)).astype(np.float32)
    output = rng.normal(size=(X, size, 2)).astype(np.float32)
    sent = rng.integers(0, 3, (X, X))  # [sender, receiver]
    start = np.stack([rng.permutation(rows - 3)[:X] for _ in range(X)])
    to = np.cumsum(sent, axis=0) - sent
    want = output.copy()
    for i, j in np.ndindex(X, X):
        n = sent[i, j]
        want[j, to[i, j] : to[i, j] + n] = operand[i, start[i, j] : start[i, j] + n]

    def local(operand, output, *offsets):
        offsets = travel.Offsets(*(a[0] for a in offsets))
        return travel._exchange(operand[0], output[0], offsets)[None]

    mesh = make_mesh("1x8")
    with jax.set_mesh(mesh):
        got = tiny.jit(jax.shard_map(local, in_specs=ROWS, out_specs=ROWS, check_vma=False))(
            operand, output, *(jnp.int32(a) for a in (start, sent, to, sent.T))
        )
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("router", "devices", "most"),
    [
        (RouterConfig(256, 8, groups=8, group_limit=4), 8, 4),  # a group a device
        (RouterConfig(256, 8, groups=8, group_limit=4), 4, 4),  # two groups a device
        (RouterConfig(256, 8, groups=8, group_limit=4), 32, 8),  # the experts of a token
        (RouterConfig(64, 6, scoring="softmax"), 8, 6),
        (RouterConfig(64, 6, scoring="softmax"), 4, 4),
        (RouterConfig(12, 3, groups=3, group_limit=1), 2, 2),  # a group on two devices
    ],
)
def test_most_devices_of_a_token(router, devices, most):
    assert travel.most_devices(router, devices) == most
    mesh = AbstractMesh((1, 1, devices), AXES)
    assert (travel.of(tiny.config(router=router), mesh) is travel.ring) == (most == devices)


def test_a_ring_on_a_cpu_unless_asked():
    mesh = make_mesh("1x8").abstract_mesh
    router = RouterConfig(256, 8, groups=8, group_limit=4)
    assert travel.of(tiny.config(router=router), mesh) is travel.ring
    cfg = tiny.config(router=router, experts_travel="all_to_all")
    assert travel.of(cfg, mesh) is not travel.ring


@pytest.mark.parametrize("room", [0.2, 1.25])
def test_a_plan_fits_what_it_sends_into_what_is_there(room):
    """Every row that a device gets has one place, in one part; and comes back to where it was."""
    rng = np.random.default_rng(3)
    device_NK = rng.integers(0, X, (X * N, K)).astype(np.int32)
    most = K
    size = int(room * N * most) // 8 * 8 + 8

    def local(device_NK, i):
        there, back = travel.plan_of(device_NK, X, most).offsets(i, size)
        return jax.tree.map(lambda a: a[None], (there, back))

    seen = np.zeros((X, X), int)  # rows from each to each, over all parts
    counts = np.zeros((X, X), int)
    for s in range(X):
        for n in range(N):
            for to in set(device_NK[s * N + n]):
                counts[s, to] += 1
    parts = -(-counts.sum(axis=0).max() // size)
    with jax.set_mesh(make_mesh("1x8")):
        fn = tiny.jit(jax.shard_map(local, in_specs=(ROWS, P()), out_specs=ROWS, check_vma=False))
        for i in range(parts):
            there, back = jax.device_get(fn(device_NK, jnp.int32(i)))
            filled = np.zeros((X, size), int)
            for s, to in np.ndindex(X, X):
                at = there.to_X[s, to]
                filled[to, at : at + there.sent_X[s, to]] += 1
                assert back.from_X[to, s] == at and back.to_X[to, s] == there.from_X[s, to]
            assert filled.max() <= 1
            assert (filled.sum(axis=1) == there.sent_X.sum(axis=0)).all()
            np.testing.assert_array_equal(there.received_X, there.sent_X.T)
            np.testing.assert_array_equal(back.sent_X, there.sent_X.T)
            seen += there.sent_X
    np.testing.assert_array_equal(seen, counts)


def test_layout_of_tiles():
    rng = np.random.default_rng(4)
    tile, experts = 4, 5
    chosen = np.stack([rng.permutation(np.arange(-3, 8))[:3] for _ in range(30)]).astype(np.int32)
    laid = jax.device_get(multiplying.lay_out(jnp.asarray(chosen), experts, tile))
    flat = chosen.reshape(-1)
    at = 0
    for e in range(experts):
        mine = np.flatnonzero(flat == e)
        rows = laid.pair_R[at : at + laid.sizes_E[e]]
        np.testing.assert_array_equal(rows[: len(mine)], mine)
        assert (rows[len(mine) :] == flat.size).all() and laid.sizes_E[e] % tile == 0
        np.testing.assert_array_equal(laid.row_MK.reshape(-1)[mine], at + np.arange(len(mine)))
        at += laid.sizes_E[e]
    assert (laid.pair_R[at:] == flat.size).all()
    assert (laid.row_MK[(chosen < 0) | (chosen >= experts)] == laid.pair_R.size).all()


def test_tiles_waste_a_sixteenth_and_few_rows_fit(monkeypatch):
    monkeypatch.setattr(multiplying, "FEW", 256)
    assert multiplying.tile_of(32_768, 32) == 128
    assert multiplying.tile_of(262_144, 32) == 512 == multiplying.tile_of(10**9, 8)
    assert multiplying.tile_of(64, 2) == multiplying.TILES[0]
    # A decoding step of 512 tokens of 8 experts, 2 of 256 experts here: 32 pairs where balanced.
    assert multiplying.rows_of(32, 512, 8, 2, 1.25) == (256, 16)
    # Never more than there might be: 8 tokens, each with both experts, in tiles of 16.
    assert multiplying.rows_of(8, 8, 8, 2, 1.25) == (48, 16)
