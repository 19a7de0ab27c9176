"""Small checkpoints in Hugging Face's layout, written out name by name."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from r1jax.hub.files import Writer

D, V, HEADS, Q, C, N, R, U, E, F, DENSE = 44, 72, 4, 20, 16, 10, 8, 12, 8, 24, 52
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": DENSE,
    "moe_intermediate_size": F,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "q_lora_rank": Q,
    "kv_lora_rank": C,
    "qk_nope_head_dim": N,
    "qk_rope_head_dim": R,
    "v_head_dim": U,
    "n_routed_experts": E,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": DENSE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}


def deepseek_shapes() -> dict[str, tuple[int, ...]]:
    """As DeepSeek-V3's files have them, the MTP module's copies included."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (V, D),
        "model.norm.weight": (D,),
        "lm_head.weight": (V, D),
        "model.layers.3.embed_tokens.weight": (V, D),
        "model.layers.3.enorm.weight": (D,),
        "model.layers.3.hnorm.weight": (D,),
        "model.layers.3.eh_proj.weight": (D, 2 * D),
        "model.layers.3.shared_head.norm.weight": (D,),
        "model.layers.3.shared_head.head.weight": (V, D),
    }
    for i in range(4):
        at = f"model.layers.{i}"
        shapes |= {
            f"{at}.input_layernorm.weight": (D,),
            f"{at}.post_attention_layernorm.weight": (D,),
            f"{at}.self_attn.q_a_proj.weight": (Q, D),
            f"{at}.self_attn.q_a_layernorm.weight": (Q,),
            f"{at}.self_attn.q_b_proj.weight": (HEADS * (N + R), Q),
            f"{at}.self_attn.kv_a_proj_with_mqa.weight": (C + R, D),
            f"{at}.self_attn.kv_a_layernorm.weight": (C,),
            f"{at}.self_attn.kv_b_proj.weight": (HEADS * (N + U), C),
            f"{at}.self_attn.o_proj.weight": (D, HEADS * U),
        }
        blocks = {"mlp": DENSE}
        if i:
            blocks = {"mlp.shared_experts": 2 * F} | {f"mlp.experts.{e}": F for e in range(E)}
            shapes[f"{at}.mlp.gate.weight"] = (E, D)
            shapes[f"{at}.mlp.gate.e_score_correction_bias"] = (E,)
        for block, width in blocks.items():
            shapes[f"{at}.{block}.gate_proj.weight"] = (width, D)
            shapes[f"{at}.{block}.up_proj.weight"] = (width, D)
            shapes[f"{at}.{block}.down_proj.weight"] = (D, width)
    return shapes


def qwen2_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (V, D),
        "model.norm.weight": (D,),
    }
    for i in range(2):
        at = f"model.layers.{i}"
        shapes |= {
            f"{at}.input_layernorm.weight": (D,),
            f"{at}.post_attention_layernorm.weight": (D,),
            f"{at}.self_attn.o_proj.weight": (D, 24),
            f"{at}.mlp.gate_proj.weight": (DENSE, D),
            f"{at}.mlp.up_proj.weight": (DENSE, D),
            f"{at}.mlp.down_proj.weight": (D, DENSE),
        }
        for name, width in (("q", 24), ("k", 12), ("v", 12)):
            shapes[f"{at}.self_attn.{name}_proj.weight"] = (width, D)
            shapes[f"{at}.self_attn.{name}_proj.bias"] = (width,)
    return shapes


def random_values(shapes, dtype=np.float32, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    for copy, shared in (
        ("model.layers.3.embed_tokens.weight", "model.embed_tokens.weight"),
        ("model.layers.3.shared_head.head.weight", "lm_head.weight"),
    ):
        if copy in values:
            values[copy] = values[shared]
    for name in values:
        if name.endswith("e_score_correction_bias"):
            values[name] = values[name].astype(np.float32)
    return values


def quantize(value: np.ndarray, rng, high=128, wide=128):
    """(FP8 values, scale_inv, what they stand for) in blocks of high x wide, ragged at edges."""
    rows, columns = value.shape
    scale = rng.uniform(0.5, 2.0, (-(-rows // high), -(-columns // wide))).astype(np.float32)
    small = value.astype(ml_dtypes.float8_e4m3fn)
    meant = np.empty(value.shape, np.float32)
    for r in range(rows):
        for c in range(columns):
            meant[r, c] = np.float32(small[r, c]) * scale[r // high, c // wide]
    return small, scale, meant


def write(folder: Path, config: dict, values: dict[str, np.ndarray], files: int = 1) -> Path:
    """A directory of one file, or of several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = list(values)
    weight_map = {}
    for i in range(files):
        file = "model.safetensors" if files == 1 else f"model-{i + 1:05}-of-{files:05}.safetensors"
        mine = names[i::files]
        writer = Writer(folder / file, [(n, values[n].dtype, values[n].shape) for n in mine])
        for name in mine:
            writer.write(name, values[name])
        writer.close()
        weight_map |= dict.fromkeys(mine, file)
    if files > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
