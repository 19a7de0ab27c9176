"""How many FLOPs a compiled program's matrix products are, by what was traced.

XLA's own dots and convolutions are counted from their shapes. A kernel (Pallas, cuDNN, cuBLAS) is a
call of something that XLA does not see into: what it declares about itself is no evidence. A TPU's
are counted by their tiles (`mosaic`); a GPU's whose work follows from the shapes of what they are
given, by those; the others are listed.

Only products count: what vector units do beside them is bound by memory, which `movement` has.
"""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence

from launch.planning import mosaic
from launch.planning.hlo import Array, Computation, Instruction, Module, Visit

# Of custom calls, those that only arrange things for the compiler.
_HELPERS = {
    "AllocateBuffer", "AssumeGatherIndicesInBound", "AsyncCollectiveDone", "AsyncCollectiveStart",
    "GatherScatterIndicesBitpacked", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape",
    "TopK", "MoveToHost", "MoveToDevice", "PinToDevice", "annotate_device_placement",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Product:
    source: str  # what was traced
    flops: float  # of a run
    dtype: str  # of its left operand
    highest: bool  # float32 that must not be rounded to what the units multiply


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A call of code that is not XLA's. flops: None where its work does not follow from shapes."""

    name: str
    times: float
    flops: float | None
    dtype: str
    how: str  # what the count is of


def products(seen: Sequence[Visit]) -> list[Product]:
    """Every product of a program's visits."""
    found = []
    for v in seen:
        i = v.instruction
        if i.opcode not in ("dot", "convolution") or not v.times:
            continue
        left = v.computation.operand(i, 0).array
        one = _dot(i, left) if i.opcode == "dot" else _convolution(i, v.computation)
        found.append(Product(i.source, v.times * one, left.dtype, "highest" in i.attributes))
    return found


def kernels(module: Module, seen: Sequence[Visit]) -> list[Kernel]:
    """Every kernel of a program's visits, those of one name and work together."""
    found: dict[tuple, float] = collections.defaultdict(float)
    for v in seen:
        i = v.instruction
        if i.opcode != "custom-call" or not v.times:
            continue
        target = i.attribute("custom_call_target").strip('"')
        if target in _HELPERS or target.startswith("Sharding"):
            continue
        found[_call(i, v.computation, target)] += v.times
    return [
        Kernel(name, times, flops and flops * times, dtype, how)
        for (name, flops, dtype, how), times in found.items()
    ]


def _call(i: Instruction, computation: Computation, target: str) -> tuple:
    """(name, FLOPs, type, how they are counted)."""
    name = _kernel_name(i, target)
    given = [a for o in i.operands for a in computation.instructions[o].arrays]
    body = re.search(r'"body":"([^"]+)"', i.attributes)
    if target == "tpu_custom_call" and body:
        found = mosaic.tiles(body[1])
        if found is None:
            return name, None, "", ""
        share = _below_the_diagonal(given) if "splash" in name else 1.0
        return name, found.flops * share, found.dtype, "by tiles"
    return name, _work(name, i, given), given[0].dtype if given else "", "from shapes"


def _below_the_diagonal(given: Sequence[Array]) -> float:
    """Of all tiles of scores, those that a causal mask leaves something of: splash looks at a table
    [heads, tiles of queries, tiles of keys] which, and passes over the others. Of rows split over
    devices in zigzag, each has an even part of them."""
    table = next(a for a in given if a.dtype == "s8" and len(a.dims) == 3)
    n = max(table.dims[1:])
    return (n + 1) / (2 * n)


def _dot(i: Instruction, left: Array) -> float:
    summed = [int(d) for d in re.findall(r"\d+", i.attribute("lhs_contracting_dims"))]
    return 2.0 * i.array.size * math.prod(left.dims[d] for d in summed)


def _convolution(i: Instruction, computation: Computation) -> float:
    """As a TPU has its products: also those whose other axes are batches, written as windows of
    which all but one place are padding. Places in the padding, or between, are not counted."""
    left, right = (computation.operand(i, k).array for k in (0, 1))
    labels = re.match(r"(\w+)_(\w+)->(\w+)", i.attribute("dim_labels"))
    assert labels, i.name
    of_left, of_right, of_out = labels.groups()
    window = _window(i.attribute("window"))
    flops = 2.0 * right.dims[of_right.index("i")]
    flops *= i.array.dims[of_out.index("b")] * i.array.dims[of_out.index("f")]
    for k, axis in enumerate(sorted(c for c in of_out if c.isdigit())):
        flops *= _places(
            left.dims[of_left.index(axis)],
            i.array.dims[of_out.index(axis)],
            right.dims[of_right.index(axis)],
            *(window[name][k] if name in window else usual for name, usual in _USUAL),
        )
    return flops


_USUAL: tuple[tuple[str, int], ...] = (
    ("stride", 1), ("low", 0), ("lhs_dilate", 1), ("rhs_dilate", 1),
)  # fmt: skip


def _window(text: str) -> dict[str, list[int]]:
    """Of {size=3x4 stride=1x3 pad=1_1x0_0 lhs_dilate=1x4}, each by axis."""
    found: dict[str, list[int]] = {}
    for name, values in re.findall(r"(\w+)=([\d_x-]+)", text):
        if name == "pad":
            found["low"] = [int(v.split("_")[0]) for v in values.split("x")]
        else:
            found[name] = [int(v) for v in values.split("x")]
    return found


def _places(n: int, out: int, kernel: int, stride: int, low: int, spread: int, apart: int) -> int:
    """Pairs of an output's and a kernel's place where an input is, along one axis. spread, apart:
    how far inputs and the kernel's places are from each other."""
    count = 0
    for k in range(kernel):
        at = k * apart - low  # of output 0; output o reads at + o stride
        if spread == 1:
            first = max(0, -(at // stride))
            last = min(out - 1, (n - 1 - at) // stride)
            count += max(0, last - first + 1)
        else:
            places = (at + o * stride for o in range(out))
            count += sum(p % spread == 0 and 0 <= p // spread < n for p in places)
    return count


def _kernel_name(i: Instruction, target: str) -> str:
    """What a kernel is called where it was written."""
    if target not in ("tpu_custom_call", "__gpu$xla.gpu.triton", "mosaic_gpu", "mosaic_gpu_v2"):
        return target
    parts = [p for p in i.source.split("/") if p not in ("pallas_call", "")]
    return parts[-1] if parts else re.sub(r"[.\d]+$", "", i.name)


def _work(name: str, i: Instruction, given: Sequence[Array]) -> float | None:
    """FLOPs of a call; 0 of what multiplies nothing."""
    for pattern, count in _KERNELS.items():
        if re.search(pattern, name):
            return count(i, given)
    return None


def _none(i: Instruction, given: Sequence[Array]) -> float:
    return 0.0


def _gemm(i: Instruction, given: Sequence[Array]) -> float | None:
    """cuBLAS, which says what it sums over."""
    config = json.loads(i.attribute("backend_config") or "{}")
    config = config.get("gemm_backend_config", config)
    numbers = config.get("dot_dimension_numbers")
    if not numbers:
        return None
    summed = [int(d) for d in numbers["lhs_contracting_dimensions"]]
    return 2.0 * i.array.size * math.prod(given[0].dims[d] for d in summed)


def _grouped(i: Instruction, given: Sequence[Array]) -> float | None:
    """[M, D] by [E, D, F] (or, of gradients, [M, D] by [M, F]): every row by one group's matrix.
    Rows that belong to no group, which a kernel may skip, are counted; tiles that two groups share,
    which it visits twice, once."""
    wide = sorted((a for a in given if len(a.dims) >= 2), key=lambda a: a.size, reverse=True)
    out = i.array
    if len(wide) < 2:
        return None
    matrices = next((a for a in (*wide, out) if len(a.dims) == 3), None)
    rows = next((a for a in wide if len(a.dims) == 2), None)
    if matrices is None or rows is None:
        return None
    return (
        2.0 * max(rows.dims) * math.prod(matrices.dims[1:])
        if out is matrices
        else (2.0 * rows.dims[0] * math.prod(matrices.dims[1:]))
    )


def _causal(passes: float) -> Callable[[Instruction, Sequence[Array]], float | None]:
    """Attention of queries [.., H, T, X] to keys of their own texts: half of the square. passes:
    products of that size, of which forward has 2, a backward pass 5 with the scores again."""

    def count(i: Instruction, given: Sequence[Array]) -> float | None:
        heads = [a for a in given if len(a.dims) >= 3 and a.size > 0]
        if len(heads) < 2:
            return None
        q, k = heads[0], heads[1]
        t, x = q.dims[-2:]
        return passes * 2.0 * math.prod(q.dims[:-2]) * t * k.dims[-2] * x / 2

    return count


# By the name of a kernel: how its FLOPs follow from the shapes of what it is given.
_KERNELS: dict[str, Callable[[Instruction, Sequence[Array]], float | None]] = {
    r"^route(_backward)?$|metadata|[Tt]opk|[Ss]ort|cub": _none,
    r"cublas": _gemm,
    r"ragged|gmm|grouped": _grouped,
    r"fmhaSoftmaxBackward|fmha\w*Backward": _causal(5),
    r"fmha": _causal(2),
}
