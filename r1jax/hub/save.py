"""Writing a checkpoint: a tensor at a time from its shards to disk. Matrices in 4 or 8 bits are
written as compressed-tensors' pack-quantized, which vLLM and Transformers load; but the embedding
and the head, which it has as arrays."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from r1jax.architecture import ModelConfig
from r1jax.checks import InputError, check
from r1jax.hub.config import read_fields, write_config
from r1jax.hub.files import INDEX, Writer
from r1jax.hub.names import Tensor, tensors
from r1jax.hub.packed import pack
from r1jax.model.matrices import Matrix, Quantised
from r1jax.model.params import Weights

SHARD = 5 * 10**9  # bytes of a file, at most, where no single tensor is larger
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
)
_PLAIN = ("embed_tokens.weight", "head.weight")  # whatever they are kept in
_TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_model(
    weights: Weights,
    model: ModelConfig,
    folder: str | Path,
    tokenizer: str | Path | None = None,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    shard_bytes: int = SHARD,
    special_tokens: Mapping[str, int | list[int] | None] | None = None,
) -> Path:
    """Writes a directory that Transformers and vLLM load: safetensors by size with their index,
    config.json, and the tokenizer files of the directory `tokenizer`. What that one's config.json
    does not say of special tokens ("eos_token_id": where a reply ends, ...) `special_tokens` does.

    The router's selection biases stay float32. On several hosts every process must call it; the
    first one writes. The directory is complete or not there. Raises InputError if it exists and is
    not empty, or if no Hugging Face architecture has such a model.
    """
    folder = Path(folder)
    check(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"{folder}: already exists, and is not an empty folder",
    )
    given = {name: ids for name, ids in (special_tokens or {}).items() if ids is not None}
    config = write_config(model, dtype) | given | _special_tokens(tokenizer)
    _check_biases(weights, model)
    config |= _quantization(weights, model)
    plan = _plan(weights, model, np.dtype(jax.numpy.dtype(dtype)), shard_bytes)
    partial_folder = folder.with_name(f".{folder.name}.partial")
    writes = jax.process_index() == 0
    if writes:
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
    for i, file in enumerate(plan, start=1):
        name = _file_name(i, len(plan))
        writer = Writer(partial_folder / name, [entry for entry, _ in file]) if writes else None
        for (tensor_name, _, _), make in file:
            value = make()
            if writer is not None:
                writer.write(tensor_name, value)
        if writer is not None:
            writer.close()
    if writes:
        _finish(partial_folder, folder, plan, config, tokenizer)
    multihost_utils.sync_global_devices(f"saved {folder}")
    return folder


_Entry = tuple[str, np.dtype, tuple[int, ...]]
_Made = tuple[_Entry, Callable[[], np.ndarray]]  # a tensor, and how it comes to the host
_Plan = list[list[_Made]]  # by file


def _plan(weights: Weights, model: ModelConfig, dtype: np.dtype, shard_bytes: int) -> _Plan:
    """Which tensors go to which file."""
    files: _Plan = [[]]
    size = 0
    for name, parts in _whole_tensors(model):
        kind = np.dtype(np.float32) if parts[0].leaf == "router_bias_LE" else dtype
        if _is_packed(leaf_of(weights, parts[0].leaf), name):
            made = _packed(weights, name, parts)
        else:
            entry = (name, kind, parts[0].shape)
            made = [(entry, partial(_value, weights, parts, kind))]
        nbytes = sum(kind.itemsize * math.prod(shape) for (_, kind, shape), _ in made)
        if files[-1] and size + nbytes > shard_bytes:
            files.append([])
            size = 0
        files[-1] += made
        size += nbytes
    return files


def _is_packed(leaf, name: str) -> bool:
    return isinstance(leaf, Quantised) and not name.endswith(_PLAIN)


def _packed(weights: Weights, name: str, parts: list[Tensor]) -> list[_Made]:
    """The tensors in place of `name`."""
    leaf = leaf_of(weights, parts[0].leaf)
    stem, groups = name.removesuffix("weight"), leaf.scale.shape[leaf.leading]
    (outputs, inputs), bits = parts[0].shape, jnp.iinfo(leaf.integers.dtype).bits
    each, half = 32 // bits, 2 ** (bits - 1)

    def grouped(tensor: Tensor) -> Tensor:
        return dataclasses.replace(tensor, inner=(groups, *tensor.inner[tensor.inputs :]), inputs=1)

    def rows(of: str, tensors: list[Tensor]) -> np.ndarray:
        found = [_rows(weights, part, of) for part in tensors]
        return np.concatenate(found)

    def of_groups(of: str) -> np.ndarray:
        return rows(of, [grouped(part) for part in parts])

    def integers() -> np.ndarray:
        return pack(rows("integers", parts).astype(np.int16) + half, bits)

    def zeros() -> np.ndarray:
        return pack(of_groups("zero").T.astype(np.int16) + half, bits).T

    int32, scale = np.dtype(np.int32), np.dtype(leaf.scale.dtype)
    made: list[_Made] = [
        ((f"{stem}weight_packed", int32, (outputs, -(-inputs // each))), integers),
        ((f"{stem}weight_scale", scale, (outputs, groups)), lambda: of_groups("scale")),
        (
            (f"{stem}weight_shape", np.dtype(np.int64), (2,)),
            lambda: np.array([outputs, inputs], np.int64),
        ),
    ]
    if leaf.zero is not None:
        entry = (f"{stem}weight_zero_point", int32, (-(-outputs // each), groups))
        made.append((entry, zeros))
    return made


def _quantization(weights: Weights, model: ModelConfig) -> dict[str, Any]:
    """What config.json says of packed matrices; of none, nothing. Raises InputError where they are
    of several kinds, which this format has no words for."""
    leaves = {parts[0].leaf: name for name, parts in _whole_tensors(model)}
    packed = [
        leaf
        for path, name in leaves.items()
        for leaf in [leaf_of(weights, path)]
        if _is_packed(leaf, name)
    ]
    if not packed:
        return {}
    kinds = {(jnp.iinfo(leaf.integers.dtype).bits, leaf.zero is None) for leaf in packed}
    check(len(kinds) == 1, "matrices in several forms cannot be written as one checkpoint")
    [(bits, symmetric)] = kinds
    sizes = [leaf.group for leaf in packed]
    by_group = any(leaf.scale.shape[leaf.leading] > 1 for leaf in packed)
    form = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group" if by_group else "channel",
        "group_size": max(set(sizes), key=sizes.count) if by_group else None,
        "dynamic": False,
        "actorder": None,
    }
    group: dict[str, Any] = {"targets": ["Linear"], "weights": form}
    group |= {"input_activations": None, "output_activations": None}
    routers = ["re:.*mlp.gate$"] if model.router_rows else []
    return {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["lm_head", *routers],
            "kv_cache_scheme": None,
        }
    }


def _whole_tensors(model: ModelConfig) -> Iterator[tuple[str, list[Tensor]]]:
    """Every tensor with the parameters that it is made of; then the copies."""
    copies: list[tuple[str, list[Tensor]]] = []
    parts: list[Tensor] = []
    for tensor in tensors(model):
        parts.append(tensor)
        if tensor.total == 0 or tensor.first + tensor.rows == tensor.total:
            yield tensor.name, parts
            copies += [(name, parts) for name in tensor.copies]
            parts = []
    yield from copies


def _value(weights: Weights, parts: list[Tensor], dtype: np.dtype) -> np.ndarray:
    """A tensor of the checkpoint on the host."""
    return np.concatenate([_rows(weights, part).astype(dtype) for part in parts])


def _rows(weights: Weights, tensor: Tensor, of: str = "") -> np.ndarray:
    """Of an entry, dequantised; or of one array of its form."""
    leaf = leaf_of(weights, tensor.leaf)
    if of:
        leaf = getattr(leaf, of)
    elif isinstance(leaf, Matrix):
        leaf = leaf.dense(jnp.float32)
    entry = _take(leaf, tensor.lead) if tensor.lead else leaf
    value = np.asarray(multihost_utils.process_allgather(entry, tiled=True))
    if tensor.inputs:
        return value.reshape(*tensor.columns, -1).T
    return value.reshape(-1, *tensor.columns)


def leaf_of(weights: Weights, path: str) -> Any:
    node: Any = weights
    for name in path.split("."):
        node = node[int(name)] if name.isdigit() else getattr(node, name)
    return node


@partial(jax.jit)
def _take(leaf: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """leaf[lead], for any layer and expert without compiling again."""
    for i in lead:
        leaf = jax.lax.dynamic_index_in_dim(leaf, i, 0, keepdims=False)
    return leaf


def _check_biases(weights: Weights, model: ModelConfig) -> None:
    softmax = model.router is not None and model.router.scoring == "softmax"
    if softmax and weights.router_bias_LE is not None and bool(weights.router_bias_LE.any()):
        raise InputError(
            "Weights.router_bias_LE is not zero, and deepseek_v2 has no selection bias to write "
            "it as: train with --optim.bias-rate=0"
        )


def _special_tokens(tokenizer: str | Path | None) -> dict[str, Any]:
    """What the source's config.json says of special tokens."""
    if tokenizer is None or not (Path(tokenizer) / "config.json").is_file():
        return {}
    values = read_fields(tokenizer).values
    return {name: values[name] for name in _TOKEN_FIELDS if name in values}


def _file_name(i: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{i:05}-of-{count:05}.safetensors"


def _finish(
    partial_folder: Path,
    folder: Path,
    plan: _Plan,
    config: dict[str, Any],
    tokenizer: str | Path | None,
) -> None:
    if len(plan) > 1:
        names = [[entry for entry, _ in file] for file in plan]
        total = sum(e[1].itemsize * int(np.prod(e[2])) for file in names for e in file)
        weight_map = {
            entry[0]: _file_name(i, len(plan)) for i, file in enumerate(names, 1) for entry in file
        }
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (partial_folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (partial_folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if tokenizer is not None:
        for name in TOKENIZER_FILES:
            source = Path(tokenizer) / name
            if source.is_file():
                shutil.copyfile(source, partial_folder / name)
    partial_folder.replace(folder)
