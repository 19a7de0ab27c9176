"""Positions past the window that a model was first trained on: YaRN and Llama 3.1's scaling, for
the published configurations, against float64 and against Transformers. (Whole sequences longer than
that window are in test_golden.py: 128 tokens, on models whose window is 64.)"""

import functools
import json
import math

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import hub, sharding
from r1jax.architecture import RopeConfig, yarn_mscale
from r1jax.model.head import unembed
from r1jax.model.layers import apply_rope, rope_frequencies, rotary
from r1jax.model.transformer import forward

PUBLISHED = [
    "verbatim/DeepSeek-V3",
    "reconstructed/DeepSeek-V2-Lite",
    "reconstructed/DeepSeek-R1-0528-Qwen3-8B",
    "verbatim/Meta-Llama-3.1-8B",
]
# Angles reach 163,840 radians, where float32 is 2^-6 apart; the frequencies' own rounding adds as
# much again for the pairs just below the fastest. Transformers computes them in float32 too.
ANGLE = 0.02  # radians, at position 163,839


@pytest.fixture
def published(data_dir, tmp_path, request):
    """(directory with config.json alone, its ModelConfig)"""
    text = (data_dir / "configs" / f"{request.param}.json").read_text()
    (tmp_path / "config.json").write_text(text)
    return tmp_path, hub.read_config(tmp_path)


def turned(rope: RopeConfig, dim: int, positions) -> np.ndarray:
    """(cos, sin) x temperature of every pair at each position: [P, dim / 2] complex."""
    x = np.zeros((1, len(positions), dim), np.float32)
    x[..., slice(0, None, 2) if rope.interleaved else slice(0, dim // 2)] = 1
    y = np.asarray(
        apply_rope(jnp.asarray(x), rotary(jnp.asarray(positions)[None], rope, dim), rope)
    )[0]
    real, imaginary = (y[:, 0::2], y[:, 1::2]) if rope.interleaved else np.split(y, 2, axis=1)
    return real + 1j * imaginary


@pytest.mark.parametrize("published", PUBLISHED, indirect=True)
def test_rotations_are_those_of_float64_to_the_last_position(published):
    _, model = published
    dim, rope = model.attention.rotary_dim, model.rope
    positions = np.array([0, 1, rope.original_context, 100_003, model.context - 1], np.int32)
    angle = positions[:, None].astype(np.float64) * rope_frequencies(rope, dim)
    temperature = yarn_mscale(rope, rope.mscale) / yarn_mscale(rope, rope.mscale_all_dim)
    error = np.abs(turned(rope, dim, positions) - temperature * np.exp(1j * angle))
    assert error[1].max() < 1e-6
    assert error.max() < ANGLE


@pytest.mark.parametrize("published", PUBLISHED, indirect=True)
def test_frequencies_are_those_of_transformers(published):
    pytest.importorskip("torch", reason="torch absent: pip install -e '.[parity]'")
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[parity]'")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    folder, model = published
    fields = json.loads((folder / "config.json").read_text())
    kind = fields.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **fields)
    theirs, factor = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config)
    dim, rope = model.attention.rotary_dim, model.rope
    np.testing.assert_allclose(rope_frequencies(rope, dim), theirs.numpy(), rtol=1e-6)
    ours = yarn_mscale(rope, rope.mscale) / yarn_mscale(rope, rope.mscale_all_dim)
    assert math.isclose(ours, factor, rel_tol=1e-12)
    # At the last position the two are as far apart as float32 must be.
    last = np.array([model.context - 1], np.float32)
    apart = turned(rope, dim, last.astype(np.int32)) - factor * np.exp(1j * last * theirs.numpy())
    assert np.abs(apart).max() < 2 * ANGLE


@functools.partial(jax.jit, static_argnames="cfg")
def run(weights, tokens_BT, positions_BT, cfg):
    out = forward(weights, tokens_BT, cfg, positions_BT=positions_BT)
    return unembed(weights.params, out.hidden_BTD, cfg)


# A family with the scaling of a published model, and positions to the end of its context.
FAR = {
    "deepseek_v3": ("verbatim/DeepSeek-V3", 163_840),
    "deepseek_v2": ("reconstructed/DeepSeek-V2-Lite", 163_840),
    "qwen3": ("reconstructed/DeepSeek-R1-0528-Qwen3-8B", 131_072),
    "llama": ("verbatim/Meta-Llama-3.1-8B", 131_072),
}


@pytest.mark.parametrize("family", FAR)
def test_logits_far_out_and_past_the_window_are_those_of_transformers(family, data_dir, tmp_path):
    pytest.importorskip("torch", reason="torch absent: pip install -e '.[parity]'")
    pytest.importorskip("transformers", reason="pip install -e '.[parity]'")
    import reference

    name, context = FAR[family]
    real = json.loads((data_dir / "configs" / f"{name}.json").read_text())
    config = families.CONFIGS[family] | {
        "max_position_embeddings": context,
        "rope_theta": real["rope_theta"],
        "rope_scaling": real["rope_scaling"],
    }
    folder = families.write(tmp_path / family, config)
    model = hub.read_config(folder)
    weights = hub.load_weights(folder, model, sharding.make_mesh("1"), progress=False)
    theirs = reference.load(folder)
    tokens = families.row(family, 48)
    # Near ones, ones past the original window, and the last: a few tokens at each.
    spots = np.array([0, model.rope.original_context, 100_003, context - 12])
    positions = (spots[:, None] + np.arange(12)).reshape(1, -1).astype(np.int32)
    ours = run(weights, tokens, positions, model)
    far = families.relative(ours, reference.logits(theirs, tokens, positions))
    assert far < 2e-3
