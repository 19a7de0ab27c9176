"""Safetensors files, read and written a tensor at a time.

The format is eight bytes of length, a JSON header and the tensors' bytes. The safetensors library
maps whole files into memory, whose pages then count as this process's, has no FP8 in NumPy, and
writes a file from arrays that are all in memory at once; a model of any size needs the opposite.
"""

import dataclasses
import fnmatch
import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from r1jax.checks import InputError, check

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes, as the format says

INDEX = "model.safetensors.index.json"
FROM_GGUF = "a folder with one GGUF and the model's own config.json and tokenizer.json is read"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file; `start` is the byte of the file that it begins at."""

    file: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    def read(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows first..stop of the tensor, and nothing else of the file."""
        stop = self.shape[0] if stop is None else stop
        shape = (stop - first, *self.shape[1:])
        row = self.dtype.itemsize * math.prod(shape[1:])
        offset, count = self.start + first * row, (stop - first) * row
        data = np.fromfile(self.file, np.uint8, count, offset=offset)
        check(data.size == count, f"{self.file}: tensor {self.name} is cut off")
        return data.view(self.dtype).reshape(shape)


def has_weights(folder: str | Path) -> bool:
    return any(Path(folder).glob("*.safetensors*"))


def no_weights(where: str, names: Iterable[str]) -> str:
    """Says that there are no *.safetensors; and what to do, if these names are of PyTorch's."""
    said = f"{where}: no *.safetensors files"
    names = list(names)
    if any(name.endswith(".gguf") for name in names):
        return f"{said}, only GGUF: {FROM_GGUF}"
    if not any(fnmatch.fnmatch(name, "pytorch_model*.bin") for name in names):
        return said
    return (
        f"{said}, only pytorch_model*.bin: load it in Transformers and save it with "
        "save_pretrained(DIR, safe_serialization=True)"
    )


def stored_tensors(folder: str | Path) -> dict[str, Stored]:
    """Every tensor of a directory's *.safetensors files, by name; reads their headers only.

    Raises InputError that names the file, and the tensor where it is one: for a shard that the
    index names and that is not there, a tensor that is not in the shard that the index gives it,
    a file that is cut off or malformed, and a tensor that is in two files.
    """
    folder = Path(folder)
    index = folder / INDEX
    if index.is_file():
        files = _indexed(index)
    else:
        found = sorted(folder.glob("*.safetensors"))
        check(bool(found), no_weights(str(folder), [file.name for file in folder.glob("*")]))
        files = {file: None for file in found}
    stored: dict[str, Stored] = {}
    for file, expected in files.items():
        here = {tensor.name: tensor for tensor in _read_header(file)}
        for name in expected or ():
            check(name in here, f"{index}: tensor {name} is not in {file.name}, as it says")
        for name, tensor in here.items():
            check(name not in stored, f"{file}: tensor {name} is in another file, too")
            stored[name] = tensor
    return stored


def _indexed(index: Path) -> dict[Path, list[str] | None]:
    """The files that an index names, and the tensors that it says are in each."""
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        files: dict[Path, list[str] | None] = {}
        for name, file in weight_map.items():
            names = files.setdefault(index.parent / file, [])
            assert names is not None
            names.append(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: not an index of safetensors: {error!r}") from None
    for file, names in files.items():
        check(file.is_file(), f"{index}: {file.name} is not there; it holds {(names or [''])[0]}")
    return files


def _read_header(file: Path) -> Iterator[Stored]:
    size = file.stat().st_size
    try:
        with file.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header: dict[str, Any] = json.loads(f.read(length))
        entries = {name: value for name, value in header.items() if name != "__metadata__"}
    except (OSError, ValueError, struct.error, AttributeError) as error:
        raise InputError(f"{file}: not a safetensors file, or cut off: {error}") from None
    for name, entry in entries.items():
        try:
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            fits = stop - start == dtype.itemsize * math.prod(shape) and start >= 8 + length
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file}: tensor {name}: malformed header: {error!r}") from None
        check(fits, f"{file}: tensor {name}: its bytes are not as many as its shape {shape} has")
        check(
            stop <= size,
            f"{file}: tensor {name} is cut off: it ends at byte {stop:,} of a file of {size:,}",
        )
        yield Stored(file, name, dtype, shape, start)


class Writer:
    """Writes a safetensors file whose tensors are given, in order, one after the other."""

    def __init__(self, file: Path, tensors: Sequence[tuple[str, np.dtype, tuple[int, ...]]]):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, dtype, shape in tensors:
            stop = offset + dtype.itemsize * math.prod(shape)
            place = {"shape": list(shape), "data_offsets": [offset, stop]}
            header[name] = {"dtype": _NAMES[dtype], **place}
            offset = stop
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the tensors begin aligned
        self._left = list(tensors)
        self._file = file.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def write(self, name: str, value: np.ndarray) -> None:
        expected, dtype, shape = self._left.pop(0)
        assert (expected, dtype, shape) == (name, value.dtype, value.shape), (expected, name)
        np.ascontiguousarray(value).tofile(self._file)

    def close(self) -> None:
        assert not self._left, f"{self._left[0][0]} was not written"
        self._file.close()
