"""The grouped products compile for TPUs, ahead of time, from a host that has none."""

import ahead
import pytest

pytest.importorskip("libtpu")

PROGRAM = """
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from r1jax.kernels.grouped_matmul import grouped_matmul

SIZES = {  # rows, experts, D, F, tile
    "v3": (32_768, 8, 7168, 2048, 512),
    "v3_down": (32_768, 8, 2048, 7168, 128),
    "v2_lite": (8_192, 8, 2048, 1408, 128),
    "decoding": (256, 2, 7168, 2048, 16),
}


def gradients(x, w, sizes, d, tile):
    out, pull = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes, tile), x, w)
    return out, pull(d)


for topology in sys.argv[1:]:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    where = SingleDeviceSharding(devices[0])
    for name, (m, e, d, f, tile) in SIZES.items():
        shapes = ((m, d), jnp.bfloat16), ((e, d, f), jnp.bfloat16), ((e,), jnp.int32)
        shapes = *shapes, ((m, f), jnp.bfloat16)
        args = [jax.ShapeDtypeStruct(*shape, sharding=where) for shape in shapes]
        text = jax.jit(gradients, static_argnums=4).lower(*args, tile).compile().as_text()
        kernels = text.count('custom_call_target="tpu_custom_call"')
        print(topology, name, kernels, text.count(" dot("), text.count(" convolution("))
"""

OTHERS = [pytest.param(t, marks=pytest.mark.slow) for t in ("v5e:2x2", "v6e:2x2", "tpu7x:2x2x1")]


@pytest.mark.parametrize("topology", ["v5p:2x2x1", *OTHERS])
def test_compiles_for_tpus(topology):
    lines = [line.split() for line in ahead.said(PROGRAM, topology).splitlines()]
    # A kernel forward and two backward, and no product of XLA's own.
    names = "v3", "v3_down", "v2_lite", "decoding"
    assert lines == [[topology, name, "3", "0", "0"] for name in names]
