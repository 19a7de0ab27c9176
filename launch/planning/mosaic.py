"""What a Pallas kernel of a TPU multiplies: its tiles, counted.

A compiled program carries the kernel itself (Mosaic's MLIR). Its products have the shapes of tiles;
how often each runs follows from the grid and from the branches and loops around it, as far as they
depend on the place in the grid alone. A branch that depends on what is read (which group a tile is
of, whether it is masked) counts as taken, so a count is what a kernel multiplies at most; a grid
whose size is only known when it runs is as long as the list of tiles that the kernel is given.
"""

import base64
import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jax._src.interpreters.mlir import make_ir_context
from jax._src.lib import tpu
from jaxlib.mlir import ir
from jaxlib.mlir.passmanager import PassManager

_DYNAMIC = -(2**63)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """flops: of a call, at most. grid: how many tiles there are, by axis."""

    flops: float
    dtype: str  # of the left operands, as HLO writes it; "" where nothing is multiplied
    grid: tuple[int, ...]


@functools.cache
def tiles(body: str) -> Tiles | None:
    """Of the `body` of a custom call's configuration. None for what this cannot read."""
    context = make_ir_context()
    with context, ir.Location.unknown():
        tpu.register_dialect(context)
        context.allow_unregistered_dialects = True
        try:
            raw = base64.b64decode(body)
            module = ir.Module.parse(raw)
            if raw.startswith(b"ML"):  # bytecode is of a version; text is as it is
                unpack = PassManager.parse("builtin.module(mosaic-serde{serialize=false})")
                unpack.run(module.operation)
        except (ir.MLIRError, ValueError):
            return None
        kernel = next(iter(module.body.operations))
        grid = _grid(kernel)
        try:
            return _Count(grid).of(kernel.regions[0].blocks[0])
        except _Unknown:
            return None


def _grid(kernel) -> tuple[int, ...]:
    if "iteration_bounds" not in kernel.attributes:
        return ()
    bounds = [int(n) for n in kernel.attributes["iteration_bounds"]]
    types = [str(a.type) for a in kernel.regions[0].blocks[0].arguments]
    told = [int(n) for t in types for n in re.findall(r"^memref<(\d+)xi32, .*smem>", t)]
    return tuple(max(told, default=1) if n == _DYNAMIC else n for n in bounds)


class _Unknown(Exception):
    """How often a product runs does not follow from the grid."""


class _Count:
    """Scalars are arrays over the grid, of length 1 along axes that they do not depend on; what is
    not known is absent."""

    def __init__(self, grid: tuple[int, ...]):
        self.grid = grid
        self.known: dict[Any, np.ndarray] = {}
        self.flops, self.dtype = 0.0, ""

    def of(self, block) -> Tiles:
        for axis, n in enumerate(self.grid):
            shape = [1] * len(self.grid)
            shape[axis] = n
            self.known[block.arguments[axis]] = np.arange(n).reshape(shape)
        self.block(block, np.ones([1] * len(self.grid)))
        return Tiles(self.flops, self.dtype, self.grid)

    def block(self, block, times: np.ndarray) -> None:
        """times: how often it runs, over the grid."""
        for op in block.operations:
            name = op.operation.name
            if name == "tpu.matmul":
                self.product(op, times)
            elif name == "scf.if":
                self.branches(op, times)
            elif name == "scf.for":
                self.loop(op, times)
            elif name in ("scf.while", "func.call"):
                self.unknown(op)
            else:
                self.scalar(name, op)
                for region in op.regions:  # of scopes
                    for inner in region.blocks:
                        self.block(inner, times)

    def product(self, op, times: np.ndarray) -> None:
        left, out = (ir.VectorType(v.type) for v in (op.operands[0], op.results[0]))
        summed = re.search(
            r"dimension_numbers<\[([\d, ]+)\]", str(op.attributes["dimension_numbers"])
        )
        assert summed, str(op)
        over = math.prod(left.shape[int(d)] for d in summed[1].split(","))
        runs = times.sum() * math.prod(self.grid) / times.size
        self.flops += 2.0 * math.prod(out.shape) * over * float(runs)
        self.dtype = self.dtype or str(left.element_type).lower().replace("i8", "s8")

    def branches(self, op, times: np.ndarray) -> None:
        taken = self.known.get(op.operands[0])
        if taken is not None:
            for region, runs in zip(op.regions, (taken != 0, taken == 0), strict=True):
                for inner in region.blocks:
                    self.block(inner, times * runs)
            return
        begin, heaviest = self.flops, self.flops
        for region in op.regions:
            self.flops = begin
            for inner in region.blocks:
                self.block(inner, times)
            heaviest = max(heaviest, self.flops)
        self.flops = heaviest

    def loop(self, op, times: np.ndarray) -> None:
        low, high, step = (self.known.get(v) for v in list(op.operands)[:3])
        if low is None or high is None or step is None:
            self.unknown(op)
            return
        turns = np.maximum(0, -((low - high) // step))
        self.block(op.regions[0].blocks[0], times * turns)

    def unknown(self, op) -> None:
        if "tpu.matmul" in str(op) or op.operation.name == "func.call":
            raise _Unknown

    def scalar(self, name: str, op) -> None:
        if name == "arith.constant" and isinstance(op.attributes["value"], ir.IntegerAttr):
            self.known[op.results[0]] = np.array(int(op.attributes["value"])).reshape(
                [1] * len(self.grid)
            )
            return
        given = [self.known.get(v) for v in op.operands]
        if name == "arith.cmpi":
            compare = _COMPARED.get(int(op.attributes["predicate"]))
        else:
            compare = _SCALARS.get(name)
        if compare is not None and all(a is not None for a in given):
            self.known[op.results[0]] = np.asarray(compare(*given)).astype(np.int64)


_COMPARED: dict[int, Callable] = {
    0: np.equal, 1: np.not_equal, 2: np.less, 3: np.less_equal, 4: np.greater, 5: np.greater_equal,
}  # fmt: skip


def _same(a):
    return a


def _divided(a, b):
    """As C does, toward zero."""
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


_SCALARS: dict[str, Callable] = {
    "arith.addi": np.add, "arith.subi": np.subtract, "arith.muli": np.multiply,
    "arith.divsi": _divided, "arith.remsi": np.fmod,
    "arith.andi": np.bitwise_and, "arith.ori": np.bitwise_or, "arith.xori": np.bitwise_xor,
    "arith.maxsi": np.maximum, "arith.minsi": np.minimum, "arith.select": np.where,
    "arith.index_cast": _same, "arith.extui": _same, "arith.extsi": _same, "arith.trunci": _same,
}  # fmt: skip
