"""Attention compiles for TPUs and GPUs, ahead of time, from a host that has none: a layer of V3's,
and one of a student's, with their gradients.
"""

import importlib.util
import json

import ahead
import pytest

TPU, GPU = (
    pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")
    for name in ("libtpu", "jax_cuda12_plugin")
)

PROGRAM = """
import dataclasses
import json
import re
import sys

import launch.plan  # what compilers are told before they are loaded

import jax
import jax.numpy as jnp

from launch.planning import chips, movement, targets
from r1jax import sharding
from r1jax.model import gqa, mla
from r1jax.model.params import MLA, weight_specs
from r1jax.model.transformer import place_of
from r1jax.published import MODELS

topology, mesh_text, name, rows, tokens, heads = sys.argv[1:]
rows, tokens = int(rows), int(tokens)
where = chips.topology(topology)
mesh = targets.mesh(where, mesh_text)
model = MODELS[name]()
attention = dataclasses.replace(model.attention, heads=int(heads))
model = dataclasses.replace(
    model, attention=attention, layers=1, dense_layers=1, mtp_depth=0, dense_ffn=128, router=None
)


def abstract(shape, dtype, *axes):
    where = jax.sharding.NamedSharding(mesh, sharding.partition(shape, axes, mesh))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


specs = weight_specs(model).params.dense.attention
p = jax.tree.map(
    lambda s: abstract(s.shape[1:], jnp.float32, *s.axes[1:]), specs, is_leaf=sharding.is_spec
)
at = abstract((rows, tokens), jnp.int32, "batch", "time")
x = abstract((rows, tokens, model.d_model), jnp.bfloat16, "batch", "time", None)
form = mla.attention if isinstance(p, MLA) else gqa.attention


def loss(x, p, positions, segments):
    def layer(x, p):
        return form(x, p, model, place_of(positions, segments, model), None)[0]

    return jnp.sum(jax.checkpoint(layer)(x, p).astype(jnp.float32) ** 2)


with jax.set_mesh(mesh):
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, p, at, at).compile()
memory, hlo = compiled.memory_analysis(), compiled.as_text()
kinds = "|".join(movement.COLLECTIVES)
sent = re.findall(rf"= \\(?(\\w+\\[[\\d,]*\\]).*? ({kinds})(?:-start)?\\(", hlo)
print(json.dumps({
    "kernels": len(re.findall('custom_call_target="(tpu_custom_call|[^"]*triton[^"]*)"', hlo)),
    "temporary": memory.temp_size_in_bytes,
    "arguments": memory.argument_size_in_bytes,
    "sent": sorted(set(map(" ".join, sent))),
}))
"""


def compiled(*args) -> dict:
    on_gpu = args[0].startswith(("h100", "b200"))
    autotune = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"} if on_gpu else {}
    found = json.loads(ahead.said(PROGRAM, *args, **autotune).splitlines()[-1])
    print(*args, found)
    return found


# Chips of each kind that there must be at least, as a mesh.
SMALLEST = {"v5e:2x2": "4", "v5p:2x2x1": "4", "v6e:2x2": "4", "tpu7x:2x2x1": "8"}
SLOW = [
    pytest.param(kind, marks=pytest.mark.slow) if kind != "v5p:2x2x1" else kind for kind in SMALLEST
]


@TPU
@pytest.mark.parametrize("topology", SLOW)
def test_latent_attention_compiles_for_every_tpu(topology):
    """Queries and keys of 192, values of 128: forward, again, and two kernels backward."""
    mesh = SMALLEST[topology]
    assert compiled(topology, mesh, "deepseek-v3", mesh, 1024, 16)["kernels"] >= 4


@TPU
@pytest.mark.slow
@pytest.mark.parametrize("topology", SMALLEST)
def test_grouped_attention_compiles_for_every_tpu(topology):
    mesh = SMALLEST[topology]
    found = compiled(topology, mesh, "deepseek-r1-distill-qwen-1.5b", mesh, 1024, 12)
    assert found["kernels"] >= 4


@TPU
@pytest.mark.slow
def test_a_layer_of_v3_at_32768_tokens_is_a_few_gibibytes():
    """Of which the scores of one head alone would be four."""
    found = compiled("v5p:2x2x1", "4", "deepseek-v3", 4, 32_768, 128)
    assert found["temporary"] < 6 * 2**30


@TPU
@pytest.mark.slow
def test_a_row_of_131072_tokens_over_8_chips():
    """What is sent are latents, and nothing of the width of all heads' keys or values."""
    found = compiled("v5p:2x2x2", "context=8", "deepseek-v3", 1, 131_072, 128)
    assert found["temporary"] < 9 * 2**30
    of_tokens = [s for s in found["sent"] if "131072" in s or "16384" in s]
    assert of_tokens and all("512]" in s or ",64]" in s or ",131072]" in s for s in of_tokens)


@GPU
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["h100:4", "b200:4"])
@pytest.mark.parametrize(
    "name, heads", [("deepseek-v3", 16), ("deepseek-r1-distill-qwen-1.5b", 12)], ids=["mla", "gqa"]
)
def test_attention_compiles_for_gpus(topology, name, heads):
    """Triton's kernel: forward, again, and backward, of 192 and 128 numbers filled up."""
    assert compiled(topology, "4", name, 4, 4096, heads)["kernels"] >= 3
