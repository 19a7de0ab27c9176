"""A checkpoint of two billion parameters onto eight devices, by the memory that it takes."""

import json
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from checkpoints import DEEPSEEK

from r1jax import sharding
from r1jax.hub import read_config
from r1jax.hub.files import Writer
from r1jax.hub.names import tensors
from r1jax.model.params import weight_specs

CONFIG = DEEPSEEK | {
    "vocab_size": 40_000,
    "hidden_size": 1024,
    "intermediate_size": 8192,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 13,
    "q_lora_rank": 512,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "n_routed_experts": 64,
    "num_nextn_predict_layers": 0,
    "torch_dtype": "bfloat16",
}
LIMIT = 1.25

LOAD = """
import jax, sys
jax.config.update("jax_platforms", "cpu")
from r1jax import hub, sharding
mesh = sharding.make_mesh(sys.argv[2])
model = hub.read_config(sys.argv[1])
weights = jax.block_until_ready(hub.load_weights(sys.argv[1], model, mesh, progress=False))
print(float(weights.params.moe.ffn.up_EDF[3, 5, 7, 11]), open("/proc/self/status").read())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random values, repeated: what a file holds does not change what reading it takes."""
    folder = tmp_path_factory.mktemp("two-billion")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names = {t.name: t.shape for t in tensors(read_config(folder))}
    block = np.random.default_rng(0).normal(size=2**20).astype(ml_dtypes.bfloat16)
    dtype = block.dtype
    writer = Writer(
        folder / "model.safetensors", [(name, dtype, shape) for name, shape in names.items()]
    )
    for name, shape in names.items():
        writer.write(name, np.resize(block, shape))
    writer.close()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["2x4", "8x1", "1x8"])
def test_peak_memory_stays_near_the_model(folder, mesh, capsys):
    parameters = sharding.count(weight_specs(read_config(folder)).params)
    assert parameters > 2e9
    args = [sys.executable, "-c", LOAD, str(folder), mesh]
    said = subprocess.run(args, capture_output=True, text=True, check=True).stdout
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", said)[1])
    model = 2 * parameters
    with capsys.disabled():
        print(f"\nmesh {mesh}: peak {peak / 2**30:.2f} GiB, {peak / model:.3f} of the model's size")
    assert peak < LIMIT * model
