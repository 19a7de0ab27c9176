"""Matrices in 4 and 8 bits as published checkpoints hold them: compressed-tensors
(pack-quantized, int-quantized), GPTQ, AWQ. Weights alone: activations are not quantised, whatever a
file says of them.

O outputs (rows, as a checkpoint has them)  I inputs  G groups of inputs
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from r1jax.checks import check
from r1jax.hub.files import Stored

# Which column of eight each nibble of AWQ's words holds.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# The tensors in place of `weight`, by method: the integers come first.
PARTS = {
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape"),
    "gptq": ("qweight", "scales", "qzeros", "g_idx"),
    "awq": ("qweight", "scales", "qzeros"),
}


@dataclasses.dataclass(frozen=True)
class Packed:
    """A matrix in a checkpoint. `parts`: its tensors, by the last part of their names; zeros_from:
    what is added to stored zero points (GPTQ's first format stores them one too low)."""

    method: str
    parts: Mapping[str, Stored]
    shape: tuple[int, int]  # O, I
    bits: int
    zeros_from: int = 0

    @property
    def file(self) -> Path:
        return next(iter(self.parts.values())).file

    @property
    def nbytes(self) -> int:
        return sum(p.dtype.itemsize * int(np.prod(p.shape)) for p in self.parts.values())

    @property
    def scale(self) -> Stored:
        return self.parts["weight_scale" if self.method == "compressed-tensors" else "scales"]

    @property
    def groups(self) -> int:
        return self.scale.shape[self.method == "compressed-tensors"]

    def integers(self, first: int, stop: int) -> np.ndarray:
        """int8 [rows, I], from -2^(bits-1) up."""
        inputs, half = self.shape[1], 2 ** (self.bits - 1)
        if "weight" in self.parts:
            return self.parts["weight"].read(first, stop)
        if "weight_packed" in self.parts:
            words = self.parts["weight_packed"].read(first, stop)
            return unpack(words, self.bits)[:, :inputs] - half
        words = self.parts["qweight"].read()
        if self.method == "awq":
            return (_awq(words)[:, first:stop].T - half).astype(np.int8)
        return unpack(words[:, first:stop].T, self.bits)[:, :inputs] - half

    def scales(self, first: int, stop: int) -> np.ndarray:
        """[rows, G], in the type that they are stored in."""
        if self.method == "compressed-tensors":
            return self.scale.read(first, stop)
        return self.scale.read()[:, first:stop].T

    def zeros(self, first: int, stop: int) -> np.ndarray:
        """int8 [rows, G], of the same grid as `integers`."""
        half = 2 ** (self.bits - 1)
        zeros = self.parts.get("weight_zero_point")
        if self.method == "compressed-tensors":
            if zeros is None:
                return np.zeros((stop - first, self.groups), np.int8)
            if "weight" in self.parts:
                return zeros.read(first, stop).astype(np.int8)
            return unpack(zeros.read().T, self.bits).T[first:stop] - half
        words = self.parts["qzeros"].read()
        if self.method == "awq":
            return (_awq(words)[:, first:stop].T - half).astype(np.int8)
        found = unpack(words, self.bits)[:, first:stop].T.astype(np.int16) + self.zeros_from
        return (found - half).astype(np.int8)

    def group_of(self) -> np.ndarray:
        """Which group each input is in, [I]."""
        index = self.parts.get("g_idx")
        if index is not None:
            return index.read()
        return np.arange(self.shape[1]) // (self.shape[1] // self.groups)

    def in_order(self) -> bool:
        """Whether groups are of neighbours (GPTQ's act-order has them in any order)."""
        size = self.shape[1] // self.groups
        return bool(np.array_equal(self.group_of(), np.arange(self.shape[1]) // size))

    def dequantised(self, first: int, stop: int) -> np.ndarray:
        """float32 [rows, I]."""
        group_I = self.group_of()
        steps = self.integers(first, stop) - self.zeros(first, stop).astype(np.float32)[:, group_I]
        return steps * self.scales(first, stop).astype(np.float32)[:, group_I]


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """int32 [..., n] -> int16 [..., n * 32 / bits], the lowest bits first."""
    shifts = np.arange(0, 32, bits)
    found = (words.view(np.uint32)[..., None] >> shifts) & (2**bits - 1)
    return found.reshape(*words.shape[:-1], -1).astype(np.int16)


def pack(integers: np.ndarray, bits: int) -> np.ndarray:
    """Inverse of `unpack`, of numbers from 0; zeros past the end."""
    each = 32 // bits
    more = -integers.shape[-1] % each
    padded = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, more)]).astype(np.uint32)
    parts = padded.reshape(*padded.shape[:-1], -1, each) << np.arange(0, 32, bits, dtype=np.uint32)
    return np.bitwise_or.reduce(parts, axis=-1).view(np.int32)


def _awq(words: np.ndarray) -> np.ndarray:
    """int32 [n, O / 8] -> int16 [n, O]."""
    nibbles = unpack(words, 4).reshape(len(words), -1, 8)
    columns = np.empty_like(nibbles)
    columns[:, :, AWQ_ORDER] = nibbles
    return columns.reshape(len(words), -1)


def packed_tensor(
    name: str, shape: tuple[int, ...], stored: Mapping[str, Stored], method: str, zeros_from: int
) -> Packed | None:
    """The matrix that takes the place of the tensor `name` (...weight), of `shape` [O, I]; None if
    there is none. Raises InputError that names file and tensor for parts that do not fit."""
    if method not in PARTS or len(shape) != 2:
        return None
    stem = name.removesuffix("weight")
    names = (*PARTS[method], "weight") if method == "compressed-tensors" else PARTS[method]
    parts = {part: stored[stem + part] for part in names if stem + part in stored}
    plain = parts.get("weight")
    if plain is not None and plain.dtype != np.int8:
        return None
    first = PARTS[method][0] if plain is None else "weight"
    if first not in parts:
        return None
    where = f"{parts[first].file}: tensor {stem}{first}"
    needed = {"compressed-tensors": {"weight_scale"}, "awq": {"scales", "qzeros"}}
    for part in sorted(needed.get(method, {"scales", "qzeros"})):
        check(part in parts, f"{where}: {stem}{part} is missing")
    (outputs, inputs), words = shape, parts[first].shape
    of_inputs = {"weight_packed": words[1], "qweight": words[0], "weight": inputs}[first]
    if method == "awq":
        bits = 4
        wanted: tuple[int, ...] = (inputs, -(-outputs // 8))
    else:
        bits = 8 if first == "weight" else 4 if of_inputs == -(-inputs // 8) else 8
        across = inputs if first == "weight" else -(-inputs // (32 // bits))
        wanted = (across, outputs) if method == "gptq" else (outputs, across)
    check(
        words == wanted,
        f"{where} has shape {list(words)}, which holds no {outputs} x {inputs} in 4 or 8 bits",
    )
    found = Packed(method, parts, (outputs, inputs), bits, zeros_from)
    rows = found.scale.shape[method != "compressed-tensors"]
    check(
        len(found.scale.shape) == 2 and rows == outputs and inputs % found.groups == 0,
        f"{where}: its scales have shape {list(found.scale.shape)}",
    )
    return found
