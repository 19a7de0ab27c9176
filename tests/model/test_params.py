"""The parameter tree against the published models; nothing here allocates a large array."""

import jax
import numpy as np
import pytest
import tiny

from r1jax import sharding
from r1jax.model.params import weight_specs
from r1jax.published import MODELS, deepseek_v2_lite, deepseek_v3


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


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("deepseek-r1-distill-qwen-1.5b", 1_777_088_000),
        ("deepseek-r1-distill-qwen-7b", 7_615_616_512),
        ("deepseek-r1-distill-qwen-14b", 14_770_033_664),
        ("deepseek-r1-distill-qwen-32b", 32_763_876_352),
        ("deepseek-r1-distill-llama-8b", 8_030_261_248),
        ("deepseek-r1-distill-llama-70b", 70_553_706_496),
        ("deepseek-r1-0528-qwen3-8b", 8_190_735_360),
    ],
)
def test_students_have_the_published_number_of_parameters(name, parameters):
    specs = weight_specs(MODELS[name]())
    assert sharding.count(specs) == parameters and specs.router_bias_LE is None


def test_every_array_divides_over_an_8x8_mesh_as_declared():
    """DeepSeek-V3 on 64 devices: nothing that a rule splits is left whole."""
    mesh = jax.sharding.AbstractMesh((8, 1, 8), sharding.AXES)
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
