"""A run's newest weights as a Hugging Face directory, its tokenizer beside them."""

import tempfile
from pathlib import Path
from typing import Literal

from jax.sharding import Mesh

from r1jax import hub, sharding
from r1jax.checks import check
from r1jax.data import templates
from r1jax.model.params import weight_specs
from r1jax.models import open_model


def export(
    run: str, out: str, mesh: Mesh, dtype: Literal["bfloat16", "float32"] = "bfloat16"
) -> str:
    """Writes the directory `out`; returns what was done, as a line. Raises InputError for a `run`
    that is no run's folder, and as `hub.save_model`."""
    for name in ("config.json", "checkpoints"):
        check((Path(run) / name).exists(), f"--run={run} is not a run's folder: it has no {name}")
    source = open_model(run)
    weights = source.weights(source.config, mesh)
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
        hub.save_model(weights, source.config, out, folder, dtype, special_tokens=special)
    return f"{out}: {sharding.count(weight_specs(source.config).params):,} parameters in {dtype}"
