"""A model's weights as a Hugging Face directory, its tokenizer beside them."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from jax.sharding import Mesh

from r1jax import hub, sharding, stored
from r1jax.architecture import ModelConfig
from r1jax.calibrate import calibrated
from r1jax.checks import check
from r1jax.data import templates
from r1jax.data.asked import read_prompts
from r1jax.data.conversation import Conversation
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import gib, nbytes
from r1jax.models import OnDisk, drawn_as, open_model

MOST_SAMPLES, LENGTH = 256, 512  # rows that matrices are rounded by, and their tokens


def samples(path: str, conversation: Conversation, length: int) -> np.ndarray:
    """The texts of a file one after the other, in rows of `length` tokens, at most MOST_SAMPLES."""
    encode = conversation.tokenizer.encode_prompt
    tokens = [t for asked in read_prompts(path, conversation) for t in encode(asked.prompt)]
    length = min(length, len(tokens))
    rows = min(len(tokens) // max(length, 1), MOST_SAMPLES)
    check(rows > 0, f"--calibrate={path}: no texts")
    return np.array(tokens[: rows * length], np.int32).reshape(rows, length)


def in_bits(
    source: OnDisk, bits: Literal["int8", "int4"], calibrate: str, mesh: Mesh
) -> tuple[ModelConfig, Weights]:
    """The model with its matrices in so many bits."""
    model = drawn_as(source.config, "stored", bits)
    if not calibrate:
        return model, source.weights(model, mesh)
    found = samples(calibrate, source.conversation(), min(LENGTH, model.context))
    arrays = dataclasses.replace(model, param_dtype=model.dtype)
    return model, calibrated(source.weights(arrays, mesh), model, found)


def export(
    run: str,
    out: str,
    mesh: Mesh,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    kept: Literal["arrays", "int8", "int4"] = "arrays",
    calibrate: str = "",
) -> str:
    """Writes the directory `out`; returns what was done, as a line. kept: what matrices are written
    as, rounded by the texts of the file `calibrate` where there is one. Raises InputError for a
    `run` that is no run's folder, where arrays are written, and as `hub.save_model`."""
    if kept == "arrays":
        held = {"config.json": (Path(run) / "config.json").exists()}
        held[stored.NAME] = bool(stored.steps(stored.of(Path(run))))
        for name, there in held.items():
            check(there, f"--run={run} is not a run's folder: it has no {name}")
    source = open_model(run)
    if kept == "arrays":
        model, weights = source.config, source.weights(source.config, mesh)
    else:
        model, weights = in_bits(source, kept, calibrate, mesh)
    files = Path(source.files) if source.files else None
    with tempfile.TemporaryDirectory() as words:
        tokenizer = source.tokenizer()
        ends = sorted(tokenizer.eos_ids)
        special = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": ends if len(ends) > 1 else tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
        }
        if files is None:
            tokenizer.save(words)
            if source.conversation().form == "embedded":
                (Path(words) / "chat_template.jinja").write_text(templates.OPENED)
        folder = Path(words) if files is None else files if files.is_dir() else files.parent
        hub.save_model(weights, model, out, folder, dtype, special_tokens=special)
    said = dtype if kept == "arrays" else f"{kept} and {dtype}, {gib(nbytes(weights))}"
    return f"{out}: {sharding.count(weight_specs(source.config).params):,} parameters in {said}"


def export_adapter(run: str, out: str, mesh: Mesh) -> str:
    """As `export`, of a run's adapters alone."""
    adapters = open_model(run).adapters
    check(adapters is not None, f"--run={run} has trained no adapters (--lora.rank)")
    assert adapters is not None
    model, weights, base = adapters(mesh)
    hub.save_adapter(weights, model, out, base)
    assert model.lora is not None
    return f"{out}: adapters of rank {model.lora.rank}, beside {base}"
