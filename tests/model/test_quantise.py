"""Matrices in 8 and 4 bits, against a slow NumPy rounding and against the arrays that they stand
for: every product, every look-up, whole models, on one device and on eight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax import sharding
from r1jax.architecture import GQAConfig, MLAConfig
from r1jax.checks import InputError
from r1jax.config import SamplingConfig
from r1jax.model.head import log_probs
from r1jax.model.matrices import Quantised, dense, multiply, multiply32, rows, transposed
from r1jax.model.params import weight_specs
from r1jax.model.quantise import (
    Form,
    abstract_weights,
    form_of,
    keep_weights,
    kept_specs,
    nbytes,
    nearest,
)
from r1jax.model.transformer import forward
from r1jax.models import drawn_as
from r1jax.optim import random_weights
from r1jax.sampling.engine import Engine, Request

# Enough layers and widths that all kinds of matrices have groups.
WIDE = small.config(
    d_model=64,
    layers=3,
    dense_layers=1,
    dense_ffn=160,
    expert_ffn=48,
    attention=MLAConfig(heads=4, q_lora=32, kv_lora=32, nope_dim=16, rope_dim=16, v_dim=40),
)
DENSE = dataclasses.replace(
    WIDE,
    layers=2,
    dense_layers=2,
    expert_ffn=0,
    shared_experts=0,
    router=None,
    tied_head=True,
    attention=GQAConfig(heads=4, kv_heads=2, head_dim=48, qkv_bias=True),
)


def kept(model, how, seed=0):
    model = dataclasses.replace(model, param_dtype=how)
    return model, keep_weights(small.weights(model, seed), model)


def arrays(weights):
    """The arrays that the forms stand for."""
    is_form = lambda a: isinstance(a, Quantised)  # noqa: E731
    return jax.tree.map(lambda a: dense(a, jnp.float32), weights, is_leaf=is_form)


def slow(w, form):
    """(integers, scales) group by group, in float64."""
    low, high = form.range
    first = w.ndim - form.inputs - form.outputs
    lead, outs = w.shape[:first], w.shape[w.ndim - form.outputs :]
    flat = np.float64(w).reshape(int(np.prod(lead)), -1, int(np.prod(outs)))
    q = np.zeros_like(flat)
    groups = flat.shape[1] // form.group
    scales = np.zeros((flat.shape[0], groups, flat.shape[2]))
    for i in range(flat.shape[0]):
        for g in range(groups):
            for o in range(flat.shape[2]):
                part = flat[i, g * form.group : (g + 1) * form.group, o]
                scale = float(jnp.asarray(abs(part).max() / ((high - low) / 2), form.scale_dtype))
                scales[i, g, o] = scale
                for j, x in enumerate(part):
                    q[i, g * form.group + j, o] = min(max(round(x / scale), low), high)
    return q.reshape(w.shape), scales.reshape(*lead, groups, *outs)


FORMS = [
    ((48, 5), Form(8, 48, 1, 1)),
    ((48, 3, 4), Form(4, 16, 1, 2)),
    ((3, 32, 6), Form(4, 32, 2, 1)),  # a group ends within no head
    ((2, 64, 7), Form(4, 32, 1, 1)),  # experts lead
    ((11, 32), Form(8, 32, 1, 0)),  # an embedding
]


@pytest.mark.parametrize(("shape", "form"), FORMS)
def test_rounding_is_that_of_a_slow_loop(shape, form):
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = nearest(jnp.asarray(w), form)
    integers, scales = slow(w, form)
    np.testing.assert_allclose(np.float64(found.scale), scales, rtol=1e-6)
    # float32 may round a half (as the largest is) to the other side than float64.
    assert np.mean(np.asarray(found.integers, np.int32) != integers) < 0.04
    assert abs(np.asarray(found.integers, np.int32) - integers).max() <= 1
    error = abs(np.asarray(found.dense(jnp.float32)) - w)
    first = w.ndim - form.inputs - form.outputs
    step = np.repeat(scales, form.group, axis=first).reshape(shape)
    assert np.all(error <= 1.01 * step)


def test_zeros_stay_zeros():
    found = nearest(jnp.zeros((32, 4)), Form(4, 16, 1, 1))
    assert not np.any(found.dense(jnp.float32))


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("with_zero", [False, True])
@pytest.mark.parametrize(("shape", "inputs", "group"), [
    ((64, 10), 1, 64), ((64, 10), 1, 16), ((64, 2, 5), 1, 16), ((4, 16, 9), 2, 32),
])  # fmt: skip
def test_products_are_those_of_the_array(count, with_zero, shape, inputs, group):
    """Whatever rows there are: few and many take different ways."""
    rng = np.random.default_rng(1)
    outputs = len(shape) - inputs
    w = nearest(jnp.asarray(rng.normal(size=shape), jnp.float32), Form(4, group, inputs, outputs))
    if with_zero:
        w = w.replace(zero=jnp.asarray(rng.integers(-8, 8, w.scale.shape), jnp.int8))
    x = jnp.asarray(rng.normal(size=(count, *shape[:inputs])), jnp.float32)
    want = np.tensordot(np.float64(x), np.float64(w.dense(jnp.float32)), inputs)
    np.testing.assert_allclose(multiply(x, w, inputs), want, rtol=1e-4, atol=1e-3)
    half = multiply(x.astype(jnp.bfloat16), w, inputs)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(half), want, rtol=0.05, atol=0.05 * abs(want).max())


def test_the_gradient_of_x_is_that_of_the_array():
    rng = np.random.default_rng(2)
    w = nearest(jnp.asarray(rng.normal(size=(32, 6)), jnp.float32), Form(4, 16, 1, 1))
    for count in (2, 40):
        x = jnp.asarray(rng.normal(size=(count, 32)), jnp.float32)
        got = jax.grad(lambda x: jnp.sum(multiply(x, w) ** 2))(x)
        want = jax.grad(lambda x: jnp.sum((x @ w.dense(jnp.float32)) ** 2))(x)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_an_embedding_is_looked_up_and_tied():
    w = np.random.default_rng(3).normal(size=(11, 32)).astype(np.float32)
    form = nearest(jnp.asarray(w), Form(8, 32, 1, 0))
    whole = np.asarray(form.dense(jnp.float32))
    index = jnp.array([[3, 0], [10, 3]])
    np.testing.assert_array_equal(rows(form, index, jnp.float32), whole[np.asarray(index)])
    x = np.random.default_rng(4).normal(size=(2, 32)).astype(np.float32)
    got = multiply32(jnp.asarray(x), transposed(form))
    np.testing.assert_allclose(got, x @ whole.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["int8", "int4"])
@pytest.mark.parametrize("model", [WIDE, DENSE], ids=["mla_moe", "gqa"])
def test_a_model_is_that_of_its_arrays(model, how):
    model, weights = kept(model, how)
    kinds = {type(a) for a in jax.tree.leaves(weights, is_leaf=lambda a: isinstance(a, Quantised))}
    assert Quantised in kinds
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 16, (2, 12)))
    got, _ = small.logits(weights, tokens, model)
    want, _ = small.logits(arrays(weights), tokens, model)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    exact, _ = small.logits(small.weights(model), tokens, model)
    assert abs(np.asarray(got - exact)).max() > 1e-5  # it is not the float32 model


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("model", [WIDE, DENSE], ids=["mla_moe", "gqa"])
def test_the_engine_draws_what_its_arrays_draw(model, scan):
    """Prefill, decoding, the head: greedily, of layers scanned or not."""
    model, weights = kept(dataclasses.replace(model, scan_layers=scan), "int8")
    plain = dataclasses.replace(model, param_dtype="float32")
    mesh = sharding.make_mesh("1")
    sampling = SamplingConfig(temperature=0.0, max_prompt=8, max_tokens=8, slots=4, refill=4)
    asked = [Request([1, 2, 3 + i], i, 0) for i in range(3)]

    def drawn(model, weights):
        engine = Engine(model, sampling, mesh, [0])
        completions, _ = engine.generate(weights, asked, jax.random.key(0))
        return [c.tokens.tolist() for c in completions], [c.logps for c in completions]

    got, want = drawn(model, weights), drawn(plain, arrays(weights))
    assert got[0] == want[0]
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_on_a_mesh_it_is_the_same():
    model, weights = kept(WIDE, "int4")
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 16, (8, 12)))

    @jax.jit
    def scored(weights, tokens):
        hidden = forward(weights, tokens, model).hidden_BTD
        return log_probs(weights.params, hidden[:, :-1], tokens[:, 1:], model)[0]

    want = scored(weights, tokens)
    mesh = sharding.make_mesh("2x4")
    placed = jax.device_put(weights, sharding.shardings(kept_specs(model), mesh))
    with jax.set_mesh(mesh):
        got = scored(placed, tokens)
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_bytes_are_those_of_the_arrays():
    """int4 is half a byte, which the `nbytes` of JAX says not."""
    for model in (WIDE, DENSE):
        for how in ("float32", "bfloat16", "int8", "int4"):
            model = dataclasses.replace(model, param_dtype=how)
            like = abstract_weights(model)
            by_hand = 0
            specs = weight_specs(model)
            for spec in jax.tree.leaves(specs.params, is_leaf=sharding.is_spec):
                n, form = int(np.prod(spec.shape)), form_of(spec, how)
                if form is None:
                    by_hand += n * (2 if how == "bfloat16" else 4)  # else of what is computed in
                else:
                    scales = n // form.group * (4 if form.bits == 8 else 2)
                    by_hand += n * form.bits // 8 + scales
            if specs.router_bias_LE is not None:
                by_hand += 4 * int(np.prod(specs.router_bias_LE.shape))
            assert nbytes(like) == by_hand


def test_a_random_model_is_born_in_its_form():
    model = dataclasses.replace(DENSE, param_dtype="int4")
    made = random_weights(model, sharding.make_mesh("1"), jax.random.key(0))
    shapes = [
        [(a.shape, a.dtype) for a in jax.tree.leaves(t)] for t in (made, abstract_weights(model))
    ]
    assert shapes[0] == shapes[1]


def test_which_weights_are_meant():
    stored = dataclasses.replace(DENSE, dtype="bfloat16", param_dtype="bfloat16")
    assert drawn_as(stored, "stored", "stored") == stored
    as_is = dataclasses.replace(stored, param_dtype="stored")
    assert drawn_as(as_is, "float32", "stored").param_dtype == "stored"
    for dtype, weights, want in (
        ("float32", "stored", ("float32", "float32")),
        ("stored", "bf16", ("bfloat16", "bfloat16")),
        ("float32", "int4", ("float32", "int4")),
        ("stored", "int8", ("bfloat16", "int8")),
    ):
        found = drawn_as(stored, dtype, weights)
        assert (found.dtype, found.param_dtype) == want
    with pytest.raises(InputError, match="--weights=bf16"):
        drawn_as(stored, "float32", "bf16")
