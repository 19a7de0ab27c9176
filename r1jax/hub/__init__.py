"""Hugging Face directories in and out: `config.json`, `*.safetensors` (in: or `*.gguf`), tokenizer
files; by their ids on the Hub, too.

Architectures: deepseek_v3, deepseek_v2, qwen2, qwen3, llama.
"""

from r1jax.hub.adapter import save_adapter
from r1jax.hub.config import read_config
from r1jax.hub.load import load_weights
from r1jax.hub.remote import fetch, is_hub_id, names_pin, pinned
from r1jax.hub.save import save_model

__all__ = [
    "fetch",
    "is_hub_id",
    "load_weights",
    "names_pin",
    "pinned",
    "read_config",
    "save_adapter",
    "save_model",
]
