"""What chips have: memory, peaks and links, as their makers state them; and topologies by name.

Peaks and bandwidths are what nothing exceeds, and what little reaches: what follows from them is a
bound. TPUs: docs.cloud.google.com/tpu/docs (v5e, v5p, v6e, tpu7x), read 2026-11; memory is what
the compiler leaves a program. GPUs: NVIDIA's data sheets, dense rates (no sparsity); of the memory,
what the driver shows, all of it (JAX takes 75% unless XLA_PYTHON_CLIENT_MEM_FRACTION says more).
"""

import dataclasses
import math
import re
from typing import Literal

from r1jax.checks import InputError, check, near

GB, GIB, TERA = 1e9, 2.0**30, 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
    """Of one JAX device. Rates in FLOP/s, bandwidths in bytes/s in one direction."""

    name: str
    kind: Literal["tpu", "gpu"]
    memory: float  # bytes that a program can have
    hbm: float
    bfloat16: float
    #: float32 as it is multiplied by default: one bfloat16 pass on a TPU, TF32 on a GPU.
    float32: float
    #: And where nothing may be rounded away: six bfloat16 passes; CUDA cores.
    float32_highest: float
    eight_bit: float  # float8, where the units have it, or int8
    links: float  # all links between a device and its neighbours (TPU), or to its host's others
    one_axis: float  # of those, what a ring along one axis of the torus has (GPU: the same)
    network: float  # beyond the host (GPU) or the slice
    axes: int = 0  # of a TPU's torus
    host: int = 0  # devices a host

    def rate(self, dtype: str, highest: bool = False) -> float:
        """FLOP/s of products of this HLO type."""
        if dtype in ("f32", "f64"):
            return self.float32_highest if highest else self.float32
        return self.eight_bit if dtype.startswith(("f8", "s8", "u8")) else self.bfloat16


def _tpu(
    name: str, memory: float, hbm: float, peak: float, eight: float, both_ways: float, axes: int
) -> Chip:
    """both_ways: GB/s of all of a chip's links, in and out."""
    links = both_ways / 2 * GB
    return Chip(
        name, "tpu", memory * GIB, hbm * GB, peak * TERA, peak * TERA, peak * TERA / 6,
        eight * TERA, links, links / axes, 6.25 * GB, axes, 8 if axes == 2 else 4,
    )  # fmt: skip


def _gpu(
    name: str, memory: float, hbm: float, peak: float, eight: float, cores: float, nvlink: float,
    network: float,
) -> Chip:  # fmt: skip
    """memory in bytes; nvlink, network: GB/s in one direction."""
    return Chip(
        name, "gpu", memory, hbm * GB, peak * TERA, peak / 2 * TERA, cores * TERA, eight * TERA,
        nvlink * GB, nvlink * GB, network * GB, 0, 8,
    )  # fmt: skip


CHIPS: dict[str, Chip] = {
    "v5e": _tpu("TPU v5e", 15.75, 819, 197, 393, 400, 2),
    "v5p": _tpu("TPU v5p", 95.74, 2765, 459, 918, 1200, 3),
    "v6e": _tpu("TPU v6e", 31.25, 1640, 918, 1836, 800, 2),
    # A chip is two devices to JAX, of 192 GB, 7,380 GB/s, 2,307 (4,614 in FP8) TFLOP/s and
    # 1,200 GB/s of links together.
    "tpu7x": _tpu("half a TPU7x", 94.75, 3690, 1153.5, 2307, 600, 3),
    # 400 Gb/s of InfiniBand a GPU, as in a DGX.
    "h100": _gpu("H100 SXM", 84_942_979_072, 3350, 989.4, 1978.9, 67, 450, 50),
    "h200": _gpu("H200 SXM", 150_754_820_096, 4800, 989.4, 1978.9, 67, 450, 50),
    "b200": _gpu("B200 SXM", 192_265_846_784, 8000, 2250, 4500, 75, 900, 50),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`devices` of a chip. shape: of the torus; of GPUs, hosts x GPUs a host."""

    text: str
    key: str
    chip: Chip
    shape: tuple[int, ...]
    devices: int


def topology(text: str) -> Topology:
    """Of v5p:8x8x16, v5e:2x4, h100:8 (one host) or h100:16x8 (sixteen). Raises InputError."""
    key, colon, shape_text = text.partition(":")
    known = ", ".join(CHIPS)
    check(key in CHIPS, f"--topology={text}: no chip {key!r}, only {known}{near(key, CHIPS)}")
    chip = CHIPS[key]
    form = "h100:8 or h100:16x8, HOSTSxGPUS" if chip.kind == "gpu" else _form(key, chip.axes)
    wanted = r"[1-9]\d*(x[1-9]\d*)?" if chip.kind == "gpu" else r"[1-9]\d*(x[1-9]\d*)+"
    if not (colon and re.fullmatch(wanted, shape_text)):
        raise InputError(f"--topology={text}: expected {form}")
    shape = tuple(int(n) for n in shape_text.split("x"))
    if chip.kind == "gpu":
        shape = (1, *shape) if len(shape) == 1 else shape
        check(shape[1] <= chip.host, f"--topology={text}: a host has at most {chip.host} GPUs")
    check(
        chip.kind == "gpu" or len(shape) == chip.axes,
        f"--topology={text}: a {key} slice has {chip.axes} axes: expected {form}",
    )
    cores = 2 if key == "tpu7x" else 1
    return Topology(text, key, chip, shape, cores * math.prod(shape))


def _form(key: str, axes: int) -> str:
    return f"{key}:2x4" if axes == 2 else f"{key}:4x4x4"
