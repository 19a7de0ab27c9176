"""Adapters: the product they are, what of a state they are, SFT and RL that move nothing else."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import steps
from safetensors.numpy import load_file

from experiments import export, sft
from r1jax import hub, optim, sharding
from r1jax.architecture import GQAConfig, LoraConfig
from r1jax.checkpoint import Checkpoints
from r1jax.checks import InputError
from r1jax.config import OptimConfig
from r1jax.files import ends_of
from r1jax.metrics import read_jsonl
from r1jax.model.adapters import (
    Adapted,
    Copied,
    adapters_of,
    has_adapters,
    is_adapted,
    merged,
    without_adapters,
)
from r1jax.model.matrices import Quantised, multiply
from r1jax.model.quantise import keep_weights
from r1jax.models import open_model
from r1jax.rl.grpo import Frozen
from r1jax.rl.loop import new_policy

LORA = LoraConfig(rank=3, alpha=6.0)
WHOLE = dataclasses.replace(LORA, embeddings=True)
GQA = small.config(
    d_model=32,
    layers=2,
    dense_layers=2,
    dense_ffn=48,
    expert_ffn=0,
    shared_experts=0,
    router=None,
    attention=GQAConfig(heads=2, kv_heads=1, head_dim=16, qkv_bias=True),
)


def adapted(model=GQA, lora=LORA, seed=0, **how):
    """A model whose adapters do something."""
    model = dataclasses.replace(model, lora=lora, **how)
    weights = keep_weights(small.weights(model, seed), model)
    rng = np.random.default_rng(seed)

    def draw(w):
        if isinstance(w, Copied):
            return w.replace(own=w.own + jnp.asarray(rng.normal(size=w.shape), jnp.float32))
        return w.replace(b=jnp.asarray(rng.normal(size=w.b.shape), jnp.float32))

    return model, jax.tree.map(
        lambda w: draw(w) if is_adapted(w) else w, weights, is_leaf=is_adapted
    )


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(("shape", "inputs"), [((8, 5), 1), ((8, 2, 3), 1), ((2, 4, 5), 2)])
def test_the_product_is_that_of_the_sum(shape, inputs):
    rng = np.random.default_rng(0)
    base, a = rng.normal(size=shape), rng.normal(size=(*shape[:inputs], 2))
    b, x = rng.normal(size=(2, *shape[inputs:])), rng.normal(size=(7, *shape[:inputs]))
    w = Adapted(
        *(jnp.asarray(v, jnp.float32) for v in (base, a, b)), 0.5, inputs, len(shape) - inputs
    )
    whole = base + 0.5 * np.tensordot(a, b, 1)
    np.testing.assert_allclose(w.dense(jnp.float32), whole, rtol=1e-5, atol=1e-5)
    got = multiply(jnp.asarray(x, jnp.float32), w, inputs)
    np.testing.assert_allclose(got, np.tensordot(x, whole, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lora", [LORA, WHOLE], ids=["adapters", "and_embeddings"])
@pytest.mark.parametrize(
    "model",
    [GQA, small.CONFIG, dataclasses.replace(GQA, tied_head=True)],
    ids=["gqa", "mla_moe", "tied"],
)
def test_it_begins_as_the_frozen_model_and_merges_to_what_it_is(model, lora):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 16, (2, 9)))
    begun = keep_weights(small.weights(model), dataclasses.replace(model, lora=lora))
    want, _ = small.logits(small.weights(model), tokens, model)
    got, _ = small.logits(begun, tokens, model)
    np.testing.assert_allclose(got, want, atol=1e-5)
    with_lora, weights = adapted(model, lora)
    moved, _ = small.logits(weights, tokens, with_lora)
    assert abs(np.asarray(moved - want)).max() > 0.01
    again, _ = small.logits(merged(weights), tokens, model)
    np.testing.assert_allclose(again, moved, atol=1e-3)
    same(without_adapters(weights), small.weights(model))


def test_targets_are_named():
    _, weights = adapted(lora=LoraConfig(rank=2, targets="q_proj,v_proj"))
    attention = weights.params.dense.attention
    assert is_adapted(attention.q_DHX) and is_adapted(attention.v_DKX)
    assert not is_adapted(attention.k_DKX) and not has_adapters(weights.params.dense.ffn)
    with pytest.raises(InputError, match="targets=q_proj,wq: expected all, or of q_proj"):
        LoraConfig(targets="q_proj,wq")
    with pytest.raises(InputError, match="q_a_proj"):
        adapted(lora=LoraConfig(rank=2, targets="q_a_proj"))


@pytest.mark.parametrize(("kept", "lora"), [("float32", LORA), ("int4", LORA), ("int4", WHOLE)])
def test_an_update_moves_adapters_and_nothing_else(kept, lora):
    model, weights = adapted(lora=lora, param_dtype=kept)
    cfg = OptimConfig(lr=0.01)
    state = optim.new_state(weights, cfg)
    moments = jax.tree.leaves(optim.float32(adapters_of(weights.params)))
    assert sum(m.size for m in jax.tree.leaves(state.opt_state)) >= 2 * sum(m.size for m in moments)
    assert len(jax.tree.leaves(state.opt_state)) < 2 * len(moments) + 4

    def loss(weights):
        tokens = jnp.arange(8)[None]
        return jnp.mean(small.plain_logits(weights, tokens, model)[0] ** 2), ({}, None)

    after, metrics = jax.jit(lambda s: optim.descend(s, loss, cfg))(state)
    assert metrics["grad_norm"] > 0
    same(without_adapters(after.weights), without_adapters(weights))
    for a, b in zip(*(jax.tree.leaves(adapters_of(s.weights.params)) for s in (state, after)),
                    strict=True):  # fmt: skip
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("lora", [LORA, WHOLE], ids=["adapters", "and_embeddings"])
def test_a_checkpoint_has_the_adapters_alone(lora, tmp_path):
    model, weights = adapted(lora=lora, param_dtype="int4")
    cfg, mesh = OptimConfig(lr=0.01), sharding.make_mesh("1")
    state = optim.new_state(weights, cfg)
    saved = optim.to_save(state)
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding.replicated(mesh)),
        saved,
    )
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, {"train": saved}, model, {})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        _, found, _ = checkpoints.restore({"train": abstract}, model)
        alone = checkpoints.restore_weights(model, mesh)
    begun = optim.new_state(keep_weights(without_adapters(weights), model), cfg)
    same(optim.as_saved(found["train"], lambda: begun).weights, weights)
    same(alone.params, adapters_of(weights.params))


def test_rl_holds_the_policy_to_the_frozen_model():
    """KL of a policy to its own base, of 8 bits: none at first; later that of two plain models."""
    model = dataclasses.replace(small.CONFIG, lora=LORA, param_dtype="int8")
    cfg = steps.run_with(model=model, lora=LORA)
    state = new_policy(cfg, small.weights(), sharding.make_mesh("1"))
    assert isinstance(state.reference, Frozen) and has_adapters(state.train.weights.params)
    frozen = jax.device_get(without_adapters(state.train.weights))
    rollout = steps.packed(steps.drawn(), cfg)
    state, first = steps.step(state, rollout, cfg)
    assert abs(float(first["kl"])) < 1e-6 and float(first["grad_norm"]) > 0
    same(jax.device_get(without_adapters(state.train.weights)), frozen)  # routers' biases too

    policy, reference = (keep_weights(w, small.CONFIG) for w in (state.train.weights, frozen))
    policy = jax.tree.map(jnp.copy, policy)  # a step donates its state
    plain = steps.PolicyState(optim.new_state(policy, steps.OPTIM), steps.reference_of(reference))
    _, want = steps.step(plain, rollout)
    _, got = steps.step(state, rollout, cfg)
    assert float(got["kl"]) > 1e-4
    assert float(got["kl"]) == pytest.approx(float(want["kl"]), rel=1e-3)


@pytest.fixture(scope="module")
def tuned(data_dir, tmp_path_factory):
    """A few updates of adapters beside stories260K in 4 bits, stopped and resumed."""
    folder = tmp_path_factory.mktemp("lora")
    rows = [
        {"prompt": f"Once upon a time, there was a {who}", "completion": " who liked to play."}
        for who in ("cat", "dog", "boy", "girl") * 4
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = folder / "run"
    common = [f"--data={folder / 'rows.jsonl'}", f"--out={out}", "--rows=4", "--length=64"]
    how = ["--lora.rank=4", "--lora.weights=int4", "--optim.lr=0.01", "--checkpoint-every=2"]
    source = data_dir / "stories260k" / "hf"
    sft.main([f"--model={source}", "--steps=2", *common, *how])
    sft.main(["--resume", "--steps=4", f"--out={out}"])
    return source, out


def test_a_run_of_adapters_learns_and_goes_on(tuned):
    losses = [row["nll"] for row in read_jsonl(tuned[1] / "metrics.jsonl")]
    assert len(losses) == 4 and losses[-1] < losses[0]


def test_its_model_is_the_base_and_the_adapters(tuned, tmp_path):
    source, out = tuned
    mesh = sharding.make_mesh("1")
    opened = open_model(out)
    assert opened.config.lora is None and opened.config.param_dtype == "float32"
    found = opened.weights(opened.config, mesh)
    model, adapters, base = opened.adapters(mesh)
    assert base == str(source)
    frozen = hub.load_weights(source, dataclasses.replace(model, lora=None), mesh)
    gate, delta = frozen.params.dense.ffn.gate_DF, adapters.params.dense.ffn.gate_DF
    assert isinstance(gate, Quantised)
    want = np.asarray(gate.dense(jnp.float32)) + 8.0 * np.einsum("ldr,lrf->ldf", delta.a, delta.b)
    np.testing.assert_allclose(found.params.dense.ffn.gate_DF, want, atol=1e-5)
    # And in PEFT's form.
    folder = tmp_path / "adapter"
    export.main([f"--run={out}", f"--out={folder}", "--adapter"])
    stored = load_file(folder / "adapter_model.safetensors")
    a = stored["base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight"]
    b = stored["base_model.model.model.layers.1.mlp.gate_proj.lora_B.weight"]
    np.testing.assert_allclose(8.0 * (b @ a).T, want[1] - np.asarray(gate.dense(jnp.float32))[1],
                               atol=1e-5)  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 32.0, "LORA")
    assert len(stored) == 2 * 7 * 5 and "q_proj" in config["target_modules"]


def test_a_frozen_model_that_was_trained_on_is_another(tuned, tmp_path):
    source, out = tuned
    config = json.loads((out / "config.json").read_text())
    assert (
        config["model"]["lora"]["beside"]
        == f"model.safetensors {ends_of(source / 'model.safetensors')}"
    )
    shutil.copytree(out, tmp_path / "run")
    config["model"]["lora"]["beside"] = "step 2"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    opened = open_model(tmp_path / "run")
    said = f"^{source}: adapters were trained beside it at step 2, and it is at model.safetensors"
    with pytest.raises(InputError, match=said):
        opened.weights(opened.config, sharding.make_mesh("1"))
    with pytest.raises(InputError, match=said):
        sft.main(["--resume", "--steps=5", f"--out={tmp_path / 'run'}"])


@pytest.mark.parametrize("flags", [{"weights": "int4"}, {"embeddings": True}])
def test_what_is_of_adapters_alone_is_refused_without_them(flags):
    """Else all weights would be trained, in float32, and nobody be told."""
    with pytest.raises(InputError, match=r"of adapters, which LoraConfig.rank asks for"):
        LoraConfig(**flags)


def test_a_rank_that_no_matrix_has_is_a_slip():
    with pytest.raises(InputError, match=r"LoraConfig.rank=100000: no matrix here has a rank"):
        adapted(lora=LoraConfig(rank=100_000))


def test_a_run_goes_on_with_the_adapters_that_it_began_with(tuned, tmp_path):
    shutil.copytree(tuned[1], tmp_path / "run")
    for flag in ("--lora.weights=int8", "--lora.rank=8", "--lora.embeddings"):
        with pytest.raises(InputError, match=rf"^{flag}.*: .* began with .*, and goes on with it"):
            sft.main(["--resume", "--steps=5", f"--out={tmp_path / 'run'}", flag])


def test_what_cannot_be_trained_is_said(data_dir, tmp_path):
    source = data_dir / "stories260k" / "hf"
    with pytest.raises(InputError, match=r"param-dtype=int8 cannot be trained.*--lora.rank"):
        sft.main([f"--model={source}", "--data=x.jsonl", "--model.param-dtype=int8"])
    with pytest.raises(InputError, match="ppo"):
        steps.run_with(steps.of("ppo"), lora=LORA)
