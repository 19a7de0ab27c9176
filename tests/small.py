"""A model so small that a training step compiles in seconds, for tests of training and sampling."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.architecture import MLAConfig, ModelConfig, RouterConfig
from r1jax.model.head import unembed
from r1jax.model.params import Weights, weight_specs
from r1jax.model.transformer import forward
from r1jax.sharding import is_spec

CONFIG = ModelConfig(
    vocab=16,
    d_model=16,
    layers=1,
    dense_layers=0,
    dense_ffn=12,
    expert_ffn=10,
    shared_experts=1,
    attention=MLAConfig(heads=2, q_lora=None, kv_lora=8, nope_dim=6, rope_dim=4, v_dim=5),
    router=RouterConfig(experts=8, active=2),
    context=64,
)


def config(**changes) -> ModelConfig:
    return replace(CONFIG, **changes)


def weights(cfg: ModelConfig = CONFIG, seed: int = 0) -> Weights:
    """Random everywhere: norms are not all ones and selection biases not zero, so both matter."""
    rng = np.random.default_rng(seed)

    def draw(path, spec):
        noise = rng.normal(size=spec.shape)
        value = 1 + 0.2 * noise if "norm" in jax.tree_util.keystr(path) else 0.2 * noise
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, weight_specs(cfg), is_leaf=is_spec)


def plain_logits(weights: Weights, tokens_BT, cfg=CONFIG, segments_BT=None, positions_BT=None):
    """[B, T, V] of a forward over whole rows, and the routing statistics."""
    out = forward(weights, tokens_BT, cfg, segments_BT=segments_BT, positions_BT=positions_BT)
    return unembed(weights.params, out.hidden_BTD, cfg), out.stats


logits = jax.jit(plain_logits, static_argnames="cfg")


def log_softmax(x) -> np.ndarray:
    """In float64."""
    x = np.float64(x)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
