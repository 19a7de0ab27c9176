"""The parameter tree against the published models; nothing here allocates a large array."""

import json

import jax
import numpy as np
import pytest
import tiny

from r1jax import sharding
from r1jax.model.params import weight_specs
from r1jax.presets import MODELS, deepseek_v2_lite, deepseek_v3


def counts(cfg):
    specs = weight_specs(cfg)
    return sharding.count(specs.params), sharding.count(specs.router_bias_LE)


def test_deepseek_v3_has_the_published_number_of_parameters():
    assert counts(tiny.replace(deepseek_v3(), mtp_depth=0)) == (671_026_404_352, 58 * 256)
    # The MTP depth: a MoE layer, its projection and three norms; embedding and head are shared.
    params, biases = counts(deepseek_v3())
    mtp = 11_507_286_016 + 2 * 7168 * 7168 + 3 * 7168
    assert (params - 671_026_404_352, biases) == (mtp, 59 * 256)


def test_deepseek_v2_lite_has_the_published_number_of_parameters():
    assert counts(deepseek_v2_lite())[0] == 15_706_484_224


def published(cfg) -> dict:
    """cfg under the names of the published config.json."""
    mla, router, rope = cfg.attention, cfg.router, cfg.rope
    return {
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.layers,
        "first_k_dense_replace": cfg.dense_layers,
        "intermediate_size": cfg.dense_ffn,
        "moe_intermediate_size": cfg.expert_ffn,
        "n_shared_experts": cfg.shared_experts,
        "num_attention_heads": mla.heads,
        "num_key_value_heads": mla.heads,
        "q_lora_rank": mla.q_lora,
        "kv_lora_rank": mla.kv_lora,
        "qk_nope_head_dim": mla.nope_dim,
        "qk_rope_head_dim": mla.rope_dim,
        "v_head_dim": mla.v_dim,
        "n_routed_experts": router.experts,
        "num_experts_per_tok": router.active,
        "n_group": router.groups,
        "topk_group": router.group_limit,
        "topk_method": "noaux_tc" if router.scoring == "sigmoid" else "greedy",
        "scoring_func": router.scoring,
        "norm_topk_prob": router.renormalize,
        "routed_scaling_factor": router.scale,
        "rope_theta": rope.theta,
        "rope_scaling": {
            "type": "yarn",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_context,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "mscale": rope.mscale,
            "mscale_all_dim": rope.mscale_all_dim,
        },
        "max_position_embeddings": cfg.context,
        "num_nextn_predict_layers": cfg.mtp_depth,
        "tie_word_embeddings": cfg.tied_head,
        "rms_norm_eps": cfg.norm_eps,
        "torch_dtype": cfg.dtype,
    }


# What config.json says beside the above: of its own software, or fixed in this code.
NOT_OURS = {
    "architectures",
    "auto_map",
    "model_type",
    "transformers_version",
    "use_cache",
    "ep_size",
    "pretraining_tp",
    "quantization_config",
    "bos_token_id",
    "eos_token_id",
    "attention_bias",
    "attention_dropout",
    "hidden_act",
    "moe_layer_freq",
    "aux_loss_alpha",
    "seq_aux",
    "initializer_range",
}


@pytest.mark.parametrize(
    "name, path",
    [
        ("deepseek-r1", "verbatim/DeepSeek-R1.json"),
        ("deepseek-v3", "verbatim/DeepSeek-V3.json"),
        ("deepseek-v2-lite", "reconstructed/DeepSeek-V2-Lite.json"),
    ],
)
def test_presets_are_the_published_configs_field_by_field(name, path, data_dir):
    theirs = json.loads((data_dir / "configs" / path).read_text())
    ours = published(MODELS[name]())
    assert set(theirs) - NOT_OURS <= set(ours)
    assert {k: v for k, v in ours.items() if k in theirs} == {
        k: v for k, v in theirs.items() if k not in NOT_OURS
    }


def test_what_this_code_fixes_is_what_the_config_says(data_dir):
    theirs = json.loads((data_dir / "configs/verbatim/DeepSeek-R1.json").read_text())
    fixed = {"attention_bias": False, "hidden_act": "silu", "moe_layer_freq": 1, "seq_aux": True}
    assert fixed.items() <= theirs.items()


def test_every_array_divides_over_an_8x8_mesh_as_declared():
    """DeepSeek-V3 on 64 devices: nothing that a rule splits is left whole."""
    mesh = jax.sharding.AbstractMesh((8, 8), (sharding.FSDP, sharding.EXPERT))
    for spec in jax.tree.leaves(weight_specs(deepseek_v3()), is_leaf=sharding.is_spec):
        split = sharding.partition(spec.shape, spec.axes, mesh)
        assert split == jax.P(*(sharding.RULES[a] or None for a in spec.axes)), spec


def test_initial_values_are_as_declared_on_any_mesh():
    specs, key = weight_specs(tiny.CONFIG), jax.random.key(0)

    def draw():
        return sharding.init(specs, key)

    alone = tiny.jit(draw)()
    mesh = sharding.make_mesh("2x4")
    spread = tiny.jit(draw, out_shardings=sharding.shardings(specs, mesh))()
    assert len(spread.params.head_DV.sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, alone, spread)

    experts = alone.params.moe.ffn
    np.testing.assert_allclose(np.std(experts.gate_EDF), tiny.CONFIG.init_std, rtol=0.03)
    assert not np.array_equal(experts.gate_EDF[0], experts.gate_EDF[1])
    assert not np.array_equal(experts.gate_EDF, experts.up_EDF)
    np.testing.assert_array_equal(alone.params.moe.attention.kv_norm_C, 1.0)
    np.testing.assert_array_equal(alone.router_bias_LE, 0.0)
