"""Reading a checkpoint: each tensor goes from disk to its shards, and the host never holds more
than one parameter of one layer."""

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
from r1jax.hub.config import fp8_block, read_fields
from r1jax.hub.files import Stored, stored_tensors
from r1jax.hub.names import Tensor, tensors
from r1jax.model.params import Weights, weight_specs
from r1jax.sharding import ParamSpec

Index = tuple[slice, ...]


def load_weights(
    folder: str | Path, model: ModelConfig, mesh: Mesh, progress: bool = True
) -> Weights:
    """The weights of a Hugging Face directory, sharded over the mesh, in model.param_dtype.

    FP8 blocks are dequantised. A process reads only the rows that its own devices hold. Raises
    InputError, before anything large is read, that names the file and the tensor: one that is
    missing, has another shape than `model` gives it, is of no floating type, or that the model has
    no place for.
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
        total = sum(stored.dtype.itemsize * math.prod(stored.shape) for stored in reader.used)
        advance = partial(bar.advance, bar.add_task(f"reading {folder}", total=total))
        values = []
        for path, spec in leaves:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            dtype = jnp.float32 if name == "router_bias_LE" else jnp.dtype(model.param_dtype)
            values.append(_parameter(reader, name, spec, np.dtype(dtype), mesh, advance))
    return jax.tree.unflatten(tree, values)


class _Reader:
    """The tensors that a model is made of, checked, by parameter."""

    def __init__(self, folder: Path, model: ModelConfig):
        self.block = fp8_block(read_fields(folder))
        self.stored = stored_tensors(folder)
        self.by_leaf: dict[str, dict[tuple[int, ...], Tensor]] = defaultdict(dict)
        self.used: list[Stored] = []
        known: set[str] = set()
        for tensor in tensors(model):
            stored = self._find(tensor, folder)
            self.by_leaf[tensor.leaf][tensor.lead] = tensor
            known |= {tensor.name, *tensor.copies, f"{tensor.name}_scale_inv"}
            if tensor.first == 0:
                self.used.append(stored)
        for name, stored in self.stored.items():
            if name not in known and not _is_spare(name, model):
                raise InputError(f"{stored.file}: the model has no place for tensor {name}")

    def _find(self, tensor: Tensor, folder: Path) -> Stored:
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
            blocks = tuple(-(-n // b) for n, b in zip(stored.shape, self.block, strict=False))
            check(
                scale.shape == blocks,
                f"{scale.file}: tensor {scale.name} has shape {list(scale.shape)}, blocks of "
                f"{self.block[0]}x{self.block[1]} give it {list(blocks)}",
            )
        return stored

    def rows(self, tensor: Tensor, first: int, stop: int) -> np.ndarray:
        """Rows of an entry, dequantised; bfloat16 and float32 as they are stored."""
        stored = self.stored[tensor.name]
        first, stop = tensor.first + first, tensor.first + stop
        value = stored.read(first, stop)
        if stored.dtype.itemsize > 1:
            return value
        high, wide = self.block
        scale = self.stored[f"{tensor.name}_scale_inv"].read(first // high, -(-stop // high))
        by_row = np.arange(first, stop) // high - first // high
        by_column = np.arange(value.shape[1]) // wide
        return value.astype(np.float32) * scale.astype(np.float32)[by_row][:, by_column]


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
    dtype: np.dtype,
    mesh: Mesh,
    advance: Callable[[int], None],
) -> jax.Array:
    """One parameter; a stack is filled a layer at a time, in place."""
    axes = sharding.partition(spec.shape, spec.axes, mesh)
    entries = reader.by_leaf.get(leaf, {})
    if not entries:  # DeepSeek-V2 has no selection bias
        return jnp.zeros(spec.shape, dtype, device=NamedSharding(mesh, axes))
    layers = spec.axes[0] == "layers" or leaf == "router_bias_LE"
    if not layers:
        return _entry(reader, entries, (), spec.shape, dtype, NamedSharding(mesh, axes), advance)
    where = NamedSharding(mesh, P(*axes[1:]))
    stack = jnp.zeros(spec.shape, dtype, device=NamedSharding(mesh, axes))
    for i in range(spec.shape[0]):
        entry = _entry(reader, entries, (i,), spec.shape[1:], dtype, where, advance)
        stack = _put(stack, entry, i)
    return stack


@partial(jax.jit, donate_argnums=0)
def _put(stack: jax.Array, entry: jax.Array, i: int) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, entry, i, 0)


def _entry(
    reader: _Reader,
    entries: dict[tuple[int, ...], Tensor],
    lead: tuple[int, ...],
    shape: tuple[int, ...],
    dtype: np.dtype,
    where: NamedSharding,
    advance: Callable[[int], None],
) -> jax.Array:
    """One layer of a parameter: every tensor of it is read once, for all local devices."""
    places = where.addressable_devices_indices_map(shape)
    indices = {device: _whole(index or (), shape) for device, index in places.items()}
    blocks = {
        _key(index): (index, np.empty([s.stop - s.start for s in index], dtype))
        for index in indices.values()
    }
    if lead in entries:
        _fill(reader, entries[lead], list(blocks.values()), advance)
    else:  # one tensor an expert
        for e in range(shape[0]):
            local = [
                (index[1:], block[e - index[0].start])
                for index, block in blocks.values()
                if index[0].start <= e < index[0].stop
            ]
            if local:
                _fill(reader, entries[(*lead, e)], local, advance)
    shards = []
    for device, index in indices.items():
        shards.append(jax.device_put(blocks[_key(index)][1], device))
    return jax.make_array_from_single_device_arrays(shape, where, shards)


def _fill(
    reader: _Reader,
    tensor: Tensor,
    blocks: list[tuple[Index, np.ndarray]],
    advance: Callable[[int], None],
) -> None:
    """Writes each block, whose index says which part of the entry it is."""
    ranges = [_rows_and_columns(tensor, index) for index, _ in blocks]
    first = min(rows.start for rows, _ in ranges)
    stop = max(rows.stop for rows, _ in ranges)
    dtype = blocks[0][1].dtype
    # Moved as bits: NumPy transposes its own types several times faster than bfloat16.
    bits = np.dtype(f"u{dtype.itemsize}")
    value = reader.rows(tensor, first, stop).astype(dtype, copy=False).view(bits)
    for (rows, columns), (_, block) in zip(ranges, blocks, strict=True):
        part = value[rows.start - first : rows.stop - first]
        if tensor.inputs:
            part = part[:, columns].T
        elif tensor.columns:
            part = part[:, columns]
        block.view(bits)[...] = part.reshape(block.shape)
    stored = reader.stored[tensor.name]
    advance(stored.dtype.itemsize * math.prod((stop - first, *stored.shape[1:])))


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
