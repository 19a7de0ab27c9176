"""What one MoE layer costs, compiled for a TPU topology on a host without a TPU.

    python -m launch.moe_layer --topology=v5p:2x2x2 --mesh=1x8 --tokens=4096
    python -m launch.moe_layer --topology=v5p:2x4x4 --mesh=1x32 --tokens=32768 --travel=ring

Forward and gradient of a rematerialised layer of --model, tokens a device. Prints memory, and
multiplications in times of the ideal ones: forward, again for the gradient's sake, and two
backward. XLA's own products are counted as `launch.plan` counts them. Of a kernel that counts the
tiles of a full buffer; here it is those that it visits where each pair draws its expert. Needs
`pip install -e '.[aot]'`.
"""

import dataclasses
import os
import re
import time
from typing import Literal

# Before JAX is imported: libtpu as a compiler only, beside others that do the same.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import cli
from launch.planning import chips, hlo, products, targets
from launch.planning.jobs import USUAL
from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.checks import check
from r1jax.kernels.grouped_matmul import area_multiplied, tiles_visited
from r1jax.model.experts import rows_of
from r1jax.model.moe import moe
from r1jax.model.params import weight_specs
from r1jax.model.travel import parts_of
from r1jax.published import MODELS

FORWARDS = 4  # forward, again, and two backward


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a device."""

    arguments: int  # bytes
    temporaries: int
    own: float  # FLOPs of XLA's products
    kernels: float  # and of the kernels', by the tiles that they visit
    calls: float  # grouped products
    ideal: float  # FLOPs

    @property
    def ratio(self) -> float:
        return (self.own + self.kernels) / self.ideal


def compiled(cfg: ModelConfig, mesh: Mesh, tokens: int):
    """Output's gradient to x and to parameters, of a layer with a row of `tokens` a device."""
    stack = weight_specs(cfg).params.moe
    check(stack is not None, f"--model: it has {cfg.moe_layers} layers of experts")
    assert stack is not None
    specs = jax.tree.map(
        lambda s: sharding.ParamSpec(s.shape[1:], s.axes[1:], s.init),
        stack.ffn,
        is_leaf=sharding.is_spec,
    )
    where, rows = sharding.shardings(specs, mesh), sharding.batch_sharding(mesh)

    def of(shape, dtype, sharding):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    p = jax.tree.map(lambda a, s: of(a.shape, a.dtype, s), sharding.abstract(specs), where)
    assert cfg.router is not None
    x_BTD = of((mesh.size, tokens, cfg.d_model), jnp.dtype(cfg.dtype), rows)
    valid_BT = of((mesh.size, tokens), jnp.bool_, rows)
    bias_E = of((cfg.router.experts,), jnp.float32, sharding.replicated(mesh))

    def step(x_BTD, p, bias_E, valid_BT):
        layer = jax.checkpoint(lambda x_BTD, p: moe(x_BTD, p, bias_E, valid_BT, cfg)[0])
        out_BTD, pull = jax.vjp(layer, x_BTD, p)
        return pull(out_BTD)

    with jax.set_mesh(mesh):
        lowered = jax.jit(step, out_shardings=(rows, where)).lower(x_BTD, p, bias_E, valid_BT)
        return lowered.compile()


def cost(cfg: ModelConfig, mesh: Mesh, tokens: int) -> Cost:
    """Of `compiled`. The routing that kernels are counted for is even but for the noise of a draw;
    what fits no buffer is not there."""
    program = compiled(cfg, mesh, tokens)
    router, over = cfg.router, mesh.shape[sharding.EXPERT]
    assert router is not None
    d, f, local = cfg.d_model, cfg.expert_ffn, router.experts // over
    parts = parts_of(tokens, over)
    usual, group = tokens // parts * router.active, tokens // parts * over
    size, tile = rows_of(usual, group, router.active, local, cfg.experts_room)
    drawn_E = np.bincount(np.random.default_rng(0).integers(0, local, usual), minlength=local)
    sizes_E = -(-drawn_E // tile) * tile
    visited = {name: tiles_visited(sizes_E, size, tile, name == "tgmm") for name in ("gmm", "tgmm")}
    area = area_multiplied(tile, d, f, jnp.dtype(cfg.dtype).itemsize)
    module = hlo.parse(program.as_text())
    seen = hlo.visits(module, named=USUAL)
    own = sum(product.flops for product in products.products(seen))
    kernels = calls = 0.0
    for kernel in products.kernels(module, seen):
        grouped = re.search(r"\b(t?gmm)\b", kernel.name)
        if grouped:
            calls += kernel.times
            kernels += kernel.times * visited[grouped[1]] * 2 * tile * area
    weights = 3 * d * f * (router.active + cfg.shared_experts) + d * router.experts
    memory = program.memory_analysis()
    return Cost(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        own,
        kernels,
        calls,
        FORWARDS * 2 * tokens * weights,
    )


FLAGS: cli.Flags = {
    "topology": ("NAME", "such as v5p:2x2x2"),
    "model": ("NAME", "a published model, deepseek-v3"),
    "tokens": ("N", "a device, 4096"),
}


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    mesh: str = "1x8"  # FSDPxEXPERT, such as 8x8
    travel: Literal["auto", "ring", "all_to_all"] = "auto"
    room: float = ModelConfig.experts_room


def main(args: list[str]) -> None:
    topology = cli.take(args, "--topology") or "v5p:2x2x2"
    name = cli.take(args, "--model") or "deepseek-v3"
    tokens = int(cli.take(args, "--tokens") or 4096)
    asked = cli.parse(LayerConfig, LayerConfig(), args, __doc__ or "", FLAGS)
    check(name in MODELS, f"--model={name}: one of {', '.join(MODELS)}")
    cfg = dataclasses.replace(
        MODELS[name](),
        dtype="bfloat16",
        experts_multiply="grouped",
        experts_travel=asked.travel,
        experts_room=asked.room,
    )
    started = time.perf_counter()
    found = cost(cfg, targets.mesh(chips.topology(topology), asked.mesh), tokens)
    print(
        f"{name}, {topology}, mesh {asked.mesh}, {asked.travel}, {tokens:,} tokens a device: "
        f"{found.ratio:.3f} of ideal ({found.own:.3g} FLOPs of XLA's, {found.kernels:.3g} of "
        f"{found.calls:.0f} grouped products, ideal {found.ideal:.4g}); "
        f"{found.arguments / 2**30:.2f} GiB of arguments, {found.temporaries / 2**30:.2f} of "
        f"temporaries; compiled in {time.perf_counter() - started:.0f} s"
    )


if __name__ == "__main__":
    cli.run(main)
