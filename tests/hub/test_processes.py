"""Two processes of four devices read a checkpoint as one mesh, and write it again."""

import numpy as np
import pytest
from checkpoints import DEEPSEEK, deepseek_shapes, random_values, write
from safetensors.numpy import load_file
from two_processes import JOINED, finish, start

PROCESS = """
from pathlib import Path
from r1jax import hub, sharding
source, out = sys.argv[1:]
model = hub.read_config(source)
weights = hub.load_weights(source, model, sharding.make_mesh("2x4"), progress=False)
assert not weights.params.embed_VD.is_fully_addressable
hub.save_model(weights, model, out, dtype="float32", shard_bytes=50_000)
assert (Path(out) / "config.json").exists()
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    values = random_values(deepseek_shapes())
    source = write(tmp_path / "source", DEEPSEEK, values, files=2)
    finish(start(JOINED + PROCESS, [str(source), str(tmp_path / "out")], tmp_path / "cache"))
    files = (tmp_path / "out").glob("*.safetensors")
    again = {name: value for file in files for name, value in load_file(file).items()}
    assert again.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(again[name], value)
