"""Two processes of four devices read a checkpoint as one mesh, and write it again."""

import socket
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import DEEPSEEK, deepseek_shapes, random_values, write
from safetensors.numpy import load_file

PROCESS = """
import jax, sys
port, rank, source, out = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(rank))
from pathlib import Path
from r1jax import hub, sharding
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
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    args = [sys.executable, "-c", PROCESS, port]
    places = [str(source), str(tmp_path / "out")]
    running = [subprocess.Popen([*args, rank, *places]) for rank in "01"]
    assert [process.wait(300) for process in running] == [0, 0]
    files = (tmp_path / "out").glob("*.safetensors")
    again = {name: value for file in files for name, value in load_file(file).items()}
    assert again.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(again[name], value)
