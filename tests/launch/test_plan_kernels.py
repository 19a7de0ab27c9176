"""Pallas kernels of TPUs are counted by their tiles, against counts by hand. Lowering them needs no
TPU and no compiler of one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from launch.planning import hlo, mosaic, products

M, D, F, E, TILE = 1024, 256, 384, 4, 128
PRODUCT = 2 * TILE**3


def of(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def bodies(f, *args):
    """(body, HLO types of what it is given) of each kernel, as they are lowered for a TPU."""
    text = jax.jit(f).trace(*args).lower(lowering_platforms=("tpu",)).as_text()
    return re.findall(r"body\\22: \\22([^\\]+)", text)


def counted(f, *args):
    return [mosaic.tiles(body) for body in bodies(f, *args)]


@pytest.mark.parametrize("kernel", [gmm, tgmm])
def test_grouped_products_are_as_many_tiles_as_groups_may_touch(kernel):
    """Of E groups one after another, each border lies in a tile that two of them visit."""
    gradient = kernel is tgmm
    left, right = (of(D, M), of(M, F)) if gradient else (of(M, D), of(E, D, F))
    call = lambda a, b, n: kernel(a, b, n, jnp.float32, tiling=(TILE,) * 3)  # noqa: E731
    (found,) = counted(call, left, right, of(E, dtype=jnp.int32))
    visited = M // TILE + E - 1
    assert found.flops == visited * (D // TILE) * (F // TILE) * PRODUCT
    assert found.dtype == "bf16" and sorted(found.grid) == sorted((visited, D // TILE, F // TILE))


@pytest.mark.parametrize("shards", [1, 4])
def test_attention_is_the_tiles_that_its_mask_leaves(shards):
    heads, length, block, width = 2, 1024, 256, 128
    mask = masks.CausalMask((length, length))
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    sizes = splash.BlockSizes(**dict.fromkeys(names, block))
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1
    )

    def gradients(q, k, v):
        return jax.grad(lambda *a: kernel(*a).astype(jnp.float32).sum(), (0, 1, 2))(q, k, v)

    found = counted(gradients, *[of(heads, length, width)] * 3)
    seen = np.tril(np.ones((length, length))).reshape(length // block, block, -1, block)
    left = int(seen.any((1, 3)).sum()) * heads * 2 * block**2 * width
    n = length // block
    share = products._below_the_diagonal([hlo.Array("s8", (1, n // shards, n))])
    # Forward two products; keys and values four, and queries three, both with the scores again.
    assert [t.flops * share for t in found] == [2 * left, 4 * left, 3 * left]


def test_branches_and_loops_of_a_kernel_run_as_often_as_the_grid_says():
    def kernel(told_ref, x_ref, o_ref):
        i, j = pl.program_id(0), pl.program_id(1)

        @pl.when(jnp.logical_and(i > 0, j == 2))  # 2 of 3, 1 of 4
        def _():
            o_ref[...] = x_ref[...] @ x_ref[...]

        @pl.when(told_ref[0] > 0)  # not known: it may be always
        def _():
            o_ref[...] += x_ref[...] @ x_ref[...]

        def turn(_, x):
            return x @ x_ref[...]

        o_ref[...] += jax.lax.fori_loop(0, i + 1, turn, x_ref[...], unroll=False)  # 1, 2, 3

    def call(told, x):
        spec = pl.BlockSpec((TILE, TILE), lambda i, j, told: (0, 0))
        grid = pltpu.PrefetchScalarGridSpec(1, (3, 4), in_specs=[spec], out_specs=spec)
        shape = jax.ShapeDtypeStruct((TILE, TILE), jnp.float32)
        return pl.pallas_call(kernel, out_shape=shape, grid_spec=grid)(told, x)

    (found,) = counted(call, of(1, dtype=jnp.int32), of(TILE, TILE, dtype=jnp.float32))
    assert found.grid == (3, 4) and found.dtype == "f32"
    assert found.flops == (2 + 3 * 4 + (1 + 2 + 3) * 4) * PRODUCT


def test_how_long_a_kernel_loops_may_not_be_known():
    def kernel(told_ref, x_ref, o_ref):
        o_ref[...] = jax.lax.fori_loop(
            0, told_ref[0], lambda _, x: x @ x_ref[...], x_ref[...], unroll=False
        )

    def call(told, x):
        spec = pl.BlockSpec((TILE, TILE), lambda i, told: (0, 0))
        grid = pltpu.PrefetchScalarGridSpec(1, (3,), in_specs=[spec], out_specs=spec)
        shape = jax.ShapeDtypeStruct((TILE, TILE), jnp.float32)
        return pl.pallas_call(kernel, out_shape=shape, grid_spec=grid)(told, x)

    assert counted(call, of(1, dtype=jnp.int32), of(TILE, TILE, dtype=jnp.float32)) == [None]
    assert mosaic.tiles("bm8ga2VybmVs") is None  # "no kernel"


CALL = """HloModule jit_f

ENTRY %main (x: bf16[8,8]) -> bf16[8,8] {{
  %x = bf16[8,8]{{1,0}} parameter(0)
  %k.1 = bf16[8,8]{{1,0}} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={{kernel_metadata={{
"said":"{{\\"block\\": 256}}"
}}}}, metadata={{op_name="jit(f)/mine/pallas_call"}}, backend_config={{"custom_call_config":{{"body":"{body}","cost_estimate":{{"flops":7}}}}}}
  ROOT %y = bf16[8,8]{{1,0}} add(%k.1, %x)
}}
"""  # noqa: E501


def test_what_a_kernel_declares_of_itself_is_not_believed():
    """And its line may be of several."""

    def call(x):
        def kernel(x_ref, o_ref):
            o_ref[...] = x_ref[...] @ x_ref[...]

        return pl.pallas_call(kernel, out_shape=x)(x)

    (body,) = bodies(call, of(TILE, TILE, dtype=jnp.float32))
    module = hlo.parse(CALL.format(body=body))
    assert list(module.computations["main"].instructions) == ["x", "k.1", "y"]
    (found,) = products.kernels(module, hlo.visits(module))
    assert found == products.Kernel("mine", 1.0, float(PRODUCT), "f32", "by tiles")
