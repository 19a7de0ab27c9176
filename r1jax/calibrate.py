"""GPTQ (arXiv 2210.17323): matrices rounded so that what they make of real inputs changes least.

Paper: the inputs of a matrix are rounded one after the other, and each one's error is made up for
by those that are not rounded yet, along the inverse of H = X'X of the inputs X that the matrix has
seen (section 3.3, algorithm 1). Code: the same, a block of inputs at a time; scales are a group's
largest number at the time when its first input is rounded. Layers are rounded in order, each on
what the rounded ones before it make of the samples. Routed experts, which see few of the samples
each, and what is not multiplied in a layer are rounded to the nearest.

B samples  T tokens  D d_model  K inputs  O outputs  R inputs of a block
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.checks import check
from r1jax.model.matrices import Matrix, Quantised, rows
from r1jax.model.params import Layer, Weights, weight_specs
from r1jax.model.quantise import INTEGERS, Form, form_of, keep, keep_weights
from r1jax.model.transformer import apply_layer, place_of

DAMPING = 0.01  # of H's mean diagonal, added to it
BLOCK = 128  # inputs rounded between two updates of all that follow


class Watched(Matrix):
    """An array that adds X'X of what it is multiplied by to `seen`, by its name."""

    array: jax.Array
    name: str = flax.struct.field(pytree_node=False)
    seen: dict[str, jax.Array] = flax.struct.field(pytree_node=False)

    @property
    def shape(self):
        return self.array.shape

    def product(self, x_MK):
        x_MK = x_MK.astype(jnp.float32)
        self.seen[self.name] = x_MK.T @ x_MK
        return x_MK @ self.array.reshape(x_MK.shape[1], -1).astype(jnp.float32)

    def dense(self, dtype):
        return self.array.astype(dtype)


def calibrated(weights: Weights, model: ModelConfig, samples_BT: np.ndarray) -> Weights:
    """`weights` (arrays) in the form that `model` keeps them in, int8 or int4, fitted to samples:
    rows of T tokens without padding."""
    check(
        model.param_dtype in ("int8", "int4"),
        f"ModelConfig.param_dtype={model.param_dtype}: only int8 and int4 are fitted to samples",
    )
    params, specs = weights.params, weight_specs(model).params
    tokens_BT = jnp.asarray(samples_BT)
    shape = tokens_BT.shape
    positions_BT = jnp.broadcast_to(jnp.arange(shape[1])[None], shape)
    place = place_of(positions_BT, jnp.ones(shape, jnp.int32), model)
    x_BTD = rows(keep(params.embed_VD, specs.embed_VD, model), tokens_BT, model.dtype)
    done: dict[str, Layer | None] = {}
    for name, n in (("dense", model.dense_layers), ("moe", model.moe_layers)):
        stack, layer = getattr(params, name), _one_layer(getattr(specs, name))
        found = jax.tree_util.tree_leaves_with_path(layer, is_leaf=sharding.is_spec)
        matrices = frozenset(jax.tree_util.keystr(path) for path, spec in found if spec.matrix)
        fitted = []
        for i in range(n):
            p = jax.tree.map(lambda a, i=i: a[i], stack)
            bias_E = weights.router_bias_LE[i] if name == "moe" else None
            seen = _seen(x_BTD, p, bias_E, place, matrices, model)
            fitted.append(_fit(p, layer, seen, model))
            x_BTD = _ran(x_BTD, fitted[-1], bias_E, place, model)
        done[name] = jax.tree.map(lambda *a: jnp.stack(a), *fitted) if fitted else None
    return keep_weights(weights.replace(params=params.replace(**done)), model)


@functools.partial(jax.jit, static_argnames=("matrices", "model"))
def _seen(
    x_BTD, p: Layer, bias_E, place, matrices: frozenset[str], model: ModelConfig
) -> dict[str, jax.Array]:
    """X'X of each of these matrices of a layer that is multiplied by, by its path."""
    seen: dict[str, jax.Array] = {}

    def watched(path, a):
        name = jax.tree_util.keystr(path)
        return Watched(a, name, seen) if name in matrices else a

    p = jax.tree_util.tree_map_with_path(watched, p)
    apply_layer(x_BTD, p, bias_E, model, place, None)
    return seen


@functools.partial(jax.jit, static_argnames="model")
def _ran(x_BTD, p: Layer, bias_E, place, model: ModelConfig):
    return apply_layer(x_BTD, p, bias_E, model, place, None)[0]


def _one_layer(stack: Layer | None):
    """The specs of a layer of a stack's."""

    def one(spec):
        return sharding.ParamSpec(spec.shape[1:], spec.axes[1:], spec.init, spec.matrix)

    return jax.tree.map(one, stack, is_leaf=sharding.is_spec)


def _fit(p: Layer, specs: Layer, seen, model: ModelConfig) -> Layer:
    def one(path, spec, a):
        form = form_of(spec, model.param_dtype)
        name = jax.tree_util.keystr(path)
        if form is None or name not in seen:
            return keep(a, spec, model)
        return fitted_to(a, seen[name], form)

    return jax.tree_util.tree_map_with_path(one, specs, p, is_leaf=sharding.is_spec)


@functools.partial(jax.jit, static_argnames="form")
def fitted_to(w: jax.Array, h_KK: jax.Array, form: Form) -> Quantised:
    """One matrix [inputs..., outputs...], rounded for inputs of which X'X is h."""
    low, high = form.range
    k = h_KK.shape[0]
    w_KO = w.astype(jnp.float32).reshape(k, -1)
    size = next(n for n in range(min(BLOCK, form.group), 0, -1) if form.group % n == 0)
    diagonal = jnp.diagonal(h_KK)
    h_KK = h_KK + jnp.diag(jnp.where(diagonal > 0, DAMPING * jnp.mean(diagonal), 1.0))
    # Upper triangular, with inverse(h) = u'u: row k says how the error of input k is made up for.
    u_KK = jnp.linalg.cholesky(jnp.linalg.inv(h_KK), upper=True)

    def scale_of(rows_JO):
        scale_O = jnp.max(jnp.abs(rows_JO), axis=0) / ((high - low) / 2)
        scale_O = scale_O.astype(form.scale_dtype)
        return jnp.where(scale_O == 0, jnp.ones_like(scale_O), scale_O)

    def block(state, first):
        w_KO, scale_O = state
        within = jax.lax.dynamic_slice_in_dim(w_KO, first, form.group) if form.group < k else w_KO
        scale_O = jnp.where(first % form.group == 0, scale_of(within), scale_O)
        step_O = scale_O.astype(jnp.float32)
        u_RK = jax.lax.dynamic_slice_in_dim(u_KK, first, size)
        u_RR = jax.lax.dynamic_slice_in_dim(u_RK, first, size, axis=1)

        def one(rows_RO, i):
            q_O = jnp.clip(jnp.round(rows_RO[i] / step_O), low, high)
            error_O = (rows_RO[i] - q_O * step_O) / u_RR[i, i]
            later_R = jnp.where(jnp.arange(size) > i, u_RR[i], 0)
            return rows_RO - later_R[:, None] * error_O[None], (q_O, error_O)

        rows_RO = jax.lax.dynamic_slice_in_dim(w_KO, first, size)
        _, (q_RO, error_RO) = jax.lax.scan(one, rows_RO, jnp.arange(size))
        later_K = jnp.arange(k) >= first + size
        w_KO = w_KO - jnp.where(later_K, u_RK, 0).T @ error_RO
        return (w_KO, scale_O), (q_RO, scale_O)

    begin = w_KO, jnp.ones(w_KO.shape[1], form.scale_dtype)
    _, (q, scales) = jax.lax.scan(block, begin, jnp.arange(0, k, size))
    integers = q.reshape(w.shape).astype(INTEGERS[form.bits])
    scale = scales[:: form.group // size].reshape(-1, *w.shape[w.ndim - form.outputs :])
    return Quantised(integers, scale, None, form.inputs, form.outputs)
