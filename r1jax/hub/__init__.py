"""Hugging Face directories in and out: `config.json`, `*.safetensors`, tokenizer files.

Architectures: deepseek_v3, deepseek_v2, qwen2, qwen3, llama.
"""

from r1jax.hub.config import read_config
from r1jax.hub.load import load_weights
from r1jax.hub.save import save_model

__all__ = ["load_weights", "read_config", "save_model"]
