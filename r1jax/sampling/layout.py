"""Weights as sampling reads them: once a rollout, not at every token."""

import functools

import jax
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import specs_of
from r1jax.model.transformer import unstacked
from r1jax.sharding import ParamSpec


def lay_out(weights: Weights, *, model: ModelConfig, mesh: Mesh, mtp: bool = False) -> Weights:
    """From where training has them on its `mesh` to where `sharding.for_sampling` wants them,
    matrices in the dtype that they are multiplied in (but quantised ones as they are), layers apart
    where they are not scanned, and of MTP's modules the first, or none."""
    weights = weights.replace(params=weights.params.replace(mtp=weights.params.mtp[:mtp]))
    with jax.set_mesh(mesh):
        laid = exchanged(weights, model=model, mesh=mesh)

    # A compiled function keeps the devices' order, so the exchange comes first, and then the shards
    # are those of the other mesh without another copy.
    def renamed(spec: ParamSpec, a: jax.Array) -> jax.Array:
        shards = [shard.data for shard in a.addressable_shards]
        where = _where(spec, model, mesh)[1]
        return jax.make_array_from_single_device_arrays(a.shape, where, shards)

    laid = jax.tree.map(renamed, _specs(model, laid), laid, is_leaf=sharding.is_spec)
    with jax.set_mesh(sharding.for_sampling(mesh, experts_of(model))):
        return jax.jit(unstacked, static_argnums=1)(laid, model)


def as_drawn(weights: Weights, model: ModelConfig) -> Weights:
    """As `lay_out` without drafts, wherever they lie: for one device, and for shapes."""
    return unstacked(
        _in_dtype(weights.replace(params=weights.params.replace(mtp=())), model), model
    )


def abstract_laid(weights: Weights, model: ModelConfig, mesh: Mesh) -> Weights:
    """Shapes and shardings, after the exchange, of weights that are shapes."""
    weights = weights.replace(params=weights.params.replace(mtp=()))
    laid = jax.eval_shape(lambda w: _in_dtype(w, model), weights)

    def one(spec: ParamSpec, a) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=_where(spec, model, mesh)[1])

    return jax.tree.map(one, _specs(model, laid), laid, is_leaf=sharding.is_spec)


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def exchanged(weights: Weights, *, model: ModelConfig, mesh: Mesh) -> Weights:
    """On `mesh` still, each device has what it draws with."""

    def one(spec: ParamSpec, a: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(a, _where(spec, model, mesh)[0])

    weights = _in_dtype(weights, model)
    return jax.tree.map(one, _specs(model, weights), weights, is_leaf=sharding.is_spec)


def _in_dtype(weights: Weights, model: ModelConfig) -> Weights:
    """Norms and the router compute in float32, whatever the model does."""

    def one(spec: ParamSpec, a: jax.Array) -> jax.Array:
        return a if spec.matrix is None else a.astype(model.dtype)

    return jax.tree.map(one, _specs(model, weights), weights, is_leaf=sharding.is_spec)


def _specs(model: ModelConfig, weights: Weights) -> Weights:
    """Of these weights."""
    specs = weight_specs(model)
    mtp = specs.params.mtp[: len(weights.params.mtp)]
    return specs_of(specs.replace(params=specs.params.replace(mtp=mtp)), weights)


def _where(spec: ParamSpec, model: ModelConfig, mesh: Mesh):
    return sharding.laid_for_sampling(mesh, experts_of(model), spec.shape, spec.axes)


def experts_of(model: ModelConfig) -> int:
    """0: it has none."""
    return model.router.experts if model.moe_layers and model.router else 0
