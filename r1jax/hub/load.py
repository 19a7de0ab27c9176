"""Reading a checkpoint: each tensor goes from disk to its shards, and the host never holds more
than one parameter of one layer."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.checks import InputError, check
from r1jax.hub.config import packing, read_fields
from r1jax.hub.files import Stored, has_weights, stored_tensors
from r1jax.hub.gguf import gguf_files, gguf_tensors
from r1jax.hub.names import Tensor, tensors
from r1jax.hub.packed import PARTS, Packed, packed_tensor
from r1jax.model.matrices import Quantised
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import INTEGERS, array_dtype, form_of, keep
from r1jax.sharding import ParamSpec

Index = tuple[slice, ...]


def load_weights(
    folder: str | Path, model: ModelConfig, mesh: Mesh, progress: bool = True
) -> Weights:
    """The weights of a Hugging Face directory, sharded over the mesh, in model.param_dtype.

    FP8 blocks and GGUF are dequantised. Matrices that are stored in 4 or 8 bits stay so where
    param_dtype is "stored", or has no fewer bits; others are rounded to what it says, a layer at a
    time. A process reads only the rows that its own devices hold. Raises InputError, before
    anything large is read, that names the file and the tensor: one that is missing, has another
    shape than `model` gives it, is of no floating type, or that the model has no place for.
    """
    reader = _Reader(Path(folder), model)
    specs = weight_specs(model)
    leaves, tree = jax.tree_util.tree_flatten_with_path(specs, is_leaf=sharding.is_spec)
    console = rich.console.Console(stderr=True)
    shown = progress and console.is_terminal and jax.process_index() == 0
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.DownloadColumn(binary_units=True),
        console=console,
        disable=not shown,
        transient=True,
    ) as bar:
        total = sum(map(reader.nbytes, reader.used))
        advance = partial(bar.advance, bar.add_task(f"reading {folder}", total=total))
        values = []
        for path, spec in leaves:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            values.append(_parameter(reader, name, spec, model, mesh, advance))
    return jax.tree.unflatten(tree, values)


class _Reader:
    """The tensors that a model is made of, checked, by parameter."""

    def __init__(self, folder: Path, model: ModelConfig):
        fields = read_fields(folder)
        self.packing = packing(fields)
        self.stored = _stored(folder, fields.text("model_type"), model)
        self.packed: dict[str, Packed] = {}
        self.by_leaf: dict[str, dict[tuple[int, ...], Tensor]] = defaultdict(dict)
        self.used: list[Tensor] = []
        known: set[str] = set()
        for tensor in tensors(model):
            self._find(tensor, folder)
            self.by_leaf[tensor.leaf][tensor.lead] = tensor
            known |= {tensor.name, *tensor.copies, f"{tensor.name}_scale_inv"}
            if tensor.first == 0:
                self.used.append(tensor)
        parts = PARTS.get(self.packing.method, ())
        for name, stored in self.stored.items():
            stem, _, part = name.rpartition(".")
            known_part = part in parts and f"{stem}.weight" in known
            if name not in known and not known_part and not _is_spare(name, model):
                raise InputError(f"{stored.file}: the model has no place for tensor {name}")

    def _find(self, tensor: Tensor, folder: Path) -> None:
        of = self.packing
        packed = packed_tensor(tensor.name, tensor.shape, self.stored, of.method, of.zeros_from)
        if packed is not None:
            self.packed[tensor.name] = packed
            return
        stored = self.stored.get(tensor.name)
        if stored is None:
            raise InputError(f"{folder}: tensor {tensor.name} is missing")
        where = f"{stored.file}: tensor {tensor.name}"
        check(
            stored.shape == tensor.shape,
            f"{where} has shape {list(stored.shape)}, config.json gives it {list(tensor.shape)}",
        )
        check(jnp.issubdtype(stored.dtype, jnp.floating), f"{where} is of type {stored.dtype}")
        if stored.dtype.itemsize == 1:
            scale = self.stored.get(f"{tensor.name}_scale_inv")
            check(scale is not None, f"{where} is FP8, but {tensor.name}_scale_inv is missing")
            assert scale is not None
            block = self.packing.block
            blocks = tuple(-(-n // b) for n, b in zip(stored.shape, block, strict=False))
            check(
                scale.shape == blocks,
                f"{scale.file}: tensor {scale.name} has shape {list(scale.shape)}, blocks of "
                f"{block[0]}x{block[1]} give it {list(blocks)}",
            )

    def nbytes(self, tensor: Tensor) -> int:
        """Of the whole tensor, as it is stored."""
        if tensor.name in self.packed:
            return self.packed[tensor.name].nbytes
        stored = self.stored[tensor.name]
        return stored.dtype.itemsize * math.prod(stored.shape)

    def rows(self, tensor: Tensor, first: int, stop: int) -> np.ndarray:
        """Rows of an entry, dequantised; bfloat16 and float32 as they are stored."""
        first, stop = tensor.first + first, tensor.first + stop
        if tensor.name in self.packed:
            return self.packed[tensor.name].dequantised(first, stop)
        stored = self.stored[tensor.name]
        value = stored.read(first, stop)
        if stored.dtype.itemsize > 1:
            return value
        high, wide = self.packing.block
        scale = self.stored[f"{tensor.name}_scale_inv"].read(first // high, -(-stop // high))
        by_row = np.arange(first, stop) // high - first // high
        by_column = np.arange(value.shape[1]) // wide
        return value.astype(np.float32) * scale.astype(np.float32)[by_row][:, by_column]

    def part(self, which: Callable[[Packed, int, int], np.ndarray]):
        """As `rows`, of one part of what is packed: Packed.integers, say."""

        def rows(tensor: Tensor, first: int, stop: int) -> np.ndarray:
            return which(self.packed[tensor.name], tensor.first + first, tensor.first + stop)

        return rows

    def packed_alike(self, leaf: str) -> Packed | None:
        """How the tensors of a parameter are packed, if all are alike, so that they can be stacked,
        and their groups are of neighbours."""
        found = [self.packed.get(tensor.name) for tensor in self.by_leaf[leaf].values()]
        first = found[0] if found else None
        if first is None:
            return None
        alike = first.bits, first.groups, first.scale.dtype
        for one in found:
            if one is None or (one.bits, one.groups, one.scale.dtype) != alike:
                return None
        return first if all(one and one.in_order() for one in found) else None

    def symmetric(self, leaf: str) -> bool:
        names = {tensor.name for tensor in self.by_leaf[leaf].values()}
        return not any(self.packed[n].zeros(0, self.packed[n].shape[0]).any() for n in names)


def _stored(folder: Path, kind: str, model: ModelConfig) -> dict[str, Stored]:
    if has_weights(folder) or not gguf_files(folder):
        return stored_tensors(folder)
    return gguf_tensors(folder, kind, model.layers, (tensor.name for tensor in tensors(model)))


def _is_spare(name: str, model: ModelConfig) -> bool:
    """Tensors that may be left unread: derived ones, a tied head, MTP modules not asked for and
    their copies of what they share."""
    if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and model.tied_head):
        return True
    parts = name.split(".")
    in_layer = parts[:2] == ["model", "layers"] and len(parts) > 2 and parts[2].isdigit()
    return in_layer and (
        int(parts[2]) >= model.layers + model.mtp_depth
        or (int(parts[2]) >= model.layers and parts[3] in ("embed_tokens", "shared_head"))
    )


def _parameter(
    reader: _Reader,
    leaf: str,
    spec: ParamSpec,
    model: ModelConfig,
    mesh: Mesh,
    advance: Callable[[int], None],
):
    """One parameter, in the form that the model keeps it in; a stack is filled a layer at a time,
    in place."""
    entries = reader.by_leaf.get(leaf, {})
    bias = leaf == "router_bias_LE"
    dtype = np.dtype(np.float32) if bias else np.dtype(array_dtype(model))
    if not entries:  # DeepSeek-V2 has no selection bias
        axes = sharding.partition(spec.shape, spec.axes, mesh)
        return jnp.zeros(spec.shape, dtype, device=NamedSharding(mesh, axes))
    packed = reader.packed_alike(leaf)
    form = form_of(spec, model.param_dtype)
    bits = form.bits if form else 8 if model.param_dtype == "stored" else 0
    as_stored = packed if packed is not None and packed.bits <= bits else None
    symmetric = as_stored is not None and reader.symmetric(leaf)
    stacked = spec.axes[0] == "layers" or bias
    one = spec
    if stacked:
        one = dataclasses.replace(spec, shape=spec.shape[1:], axes=spec.axes[1:])

    def read(lead: tuple[int, ...]):
        if as_stored is not None:
            return _quantised(reader, entries, lead, one, as_stored, symmetric, mesh, advance)
        value = _entry(reader.rows, entries, lead, one, dtype, mesh)
        advance(_stored_bytes(reader, entries, lead))
        return value if bias else keep(value, one, model)

    if not stacked:
        return read(())
    stack = None
    for i in range(spec.shape[0]):
        entry = read((i,))
        if stack is None:
            stack = _empty_stack(entry, one, spec.shape[0], mesh)
        stack = _put(stack, entry, i)
    return stack


def _empty_stack(entry, one: ParamSpec, n: int, mesh: Mesh):
    """Room for n entries like this one, which `one` declares."""

    def zeros(a: jax.Array, spec: ParamSpec) -> jax.Array:
        where = NamedSharding(mesh, P(None, *sharding.partition(spec.shape, spec.axes, mesh)))
        return jnp.zeros((n, *a.shape), a.dtype, device=where)

    return jax.tree.map(zeros, entry, entry.specs(one) if isinstance(entry, Quantised) else one)


@partial(jax.jit, donate_argnums=0)
def _put(stack, entry, i: int):
    return jax.tree.map(lambda a, b: jax.lax.dynamic_update_index_in_dim(a, b, i, 0), stack, entry)


def _stored_bytes(reader: _Reader, entries, lead: tuple[int, ...]) -> int:
    """Of the tensors of an entry, each counted where it begins."""
    mine = [tensor for at, tensor in entries.items() if at[: len(lead)] == lead]
    return sum(reader.nbytes(tensor) for tensor in mine if tensor.first == 0)


def _quantised(
    reader: _Reader,
    entries: dict[tuple[int, ...], Tensor],
    lead: tuple[int, ...],
    spec: ParamSpec,
    packed: Packed,
    symmetric: bool,
    mesh: Mesh,
    advance: Callable[[int], None],
) -> Quantised:
    """One layer of a parameter, as it is stored."""
    assert spec.matrix is not None
    inputs, outputs = spec.matrix
    first = len(spec.shape) - inputs - outputs
    scale_shape = (*spec.shape[:first], packed.groups, *spec.shape[len(spec.shape) - outputs :])
    like = jax.ShapeDtypeStruct(scale_shape, packed.scale.dtype)
    shaped = Quantised(spec, like, None, inputs, outputs)  # type: ignore[arg-type]
    specs = shaped.specs(spec)

    def of_groups(tensor: Tensor) -> Tensor:
        return dataclasses.replace(
            tensor, inner=(packed.groups, *tensor.inner[tensor.inputs :]), inputs=1
        )

    grouped = {at: of_groups(tensor) for at, tensor in entries.items()}
    integers = np.dtype(INTEGERS[packed.bits])
    found = Quantised(
        _entry(reader.part(Packed.integers), entries, lead, spec, integers, mesh),
        _entry(reader.part(Packed.scales), grouped, lead, specs.scale, packed.scale.dtype, mesh),
        None,
        inputs,
        outputs,
    )
    if not symmetric:
        zero = _entry(
            reader.part(Packed.zeros), grouped, lead, specs.scale, np.dtype(np.int8), mesh
        )
        found = found.replace(zero=zero)
    advance(_stored_bytes(reader, entries, lead))
    return found


Rows = Callable[[Tensor, int, int], np.ndarray]  # a tensor's rows, from the first to the last


def _entry(
    rows: Rows,
    entries: dict[tuple[int, ...], Tensor],
    lead: tuple[int, ...],
    spec: ParamSpec,
    dtype: np.dtype,
    mesh: Mesh,
) -> jax.Array:
    """One layer of a parameter: every tensor of it is read once, for all local devices."""
    shape = spec.shape
    where = NamedSharding(mesh, sharding.partition(shape, spec.axes, mesh))
    places = where.addressable_devices_indices_map(shape)
    indices = {device: _whole(index or (), shape) for device, index in places.items()}
    blocks = {
        _key(index): (index, np.empty([s.stop - s.start for s in index], dtype))
        for index in indices.values()
    }
    if lead in entries:
        _fill(rows, entries[lead], list(blocks.values()))
    else:  # one tensor an expert
        for e in range(shape[0]):
            local = [
                (index[1:], block[e - index[0].start])
                for index, block in blocks.values()
                if index[0].start <= e < index[0].stop
            ]
            if local:
                _fill(rows, entries[(*lead, e)], local)
    shards = []
    for device, index in indices.items():
        shards.append(jax.device_put(blocks[_key(index)][1], device))
    return jax.make_array_from_single_device_arrays(shape, where, shards)


def _fill(rows: Rows, tensor: Tensor, blocks: list[tuple[Index, np.ndarray]]) -> None:
    """Writes each block, whose index says which part of the entry it is."""
    ranges = [_rows_and_columns(tensor, index) for index, _ in blocks]
    first = min(part.start for part, _ in ranges)
    stop = max(part.stop for part, _ in ranges)
    dtype = blocks[0][1].dtype
    # Moved as bits: NumPy transposes its own types several times faster than bfloat16.
    bits = np.dtype(f"u{dtype.itemsize}")
    value = rows(tensor, first, stop).astype(dtype, copy=False).view(bits)
    for (part, columns), (_, block) in zip(ranges, blocks, strict=True):
        of_block = value[part.start - first : part.stop - first]
        if tensor.inputs:
            of_block = of_block[:, columns].T
        elif tensor.columns:
            of_block = of_block[:, columns]
        block.view(bits)[...] = of_block.reshape(block.shape)


def _rows_and_columns(tensor: Tensor, index: Index) -> tuple[slice, slice]:
    """The rows and columns of the checkpoint's tensor that a part of an entry is.

    Only the first axis of the inputs and of the outputs may be split, as it is by heads: what
    follows it is whole, so that the part is one range of rows and one of columns.
    """

    def merged(axes: tuple[int, ...], part: Index) -> slice:
        if not axes:
            return slice(0, 1)
        whole = all(s == slice(0, n) for s, n in zip(part[1:], axes[1:], strict=True))
        assert whole, f"{tensor.leaf}: only the first of the axes {axes} may be split"
        rest = math.prod(axes[1:])
        return slice(part[0].start * rest, part[0].stop * rest)

    split = tensor.inputs if tensor.inputs else len(tensor.inner) - len(tensor.columns)
    before, after = (
        merged(tensor.inner[:split], index[:split]),
        merged(tensor.inner[split:], index[split:]),
    )
    return (after, before) if tensor.inputs else (before, after)


def _whole(index: Index, shape: tuple[int, ...]) -> Index:
    """With every bound spelled out."""
    return tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, shape, strict=True))


def _key(index: Index) -> tuple[tuple[int, int], ...]:
    return tuple((s.start, s.stop) for s in index)
