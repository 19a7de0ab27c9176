"""Mesh descriptions, and where arrays go."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from r1jax.checks import InputError
from r1jax.sharding import (
    AXES,
    CONTEXT,
    EXPERT,
    FSDP,
    ParamSpec,
    abstract,
    by_rows,
    constrain,
    count,
    make_mesh,
    parse_mesh,
    partition,
    rows_over,
)


@pytest.mark.parametrize(
    "text, shape",
    [
        ("8x8", (8, 1, 8)),
        ("4", (4, 1, 1)),
        ("1x8", (1, 1, 8)),
        ("16x4", (16, 1, 4)),
        ("fsdp=16,expert=8,context=4", (16, 4, 8)),
        ("context=2", (1, 2, 1)),
        ("expert=3,fsdp=2", (2, 1, 3)),
    ],
)
def test_parse_mesh(text, shape):
    assert parse_mesh(text) == dict(zip(AXES, shape, strict=True))


BAD = ["", "0", "8x0", "x8", "8x", "8x8x8", "8X8", " 8x8", "-1", "a"]
BAD += [
    "fsdp=0",
    "fsdp=2,",
    "fsdp=2,fsdp=2",
    "model=2",
    "fsdp=2x2",
    "fsdp=2;expert=2",
    "8,context=2",
]


@pytest.mark.parametrize("text", BAD)
def test_parse_mesh_refuses(text):
    with pytest.raises(InputError, match="expected FSDPxEXPERT such as 8x8") as error:
        parse_mesh(text)
    assert "\n" not in str(error.value)


def test_make_mesh():
    mesh = make_mesh("2x4")
    assert dict(mesh.shape) == {FSDP: 2, CONTEXT: 1, EXPERT: 4}
    assert make_mesh("2x2").size == 4  # a CPU host's further devices are left over
    assert by_rows(mesh) is mesh and rows_over(mesh) == 8


def test_devices_that_share_rows_have_rows_of_their_own_where_tokens_are_drawn():
    mesh = make_mesh("fsdp=2,expert=2,context=2")
    assert dict(mesh.shape) == {FSDP: 2, CONTEXT: 2, EXPERT: 2} and rows_over(mesh) == 4
    apart = by_rows(mesh)
    assert dict(apart.shape) == {FSDP: 4, CONTEXT: 1, EXPERT: 2} and rows_over(apart) == 8
    assert list(apart.devices.flat) == list(mesh.devices.flat)


def test_a_mesh_too_large_for_the_started_devices_is_one_clear_line():
    jax.devices()
    with pytest.raises(InputError) as error:
        make_mesh("16x8")
    assert str(error.value) == "--mesh=16x8 needs 128 devices, but there are 8 (cpu)"
    assert jax.device_count() == 8


MESH = AbstractMesh((2, 1, 4), AXES)


@pytest.mark.parametrize(
    "shape, axes, want",
    [
        ((8, 16), ("experts", "embed"), P((EXPERT,), (FSDP, CONTEXT))),
        ((6, 16), ("experts", "embed"), P(None, (FSDP, CONTEXT))),
        ((8, 7), ("experts", "embed"), P((EXPERT,), None)),
        ((8, 5), ("batch", None), P((FSDP, EXPERT), None)),
        ((4, 5), ("batch", None), P(None, None)),  # 4 rows over 8 devices: whole
        ((3, 8), ("layers", "latent"), P(None, None)),
    ],
)
def test_partition_leaves_whole_what_does_not_divide(shape, axes, want):
    got = partition(shape, axes, MESH)
    assert tuple(g or None for g in got) == tuple(w or None for w in want)


def test_constrain_pins_on_a_mesh_and_does_nothing_without():
    x = jnp.zeros((8, 2))
    assert constrain(x, "batch", None) is x
    with jax.set_mesh(make_mesh("2x4")):
        y = jax.jit(lambda x: constrain(x, "batch", None))(x)
        whole = jax.jit(lambda x: constrain(x, "batch", None))(x[:3])
    assert y.sharding.shard_shape(y.shape) == (1, 2)
    assert whole.sharding.shard_shape(whole.shape) == (3, 2)


def test_count_and_abstract_allocate_nothing():
    specs = {"huge": ParamSpec((10**6, 10**6, 10), ("embed", "ffn", None), None)}
    assert count(specs) == 10**13
    assert abstract(specs, jnp.bfloat16)["huge"].dtype == jnp.bfloat16
