"""Matrices in 8 and 4 bits: which form each is kept in, and rounding to the nearest.

int8: one scale an output. int4: one a group of 128 inputs of an output, or of as many as divide
them; but the embedding and the head, which decide between neighbours, stay int8 there. Norms,
biases and the router are not matrices here, and stay as they are.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.model.adapters import is_adapted, with_adapters
from r1jax.model.matrices import Matrix, Quantised
from r1jax.model.params import Weights, weight_specs
from r1jax.sharding import ParamSpec

GROUP = 128  # inputs that share a scale, where they divide
LEAST_GROUP = 16  # below which a scale a group costs more than it gains
INTEGERS = {4: jnp.int4, 8: jnp.int8}


class Form(NamedTuple):
    """How a matrix is kept: `group` inputs of an output share a scale."""

    bits: int
    group: int
    inputs: int
    outputs: int

    @property
    def range(self) -> tuple[int, int]:
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    @property
    def scale_dtype(self):
        """A scale an output costs nothing; of groups, half the bits are worth saving."""
        return jnp.float32 if self.bits == 8 else jnp.bfloat16


def form_of(spec: ParamSpec, kept: str) -> Form | None:
    """How a model that is `kept` in int8 or int4 keeps this parameter; None: as an array."""
    if kept not in ("int8", "int4") or spec.matrix is None:
        return None
    inputs, outputs = spec.matrix
    first = len(spec.shape) - inputs - outputs
    width = 1
    for n in spec.shape[first : first + inputs]:
        width *= n
    if kept == "int8" or "vocab" in spec.axes:
        return Form(8, width, inputs, outputs)
    group = next(g for g in range(min(GROUP, width), 0, -1) if width % g == 0)
    return Form(4, group if group >= LEAST_GROUP else width, inputs, outputs)


@functools.partial(jax.jit, static_argnames="form")
def nearest(w: jax.Array, form: Form) -> Quantised:
    """Each number rounded to the nearest of its group's grid, which reaches from the largest to its
    negative (symmetric; scale = largest / ((2^bits - 1) / 2), as compressed-tensors has it)."""
    low, high = form.range
    first = w.ndim - form.inputs - form.outputs
    outputs = w.shape[w.ndim - form.outputs :]
    grouped = w.astype(jnp.float32).reshape(*w.shape[:first], -1, form.group, *outputs)
    most = jnp.max(jnp.abs(grouped), axis=first + 1)
    scale = (most / ((high - low) / 2)).astype(form.scale_dtype)
    scale = jnp.where(scale == 0, jnp.ones_like(scale), scale)
    steps = grouped / jnp.expand_dims(scale.astype(jnp.float32), first + 1)
    integers = jnp.clip(jnp.round(steps), low, high).astype(INTEGERS[form.bits])
    return Quantised(integers.reshape(w.shape), scale, None, form.inputs, form.outputs)


def keep(w, spec: ParamSpec, model: ModelConfig):
    """A parameter in the form that the model keeps it in (ModelConfig.param_dtype); what is
    quantised already stays so where it has no more bits than that."""
    form = form_of(spec, model.param_dtype)
    if is_adapted(w):
        if model.lora is not None:
            return w
        w = w.dense(jnp.float32)
    if isinstance(w, Quantised):
        if model.param_dtype == "stored":
            return w
        if form is not None and jnp.iinfo(w.integers.dtype).bits <= form.bits:
            return w
        w = w.dense(jnp.float32)
    return w.astype(array_dtype(model)) if form is None else nearest(w, form)


def array_dtype(model: ModelConfig) -> jnp.dtype:
    """Of the parameters that are arrays."""
    quantised = model.param_dtype not in ("float32", "bfloat16")
    return jnp.dtype(model.dtype if quantised else model.param_dtype)


def keep_weights(weights: Weights, model: ModelConfig) -> Weights:
    """All parameters in the forms that the model keeps them in. The router's selection biases move
    by 0.001 a step, which bfloat16 would lose: they are float32. Adapters are added where it has
    any."""
    specs, bias = weight_specs(model).params, weights.router_bias_LE
    params = jax.tree.map(
        lambda spec, w: keep(w, spec, model), specs, weights.params, is_leaf=sharding.is_spec
    )
    if model.lora is not None:
        params = with_adapters(params, specs, model.lora)
    return Weights(params, None if bias is None else bias.astype(jnp.float32))


def abstract_weights(model: ModelConfig) -> Weights:
    """The shapes and types of a model's parameters, as it keeps them; allocates nothing."""
    arrays = sharding.abstract(weight_specs(model))
    return jax.eval_shape(lambda weights: keep_weights(weights, model), arrays)


def kept_specs(model: ModelConfig) -> Weights:
    """As `weight_specs`, of the arrays that the model keeps its parameters in."""
    return specs_of(weight_specs(model), abstract_weights(model))


def specs_of(specs, tree):
    """The specs of the arrays that a tree is made of, where it has forms in place of matrices."""
    return jax.tree.map(
        lambda spec, w: w.specs(spec) if isinstance(w, Matrix) else spec,
        specs,
        tree,
        is_leaf=sharding.is_spec,
    )


def nbytes(tree) -> int:
    """Of arrays or their shapes; two numbers of int4 are a byte."""

    def one(a) -> int:
        bits = 4 if a.dtype == jnp.int4 else 8 * a.dtype.itemsize
        return -(-a.size * bits // 8)

    return sum(map(one, jax.tree.leaves(tree)))


def gib(n: float) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**27 else f"{n / 2**20:.2f} MiB"
