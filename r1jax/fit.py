"""What a model needs of a card's memory to reply: its weights, its cache, and what a step of the
engine holds beside them.

Weights and cache are exact: the bytes of the arrays that the engine has, as JAX says their shapes.
What is temporary is the program's own where it is compiled (`compiled`), for the device that it is
compiled for, and else bounded by its largest arrays (`bounded`).
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.architecture import ModelConfig
from r1jax.checks import InputError
from r1jax.model.params import weight_specs
from r1jax.model.quantise import abstract_weights, nbytes
from r1jax.sampling import slots
from r1jax.sampling.layout import as_drawn
from r1jax.sampling.rows import blank
from r1jax.sharding import is_spec

Precision = Literal["bf16", "int8", "int4"]

#: Of a card, for its driver and what XLA holds for itself: a guess, and no measurement.
RESERVED = 2**30


class Need(NamedTuple):
    """Bytes."""

    weights: int
    cache: int
    temporaries: int

    @property
    def total(self) -> int:
        return sum(self)


def card_bytes(text: str) -> int:
    """ "24GB" as cards are sold: of 2^30. Raises InputError for anything else."""
    number = text.upper().removesuffix("GIB").removesuffix("GB").strip()
    try:
        found = float(number)
    except ValueError:
        found = 0.0
    if not (0 < found < math.inf):
        raise InputError(f"--card={text}: expected a size such as 24GB")
    return int(found * 2**30)


def served(model: ModelConfig, context: int, rows: int, prompt: int, compiles: bool) -> Need:
    """Of an engine that draws `rows` replies side by side, whose prompts and replies have `context`
    tokens, and reads prompts of `prompt` tokens one at a time."""
    weights = jax.eval_shape(lambda w: as_drawn(w, model), abstract_weights(model))
    cache = jax.eval_shape(lambda: slots.new_cache(model=model, slots=rows, length=context))
    temporary = compiled if compiles else bounded
    return Need(nbytes(weights), nbytes(cache), temporary(model, context, rows, prompt))


def bounded(model: ModelConfig, context: int, rows: int, prompt: int) -> int:
    """The larger of two steps. One decodes: logits and what is drawn from them, scores of one
    layer, and its largest matrix as an array. The other reads a prompt: scores, and activations."""
    a, computed = model.attention, jnp.dtype(model.dtype).itemsize
    matrix = 0
    if model.param_dtype in ("int8", "int4"):
        params = weight_specs(model).params
        layers = jax.tree.leaves((params.dense, params.moe), is_leaf=is_spec)
        matrix = max(math.prod(s.shape[1:]) for s in layers if s.matrix) * computed
    scores = 2 * 4 * a.heads * context * rows
    logits = 4 * 4 * rows * model.vocab
    width = max(model.dense_ffn, model.expert_ffn * (model.shared_experts + 1))
    read = 2 * 4 * a.heads * prompt**2 + prompt * computed * (4 * model.d_model + 3 * width)
    one_cache = jax.eval_shape(lambda: slots.new_cache(model=model, slots=1, length=prompt))
    return matrix + max(logits + scores, read + nbytes(one_cache))


def compiled(model: ModelConfig, context: int, rows: int, prompt: int) -> int:
    """What the engine's own programs hold beside their arguments and results, where the larger of
    decoding and reading has it; of this host's device."""
    weights = jax.eval_shape(lambda w: as_drawn(w, model), abstract_weights(model))
    cache = jax.eval_shape(lambda: slots.new_cache(model=model, slots=rows, length=context))
    told = blank(rows, model.vocab, 1, 1).replace(cutoffs=None, biases=None, may_SM=None)
    steps = np.int32(0), np.int32(8)
    decodes = slots.decode.lower(weights, cache, told, *steps, model=model).compile()
    tokens = jax.ShapeDtypeStruct((1, prompt), jnp.int32)
    reads = slots.prefill.lower(weights, tokens, model=model).compile()
    found = []
    for program, results in ((decodes, 0), (reads, 1)):
        memory = program.memory_analysis()
        assert memory is not None
        found.append(memory.temp_size_in_bytes + results * memory.output_size_in_bytes)
    return max(found)


def longest_context(model: ModelConfig, card: int, rows: int, prompt: int) -> int:
    """The most tokens of prompt and reply that fit, by `bounded`; 0 if none do."""

    def fits(context: int) -> bool:
        need = served(model, context, rows, min(prompt, context), False)
        return need.total + RESERVED <= card

    low, high = 0, model.context
    if fits(high):
        return high
    while high - low > 64:  # fits(low) holds, or low is 0
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def kept(model: ModelConfig, weights: Precision) -> ModelConfig:
    """`model` computing in bfloat16, its weights kept as `weights`: bf16, int8 or int4."""
    if weights == "bf16":
        return dataclasses.replace(model, dtype="bfloat16", param_dtype="bfloat16")
    return dataclasses.replace(model, dtype="bfloat16", param_dtype=weights)
