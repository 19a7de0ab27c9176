"""GGUF files (llama.cpp's) as a checkpoint's tensors, dequantised a few rows at a time.

The `gguf` package reads them, undoes their rounding and knows which tensor is which. What it leaves
to do: llama.cpp turns Llama's rotary halves into pairs, which is undone here.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.checks import InputError, check
from r1jax.hub.files import Stored

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_SPARE = ("rope_freqs.weight",)  # what config.json says of the frequencies, as numbers


@dataclasses.dataclass(frozen=True)
class Rounded(Stored):
    """A tensor of a GGUF file, float32 as it is read. `head`: how many rows are a head whose
    rotary halves stand as pairs; 0: none do."""

    tensor: Any = None  # gguf.ReaderTensor, whose data is mapped, not read
    head: int = 0

    def read(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        from gguf.quants import dequantize

        rows = np.arange(first, self.shape[0] if stop is None else stop)
        if self.head:
            head, at = np.divmod(rows, self.head)
            half, pair = np.divmod(at, self.head // 2)
            rows = head * self.head + 2 * pair + half
        return dequantize(self.tensor.data[rows], self.tensor.tensor_type)


def gguf_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.gguf"))


def gguf_tensors(folder: Path, kind: str, layers: int, names: Iterable[str]) -> dict[str, Stored]:
    """The tensors of a folder's *.gguf, by their names in a Hugging Face checkpoint.

    kind: config.json's model_type.  names: that the model has.  Raises InputError that names the
    file, and the tensor where it is one.
    """
    try:
        import gguf
    except ImportError:
        raise InputError(f"{folder}: GGUF is read by gguf: pip install gguf") from None
    known = ", ".join(ARCHITECTURES)
    check(kind in ARCHITECTURES, f"{folder}: GGUF of {kind} is not read; of {known} it is")
    architecture = {name: of for of, name in gguf.MODEL_ARCH_NAMES.items()}[kind]
    names_there = gguf.get_tensor_name_map(architecture, layers)
    here = {names_there.get_name(name, (".weight", ".bias")): name for name in names}
    found: dict[str, Stored] = {}
    for file in gguf_files(folder):
        try:
            reader = gguf.GGUFReader(file)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise InputError(f"{file}: not a GGUF file, or cut off: {error}") from None
        # The parts of a split file after the first do not say it.
        said = _said(reader, "general.architecture") or kind
        check(said == kind, f"{file}: it is of {said}, config.json of {kind}")
        for tensor in reader.tensors:
            if tensor.name in _SPARE:
                continue
            name = here.get(tensor.name)
            check(name is not None, f"{file}: the model has no place for tensor {tensor.name}")
            assert name is not None
            check(
                name not in found,
                f"{file}: tensor {tensor.name} is in another file, too: one folder, one model",
            )
            shape = tuple(int(n) for n in reversed(tensor.shape))
            float32 = np.dtype(np.float32)
            found[name] = Rounded(
                file, tensor.name, float32, shape, 0, tensor, _head(reader, kind, name, shape)
            )
    return found


def _head(reader: Any, kind: str, name: str, shape: tuple[int, ...]) -> int:
    """Rows a head, of a matrix whose rotary halves llama.cpp has turned into pairs."""
    if kind != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return 0
    heads = _said(reader, "llama.attention.head_count")
    if name.endswith("k_proj.weight"):
        heads = _said(reader, "llama.attention.head_count_kv") or heads
    check(bool(heads), f"{name}: the GGUF file does not say how many heads there are")
    return shape[0] // int(heads)


def _said(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
