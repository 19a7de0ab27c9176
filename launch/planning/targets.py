"""Devices that are not there, and programs compiled for them.

TPUs: libtpu as a compiler only (`pip install -e '.[aot]'`). GPUs: XLA of a CUDA plugin, which
needs no GPU either (`pip install -e '.[aot-cuda]'`). What comes out is what the machine would run.
"""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from launch.planning.chips import GIB, Topology
from r1jax import sharding
from r1jax.checks import InputError, check

# An H100 SXM5 as XLA describes it (openxla/xla, backends/gpu/target_config), and what differs. The
# B200's figures are its data sheet's, and nothing has been compiled for it yet.
_GPU = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: CORES fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: BANDWIDTH l2_cache_size: CACHE clock_rate_ghz: 1.98
  device_memory_size: MEMORY shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: MAJOR feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0" name: "NAME"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NAME"
"""
_GPUS = {
    "h100": {"NAME": "NVIDIA H100 80GB HBM3", "CORES": 132, "CACHE": 52_428_800, "MAJOR": 9},
    "h200": {"NAME": "NVIDIA H200", "CORES": 132, "CACHE": 52_428_800, "MAJOR": 9},
    "b200": {"NAME": "NVIDIA B200", "CORES": 148, "CACHE": 132_644_864, "MAJOR": 10},
}
# Without a GPU there is nothing to measure kernels on.
_GPU_OPTIONS = {"xla_gpu_autotune_level": "0"}


class OutOfMemory(Exception):
    """The program does not fit. needed, has: bytes, 0 where the compiler does not say; largest:
    (bytes, shape, what was traced), the largest first."""

    def __init__(self, needed: float, has: float, largest: list[tuple[float, str, str]]):
        super().__init__(f"out of memory: needs {needed / GIB:.1f} GiB of {has / GIB:.1f}")
        self.needed, self.has, self.largest = needed, has, largest


@dataclasses.dataclass(frozen=True)
class Compiled:
    text: str  # HLO
    memory: Any  # CompiledMemoryStats
    out: Any  # ShapeDtypeStructs with shardings
    seconds: float


def devices(where: Topology) -> list:
    """Raises InputError if there is no such topology, or nothing to compile for it."""
    gpu = where.chip.kind == "gpu"
    try:
        if gpu:
            sizes = {"MEMORY": int(where.chip.memory), "BANDWIDTH": int(where.chip.hbm)}
            text = _GPU
            for name, value in (_GPUS[where.key] | sizes).items():
                text = text.replace(name, str(value))
            shape = "x".join(map(str, (1, *where.shape)))
            found = topologies.get_topology_desc(
                where.key, "cuda", target_config=text, topology=shape
            )
        else:
            found = topologies.get_topology_desc(platform="tpu", topology_name=where.text)
    except Exception as error:  # of either plugin, in words of its own
        raise InputError(f"--topology={where.text}: {_why(error, gpu)}") from error
    return list(found.devices)


def _why(error: Exception, gpu: bool) -> str:
    said = " ".join(str(error).split())
    extra = "aot-cuda" if gpu else "aot"
    absent = isinstance(error, (ImportError, ModuleNotFoundError)) or re.search(
        r"[Uu]nknown backend|not found|[Uu]nable to initialize|No module|not in the list|"
        r"not implemented|not installed",
        said,
    )
    if absent:
        return f"nothing here compiles for it: pip install -e '.[{extra}]' ({said[:150]})"
    return f"no such slice ({said[:200]})"


def mesh(where: Topology, text: str) -> Mesh:
    """The mesh `text` over a topology. Raises InputError if it has not as many devices."""
    wanted = math.prod(sharding.parse_mesh(text).values())
    check(
        wanted == where.devices,
        f"--mesh={text} needs {wanted} devices, {where.text} has {where.devices}",
    )
    return sharding.mesh_over(text, devices(where))


def compile_on(mesh: Mesh, where: Topology, function, *args, **static) -> Compiled:
    """`function`, jitted, as the commands call it. Raises OutOfMemory, and InputError for what
    cannot be compiled otherwise."""
    started = time.perf_counter()
    with jax.set_mesh(mesh), one_line_errors():
        lowered = function.lower(*args, **static)
        options = _GPU_OPTIONS if where.chip.kind == "gpu" else None
        compiled = lowered.compile(compiler_options=options)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None
    out = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        compiled.out_info,
        compiled.output_shardings,
    )
    return Compiled(text, memory, out, time.perf_counter() - started)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What compilers say, as OutOfMemory or as one line."""
    try:
        yield
    except InputError:
        raise
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        if "RESOURCE_EXHAUSTED" in said or "xceed" in said:
            raise out_of_memory(said) from error
        raise InputError(f"the compiler refuses it: {' '.join(said.split())[:300]}") from error


_SIZES = {"": 1.0, "B": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


def _bytes(text: str) -> float:
    found = re.match(r"([\d.]+)\s*([KMGTB]?)", text)
    return float(found[1]) * _SIZES[found[2]] if found else 0.0


def out_of_memory(said: str) -> OutOfMemory:
    """Of what XLA says when a program does not fit."""
    used = re.search(r"Used ([\d.]+\w?) of ([\d.]+\w?) (?:hbm|memory)", said)
    over = re.search(r"\(([\d.]+[KMGT]?)\) exceeds available \w+ \(([\d.]+[KMGT]?)\)", said)
    found = used or over
    needed, has = (_bytes(found[1]), _bytes(found[2])) if found else (0.0, 0.0)
    largest, seen = [], set()
    for part in re.split(r"\n\s*\d+\. Size: ", said)[1:]:
        name = re.search(r'op_name="([^"]*)"', part)
        shape = re.search(r"Shape: (\w+\[[\d,]*\])", part)
        one = (_bytes(part), shape[1] if shape else "?", name[1] if name else "")
        if one not in seen:
            seen.add(one)
            largest.append(one)
    return OutOfMemory(needed, has, sorted(largest, reverse=True))
