"""Weights as sampling reads them: once a rollout, not at every token."""

import functools

import jax

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import specs_of
from r1jax.model.transformer import unstacked
from r1jax.sharding import SAMPLING_RULES, ParamSpec


@functools.partial(jax.jit, static_argnames=("model", "mtp"))
def lay_out(weights: Weights, *, model: ModelConfig, mtp: bool = False) -> Weights:
    """Where `SAMPLING_RULES` wants them, matrices in the dtype that they are multiplied in (but
    quantised ones as they are), layers apart where they are not scanned, and of MTP's modules the
    first, or none."""

    def one(spec: ParamSpec, a: jax.Array) -> jax.Array:
        # Norms and the router compute in float32, whatever the model does.
        if spec.matrix is not None:
            a = a.astype(model.dtype)
        return sharding.constrain(a, *spec.axes, rules=SAMPLING_RULES)

    specs = weight_specs(model)
    specs, weights = (
        w.replace(params=w.params.replace(mtp=w.params.mtp[:mtp])) for w in (specs, weights)
    )
    specs = specs_of(specs, weights)
    weights = jax.tree.map(one, specs, weights, is_leaf=sharding.is_spec)
    return unstacked(weights, model)
