"""Weights as sampling reads them: once a rollout, not at every token."""

import functools

import jax

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import specs_of
from r1jax.model.transformer import unstacked
from r1jax.sharding import SAMPLING_RULES, ParamSpec


@functools.partial(jax.jit, static_argnames="model")
def lay_out(weights: Weights, *, model: ModelConfig) -> Weights:
    """Where `SAMPLING_RULES` wants them, matrices in the dtype that they are multiplied in (but
    quantised ones as they are), layers apart where they are not scanned, and without what only
    training needs."""

    def one(spec: ParamSpec, a: jax.Array) -> jax.Array:
        # Norms and the router compute in float32, whatever the model does.
        if spec.matrix is not None:
            a = a.astype(model.dtype)
        return sharding.constrain(a, *spec.axes, rules=SAMPLING_RULES)

    specs = weight_specs(model)
    specs, weights = (w.replace(params=w.params.replace(mtp=())) for w in (specs, weights))
    specs = specs_of(specs, weights)
    weights = jax.tree.map(one, specs, weights, is_leaf=sharding.is_spec)
    return unstacked(weights, model)
