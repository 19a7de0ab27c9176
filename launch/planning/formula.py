"""What a job needs to multiply at the least, by formula: two FLOPs a weight that a token meets, and
attention over what it may look at, causal (half of the square). What is computed again for want of
memory is not needed; a reference that is scored is.
"""

import dataclasses
import math

import jax

from r1jax import sharding
from r1jax.architecture import MLAConfig, ModelConfig
from r1jax.model.params import Layer, MoE, weight_specs


@dataclasses.dataclass(frozen=True)
class Parameters:
    """total: all there are (without MTP modules). active: in products that a token meets, the head
    apart."""

    total: int
    active: float
    head: int


def parameters(model: ModelConfig, mtp: bool = False) -> Parameters:
    """mtp: with the modules that predict more tokens, which only supervised training runs."""
    specs = weight_specs(model).params
    head = model.d_model * model.vocab
    active = sum(_of_layer(stack, model) for stack in (specs.dense, specs.moe) if stack is not None)
    without = specs.replace(mtp=())
    if mtp:
        for module in specs.mtp:
            active += _of_layer(module.layer, model) + _size(module.project_ED) + head
    return Parameters(sharding.count(specs if mtp else without), active, head)


def _of_layer(layer: Layer, model: ModelConfig) -> float:
    """Weights of its matrices, of the experts those that a token is sent to."""
    ffn = layer.ffn
    found = sum(_size(spec) for spec in _leaves(layer.attention) if _is_matrix(spec))
    if not isinstance(ffn, MoE):
        return found + sum(map(_size, _leaves(ffn)))
    assert model.router is not None
    routed = sum(map(_size, (ffn.gate_EDF, ffn.up_EDF, ffn.down_EFD)))
    shared = 0 if ffn.shared is None else sum(map(_size, _leaves(ffn.shared)))
    return (
        found + _size(ffn.router_DE) + shared + routed * model.router.active / model.router.experts
    )


def _leaves(tree) -> list:
    return jax.tree.leaves(tree, is_leaf=sharding.is_spec)


def _size(spec) -> int:
    return math.prod(spec.shape)


def _is_matrix(spec) -> bool:
    return len([axis for axis in spec.axes if axis != "layers"]) > 1 and "embed" in spec.axes


def attention(model: ModelConfig, keys: float, absorbed: bool = False) -> float:
    """Of one token, in all layers: scores and sums over `keys`. absorbed: of latents, as MLA
    decodes."""
    a = model.attention
    if not isinstance(a, MLAConfig):
        return 4.0 * model.layers * a.heads * a.head_dim * keys
    width = 2 * a.kv_lora + a.rope_dim if absorbed else a.qk_dim + a.v_dim
    return 2.0 * model.layers * a.heads * width * keys


def forward(model: ModelConfig, tokens: float, length: float, head: bool = True) -> float:
    """Of `tokens` tokens in texts of `length`."""
    p = parameters(model)
    weights = p.active + (p.head if head else 0)
    return tokens * (2.0 * weights + attention(model, length / 2))


def grpo(model: ModelConfig, tokens: float, length: float, reference: bool) -> float:
    """An update: forward and twice that backward, and the reference's forward."""
    return (4.0 if reference else 3.0) * forward(model, tokens, length)


def sft(model: ModelConfig, tokens: float, length: float) -> float:
    p = parameters(model, mtp=True)
    layers = (model.layers + model.mtp_depth) / model.layers
    each = 2.0 * (p.active + p.head) + layers * attention(model, length / 2)
    return 3.0 * tokens * each


def decode(model: ModelConfig, replies: float, keys: float) -> float:
    """A token of each reply, which looks at `keys` before it."""
    p = parameters(model)
    return replies * (2.0 * (p.active + p.head) + attention(model, keys, absorbed=True))
