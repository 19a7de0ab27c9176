"""How a model is trained by its size, and the line that says so."""

import dataclasses

import pytest

from r1jax.architecture import HOW_IT_RUNS
from r1jax.models import size, to_train
from r1jax.published import r1_distill_qwen_1_5b, tiny


def test_a_large_model_saves_memory_and_says_how():
    stored = dataclasses.replace(r1_distill_qwen_1_5b(), remat="none", logits_chunk=0)
    model = to_train(dataclasses.replace(stored, dtype="float32", param_dtype="bfloat16"))
    assert size(model) == (
        "1,777,088,000 parameters, computing in bfloat16, rematerialisation full, logits of 128 "
        "positions at a time"
    )
    changed = {name for name in HOW_IT_RUNS if getattr(model, name) != getattr(stored, name)}
    assert changed <= {"dtype", "param_dtype", "remat", "logits_chunk", "scan_layers"}
    assert model.param_dtype == "float32" and model.scan_layers


@pytest.mark.parametrize("layers, scanned", [(2, False), (9, True)])
def test_a_small_one_is_trained_as_it_is(layers, scanned):
    stored = dataclasses.replace(tiny(), layers=layers, param_dtype="bfloat16")
    assert to_train(stored) == dataclasses.replace(
        stored, param_dtype="float32", scan_layers=scanned
    )
    assert size(tiny()) == "167,904 parameters"
