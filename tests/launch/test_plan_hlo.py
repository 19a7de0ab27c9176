"""What `launch.plan` reads out of compiled programs, against small ones counted by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from launch.planning import hlo, movement, products
from r1jax.sharding import make_mesh

M, K = 24, 16
PRODUCT = 2 * M * K * K  # x [M, K] by w [K, K]


def visits(f, *args, dynamic=1.0, named=None):
    return hlo.visits(hlo.parse(jax.jit(f).lower(*args).compile().as_text()), dynamic, named)


def flops(f, *args, dynamic=1.0):
    return sum(p.flops for p in products.products(visits(f, *args, dynamic=dynamic)))


X, W = np.ones((M, K), np.float32), np.ones((7, K, K), np.float32)


def scanned(x, ws):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]


def nested(x, ws):
    def outer(x, w):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ w), x), None

    return jax.lax.scan(outer, x, ws)[0]


def until(x, ws, n):
    """Five by a static loop, and `n` by one whose bound is an argument."""
    x = jax.lax.fori_loop(2, 7, lambda _, x: jnp.tanh(x @ ws[0]), x)
    return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(x @ ws[1]), x)


def remembered(x, ws):
    """Forward once, again for the gradient, and two products backward."""
    step = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    return jax.value_and_grad(lambda x, ws: jax.lax.scan(step, x, ws)[0].sum(), (0, 1))(x, ws)


def rare(x, ws, flag):
    return jax.lax.cond(flag, lambda: scanned(x, ws), lambda: x @ ws[0])


@pytest.mark.parametrize(
    "f, more, dynamic, want",
    [
        (scanned, (), 1, 7),
        (nested, (), 1, 35),
        (until, (np.int32(3),), 3, 8),
        (until, (np.int32(3),), 11, 16),
        (remembered, (), 1, 28),
        (rare, (True,), 1, 1),
    ],
)
def test_products_count_as_often_as_their_loops_turn(f, more, dynamic, want):
    assert flops(f, X, W, *more, dynamic=dynamic) == want * PRODUCT


def test_loops_of_a_name_turn_as_often_as_is_said_of_them_and_those_within_a_loop_once():
    def rest(x, w, n):
        with jax.named_scope("rest"):
            return jax.lax.fori_loop(1, n, lambda _, x: jnp.tanh(x @ w), x)

    def f(x, ws, n):
        def step(_, x):
            x = rest(jnp.tanh(x @ ws[0]), ws[1], n)
            return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(x @ ws[2]), x)

        return jax.lax.fori_loop(0, n, step, x)

    for named, want in ({"rest": 0}, 6 * 2), ({"rest": 5}, 6 * 7), ({}, 6 * 3):
        seen = visits(f, X, W, np.int32(3), dynamic=6, named=named)
        assert sum(p.flops for p in products.products(seen)) == want * PRODUCT


def test_a_loop_has_its_name_where_it_was_differentiated_too():
    """JAX calls the scope jvp(rest) then, or transpose(jvp(rest))."""

    def rest(x, n):
        with jax.named_scope("rest"):
            return jax.lax.fori_loop(1, n, lambda _, x: jnp.tanh(x @ W[0]), x)

    def f(x, n):
        return jax.jvp(lambda x: rest(jnp.tanh(x @ W[0]), n), (x,), (jnp.cos(x),))

    for turns in (0, 5):
        seen = visits(f, X, np.int32(3), dynamic=1000, named={"rest": turns})
        total = sum(p.flops for p in products.products(seen))
        assert total == 2 * (1 + turns) * PRODUCT


def test_batched_products_and_those_over_two_axes():
    a, b = np.ones((3, 5, 4, 8), np.float32), np.ones((3, 8, 4, 6), np.float32)
    assert flops(lambda a, b: jnp.einsum("bxhk,bkhy->bhxy", a, b), a, b) == 2 * 3 * 4 * 5 * 6 * 8
    assert flops(lambda a, b: jnp.einsum("bxhk,bkhy->bxy", a, b), a, b) == 2 * 3 * 5 * 6 * 32


TPU = """HloModule jit_f, is_scheduled=true

ENTRY %main (p0: bf16[], p1: bf16[]) -> bf16[] {{
  %p0 = {left}{{2,1,0:T(8,128)(2,1)S(1)}} parameter(0)
  %p1 = {right}{{2,1,0:T(8,128)(2,1)}} parameter(1)
  ROOT %c.1 = {out}{{2,0,1:T(8,128)}} convolution(%p0, %p1), {rest}, metadata={{op_name="a/b"}}
}}
"""


@pytest.mark.parametrize(
    "left, right, out, rest, want",
    [  # as libtpu 0.0.42 writes them
        (  # a batch of 4, as a window of which one place in four is no padding
            "bf16[188,4,64]",
            "bf16[188,4,64]",
            "f32[4,188,188]",
            "window={size=4 stride=3 lhs_dilate=4}, dim_labels=b0f_o0i->0bf",
            2 * 4 * 188 * 188 * 64,
        ),
        (  # heads that the result has
            "bf16[188,256,1]",
            "bf16[256,4,128]",
            "bf16[188,4,128]",
            "window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=bf0_i0o->b0f",
            2 * 188 * 4 * 128 * 256,
        ),
        (  # heads that are summed over
            "bf16[188,4,128]",
            "bf16[4,128,256]",
            "bf16[188,256,1]",
            "window={size=4}, dim_labels=b0f_0io->bf0",
            2 * 188 * 256 * 4 * 128,
        ),
        (
            "bf16[128,512]",
            "bf16[512,64]",
            "bf16[128,64]",
            "dim_labels=bf_io->bf",
            2 * 128 * 512 * 64,
        ),
    ],
)
def test_products_that_a_tpu_writes_as_convolutions(left, right, out, rest, want):
    text = TPU.format(left=left, right=right, out=out, rest=rest)
    (one,) = products.products(hlo.visits(hlo.parse(text)))
    assert (one.flops, one.source, one.dtype) == (want, "a/b", "bf16")


LOOP = """HloModule jit_f

%body (p: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {
  %p = (s32[]{:T(128)}, bf16[8,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %one = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %one)
  %x = bf16[8,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = bf16[8,8]{1,0:T(8,128)} convolution(%x, %x), dim_labels=bf_io->bf
  ROOT %t = (s32[]{:T(128)}, bf16[8,8]{1,0:T(8,128)}) tuple(%next, %y)
}

%condition (p: (s32[], bf16[8,8])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[8,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} constant(9)
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=DIRECTION
}

ENTRY %main (x: bf16[8,8]) -> bf16[8,8] {
  %x = bf16[8,8]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %copy = s32[]{:T(128)} copy(%zero)
  %t = (s32[]{:T(128)}, bf16[8,8]{1,0:T(8,128)}) tuple(%copy, %x)
  %w = (s32[]{:T(128)}, bf16[8,8]{1,0:T(8,128)}) while(%t), condition=%condition, body=%body
  ROOT %y = bf16[8,8]{1,0:T(8,128)} get-tuple-element(%w), index=1
}
"""


@pytest.mark.parametrize("direction, want", [("LT", 5), ("LE", 5), ("NE", None)])
def test_turns_of_a_loop_that_no_compiler_counted(direction, want):
    module = hlo.parse(LOOP.replace("DIRECTION", direction))
    main = module.computations["main"]
    assert hlo.trips(module, main, main.instructions["w"]) == want
    found = products.products(hlo.visits(module, dynamic=100))
    assert sum(p.flops for p in found) == 2 * 8**3 * (want or 100)


# On a mesh of 2 x 4, of a float32 [16, 8] of which each device has [2, 8]: 64 bytes.
def gathered(x):
    return jax.lax.all_gather(x, "expert", tiled=True)


def summed(x):
    return jax.lax.psum(x, "fsdp")


def scattered(x):
    x = jnp.tile(x, (4, 1))  # 256 bytes, of which each device keeps a quarter
    return jax.lax.psum_scatter(x, "expert", tiled=True)


def everywhere(x):
    return jax.lax.all_gather(x, ("fsdp", "expert"), tiled=True)


def exchanged(x):
    x = jnp.tile(x, (2, 1))  # 128 bytes, a quarter for each
    return jax.lax.all_to_all(x, "expert", 0, 0, tiled=True)


def turned(x):
    return jax.lax.ppermute(x, "expert", [(i, (i + 1) % 4) for i in range(4)])


def thrice(f, x):
    def step(total, _):
        return total + f(total).sum(), None

    return jax.lax.scan(step, x, None, length=3)[0]


@pytest.mark.parametrize(
    "f, axes, kind, want",
    [
        (gathered, "expert", "all-gather", 3 * 64),
        (summed, "fsdp", "all-reduce", 2 * 64 / 2),
        (scattered, "expert", "reduce-scatter", 256 * 3 / 4),
        (everywhere, "fsdp+expert", "all-gather", 7 * 64),
        (exchanged, "expert", "all-to-all", 128 * 3 / 4),
        (turned, "expert", "collective-permute", 64),
    ],
)
def test_bytes_by_axis_and_kind(f, axes, kind, want):
    mesh = make_mesh("2x4")
    x = jax.device_put(np.ones((16, 8), np.float32), jax.NamedSharding(mesh, P(("fsdp", "expert"))))
    over = {"mesh": mesh, "in_specs": P(("fsdp", "expert")), "check_vma": False}
    for turns, g in ((1, f), (3, functools.partial(thrice, f))):
        mapped = jax.shard_map(g, out_specs=P(("fsdp", "expert")), **over)
        sent = movement.by_axis(movement.collectives(visits(mapped, x), dict(mesh.shape)))
        assert sent == {(axes, kind): (turns, turns * want)}


IDS = np.arange(8).reshape(2, 4)


@pytest.mark.parametrize(
    "text, want",
    [
        ("{{0,1,2,3},{4,5,6,7}}", IDS),
        ("{{0,4},{1,5},{2,6},{3,7}}", IDS.T),
        ("{}", np.arange(8)[None]),
        ("[2,4]<=[8]", IDS),
        ("[4,2]<=[2,4]T(1,0)", IDS.T),
        ("mesh['a'=2,'b'=1,'c'=4] {'a'}", IDS.T),
        ("mesh['a'=2,'b'=1,'c'=4] {'c'}", IDS),
        ("mesh['a'=2,'b'=4] {'a','b'}", np.arange(8)[None]),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", IDS.T),
        ("mesh['a'=8] {'a':(1)2}", np.array([[0, 4], [1, 5], [2, 6], [3, 7]])),
        ("mesh['a'=8] {'a':(4)2}", np.array([[0, 1], [2, 3], [4, 5], [6, 7]])),
    ],
)
def test_replica_groups_in_each_of_their_spellings(text, want):
    one = hlo.Instruction(
        "c",
        "all-gather",
        (),
        (),
        f"channel_id=1, replica_groups={text}, dimensions={{0}}",
        "",
        False,
    )
    groups = movement.replica_groups(one, 8)
    assert sorted(map(sorted, groups.tolist())) == sorted(map(sorted, want.tolist()))


def test_axes_along_which_a_group_differs():
    mesh = {"fsdp": 2, "expert": 4}
    assert movement.spans(IDS, mesh) == "expert"
    assert movement.spans(IDS.T, mesh) == "fsdp"
    assert movement.spans(IDS[:, :2], mesh) == "expert"  # a part of it
    assert movement.spans(np.arange(8)[None], mesh) == "fsdp+expert"
    assert movement.spans(np.arange(8)[:, None], mesh) == "none"


def test_memory_moved_is_of_slices_where_a_loop_takes_slices():
    ws = np.ones((7, 64, 64), np.float32)
    x = np.ones((8, 64), np.float32)
    module = hlo.parse(jax.jit(scanned).lower(x, ws).compile().as_text())
    moved = movement.hbm_bytes(module, hlo.visits(module))
    # All weights at least once, and not all of them at each of the seven turns.
    assert ws.nbytes <= moved < 4 * ws.nbytes


def test_memory_moved_is_of_what_is_written_where_an_array_is_written_in_part():
    """And not of all of it, by a slice or by places."""
    a, b = np.ones((4096, 64), np.float32), np.ones((8, 64), np.float32)
    at = np.arange(8, dtype=np.int32)
    writes = (
        lambda a, b, at: jax.lax.dynamic_update_slice(a, b, (at[0], 0)),
        lambda a, b, at: a.at[at].set(b, unique_indices=True),
    )
    for write in writes:
        text = jax.jit(write, donate_argnums=0).lower(a, b, at).compile().as_text()
        module = hlo.parse(text)
        assert b.nbytes <= movement.hbm_bytes(module, hlo.visits(module)) < a.nbytes / 10
