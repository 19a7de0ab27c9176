"""What `launch.plan` says a job must multiply, against compiled programs and published counts."""

import jax
import numpy as np
import pytest
import small

from launch.planning import formula, hlo, products
from r1jax.architecture import GQAConfig, MLAConfig
from r1jax.model.cache import init_cache
from r1jax.model.head import unembed
from r1jax.model.transformer import forward
from r1jax.published import MODELS

B, T = 2, 24
GQA = GQAConfig(heads=4, kv_heads=2, head_dim=8, qkv_bias=True, qk_norm=True)
QUERIES = MLAConfig(heads=2, q_lora=7, kv_lora=8, nope_dim=6, rope_dim=4, v_dim=5)
KINDS = {
    "mla": {"dense_layers": 3},
    "mla-query-latent": {"dense_layers": 3, "attention": QUERIES},
    "gqa": {"dense_layers": 3, "attention": GQA},
    "experts": {"dense_layers": 1, "experts_multiply": "dense"},
}


def model(kind):
    return small.config(layers=3, scan_layers=True, **KINDS[kind])


def compiled(f, *args):
    text = jax.jit(f).lower(*args).compile().as_text()
    return sum(p.flops for p in products.products(hlo.visits(hlo.parse(text))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_pass_multiplies_what_the_formula_says(kind):
    """But for the halves of attention that are masked; and here all experts, not the chosen."""
    cfg = model(kind)
    found = compiled(
        lambda w, t: unembed(w.params, forward(w, t, cfg).hidden_BTD, cfg),
        small.weights(cfg),
        np.zeros((B, T), np.int32),
    )
    want = formula.forward(cfg, B * T, T) + B * T * formula.attention(cfg, T / 2)
    if cfg.router is not None and cfg.moe_layers:
        idle = cfg.router.experts - cfg.router.active
        want += B * T * cfg.moe_layers * idle * 6 * cfg.d_model * cfg.expert_ffn
    assert found == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("kind", ["mla", "gqa"])
def test_decoding_multiplies_what_the_formula_says(kind):
    cfg = model(kind)

    def step(w, cache, t):
        out = forward(w, t, cfg, positions_BT=t, cache=cache)
        return unembed(w.params, out.hidden_BTD[:, 0], cfg), out.cache

    found = compiled(step, small.weights(cfg), init_cache(cfg, B, T), np.zeros((B, 1), np.int32))
    assert found == pytest.approx(formula.decode(cfg, B, T), rel=1e-12)


@pytest.mark.parametrize(
    "name, total, active",
    [  # in billions, as published (with embedding and head)
        ("deepseek-v3", 671.03, 37.55),
        ("deepseek-v2-lite", 15.71, 2.66),
        ("deepseek-r1-distill-qwen-7b", 7.62, 7.62),
    ],
)
def test_published_sizes(name, total, active):
    cfg = MODELS[name]()
    found = formula.parameters(cfg)
    assert found.total / 1e9 == pytest.approx(total, abs=0.005)
    assert (found.active + 2 * found.head) / 1e9 == pytest.approx(active, abs=0.01)
