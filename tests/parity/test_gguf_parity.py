"""The same GGUF file in Transformers and here: needs the parity and gguf extras."""

import json

import jax.numpy as jnp
import pytest

from r1jax import hub, sharding
from r1jax.hub.names import tensors
from r1jax.model.head import unembed
from r1jax.model.transformer import forward

pytest.importorskip("torch", reason="torch absent: pip install -e '.[parity]'")
pytest.importorskip("gguf", reason="gguf absent: pip install -e '.[gguf]'")
import families
import gguf
import transformers
from gguf_file import LLAMA, QWEN2, QWEN3, TIED, write_gguf


@pytest.mark.parametrize("config", [LLAMA, TIED, QWEN2, QWEN3], ids=["llama", "tied", "q2", "q3"])
def test_logits_agree(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = hub.read_config(tmp_path)
    values = {t.name: families.draw(t.name, t.shape) for t in tensors(model)}
    write_gguf(tmp_path / "m.gguf", config, values, gguf.GGMLQuantizationType.Q8_0)
    weights = hub.load_weights(tmp_path, model, sharding.make_mesh("1"), progress=False)
    tokens = families.row("gguf", 48)
    ours = unembed(weights.params, forward(weights, jnp.asarray(tokens), model).hidden_BTD, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file="m.gguf",
        dtype="float32",
        config=transformers.AutoConfig.from_pretrained(tmp_path),
    )
    import torch

    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens)).logits.numpy()
    assert families.relative(ours, wanted) < 1e-4
