"""Meshes, and where each array lives on them.

A mesh is fully-sharded data parallelism x context parallelism x expert parallelism: `--mesh=8x8` is
8 of "fsdp" and 8 of "expert", `--mesh=fsdp=16,expert=8,context=4` names them. Activations are split
over the batch on "fsdp" and "expert", and along a row's tokens on "context" (`model/zigzag.py`).
Weights are split over "fsdp" and "context" along d_model and over "expert" along experts, heads or
vocabulary; all but the experts are gathered, a layer at a time, where they are used. Experts stay
where they are: tokens travel to them (`model/moe.py`).

Changing the parallelism means editing one table, `_TABLE`.
"""

import collections
import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax import processes
from r1jax.checks import InputError, check

FSDP, CONTEXT, EXPERT = AXES = "fsdp", "context", "expert"
PART = "part"  # of FSDP and CONTEXT, where replies are drawn

# Logical axis -> mesh axes, in training and while replies are drawn, by a model with experts and by
# one without. An axis is left whole where its size does not divide. Drawing reads all weights for
# every token, so none are gathered then. With experts these are over as many devices as divide them
# (`for_sampling`), and all else is on every device; without, heads, vocabulary and FFN are split
# over the expert axis, whose devices make the products of all their rows together ("together").
# Devices do not share rows.
_TABLE: dict[str | None, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    #          training         drawing          without experts
    "batch": ((FSDP, EXPERT), (FSDP, EXPERT), (FSDP, EXPERT)),
    "together": ((FSDP,), (FSDP,), (FSDP,)),
    "time": ((CONTEXT,), (), ()),
    "experts": ((EXPERT,), (EXPERT,), ()),
    "embed": ((FSDP, CONTEXT), (), ()),
    "heads": ((EXPERT,), (), (EXPERT,)),
    "vocab": ((EXPERT,), (), (EXPERT,)),
    "ffn": ((EXPERT,), (), (EXPERT,)),
    "latent": ((), (), ()),
    "layers": ((), (), ()),
    None: ((), (), ()),
}
RULES, SAMPLING_RULES, DENSE_SAMPLING_RULES = (
    {axis: row[i] for axis, row in _TABLE.items()} for i in range(3)
)


def parse_mesh(text: str) -> dict[str, int]:
    """The size of every axis, in their order: "8x8" is 8 of fsdp and 8 of expert, "4" is 4 of fsdp;
    "fsdp=16,expert=8,context=4" names them, in any order. Raises InputError for anything else."""
    sizes = dict.fromkeys(AXES, 1)
    if match := re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text):
        return sizes | {FSDP: int(match[1]), EXPERT: int(match[2] or 1)}
    named = [re.fullmatch(rf"({'|'.join(AXES)})=([1-9]\d*)", part) for part in text.split(",")]
    given = {match[1]: int(match[2]) for match in named if match}
    if len(given) < len(named):
        raise InputError(
            f"--mesh={text}: expected FSDPxEXPERT such as 8x8, one number, or axes by name such as "
            "fsdp=16,expert=8,context=4"
        )
    return sizes | given


def mesh_over(text: str, devices: Sequence[jax.Device]) -> Mesh:
    """The mesh that `text` describes, of exactly these devices."""
    sizes = tuple(parse_mesh(text).values())
    # An axis of the mesh may be a part of one of the torus.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def by_rows(mesh: Mesh) -> Mesh:
    """The same devices, none of which share a row: where rows are short."""
    return for_sampling(mesh, 0)


def rows_over(mesh) -> int:
    """How many devices, or groups of them that share rows, a batch is split over."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def make_mesh(text: str) -> Mesh:
    """The mesh that `text` describes; on a CPU host its devices are emulated.

    Raises InputError if the host's accelerators are not exactly as many as the mesh needs (on a
    CPU host: if JAX was already started with fewer devices).
    """
    wanted = math.prod(parse_mesh(text).values())
    # Only effective before JAX's first use of a device, and only for the CPU backend. Once it is
    # too late, JAX raises, and the count below decides.
    with contextlib.suppress(RuntimeError):
        emulated = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
        mine = -(-wanted // processes.count())  # each process of a pod emulates its part
        told = processes.count() > 1 and "JAX_NUM_CPU_DEVICES" in os.environ
        if emulated < mine and not told:
            jax.config.update("jax_num_cpu_devices", mine)
    devices = jax.devices()
    on_cpu = devices[0].platform == "cpu"
    more = on_cpu and len(devices) > wanted and processes.count() == 1
    check(
        len(devices) == wanted or more,
        f"--mesh={text} needs {wanted} devices, but there are {len(devices)} "
        f"({devices[0].device_kind}{_of_each(devices)})",
    )
    return mesh_over(text, devices[:wanted])


def for_sampling(mesh: Mesh, experts: int) -> Mesh:
    """The same devices, none of which share a row, and with the expert axis as long as `experts`
    allow, since a device then reads the fewest weights a token. It has its experts among those of
    its group in training, so laying them out is one exchange within groups. 0: as it is."""
    devices = _in_parts(mesh, experts)
    rest, part, over = devices.shape
    devices = devices.transpose(0, 2, 1).reshape(rest, 1, over * part)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def laid_for_sampling(mesh: Mesh, experts: int, shape, axes) -> tuple[NamedSharding, NamedSharding]:
    """Where `_TABLE` wants an array while replies are drawn: in terms of the devices in the order
    of training, which a compiled function must keep, and of `for_sampling`. A device holds the same
    by both."""
    parts = Mesh(_in_parts(mesh, experts), (FSDP, PART, EXPERT), axis_types=(AxisType.Auto,) * 3)
    after = for_sampling(mesh, experts)
    rules = SAMPLING_RULES if experts else DENSE_SAMPLING_RULES
    spec = partition(shape, axes, after, rules)
    before = P(*((EXPERT, PART) if a in (EXPERT, (EXPERT,)) else a for a in spec))
    return NamedSharding(parts, before), NamedSharding(after, spec)


def _in_parts(mesh: Mesh, experts: int) -> np.ndarray:
    """A mesh's devices, [rest, part, expert]: a device's experts may be split in `part`."""
    over = mesh.shape[EXPERT]
    rest = mesh.size // over
    part = math.gcd(rest, experts // over) if experts else 1
    return mesh.devices.reshape(rest // part, part, over)


def _of_each(devices) -> str:
    """How many each process has, where there are several."""
    counts = collections.Counter(device.process_index for device in devices)
    each = (f"{n} of process {index}" for index, n in sorted(counts.items()))
    return f": {', '.join(each)}" if len(counts) > 1 else ""


def partition(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh, rules=RULES) -> P:
    """The PartitionSpec of an array with logical `axes`, leaving whole what does not divide."""
    return P(
        *(
            rules[axis] if size % math.prod(mesh.shape[a] for a in rules[axis]) == 0 else None
            for size, axis in zip(shape, axes, strict=True)
        )
    )


def current_mesh() -> AbstractMesh | None:
    """The mesh over which what is computed here is split; None where it is whole on a device: on a
    mesh of one, without any, and for each of several models on a mesh of theirs."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or FSDP not in mesh.shape else mesh


def constrain(x: jax.Array, *axes: str | None, rules=RULES) -> jax.Array:
    """Pins an array's layout on the current mesh; does nothing where there is none, and in what is
    one device's part."""
    mesh = current_mesh()
    if mesh is None or mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, partition(x.shape, axes, mesh, rules))


def constrain_like(tree, specs):
    """As `constrain`, for arrays declared by ParamSpecs."""
    return jax.tree.map(lambda spec, x: constrain(x, *spec.axes), specs, tree, is_leaf=is_spec)


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """One declaration a parameter: its shape, logical axes and initialiser; and of what is
    multiplied by (or looked up in), how many of the last axes are inputs, and outputs."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
    matrix: tuple[int, int] | None = None

    def __post_init__(self):
        assert len(self.shape) == len(self.axes), f"{self.shape} has not the axes {self.axes}"


def is_spec(x) -> bool:
    return isinstance(x, ParamSpec)


def abstract(specs, dtype=jnp.float32):
    """ParamSpecs -> ShapeDtypeStructs."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), specs, is_leaf=is_spec)


def shardings(specs, mesh: Mesh):
    """ParamSpecs -> NamedShardings."""
    return jax.tree.map(
        lambda s: NamedSharding(mesh, partition(s.shape, s.axes, mesh)), specs, is_leaf=is_spec
    )


def init(specs, key: jax.Array, dtype=jnp.float32):
    """Draws every parameter. The values depend on (key, position in the tree), not on the mesh."""
    leaves, treedef = jax.tree.flatten(specs, is_leaf=is_spec)
    keys = jax.random.split(key, len(leaves))
    values = [s.init(k, s.shape, dtype) for s, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, values)


def count(specs) -> int:
    """Number of parameters; allocates nothing."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(specs, is_leaf=is_spec))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over all devices that do not share rows."""
    return NamedSharding(mesh, P(RULES["batch"]))


def place(tree, shardings):
    """Host arrays onto their devices, each given only its own part; device arrays as they are."""

    def one(a, where):
        if isinstance(a, jax.Array):
            return a
        return jax.make_array_from_callback(a.shape, where, lambda index: a[index])

    return jax.tree.map(one, tree, shardings)
