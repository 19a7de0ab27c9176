"""Adapters in PEFT's form, which Transformers with PEFT and vLLM load beside the model that they
were trained on: adapter_config.json, and A [rank, inputs], B [outputs, rank] of each module; of
those that were trained whole the weights, as modules_to_save."""

import json
from pathlib import Path

import numpy as np

from r1jax.architecture import ModelConfig
from r1jax.checks import check
from r1jax.hub.files import Writer
from r1jax.hub.names import tensors
from r1jax.hub.save import leaf_of
from r1jax.model.adapters import Copied, is_adapted
from r1jax.model.params import Weights


def save_adapter(adapters: Weights, model: ModelConfig, folder: str | Path, base: str) -> Path:
    """Writes the adapters of a model whose frozen weights PEFT finds as `base`. Raises InputError
    if the folder is there and not empty."""
    folder, lora = Path(folder), model.lora
    assert lora is not None
    check(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"{folder}: already exists, and is not an empty folder",
    )
    found: dict[str, np.ndarray] = {}
    modules: set[str] = set()
    copied: set[str] = set()
    for tensor in tensors(model):
        leaf = leaf_of(adapters, tensor.leaf)
        if not is_adapted(leaf):
            continue
        stem = tensor.name.removesuffix(".weight")
        if isinstance(leaf, Copied):
            own = np.asarray(leaf.own, np.float32)
            tied = ["lm_head"] if model.tied_head else []
            for module in (stem, *tied):
                found[f"base_model.model.{module}.weight"] = own.T if tensor.inputs else own
                copied.add(module.rpartition(".")[2])
            continue
        a, b = (np.asarray(part[tensor.lead], np.float32) for part in (leaf.a, leaf.b))
        found[f"base_model.model.{stem}.lora_A.weight"] = a.reshape(-1, lora.rank).T
        found[f"base_model.model.{stem}.lora_B.weight"] = b.reshape(lora.rank, -1).T
        modules.add(stem.rpartition(".")[2])
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "modules_to_save": sorted(copied) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    entries = [(name, value.dtype, value.shape) for name, value in found.items()]
    writer = Writer(folder / "adapter_model.safetensors", entries)
    for name, value in found.items():
        writer.write(name, value)
    writer.close()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder
