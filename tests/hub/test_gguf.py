"""Models from GGUF files: each number is what the file's rounding left, at its own place."""

import json
import shutil

import jax
import numpy as np
import pytest

from r1jax import hub, sharding
from r1jax.checks import InputError
from r1jax.hub.names import tensors

pytest.importorskip("gguf", reason="gguf absent: pip install -e '.[gguf]'")
import checkpoints
import gguf
from gguf_file import LLAMA, QWEN2, QWEN3, TIED, rounded, write_gguf

Form = gguf.GGMLQuantizationType
CONFIGS = {"llama": LLAMA, "tied": TIED, "qwen2": QWEN2, "qwen3": QWEN3}


def folder_of(path, config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


def values_of(folder):
    named = {tensor.name: tensor.shape for tensor in tensors(hub.read_config(folder))}
    return checkpoints.random_values(named)


def load(folder, mesh="1"):
    model = hub.read_config(folder)
    return hub.load_weights(folder, model, sharding.make_mesh(mesh), progress=False)


def refusal(folder):
    with pytest.raises(InputError) as raised:
        load(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def written(tmp_path):
    folder = folder_of(tmp_path / "model", LLAMA)
    values = values_of(folder)
    write_gguf(folder / "model.gguf", LLAMA, values, Form.Q8_0)
    return folder, values


@pytest.mark.parametrize("form", [Form.F32, Form.F16, Form.BF16, Form.Q8_0, Form.Q4_0, Form.Q5_1])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_file_is_the_checkpoint_that_its_rounding_left(kind, form, tmp_path):
    config = CONFIGS[kind]
    folder = folder_of(tmp_path / "gguf", config)
    values = values_of(folder)
    write_gguf(folder / "model.gguf", config, values, form)
    left = {name: rounded(value, form) for name, value in values.items()}
    plain = checkpoints.write(tmp_path / "plain", config, left)
    for mesh in ("1", "2x4") if form == Form.Q8_0 else ("1",):  # a part of the rows is read
        jax.tree.map(np.testing.assert_array_equal, load(folder, mesh), load(plain))


def test_a_split_file(written):
    folder, values = written
    whole = load(folder)
    (folder / "model.gguf").unlink()
    for part in range(2):
        some = dict(list(values.items())[part::2])
        write_gguf(folder / f"m-0000{part + 1}-of-00002.gguf", LLAMA, some, Form.Q8_0)
    jax.tree.map(np.testing.assert_array_equal, load(folder), whole)


def test_two_models_in_one_folder(written):
    folder, _ = written
    shutil.copy(folder / "model.gguf", folder / "other.gguf")
    assert "other.gguf: tensor token_embd.weight is in another file" in refusal(folder)


def test_a_model_that_is_not_the_files(written, tmp_path):
    folder, _ = written
    (folder / "config.json").write_text(json.dumps(QWEN2))
    assert "it is of llama, config.json of qwen2" in refusal(folder)
    (folder / "config.json").write_text(json.dumps(LLAMA | {"num_hidden_layers": 1}))
    assert "the model has no place for tensor blk.1." in refusal(folder)
    (folder / "config.json").write_text(json.dumps(LLAMA | {"num_hidden_layers": 3}))
    assert "tensor model.layers.2.input_layernorm.weight is missing" in refusal(folder)
    (folder / "config.json").write_text(json.dumps(LLAMA | {"intermediate_size": 96}))
    assert "has shape [160, 64], config.json gives it [96, 64]" in refusal(folder)
    (folder / "config.json").write_text(json.dumps(checkpoints.DEEPSEEK))
    assert "GGUF of deepseek_v3 is not read" in refusal(folder)


@pytest.mark.parametrize("bytes_left", [0, 10, 200, 20_000])
def test_a_torn_file(written, bytes_left):
    folder, _ = written
    file = folder / "model.gguf"
    file.write_bytes(file.read_bytes()[:bytes_left])
    assert "model.gguf: not a GGUF file, or cut off" in refusal(folder)
