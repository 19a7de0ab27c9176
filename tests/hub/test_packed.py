"""Checkpoints in 4 and 8 bits, packed here number by number as their formats are described: what
is read is what they stand for, and stays in as many bits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import DEEPSEEK, QWEN2, deepseek_shapes, qwen2_shapes, random_values, write
from safetensors.numpy import load_file

from r1jax import sharding
from r1jax.checks import InputError
from r1jax.hub import load_weights, read_config, save_model
from r1jax.hub.packed import pack, unpack
from r1jax.model.matrices import Quantised, dense

# Widths that eight divide, and groups.
SIZES = {"hidden_size": 48, "intermediate_size": 64}
SMALL = {**QWEN2, **SIZES, "head_dim": 8}


def resized(shapes, qwen2):
    """Of config.json with SIZES."""
    to = {44: 48, 52: 64} | ({24: 32, 12: 16} if qwen2 else {})
    found = {n: tuple(to.get(k, k) for k in shape) for n, shape in shapes.items()}
    return found | {n: (48, 96) for n in shapes if n.endswith("eh_proj.weight")}


def words_along_rows(q, bits):
    """[n, m] from 0 up -> int32 [n, m bits / 32]: number j of a word stands `bits * j` up."""
    each = 32 // bits
    out = np.zeros((q.shape[0], -(-q.shape[1] // each)), np.uint64)
    for r in range(q.shape[0]):
        for c in range(q.shape[1]):
            out[r, c // each] += int(q[r, c]) << (bits * (c % each))
    return out.astype(np.uint32).view(np.int32)


def compressed(name, q, s, z, bits):
    """pack-quantized: weights along inputs, zero points along outputs, both from -2^(bits-1)."""
    half = 2 ** (bits - 1)
    stem = name.removesuffix("weight")
    found = {
        f"{stem}weight_packed": words_along_rows(q + half, bits),
        f"{stem}weight_scale": s,
        f"{stem}weight_shape": np.array(q.shape, np.int64),
    }
    if z is not None:
        found[f"{stem}weight_zero_point"] = words_along_rows((z + half).T, bits).T.copy()
    return found


def integers(name, q, s, z, bits):
    """int-quantized: a byte a number."""
    found = {name: q.astype(np.int8), name.removesuffix("weight") + "weight_scale": s}
    if z is not None:
        found[name.removesuffix("weight") + "weight_zero_point"] = z.astype(np.int8)
    return found


def gptq(name, q, s, z, bits, index=None, zeros_from=1):
    """Inputs along the words' rows, outputs along their columns; zero points one too low."""
    half, stem = 2 ** (bits - 1), name.removesuffix("weight")
    zero = (np.zeros_like(s, int) if z is None else z) + half - zeros_from
    size = q.shape[1] // s.shape[1]
    order = np.arange(q.shape[1]) // size if index is None else index
    return {
        f"{stem}qweight": words_along_rows(q + half, bits).T.copy(),
        f"{stem}scales": s.T.astype(np.float16),
        f"{stem}qzeros": words_along_rows(zero.T, bits),
        f"{stem}g_idx": order.astype(np.int32),
    }


def awq(name, q, s, z, bits):
    """Inputs a row, outputs eight a word, in the order 0 2 4 6 1 3 5 7."""
    stem = name.removesuffix("weight")

    def words(a):
        out = np.zeros((a.shape[0], a.shape[1] // 8), np.uint64)
        for i in range(a.shape[1] // 8):
            for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                out[:, i] += a[:, 8 * i + column].astype(np.uint64) << np.uint64(4 * place)
        return out.astype(np.uint32).view(np.int32)

    zero = np.zeros_like(s, int) if z is None else z
    return {
        f"{stem}qweight": words((q + 8).T),
        f"{stem}qzeros": words((zero + 8).T),
        f"{stem}scales": s.T.astype(np.float16),
    }


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": True, "desc_act": False}
CASES = {
    "pack-quantized 4": (compressed, 4, 16, False, {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]}),
    "pack-quantized 4, zero points": (compressed, 4, 16, True, {
        "quant_method": "compressed-tensors", "format": "pack-quantized"}),
    "pack-quantized 8": (compressed, 8, 0, False, {
        "quant_method": "compressed-tensors", "format": "pack-quantized"}),
    "int-quantized": (integers, 8, 0, False, {
        "quant_method": "compressed-tensors", "format": "int-quantized"}),
    "int-quantized, zero points": (integers, 8, 0, True, {
        "quant_method": "compressed-tensors", "format": "int-quantized"}),
    "gptq": (gptq, 4, 16, False, GPTQ),
    "gptq, zero points": (gptq, 4, 16, True, GPTQ),
    "gptq 8": (gptq, 8, 16, True, GPTQ | {"bits": 8}),
    "awq": (awq, 4, 16, True, {"quant_method": "awq", "bits": 4, "version": "gemm"}),
}  # fmt: skip


def make(folder, case, base=SMALL, shapes=None, **more):
    """A checkpoint whose projections are packed, and what every tensor stands for."""
    packer, bits, group, with_zero, quantization = CASES[case]
    values = random_values(resized(shapes or qwen2_shapes(), shapes is None))
    rng, tensors, meant = np.random.default_rng(5), {}, {}
    for name, value in values.items():
        if not name.endswith("_proj.weight") or name.endswith("eh_proj.weight"):
            tensors[name] = meant[name] = value
            continue
        out, inputs = value.shape
        groups = inputs // group if group and inputs % group == 0 else 1
        half = 2 ** (bits - 1)
        q = rng.integers(-half, half, (out, inputs))
        s = rng.uniform(0.01, 0.1, (out, groups)).astype(np.float16).astype(np.float32)
        z = rng.integers(-half + 1, half, (out, groups)) if with_zero else None
        tensors |= packer(name, q, s, z, bits, **more)
        index = more.get("index", lambda n, g: np.arange(n) // (n // g))
        index = index(inputs, groups) if callable(index) else index
        meant[name] = ((q - (0 if z is None else z[:, index])) * s[:, index]).astype(np.float32)
    config = {**base, **SIZES, "quantization_config": quantization}
    return write(folder, config, tensors), meant


def loaded(folder, mesh="1", **how):
    model = dataclasses.replace(read_config(folder), **how)
    return model, load_weights(folder, model, sharding.make_mesh(mesh), progress=False)


def whole(tree):
    is_form = lambda a: isinstance(a, Quantised)  # noqa: E731
    return jax.tree.map(lambda a: np.asarray(dense(a, jnp.float32)), tree, is_leaf=is_form)


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_is_what_it_stands_for(case, tmp_path):
    bits = CASES[case][1]
    folder, meant = make(tmp_path / "packed", case)
    plain = write(tmp_path / "plain", SMALL, meant)
    _, want = loaded(plain)
    model, got = loaded(folder)
    assert model.param_dtype == "stored" and model.dtype == "float32"
    gate = got.params.dense.ffn.gate_DF
    assert gate.integers.dtype == (jnp.int4 if bits == 4 else jnp.int8)
    assert (gate.zero is not None) == CASES[case][3]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole(got), whole(want))
    # For training it is arrays.
    _, dequantised = loaded(folder, param_dtype="float32")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), dequantised, want)


@pytest.mark.parametrize("case", ["pack-quantized 4, zero points", "pack-quantized 8"])
def test_experts_and_latent_attention_on_a_mesh(case, tmp_path):
    folder, meant = make(tmp_path / "packed", case, DEEPSEEK, deepseek_shapes())
    plain = write(tmp_path / "plain", {**DEEPSEEK, **SIZES}, meant)
    _, want = loaded(plain)
    _, got = loaded(folder, "2x4")
    assert isinstance(got.params.moe.ffn.up_EDF, Quantised)
    assert isinstance(got.params.moe.attention.kv_b_CHY, Quantised)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole(got), whole(want))


def test_groups_in_any_order_become_arrays(tmp_path):
    """GPTQ's act-order."""
    rng = np.random.default_rng(0)
    orders = {}

    def index(n, groups):
        return orders.setdefault((n, groups), rng.permutation(np.arange(n) // (n // groups)))

    def in_order(name, q, s, z, bits, index):
        return gptq(name, q, s, z, bits, index(q.shape[1], s.shape[1]))

    CASES["act-order"] = (in_order, 4, 16, True, GPTQ | {"desc_act": True})
    folder, meant = make(tmp_path / "packed", "act-order", index=index)
    del CASES["act-order"]
    _, want = loaded(write(tmp_path / "plain", SMALL, meant))
    _, got = loaded(folder)
    assert not isinstance(got.params.dense.ffn.gate_DF, Quantised)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole(got), whole(want))


def test_the_second_format_of_gptq_stores_zeros_as_they_are(tmp_path):
    folder, meant = make(tmp_path / "packed", "gptq, zero points", zeros_from=0)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    file.write_text(json.dumps(config))
    _, want = loaded(write(tmp_path / "plain", SMALL, meant))
    _, got = loaded(folder)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole(got), whole(want))


def test_what_is_plain_is_rounded_where_that_is_asked(tmp_path):
    folder, _ = make(tmp_path / "packed", "pack-quantized 4")
    _, as_stored = loaded(folder)
    _, got = loaded(folder, param_dtype="int4")
    assert not isinstance(as_stored.params.embed_VD, Quantised)
    assert got.params.embed_VD.integers.dtype == jnp.int8
    a, b = as_stored.params.dense.ffn.gate_DF, got.params.dense.ffn.gate_DF
    np.testing.assert_array_equal(a.integers, b.integers)
    # int8 of a folder that has four bits stays in four.
    _, eight = loaded(folder, param_dtype="int8")
    assert eight.params.dense.ffn.gate_DF.integers.dtype == jnp.int4


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_is_the_inverse_of_unpacking(bits):
    q = np.random.default_rng(0).integers(0, 2**bits, (3, 16))
    np.testing.assert_array_equal(pack(q, bits), words_along_rows(q, bits))
    np.testing.assert_array_equal(unpack(pack(q, bits), bits), q)
    odd = q[:, :13]
    np.testing.assert_array_equal(unpack(pack(odd, bits), bits)[:, :13], odd)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quant_method": "bitsandbytes"}, "quant_method 'bitsandbytes' is not supported"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "format 'marlin-24'"),
        ({"quant_method": "gptq", "bits": 3}, "bits=3 is not read"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version 'gemv'"),
        ({"quant_method": "gptq", "bits": 4}, "_proj.weight is missing"),
    ],
)
def test_other_forms_are_refused_by_name(change, said, tmp_path):
    folder, _ = make(tmp_path / "packed", "pack-quantized 4")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": change}))
    with pytest.raises(InputError, match=said):
        loaded(folder)


def test_parts_that_do_not_fit_are_named(tmp_path):
    folder, _ = make(tmp_path / "packed", "pack-quantized 4")
    packed = {}
    for file in folder.glob("*.safetensors"):
        packed |= load_file(file)
        file.unlink()
    name = "model.layers.1.mlp.up_proj.weight_packed"
    packed[name] = packed[name][:, :3].copy()
    write_again = json.loads((folder / "config.json").read_text())
    with pytest.raises(InputError, match=r"layers.1.mlp.up_proj.weight_packed has shape \[64, 3\]"):
        loaded(write(tmp_path / "again", write_again, packed))


@pytest.mark.parametrize("how", ["int4", "int8"])
@pytest.mark.parametrize("base", ["qwen2", "deepseek"])
def test_what_is_written_is_packed_as_others_pack_it(base, how, tmp_path):
    """And reads back as the same integers and scales."""
    shapes, config = (
        (qwen2_shapes(), SMALL) if base == "qwen2" else (deepseek_shapes(), {**DEEPSEEK, **SIZES})
    )
    folder = write(tmp_path / "plain", config, random_values(resized(shapes, base == "qwen2")))
    model, weights = loaded(folder, param_dtype=how)
    out = save_model(weights, model, tmp_path / "out", dtype="float32")
    again, got = loaded(out)
    assert again.param_dtype == "stored"
    is_form = lambda a: isinstance(a, Quantised)  # noqa: E731
    for a, b in zip(*(jax.tree.leaves(w, is_leaf=is_form) for w in (weights, got)), strict=True):
        if is_form(b):
            np.testing.assert_array_equal(a.integers, b.integers)
            np.testing.assert_array_equal(a.scale, b.scale)
        else:
            np.testing.assert_array_equal(dense(a, jnp.float32), b)
    stored = load_file(out / "model.safetensors")
    at, bits = "model.layers.1.self_attn.o_proj.weight", int(how[-1])
    form = (weights.params.dense if base == "qwen2" else weights.params.moe).attention
    form = form.out_HXD if base == "qwen2" else form.out_HUD
    q = np.asarray(form.integers[1 if base == "qwen2" else 0], np.int32)
    q = q.reshape(-1, q.shape[-1]).T
    want = words_along_rows(q + 2 ** (bits - 1), bits)
    np.testing.assert_array_equal(stored[f"{at}_packed"], want)
    np.testing.assert_array_equal(stored[f"{at}_shape"], q.shape)
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    assert said["config_groups"]["group_0"]["weights"]["num_bits"] == bits
