"""Checkpoints in: every value where it belongs, whatever the mesh; broken ones refused."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from checkpoints import (
    DEEPSEEK,
    QWEN2,
    deepseek_shapes,
    quantize,
    qwen2_shapes,
    random_values,
    write,
)
from safetensors.numpy import load_file

from r1jax import sharding
from r1jax.checks import InputError
from r1jax.hub import load_weights, read_config, save_model
from r1jax.model.params import weight_specs

HEADS, N, U = 4, 10, 12


def load(folder, mesh="1"):
    model = read_config(folder)
    return load_weights(folder, model, sharding.make_mesh(mesh), progress=False)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def stored(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    values = random_values(deepseek_shapes())
    return write(tmp_path_factory.mktemp("hub") / "v3", DEEPSEEK, values, files=3), values


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    values = random_values(qwen2_shapes())
    return write(tmp_path_factory.mktemp("hub") / "qwen2", QWEN2, values), values


def test_reading_prints_nothing_where_there_is_no_terminal(qwen2, capfd):
    load_weights(qwen2[0], read_config(qwen2[0]), sharding.make_mesh("1"))
    assert capfd.readouterr() == ("", "")


def test_where_each_tensor_goes(deepseek):
    """A few of each layout, spelled out by hand."""
    folder, v = deepseek
    w = load(folder)
    p, at = w.params, "model.layers.2.self_attn."
    np.testing.assert_array_equal(p.embed_VD, v["model.embed_tokens.weight"])
    np.testing.assert_array_equal(p.head_DV, v["lm_head.weight"].T)
    both = v[at + "kv_a_proj_with_mqa.weight"]
    np.testing.assert_array_equal(p.moe.attention.kv_a_DC[1], both[:16].T)
    np.testing.assert_array_equal(p.moe.attention.k_rope_DR[1], both[16:].T)
    kv_b = v[at + "kv_b_proj.weight"].reshape(HEADS, N + U, 16)
    np.testing.assert_array_equal(p.moe.attention.kv_b_CHY[1], kv_b.transpose(2, 0, 1))
    out = v[at + "o_proj.weight"].reshape(-1, HEADS, U)
    np.testing.assert_array_equal(p.moe.attention.out_HUD[1], out.transpose(1, 2, 0))
    down = v["model.layers.1.mlp.experts.5.down_proj.weight"]
    np.testing.assert_array_equal(p.moe.ffn.down_EFD[0, 5], down.T)
    dense = v["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(p.dense.ffn.up_DF[0], dense.T)
    np.testing.assert_array_equal(
        w.router_bias_LE,
        [v[f"model.layers.{i}.mlp.gate.e_score_correction_bias"] for i in (1, 2, 3)],
    )
    np.testing.assert_array_equal(p.mtp[0].project_ED, v["model.layers.3.eh_proj.weight"].T)
    np.testing.assert_array_equal(p.mtp[0].hidden_norm_D, v["model.layers.3.hnorm.weight"])


@pytest.mark.parametrize("mesh", ["2x4", "8", "1x8"])
@pytest.mark.parametrize("family", ["deepseek", "qwen2"])
def test_any_mesh_holds_the_same(family, mesh, request):
    folder, _ = request.getfixturevalue(family)
    alone, spread = load(folder), load(folder, mesh)
    equal(alone, spread)
    for spec, leaf in zip(
        jax.tree.leaves(weight_specs(read_config(folder)), is_leaf=sharding.is_spec),
        jax.tree.leaves(spread),
        strict=True,
    ):
        axes = sharding.partition(spec.shape, spec.axes, leaf.sharding.mesh)
        assert leaf.sharding.is_equivalent_to(
            jax.sharding.NamedSharding(leaf.sharding.mesh, axes), leaf.ndim
        )


@pytest.mark.parametrize("family", ["deepseek", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_is_bit_identical(family, dtype, request, tmp_path):
    """From bytes to shards and back; the library reads what was written."""
    folder, values = request.getfixturevalue(family)
    if dtype == "bfloat16":
        shapes = deepseek_shapes() if family == "deepseek" else qwen2_shapes()
        values = random_values(shapes, ml_dtypes.bfloat16)
        config = json.loads((folder / "config.json").read_text()) | {"torch_dtype": dtype}
        folder = write(tmp_path / "source", config, values)
    model = read_config(folder)
    assert model.param_dtype == dtype
    out = save_model(load(folder, "2x4"), model, tmp_path / "out", dtype=dtype, shard_bytes=20_000)
    again = stored(out)
    assert again.keys() == values.keys()
    for name, value in values.items():
        assert again[name].dtype == value.dtype, name
        np.testing.assert_array_equal(again[name], value)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == values.keys()
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in values.values())
    assert len(set(index["weight_map"].values())) > 2
    assert read_config(out) == model
    equal(load(out), load(folder))


def test_saving_keeps_what_is_there(qwen2, tmp_path):
    folder, _ = qwen2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(InputError, match="out: already exists"):
        save_model(load(folder), read_config(folder), tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "precious"


@pytest.mark.parametrize("mesh", ["1", "2x4"])
@pytest.mark.parametrize("block", [(128, 128), (7, 5)])
def test_fp8_blocks(block, mesh, tmp_path):
    """Odd sizes, ragged blocks and the MTP module: exactly the dequantised values."""
    rng = np.random.default_rng(1)
    plain, small = random_values(deepseek_shapes()), {}
    skipped = ("embed_tokens", "lm_head", "shared_head", "mlp.gate.weight")
    for name, value in plain.items():
        if value.ndim == 2 and not any(part in name for part in skipped):
            low, scale, plain[name] = quantize(value, rng, *block)
            small |= {name: low, f"{name}_scale_inv": scale}
        else:
            small[name] = value
    method = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(block)}
    quantized = write(tmp_path / "fp8", DEEPSEEK | {"quantization_config": method}, small, files=2)
    equal(load(quantized, mesh), load(write(tmp_path / "f32", DEEPSEEK, plain)))


def test_mtp_is_read_where_it_is(deepseek, tmp_path):
    folder, values = deepseek
    without = {n: v for n, v in values.items() if not n.startswith("model.layers.3.")}
    bare = write(tmp_path / "bare", DEEPSEEK, without)
    assert read_config(bare).mtp_depth == 0 and read_config(folder).mtp_depth == 1
    assert load(bare).params.mtp == ()


def broken(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "broken")


def refusal(folder) -> str:
    with pytest.raises(InputError) as error:
        load(folder)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_missing_shard(deepseek, tmp_path):
    folder = broken(deepseek[0], tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    message = refusal(folder)
    assert "index.json: model-00002-of-00003.safetensors is not there; it holds model." in message


def test_index_that_lies(deepseek, tmp_path):
    folder = broken(deepseek[0], tmp_path)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(index))
    assert "tensor lm_head.weight is not in model-00001-of-00003.safetensors" in refusal(folder)
    path.write_text('{"weights": 3}')
    assert "not an index of safetensors" in refusal(folder)


def test_truncated_file(qwen2, tmp_path):
    folder = broken(qwen2[0], tmp_path)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    message = refusal(folder)
    assert "model.safetensors: tensor model.layers.1." in message and "is cut off" in message
    file.write_bytes(whole[:100])
    assert "model.safetensors: not a safetensors file, or cut off" in refusal(folder)
    file.write_bytes(b"")
    assert "model.safetensors: not a safetensors file, or cut off" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.norm.weight", None, "broken: tensor model.norm.weight is missing"),
        ("model.norm.weight", np.zeros(45, np.float32), "has shape [45], config.json gives it [44"),
        ("model.norm.weight", np.zeros(44, np.int32), "tensor model.norm.weight is of type int32"),
        ("model.extra.weight", np.zeros(3, np.float32), "no place for tensor model.extra.weight"),
        (
            "model.layers.0.mlp.up_proj.weight",
            np.zeros((52, 44), "float8_e4m3fn"),
            "is FP8, but model.layers.0.mlp.up_proj.weight_scale_inv is missing",
        ),
    ],
)
def test_wrong_tensors(name, value, message, qwen2, tmp_path):
    values = {n: v for n, v in qwen2[1].items() if n != name}
    if value is not None:
        values[name] = value
    assert message in refusal(write(tmp_path / "broken", QWEN2, values))


def test_wrong_scales(qwen2, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    values = qwen2[1] | {
        name: np.zeros((52, 44), "float8_e4m3fn"),
        f"{name}_scale_inv": np.ones((2, 1), np.float32),
    }
    message = refusal(write(tmp_path / "broken", QWEN2, values))
    assert "_scale_inv has shape [2, 1], blocks of 128x128 give it [1, 1]" in message


def test_a_tensor_in_two_files(qwen2, tmp_path):
    folder = broken(qwen2[0], tmp_path)
    shutil.copyfile(folder / "model.safetensors", folder / "other.safetensors")
    assert "other.safetensors: tensor model.embed_tokens.weight is in another file" in refusal(
        folder
    )


def test_no_weights(tmp_path):
    folder = write(tmp_path / "broken", QWEN2, {"x": np.zeros(1, np.float32)})
    (folder / "model.safetensors").unlink()
    assert "broken: no *.safetensors files" in refusal(folder)
