"""GGUF files as llama.cpp's converter makes them of a Hugging Face checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3 = LLAMA | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
TIED = LLAMA | {"tie_word_embeddings": True}


def pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rotary halves as pairs: `permute` of llama.cpp's convert_hf_to_gguf."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def rounded(value: np.ndarray, form: gguf.GGMLQuantizationType) -> np.ndarray:
    """What a tensor becomes; vectors stay as they are."""
    return value if value.ndim == 1 else dequantize(quantize(value, form), form)


def write_gguf(
    file: Path,
    config: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    form: gguf.GGMLQuantizationType,
    part: int = 0,
) -> None:
    """part: of a split file; those after the first have no metadata but of the split."""
    kind, layers = config["model_type"], config["num_hidden_layers"]
    architecture = {name: of for of, name in gguf.MODEL_ARCH_NAMES.items()}[kind]
    names = gguf.get_tensor_name_map(architecture, layers)
    writer = gguf.GGUFWriter(file, kind)
    if part == 0:
        writer.add_block_count(layers)
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(config["head_dim"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        writer.add_vocab_size(config["vocab_size"])
    for name, value in values.items():
        there = names.get_name(name, (".weight", ".bias"))
        assert there is not None, name
        if kind == "llama" and ".q_proj." in name:
            value = pairs(value, config["num_attention_heads"])
        if kind == "llama" and ".k_proj." in name:
            value = pairs(value, config["num_key_value_heads"])
        if value.ndim == 1:
            writer.add_tensor(there, value)
        else:
            writer.add_tensor(there, quantize(value, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
