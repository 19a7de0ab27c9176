"""The routing kernels compile for TPUs, ahead of time, from a host that has none."""

import ahead
import pytest

pytest.importorskip("libtpu")

PROGRAM = """
import sys

import launch.plan  # what libtpu is told before it is loaded

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.architecture import RouterConfig
from r1jax.kernels.routing import route

jax.config.update("jax_numpy_rank_promotion", "raise")
N = 4096  # tokens a device
CONFIGS = {
    "v3": RouterConfig(256, 8, groups=8, group_limit=4, scale=2.5),
    "v2_lite": RouterConfig(64, 6, scoring="softmax", renormalize=False),
    "v2": RouterConfig(160, 6, 8, 3, scoring="softmax", renormalize=False, scale=16.0),
    "tiny": RouterConfig(8, 2),
}
topology = topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1])
mesh = Mesh(np.array(topology.devices), ("data",))
tokens, replicated = PartitionSpec("data"), PartitionSpec()


def compile(cfg, N, given=False):
    def local(logits_NE, bias_E, valid_N, *given_NK):
        def loss(logits_NE):
            routing = route(logits_NE, bias_E, valid_N, cfg, *given_NK)
            return (routing.gates_NK**2).sum(), routing

        d_logits_NE, routing = jax.grad(loss, has_aux=True)(logits_NE)
        found = routing.experts_NK if routing.differs_N is None else routing.differs_N
        return d_logits_NE, found, jax.lax.psum(routing.load_E, "data")

    step = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(tokens, replicated, tokens, tokens)[: 3 + given],
        out_specs=(tokens, tokens, replicated),
        check_vma=True,
    )
    args = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
        for shape, dtype, spec in (
            ((N * mesh.size, cfg.experts), jnp.float32, tokens),
            ((cfg.experts,), jnp.float32, replicated),
            ((N * mesh.size,), jnp.bool_, tokens),
            ((N * mesh.size, cfg.active), jnp.int32, tokens),
        )[: 3 + given]
    ]
    return jax.jit(step).lower(*args).compile().as_text()


def kernels(*args):
    return compile(*args).count('custom_call_target="tpu_custom_call"')


for name, cfg in CONFIGS.items():
    # Every config at a multiple of the block, and at one that a block reaches past.
    print(name, kernels(cfg, N), kernels(cfg, 100))
print("given", kernels(CONFIGS["v3"], N, True), kernels(CONFIGS["v2_lite"], 100, True))
"""


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v6e:2x2"])
def test_compiles_for_tpu(topology):
    text = ahead.said(PROGRAM, topology)
    kernels = {name: counts for name, *counts in map(str.split, text.splitlines())}
    # One kernel forward and one backward, as compiled by Mosaic.
    assert kernels == {name: ["2", "2"] for name in ("v3", "v2_lite", "v2", "tiny", "given")}
