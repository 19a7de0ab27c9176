"""GPTQ against rounding to the nearest, and against its own algorithm in plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax.architecture import GQAConfig, MLAConfig
from r1jax.calibrate import DAMPING, calibrated, fitted_to
from r1jax.checks import InputError
from r1jax.model.matrices import Quantised
from r1jax.model.quantise import Form, abstract_weights, keep_weights, nearest

MOE = small.config(
    d_model=32,
    layers=3,
    dense_layers=1,
    dense_ffn=96,
    expert_ffn=32,
    attention=MLAConfig(heads=2, q_lora=32, kv_lora=32, nope_dim=16, rope_dim=16, v_dim=16),
)
GQA = dataclasses.replace(
    MOE,
    layers=2,
    dense_layers=2,
    router=None,
    shared_experts=0,
    attention=GQAConfig(heads=2, kv_heads=1, head_dim=32, qkv_bias=True),
)


def correlated(rng, rows, width):
    return rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) / np.sqrt(width)


def one_by_one(w, h, form):
    """Algorithm 1 without blocks, in float64: an input after the other."""
    low, high = form.range
    k = len(h)
    w = np.float64(w).reshape(k, -1).copy()
    h = np.float64(h) + DAMPING * np.mean(np.diag(h)) * np.eye(k)
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    q, scales = np.zeros_like(w), []
    for i in range(k):
        if i % form.group == 0:
            most = abs(w[i : i + form.group]).max(axis=0) / ((high - low) / 2)
            scale = np.float64(np.asarray(jnp.asarray(most, form.scale_dtype), np.float32))
            scales.append(scale)
        q[i] = np.clip(np.round(w[i] / scale), low, high)
        error = (w[i] - q[i] * scale) / u[i, i]
        w[i + 1 :] -= np.outer(u[i, i + 1 :], error)
    return q, np.array(scales)


@pytest.mark.parametrize("form", [Form(4, 32, 1, 1), Form(4, 16, 1, 1), Form(8, 96, 1, 1)])
def test_it_is_the_papers_algorithm(form):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(96, 10)), correlated(rng, 300, 96)
    h = x.T @ x
    found = fitted_to(jnp.asarray(w, jnp.float32), jnp.asarray(h, jnp.float32), form)
    q, scales = one_by_one(w, h, form)
    # A rounding that float32 decides the other way is made up for, and changes those after it.
    assert np.mean(np.asarray(found.integers, np.int32) == q) > 0.9
    np.testing.assert_allclose(np.float64(found.scale)[0], scales[0], rtol=1e-2)


@pytest.mark.parametrize("form", [Form(4, 32, 1, 2), Form(4, 64, 1, 2), Form(8, 64, 1, 2)])
def test_what_it_makes_of_its_inputs_changes_less(form):
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(64, 3, 5)), correlated(rng, 400, 64)
    h = jnp.asarray(x.T @ x, jnp.float32)

    def error(found):
        whole = np.asarray(found.dense(jnp.float32)).reshape(64, -1)
        return np.linalg.norm(x @ (whole - w.reshape(64, -1)))

    w32 = jnp.asarray(w, jnp.float32)
    assert error(fitted_to(w32, h, form)) < 0.85 * error(nearest(w32, form))


def test_inputs_that_are_never_seen_are_no_error():
    w = jnp.asarray(np.random.default_rng(2).normal(size=(32, 4)), jnp.float32)
    found = fitted_to(w, jnp.zeros((32, 32)), Form(4, 16, 1, 1))
    np.testing.assert_array_equal(found.integers, nearest(w, Form(4, 16, 1, 1)).integers)


@pytest.mark.parametrize("model", [MOE, GQA], ids=["moe", "gqa"])
def test_a_model_is_nearer_to_itself(model):
    """On samples that it was not fitted to; in the form that the model is kept in."""
    model = dataclasses.replace(model, param_dtype="int4")
    weights = small.weights(model)
    rng = np.random.default_rng(0)
    # Tokens that are not alike often, so that inputs have directions.
    samples = rng.choice(16, size=(48, 32), p=np.arange(1, 17) ** 2 / np.sum(np.arange(1, 17) ** 2))
    fitted = calibrated(weights, model, samples[:32])
    form = jax.tree.map(lambda a: (a.shape, a.dtype), fitted)
    assert form == jax.tree.map(lambda a: (a.shape, a.dtype), abstract_weights(model))
    tokens = jnp.asarray(samples[32:])
    want, _ = small.logits(weights, tokens, model)

    def error(w):
        return float(jnp.mean(jnp.square(small.logits(w, tokens, model)[0] - want)))

    assert error(fitted) < 0.9 * error(keep_weights(weights, model))
    stack = fitted.params.dense
    assert isinstance(stack.ffn.down_FD, Quantised)


def test_only_what_is_kept_in_bits_is_fitted():
    with pytest.raises(InputError, match="param_dtype=float32"):
        calibrated(small.weights(GQA), GQA, np.zeros((1, 4), np.int32))
