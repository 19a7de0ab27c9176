"""Adapters in PEFT's own hands, beside the model they stand beside: needs the parity extra and
peft."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax import hub, sharding
from r1jax.architecture import LoraConfig
from r1jax.model.adapters import Copied, adapters_of, is_adapted
from r1jax.model.params import Weights
from r1jax.model.quantise import keep_weights

torch = pytest.importorskip("torch", reason="torch absent: pip install -e '.[parity]'")
transformers = pytest.importorskip(
    "transformers", reason="transformers absent: pip install -e '.[parity]'"
)
peft = pytest.importorskip("peft", reason="peft absent: pip install peft")


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("targets", ["all", "q_proj,down_proj"])
def test_peft_has_the_same_logits(targets, embeddings, data_dir, tmp_path):
    source = data_dir / "stories260k" / "hf"
    lora = LoraConfig(rank=4, alpha=6.0, targets=targets, embeddings=embeddings)
    model = dataclasses.replace(hub.read_config(source), lora=lora)
    frozen = dataclasses.replace(model, lora=None)
    weights = keep_weights(hub.load_weights(source, frozen, sharding.make_mesh("1")), model)
    rng = np.random.default_rng(0)

    def draw(w):
        if isinstance(w, Copied):
            return w.replace(own=w.own + 0.1 * rng.normal(size=w.shape).astype(np.float32))
        return w.replace(b=jnp.asarray(0.1 * rng.normal(size=w.b.shape), jnp.float32))

    weights = jax.tree.map(lambda w: draw(w) if is_adapted(w) else w, weights, is_leaf=is_adapted)
    tokens = np.array([[1, 403, 407, 261, 378, 50, 7, 9]])
    ours = np.asarray(small.logits(weights, jnp.asarray(tokens), model)[0])
    plain = np.asarray(small.logits(keep_weights(weights, frozen), jnp.asarray(tokens), frozen)[0])
    np.testing.assert_allclose(plain, ours, atol=2e-3)  # merged

    folder = hub.save_adapter(
        Weights(adapters_of(weights.params), None), model, tmp_path / "adapter", str(source)
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        without = base(torch.tensor(tokens)).logits.numpy()
        theirs = peft.PeftModel.from_pretrained(base, folder)(torch.tensor(tokens)).logits.numpy()
    assert abs(theirs - without).max() > 0.5
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
