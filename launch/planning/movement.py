"""What a compiled program moves: between devices, by axis of the mesh and kind of collective, and
between a device and its own memory.

Bytes are those that a device receives (and sends as many), as rings do it: of a group of n, a
gather brings n - 1 parts, a reduction that scatters n - 1 of n, one that does not twice that.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from launch.planning.hlo import Array, Computation, Instruction, Module, Visit

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip

# What names, groups or waits, and moves nothing.
_NOTHING = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "add-dependency", "partition-id", "replica-id", "optimization-barrier",
    "iota", "async-update", "async-done", "domain",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sent:
    """A collective, as often as it runs."""

    kind: str
    axes: str  # of the mesh, such as fsdp or fsdp+expert
    times: float
    bytes: float  # that a device receives, all times together
    outside: bool  # between hosts
    source: str


def collectives(seen: Sequence[Visit], mesh: Mapping[str, int], host: int = 0) -> list[Sent]:
    """Every collective of a program over a mesh (sizes by name, in order), but for those that stay
    on a device. host: devices a host, where it matters."""
    found, counted = [], set()
    for v in seen:
        i = v.instruction
        kind = i.opcode.removesuffix("-start")
        if kind not in COLLECTIVES or not v.times:
            continue
        # libtpu splits one over what computes meanwhile: its start, those, its end.
        chain = re.search(r'chain_id="(\d+)"', i.attributes)
        if chain and v.fused:
            if (v.place, chain[1]) in counted:
                continue
            counted.add((v.place, chain[1]))
        groups = replica_groups(i, math.prod(mesh.values()))
        n = _ring(kind, groups)
        if n < 2:
            continue
        given = sum(v.computation.instructions[o].bytes for o in i.operands)
        found.append(
            Sent(
                kind,
                spans(groups, mesh),
                v.times,
                v.times * given * _received(kind, n),
                host > 0 and bool(np.any(groups // host != groups[:, :1] // host)),
                i.source,
            )
        )
    return found


def _ring(kind: str, groups: np.ndarray) -> int:
    if kind == "collective-permute":
        return 2 if np.any(groups[:, 0] != groups[:, -1]) else 1
    return groups.shape[1]


def _received(kind: str, n: int) -> float:
    """By each device, of what it gives."""
    if kind == "all-gather":
        return n - 1.0
    if kind == "all-reduce":
        return 2.0 * (n - 1) / n
    return 1.0 if kind in ("collective-permute", "collective-broadcast") else (n - 1.0) / n


def replica_groups(i: Instruction, devices: int) -> np.ndarray:
    """[groups, devices of each], by their number in the mesh. Pairs, of a permutation."""
    if "source_target_pairs=" in i.attributes:
        pairs = re.findall(r"\{(\d+),(\d+)\}", i.attribute("source_target_pairs"))
        return np.array([[int(a), int(b)] for a, b in pairs])
    text = i.attributes.partition("replica_groups=")[2]
    if text.startswith("mesh["):
        return _by_axis(text)
    iota = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        return _iota(iota[2], iota[3]).reshape(_ints(iota[1]))
    groups = re.match(r"\{((?:\{[\d,]*\},?)*)\}", text)
    listed = [_ints(g) for g in re.findall(r"\{([\d,]+)\}", groups[1])] if groups else []
    return np.array(listed) if listed else np.arange(devices)[None]


def _ints(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _iota(shape: str, order: str | None) -> np.ndarray:
    ids = np.arange(math.prod(_ints(shape))).reshape(_ints(shape))
    return ids.transpose(_ints(order)) if order else ids


def _by_axis(text: str) -> np.ndarray:
    """mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}: along the axes in the last braces, or
    along a part of one: 'b':(1)2."""
    found = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", text)
    assert found, text[:200]
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", found[1])}
    ids = np.arange(math.prod(sizes.values()))
    if found[2]:
        iota = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", found[2])
        ids = _iota(iota[1], iota[2]) if iota else np.array(_ints(found[2]))
    # A part of an axis is an axis of its own: what is before it, it, and what is behind.
    shape, along = [], []
    parts = {
        name: (int(before), int(size))
        for name, before, size in re.findall(r"'(\w+)':\((\d+)\)(\d+)", found[3])
    }
    whole = re.findall(r"'(\w+)'(?!:)", found[3])
    for name, n in sizes.items():
        before, size = parts.get(name, (1, n))
        shape += [before, size, n // before // size]
        if name in parts or name in whole:
            along.append(len(shape) - 2)
    ids = np.moveaxis(ids.reshape(shape), along, range(-len(along), 0))
    return ids.reshape(-1, math.prod(shape[a] for a in along))


def spans(groups: np.ndarray, mesh: Mapping[str, int]) -> str:
    """The axes of the mesh along which the devices of a group differ."""
    places = np.unravel_index(groups, tuple(mesh.values()))
    apart = [name for name, at in zip(mesh, places, strict=True) if np.any(at != at[:, :1])]
    return "+".join(apart) or "none"


def by_axis(sent: Sequence[Sent]) -> dict[tuple[str, str], tuple[float, float]]:
    """(axes, kind) -> (times, bytes), the most bytes first."""
    found: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    for s in sent:
        found[s.axes, s.kind][0] += s.times
        found[s.axes, s.kind][1] += s.bytes
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    return {key: (times, size) for key, (times, size) in ordered}


def hbm_bytes(module: Module, seen: Sequence[Visit]) -> float:
    """What a run reads from and writes to a device's own memory, once an operation: a cache between
    may save some of it. Of an array that is sliced or written in part, that part."""
    return sum(v.times * _moved(module, v) for v in seen if not v.fused and v.times)


def _moved(module: Module, v: Visit) -> float:
    i, c = v.instruction, v.computation
    if i.opcode in _NOTHING or i.opcode.endswith("-done"):
        return 0.0
    operands = [c.instructions[name] for name in i.operands]
    in_memory = [_here(o.arrays) for o in operands]
    if i.opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * _here(i.arrays)
    if i.opcode == "dynamic-update-slice":
        return 2.0 * in_memory[1]
    if i.opcode == "scatter":  # in place: what is written, read before, and where
        return in_memory[1] + 2.0 * in_memory[2]
    if i.opcode == "copy-start":
        return in_memory[0] + _here(i.arrays[:1])
    if i.opcode != "fusion":
        return sum(in_memory) + _here(i.arrays)
    inner = module.computations[i.called()[0]]
    parameters, carried = inner.parameters, _carried(inner)
    read = sum(
        min(here, _read(module, inner, p.name))
        for here, p in zip(in_memory, parameters, strict=True)
        if here and p.arrays[0].dims not in carried
    )
    return read + _written(inner, i, carried)


def _here(arrays: Sequence[Array]) -> float:
    return float(sum(a.bytes for a in arrays if a.space == 0))


def _carried(inner: Computation) -> set[tuple[int, ...]]:
    """Shapes of what a collective brings while a fusion computes: its own, and counted there."""
    made = [i for i in inner.instructions.values() if i.opcode in COLLECTIVES]
    return {a.dims for i in made for a in i.arrays}


def _read(module: Module, computation: Computation, name: str) -> float:
    """Of a parameter of a fusion, the bytes that it looks at."""
    total, whole = 0.0, float(computation.instructions[name].bytes)
    for user in computation.users(name):
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
            total += user.bytes
        elif user.opcode in ("dynamic-update-slice", "scatter") and user.operands[0] == name:
            continue
        elif user.opcode == "bitcast":
            total += _read(module, computation, user.name)
        elif user.opcode == "fusion":
            inner = module.computations[user.called()[0]]
            for p, operand in zip(inner.parameters, user.operands, strict=True):
                if operand == name:
                    total += _read(module, inner, p.name)
        else:
            return whole
    return min(total, whole)


def _written(inner: Computation, i: Instruction, carried: set[tuple[int, ...]]) -> float:
    root = inner.root
    parts = [inner.instructions[n] for n in root.operands] if root.opcode == "tuple" else [root]
    if len(parts) != len(i.arrays):
        return _here(i.arrays)
    total = 0.0
    for part, array in zip(parts, i.arrays, strict=True):
        while part.opcode in ("bitcast", "convert", "copy") and part.operands:
            part = inner.operand(part, 0)
        if array.space or array.dims in carried:
            continue
        if part.opcode in ("dynamic-update-slice", "scatter"):
            total += inner.operand(part, 1 if part.opcode != "scatter" else 2).bytes
        else:
            total += array.bytes
    return total


def largest(seen: Sequence[Visit], count: int) -> list[tuple[float, str, str]]:
    """(bytes, shape, what was traced) of the largest arrays that are made in a device's memory."""
    found = set()
    for v in seen:
        i = v.instruction
        if v.fused or i.opcode in _NOTHING or i.opcode.endswith(("-done", "-start")):
            continue
        for a in i.arrays:
            if a.space == 0:
                found.add((float(a.bytes), f"{a.dtype}[{','.join(map(str, a.dims))}]", i.source))
    best: dict[tuple[str, str], tuple[float, str, str]] = {}
    for one in sorted(found, reverse=True):
        best.setdefault((one[1], ""), one)
    return list(best.values())[:count]
