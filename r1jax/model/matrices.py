"""What stands in the tree for a matrix, and how every matrix is used: multiplied by (`multiply`),
looked up in (`rows`), or read whole (`dense`). It is an array, or one of the forms below.

A matrix has axes [leading..., inputs..., outputs...]: layers and experts lead, and heads and their
numbers are two axes of the inputs or of the outputs. An embedding, whose rows are looked up, leads
with its vocabulary, and has no axis of outputs.

M rows of x  K all inputs  G groups of them  J = K / G  O all outputs  R rank  V vocabulary
D d_model
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.model.layers import einsum32, matmul
from r1jax.model.params import FFN
from r1jax.sharding import ParamSpec

FEW = 32  # rows, up to which groups are scaled after they are multiplied


class Matrix(flax.struct.PyTreeNode):
    """A form other than an array. `inputs`, `outputs`: how many axes either has."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that it stands for."""
        raise NotImplementedError

    def product(self, x_MK: jax.Array) -> jax.Array:
        """[M, O], float32."""
        raise NotImplementedError

    def dense(self, dtype) -> jax.Array:
        raise NotImplementedError

    def head(self):
        """Of an embedding [V, D]: the head that is tied to it, [D, V]."""
        raise NotImplementedError

    def specs(self, spec: ParamSpec):
        """The same form, of ParamSpecs: of a matrix that is declared by `spec`."""
        raise NotImplementedError


class Quantised(Matrix):
    """(integers - zero) * scale, where the inputs of an output share these in G groups: one for
    int8 by channel. `zero` is None where the grid is symmetric."""

    integers: jax.Array  # int8 or int4, of the matrix's shape
    scale: jax.Array  # [leading..., G, outputs...]
    zero: jax.Array | None  # as scale
    inputs: int = flax.struct.field(pytree_node=False)
    outputs: int = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    @property
    def leading(self) -> int:
        """How many axes lead."""
        return self.integers.ndim - self.inputs - self.outputs

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        inputs = self.shape[self.leading : self.leading + self.inputs]
        return math.prod(inputs) // self.scale.shape[self.leading]

    def product(self, x_MK):
        groups, outputs = self.scale.shape[0], self.scale.shape[1:]
        # What is multiplied by is exact in bfloat16. Where rows are few, groups are scaled after
        # the product: before it, a TPU is busy with scaling (25 times bfloat16's cycles, v5e).
        if groups > 1 and len(x_MK) > FEW:
            return dot(x_MK, self.dense(x_MK.dtype).reshape(x_MK.shape[1], -1))
        scale_GO = self.scale.reshape(groups, -1).astype(jnp.float32)
        q_GJO = self.integers.reshape(groups, -1, math.prod(outputs)).astype(x_MK.dtype)
        if self.zero is not None:
            q_GJO = q_GJO - self.zero.reshape(groups, 1, -1).astype(x_MK.dtype)
        if groups == 1:
            return dot(x_MK, q_GJO[0]) * scale_GO
        x_MGJ = x_MK.reshape(len(x_MK), groups, -1)
        y_GMO = jnp.einsum("mgj,gjo->gmo", x_MGJ, q_GJO, preferred_element_type=jnp.float32)
        return jnp.sum(y_GMO * scale_GO[:, None], axis=0)

    def dense(self, dtype):
        lead, outputs = self.shape[: self.leading], self.scale.shape[self.leading + 1 :]
        q = self.integers.reshape(*lead, self.scale.shape[self.leading], -1, *outputs)
        scale, axis = self.scale.astype(jnp.float32), self.leading + 1
        value = q.astype(jnp.float32)
        if self.zero is not None:
            value = value - jnp.expand_dims(self.zero, axis).astype(jnp.float32)
        return (value * jnp.expand_dims(scale, axis)).reshape(self.shape).astype(dtype)

    def head(self):
        return jax.tree.map(lambda a: a.T, self).replace(outputs=1)

    def specs(self, spec):
        end = len(spec.shape) - self.outputs
        n = end - self.inputs
        shape = *spec.shape[:n], self.scale.shape[n], *spec.shape[end:]
        scale = ParamSpec(shape, (*spec.axes[:n], None, *spec.axes[end:]), spec.init)
        integers = dataclasses.replace(spec, matrix=None)
        return self.replace(
            integers=integers, scale=scale, zero=None if self.zero is None else scale
        )


def multiply(x: jax.Array, w, inputs: int = 1) -> jax.Array:
    """[..., inputs...] by [inputs..., outputs...] -> [..., outputs...], in x's dtype."""
    if isinstance(w, Matrix):
        return _product(x, w, inputs).astype(x.dtype)
    if inputs == 1 and w.ndim == 2:
        return matmul(x, w.astype(x.dtype))
    return jnp.tensordot(x, w.astype(x.dtype), inputs)


def multiply32(x: jax.Array, w) -> jax.Array:
    """As `multiply`, summed and returned in float32."""
    if isinstance(w, Matrix):
        return _product(x, w, 1)
    return einsum32("...d,dv->...v", x, w.astype(x.dtype))


def _product(x: jax.Array, w: Matrix, inputs: int) -> jax.Array:
    x_MK = x.reshape(-1, math.prod(w.shape[:inputs]))
    return w.product(x_MK).reshape(*x.shape[: x.ndim - inputs], *w.shape[inputs:])


def dot(x_MK: jax.Array, w_KO: jax.Array) -> jax.Array:
    """x @ w, summed and returned in float32."""
    return jnp.dot(x_MK, w_KO, preferred_element_type=jnp.float32)


def dense(w, dtype) -> jax.Array:
    """The whole matrix as an array."""
    return w.dense(dtype) if isinstance(w, Matrix) else w.astype(dtype)


def rows(w_VD, index: jax.Array, dtype) -> jax.Array:
    """Rows of an embedding: [...] -> [..., D]."""
    if isinstance(w_VD, Matrix):
        return dense(jax.tree.map(lambda a: a[index], w_VD), dtype)
    return w_VD.astype(dtype)[index]


def transposed(w_VD):
    """An embedding as the head that is tied to it, [D, V]."""
    return w_VD.head() if isinstance(w_VD, Matrix) else w_VD.T


def swiglu(x: jax.Array, ffn: FFN) -> jax.Array:
    """[..., D] -> [..., D]."""
    gate, up = multiply(x, ffn.gate_DF), multiply(x, ffn.up_DF)
    return multiply(jax.nn.silu(gate) * up, ffn.down_FD)
