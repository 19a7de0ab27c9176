"""Tiny models for the tests: every dimension different, so that swapped axes cannot fit."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.architecture import MLAConfig, ModelConfig, RopeConfig, RouterConfig
from r1jax.model import transformer
from r1jax.model.params import Weights, weight_specs
from r1jax.sharding import is_spec

CONFIG = ModelConfig(
    vocab=44,
    d_model=32,
    layers=3,
    dense_layers=1,
    dense_ffn=40,
    expert_ffn=24,
    shared_experts=2,
    attention=MLAConfig(heads=4, q_lora=20, kv_lora=16, nope_dim=10, rope_dim=8, v_dim=12),
    router=RouterConfig(experts=8, active=3, groups=4, group_limit=2, scale=2.5),
    rope=RopeConfig(factor=40.0, original_context=64),
    context=2560,
)

SOFTMAX = RouterConfig(experts=8, active=3, scoring="softmax", renormalize=False)


def config(**changes) -> ModelConfig:
    return replace(CONFIG, **changes)


def weights(cfg: ModelConfig, seed: int = 0) -> Weights:
    """Random everywhere: norms are not all ones and selection biases not zero, so both matter."""
    rng = np.random.default_rng(seed)

    def draw(path, spec):
        noise, name = rng.normal(size=spec.shape), jax.tree_util.keystr(path)
        value = 1 + 0.2 * noise if "norm" in name else 0.2 * noise
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, weight_specs(cfg), is_leaf=is_spec)


def tokens(batch: int, time: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab, (batch, time), dtype=np.int32)


# What is compiled here runs for milliseconds: most of the machine code optimiser's time is saved.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
forward = jit(transformer.forward, static_argnames="cfg")
