"""Side by side with Transformers in one process: needs the parity extra."""

import functools
import json

import families
import jax
import pytest

from r1jax import hub, sharding
from r1jax.model.head import unembed
from r1jax.model.transformer import forward

pytest.importorskip("torch", reason="torch absent: pip install -e '.[parity]'")
pytest.importorskip("transformers", reason="transformers absent: pip install -e '.[parity]'")
import reference
from test_golden import TOLERANCE, golden

FAMILIES = list(families.CONFIGS)


@functools.partial(jax.jit, static_argnames="cfg")
def run(weights, tokens_BT, cfg):
    out = forward(weights, tokens_BT, cfg)
    return unembed(weights.params, out.hidden_BTD, cfg)


def load(folder):
    """(weights, config) of a directory, on one device."""
    model = hub.read_config(folder)
    return hub.load_weights(folder, model, sharding.make_mesh("1"), progress=False), model


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_agree_and_golden_files_are_of_this_transformers(family, tmp_path):
    folder = families.write(tmp_path / family, families.CONFIGS[family])
    weights, model = load(folder)
    tokens = families.row(family)
    theirs = reference.logits(reference.load(folder), tokens)
    assert families.relative(run(weights, tokens, model), theirs) < TOLERANCE
    assert families.relative(golden(family)["logits_TV"], theirs[0]) < TOLERANCE / 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_what_transformers_loads(family, dtype, tmp_path):
    """No key missing or too many (reference.load asserts it), and the same logits."""
    weights, model = load(families.write(tmp_path / "in", families.CONFIGS[family]))
    out = hub.save_model(weights, model, tmp_path / "out", dtype=dtype)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == dtype
    stored = jax.tree.map(lambda a: a.astype(dtype).astype("float32"), weights)
    if weights.router_bias_LE is not None:  # always float32
        stored = stored.replace(router_bias_LE=weights.router_bias_LE)
    tokens = families.row(family, 32)
    theirs = reference.logits(reference.load(out), tokens)
    assert families.relative(run(stored, tokens, model), theirs) < TOLERANCE
