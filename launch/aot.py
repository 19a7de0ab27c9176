"""Compiles the GRPO step for a TPU topology, on a host without a TPU.

    python -m launch.aot --topology=v5p:4x4x4 --mesh=8x8 --preset=r1_zero_paper
    python -m launch.aot --topology=v5e:4x4 --mesh=16x1 --model=deepseek-r1-distill-qwen-1.5b ...

Needs `pip install -e '.[aot]'`. Any field of the preset is a flag, as in experiments.r1_zero;
--model is the name of a published model, or a Hugging Face directory, in place of the preset's.
Prints what the real compiler says: memory a chip, and the collectives it chose.
"""

import collections
import dataclasses
import math
import os
import re
import time

# Before JAX is imported: libtpu as a compiler only, no TPU is looked for, and none is locked, so
# that two programs at once can compile.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
from jax.experimental import topologies

from experiments import cli
from r1jax import hub, sharding
from r1jax.checkpoint import abstract_like
from r1jax.checks import InputError, check
from r1jax.config import RunConfig
from r1jax.models import with_lora
from r1jax.presets import RUNS
from r1jax.published import MODELS
from r1jax.rl.grpo import grpo_step
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import abstract_policy, check_sizes
from r1jax.rl.types import abstract_rollout, layout_of, rollout_shardings

COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


def topology_mesh(topology: str, text: str):
    """The mesh `text` over the devices of a topology such as "v5p:4x4x4"."""
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:
        raise InputError(f"--topology={topology}: {error}") from error
    wanted = math.prod(sharding.parse_mesh(text).values())
    check(
        len(devices) == wanted,
        f"--mesh={text} needs {wanted} devices, {topology} has {len(devices)}",
    )
    return sharding.mesh_over(text, devices)


FLAGS: cli.Flags = {
    "topology": ("NAME", "such as v5p:4x4x4"),
    "model": ("NAME|DIR", "a published model, or a Hugging Face directory, in the preset's place"),
}


def main(args: list[str]) -> None:
    topology = cli.take(args, "--topology") or "v5p:2x2x1"
    name = cli.take(args, "--model")
    cfg = cli.starting_config(RUNS, "tiny", args)
    if name:
        model = MODELS[name]() if name in MODELS else hub.read_config(name)
        cfg = dataclasses.replace(cfg, model=model)
    cfg = cli.parse(RunConfig, cfg, args, __doc__ or "", {**cli.starting_flags(RUNS), **FLAGS})
    cfg, mesh = with_lora(cfg), topology_mesh(topology, cfg.mesh)
    check_sizes(cfg, mesh)
    layout = layout_of(cfg, sharding.rows_over(mesh), mesh.shape[sharding.CONTEXT])
    rollout = abstract_like(
        abstract_rollout(layout, cfg.rl.questions), rollout_shardings(layout, mesh)
    )
    # Outside the mesh: optax builds small arrays here, and no device of a topology can hold one.
    policy = abstract_policy(cfg, mesh)
    started = time.perf_counter()
    with jax.set_mesh(mesh):
        compiled = grpo_step.lower(policy, rollout, hyper_of(cfg), **static_of(cfg)).compile()
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and hlo is not None
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    counts = collections.Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", hlo))
    print(f"{topology}, mesh {cfg.mesh}: compiled in {time.perf_counter() - started:.0f} s")
    print(
        f"memory a chip: {used / 2**30:.2f} GiB (state and batch "
        f"{memory.argument_size_in_bytes / 2**30:.2f}, temporaries "
        f"{memory.temp_size_in_bytes / 2**30:.2f})"
    )
    print("collectives: " + ", ".join(f"{n} {name}" for name, n in counts.most_common()))
    print(f"Pallas kernels: {hlo.count('tpu_custom_call')}")


if __name__ == "__main__":
    cli.run(main)
