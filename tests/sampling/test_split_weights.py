"""A model without experts, larger than a device: its weights are split while replies are drawn, and
what travels is rows."""

import jax
import numpy as np
import pytest
import small
from hlo import largest

from r1jax.architecture import GQAConfig
from r1jax.config import SamplingConfig
from r1jax.model.params import weight_specs
from r1jax.sampling import slots
from r1jax.sampling.engine import Engine, Request
from r1jax.sharding import make_mesh, shardings

# Of four key-value heads none is split over eight devices; what travels is less than any matrix.
MODEL = small.config(
    vocab=1024,
    d_model=32,
    layers=2,
    dense_layers=2,
    dense_ffn=512,
    attention=GQAConfig(heads=8, kv_heads=4, head_dim=16, qkv_bias=True),
    router=None,
)
CFG = SamplingConfig(max_prompt=8, max_tokens=12, slots=8, refill=8)
REQUESTS = [Request([1, 2, i], i, 0) for i in range(8)]


def drawn(text: str):
    mesh = make_mesh(text)
    weights = jax.device_put(small.weights(MODEL), shardings(weight_specs(MODEL), mesh))
    engine = Engine(MODEL, CFG, mesh, [0])
    engine.load(weights)
    laid = engine._weights
    return engine, laid, engine.generate(weights, REQUESTS, jax.random.key(0))[0]


@pytest.mark.parametrize("text", ["2x4", "1x8"])
def test_replies_are_those_of_one_device(text):
    engine, laid, got = drawn(text)
    for a, b in zip(got, drawn("1")[2], strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-5)
    over = engine.mesh.shape["expert"]
    layer, p = laid.params.dense, laid.params
    split = [layer.ffn.gate_DF, layer.ffn.down_FD, layer.attention.q_DHX, p.head_DV, p.embed_VD]
    for a in split:
        assert a.sharding.shard_shape(a.shape) != a.shape
        assert np.prod(a.sharding.shard_shape(a.shape)) == a.size // over
    cache = jax.jit(lambda: slots._empty(MODEL, 8, 32, False, "none"))
    with jax.set_mesh(engine.mesh):
        rows = engine._blank(8).replace(cutoffs=None, biases=None)
        args = laid, cache(), rows, np.int32(0), np.int32(1)
        text = slots.decode.lower(*args, model=MODEL).compile().as_text()
    # Logits of all rows, and no matrix: FFN's have 32 x 512 numbers, the queries' 32 x 128.
    assert largest(text) <= 8 * 1024 < 32 * 512
    assert "f32[32,8,16] all-gather" not in text
