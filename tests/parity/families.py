"""Small models of every architecture that r1jax reads, as the directories Transformers reads too.

A directory is made of its config.json and a seed: every parameter is drawn by NumPy's frozen
`RandomState` from its own name alone, so that a golden file holds results, not weights. Nothing
is left at 0 or 1, as an initialiser leaves norms, biases and Transformers' routers: what is wrong
with them would not show.
"""

import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from r1jax import hub
from r1jax.hub.names import tensors

VOCAB = 96
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
# The original windows are shorter than the 128 tokens that are compared.
_DEEPSEEK = _COMMON | {
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "intermediate_size": 72,
    "moe_intermediate_size": 20,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "q_lora_rank": 28,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 16,
    "v_head_dim": 14,
}
_YARN = {
    "type": "yarn",
    "factor": 40.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
}
_V3 = _DEEPSEEK | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "n_shared_experts": 2,
    "num_nextn_predict_layers": 0,
}
_V2 = _DEEPSEEK | {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "rope_scaling": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
}
_DENSE = _COMMON | {"num_hidden_layers": 3, "num_key_value_heads": 2, "intermediate_size": 72}
_QWEN2 = _DENSE | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
_LLAMA = _DENSE | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "head_dim": 16,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}

CONFIGS = {
    # Published V3 has mscale = mscale_all_dim = 1; here they differ, so that the rotary part of
    # the temperature is not 1.
    "deepseek_v3": _V3 | {"rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 0.8}},
    "deepseek_v3_no_q_lora": _V3
    | {
        "q_lora_rank": None,
        "n_shared_experts": 1,
        "n_group": 8,
        "topk_group": 3,
        "rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "deepseek_v2": _V2
    | {
        "q_lora_rank": None,
        "topk_method": "greedy",
        "n_shared_experts": 2,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
    },
    "deepseek_v2_groups": _V2
    | {
        "topk_method": "group_limited_greedy",
        "n_shared_experts": 2,
        "routed_scaling_factor": 4.0,
        "n_group": 4,
        "topk_group": 2,
    },
    "qwen2": _QWEN2,
    "qwen2_tied": _QWEN2 | {"tie_word_embeddings": True},
    # As R1-0528-Qwen3-8B: `attn_factor` is of llama.cpp; Transformers does not read it.
    "qwen3": _DENSE
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 20,
        "rope_theta": 1_000_000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "attn_factor": 0.8782488562869419,
        },
    },
    "llama": _LLAMA,
    "llama_tied": _LLAMA | {"tie_word_embeddings": True, "head_dim": 12},
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter, float32, from its name alone; of a size that keeps activations near 1."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if "norm" in name:
        value = 1 + 0.3 * noise
    elif name.endswith("e_score_correction_bias"):
        value = 0.2 * noise - 0.3  # negative ones beat a mask of 0, were there one
    elif name.endswith(".bias"):
        value = 0.5 * noise
    elif "embed_tokens" in name:
        value = 0.1 * noise  # or a model with a tied head would echo its input
    elif name.endswith("gate.weight"):
        value = 2 * noise / np.sqrt(shape[-1])
    else:
        value = noise / np.sqrt(shape[-1])
    return value.astype(np.float32)


def write(folder: Path, config: dict) -> Path:
    """The model of `config` as a Hugging Face directory."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    model = hub.read_config(folder)
    state = {tensor.name: draw(tensor.name, tensor.shape) for tensor in tensors(model)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def row(family: str, length: int = 128) -> np.ndarray:
    """[1, T] tokens."""
    return np.random.RandomState(zlib.crc32(family.encode())).randint(0, VOCAB, (1, length))


def relative(ours, theirs) -> float:
    """Largest difference, as a part of the largest logit."""
    ours, theirs = np.float64(ours), np.float64(theirs)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
