"""config.json against the published ones."""

import dataclasses
import json

import pytest
from checkpoints import DEEPSEEK, QWEN2

from r1jax.architecture import GQAConfig, RopeConfig
from r1jax.checks import InputError
from r1jax.hub import read_config
from r1jax.hub.config import write_config
from r1jax.published import MODELS, tiny

PUBLISHED = {
    "deepseek-v3": "verbatim/DeepSeek-V3.json",
    "deepseek-r1": "verbatim/DeepSeek-R1.json",
    "deepseek-v2-lite": "reconstructed/DeepSeek-V2-Lite.json",
    "deepseek-r1-distill-qwen-1.5b": "reconstructed/DeepSeek-R1-Distill-Qwen-1.5B.json",
    "deepseek-r1-distill-qwen-7b": "reconstructed/DeepSeek-R1-Distill-Qwen-7B.json",
    "deepseek-r1-distill-qwen-14b": "reconstructed/DeepSeek-R1-Distill-Qwen-14B.json",
    "deepseek-r1-distill-qwen-32b": "reconstructed/DeepSeek-R1-Distill-Qwen-32B.json",
    "deepseek-r1-distill-llama-8b": "reconstructed/DeepSeek-R1-Distill-Llama-8B.json",
    "deepseek-r1-distill-llama-70b": "reconstructed/DeepSeek-R1-Distill-Llama-70B.json",
    "deepseek-r1-0528-qwen3-8b": "reconstructed/DeepSeek-R1-0528-Qwen3-8B.json",
}


def write(folder, values):
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def what_it_is(model):
    """Without how it runs; init_std of V3 is the report's, not its config.json's."""
    return dataclasses.replace(
        model, dtype="float32", param_dtype="float32", remat="none", logits_chunk=0, init_std=0.02
    )


@pytest.mark.parametrize("name", MODELS)
def test_presets_are_the_published_models(name, tmp_path, data_dir):
    published = json.loads((data_dir / "configs" / PUBLISHED[name]).read_text())
    read = read_config(write(tmp_path, published))
    assert what_it_is(read) == what_it_is(MODELS[name]())
    assert read.dtype == published["torch_dtype"]


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, tmp_path):
    model = MODELS[name]()
    read = read_config(write(tmp_path, write_config(model, "bfloat16")))
    assert what_it_is(read) == what_it_is(model)


def test_what_mtp_reads_is_told_and_else_the_normed_states(tmp_path):
    values = write_config(dataclasses.replace(tiny(), mtp_depth=1), "float32")
    assert read_config(write(tmp_path, values)).mtp_hidden == "unnormed"
    assert read_config(write(tmp_path, values | {"mtp_hidden": "normed"})).mtp_hidden == "normed"
    del values["mtp_hidden"]
    assert read_config(write(tmp_path, values)).mtp_hidden == "normed"
    with pytest.raises(InputError, match="mtp_hidden must be unnormed or normed, got 'other'"):
        read_config(write(tmp_path, values | {"mtp_hidden": "other"}))


def test_newer_files_have_both_parts_of_the_rotary_embedding_together(tmp_path):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    newer = QWEN2 | {"rope_parameters": scaling | {"rope_theta": 5e5}, "rope_theta": None}
    rope = read_config(write(tmp_path, newer)).rope
    wanted = RopeConfig(5e5, False, "yarn", 4.0, 64, mscale=1.0, mscale_all_dim=0.0)
    assert rope == wanted
    older = QWEN2 | {"rope_scaling": scaling, "rope_theta": 5e5}
    assert read_config(write(tmp_path, older)).rope == wanted


def test_attention_factor_round_trips(tmp_path):
    scaling = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25}
    model = read_config(write(tmp_path, QWEN2 | {"rope_scaling": scaling}))
    again = write_config(model, "float32")["rope_scaling"]
    assert again["attention_factor"] == pytest.approx(1.25, abs=1e-15)


CASES = [
    ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
    ({"model_type": None}, "field model_type is missing"),
    ({"hidden_size": "44"}, "field hidden_size must be an integer, got '44'"),
    ({"hidden_size": True}, "field hidden_size must be an integer, got True"),
    ({"num_hidden_layers": 2.5}, "field num_hidden_layers must be an integer"),
    ({"vocab_size": None}, "field vocab_size is missing"),
    ({"rms_norm_eps": "tiny"}, "field rms_norm_eps must be a number"),
    ({"tie_word_embeddings": "no"}, "field tie_word_embeddings must be true or false"),
    ({"rope_scaling": [4]}, "field rope_scaling must be an object"),
    ({"rope_scaling": {"rope_type": "dynamic"}}, "rope_type 'dynamic' is not supported"),
    ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling: field factor is missing"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
    ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
    (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types: sliding_attention is not supported",
    ),
    ({"layer_types": "full_attention"}, "field layer_types must be a list of strings"),
    ({"quantization_config": {"quant_method": "aqlm"}}, "quant_method 'aqlm' is not supported"),
    ({"num_key_value_heads": 3}, "kv_heads=3 must divide heads=4"),
    ({"hidden_size": -1}, "d_model must be positive"),
]


@pytest.mark.parametrize(("change", "message"), CASES)
def test_bad_fields_are_named(change, message, tmp_path):
    values = {k: v for k, v in (QWEN2 | change).items() if v is not None}
    with pytest.raises(InputError, match=r"config\.json") as error:
        read_config(write(tmp_path, values))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scoring_func": "softmax"}, "scoring_func='softmax' with topk_method='noaux_tc'"),
        ({"num_key_value_heads": 2}, "num_key_value_heads must equal num_attention_heads"),
        ({"moe_layer_freq": 2}, "moe_layer_freq=2 is not supported"),
        ({"n_group": 3}, "groups=3 must divide experts=8"),
    ],
)
def test_bad_fields_of_deepseek_are_named(change, message, tmp_path):
    with pytest.raises(InputError) as error:
        read_config(write(tmp_path, DEEPSEEK | change))
    assert message in str(error.value) and "config.json" in str(error.value)


def test_not_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: invalid JSON"):
        read_config(tmp_path)
    with pytest.raises(InputError, match=r"absent/config\.json: No such file"):
        read_config(tmp_path / "absent")


def test_models_without_an_architecture():
    mixed = dataclasses.replace(
        MODELS["deepseek-r1-distill-qwen-7b"](),
        attention=GQAConfig(heads=28, kv_heads=4, head_dim=128, qkv_bias=True, qk_norm=True),
    )
    with pytest.raises(InputError, match="no architecture"):
        write_config(mixed, "bfloat16")
    assert write_config(tiny(), "float32")["model_type"] == "deepseek_v3"


def test_layers_that_are_all_full_attention_are_read(tmp_path):
    layers = {"layer_types": ["full_attention"] * QWEN2["num_hidden_layers"]}
    assert read_config(write(tmp_path, QWEN2 | layers)) == read_config(write(tmp_path, QWEN2))


@pytest.mark.parametrize("layers, scanned", [(5, False), (8, False), (9, True)])
def test_few_layers_are_not_a_loop(tmp_path, layers, scanned):
    """On a CPU a loop copies every layer's weights and cache at each turn: twice a step's time."""
    model = dataclasses.replace(
        MODELS["deepseek-r1-distill-qwen-1.5b"](), layers=layers, dense_layers=layers
    )
    assert read_config(write(tmp_path, write_config(model, "bfloat16"))).scan_layers == scanned
