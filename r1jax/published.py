"""Published models, and the embedded one, as functions that return complete configurations.

Where a paper or a published config gives no value, the docstring says so.
"""

from collections.abc import Callable

from r1jax.architecture import GQAConfig, MLAConfig, ModelConfig, RopeConfig, RouterConfig


def deepseek_v3() -> ModelConfig:
    """DeepSeek-V3, and so R1-Zero and R1: 671B parameters, 37B active a token.

    Architecture: `config.json` of deepseek-ai/DeepSeek-R1, equal to DeepSeek-V3's. init_std: the
    V3 report (arXiv 2412.19437, section 4.2), since the 0.02 of `config.json` is a default of the
    library that wrote it. mtp_depth 1: the extra layer that the checkpoint carries. mtp_hidden:
    no source says; as vLLM feeds it.
    """
    return ModelConfig(
        vocab=129_280,
        d_model=7168,
        layers=61,
        dense_layers=3,
        dense_ffn=18_432,
        expert_ffn=2048,
        shared_experts=1,
        attention=MLAConfig(
            heads=128, q_lora=1536, kv_lora=512, nope_dim=128, rope_dim=64, v_dim=128
        ),
        router=RouterConfig(
            experts=256,
            active=8,
            groups=8,
            group_limit=4,
            scoring="sigmoid",
            renormalize=True,
            scale=2.5,
        ),
        rope=RopeConfig(factor=40.0, mscale=1.0, mscale_all_dim=1.0),
        context=163_840,
        mtp_depth=1,
        mtp_hidden="normed",
        init_std=0.006,
        dtype="bfloat16",
        scan_layers=True,
        remat="full",
        logits_chunk=512,
    )


def deepseek_v2_lite() -> ModelConfig:
    """DeepSeek-V2-Lite: 15.7B parameters, 2.4B active, for people with one host.

    Architecture and init_std: `config.json` of deepseek-ai/DeepSeek-V2-Lite. The V2 report (arXiv
    2405.04434, appendix B) agrees and gives no init_std for this model.
    """
    return ModelConfig(
        vocab=102_400,
        d_model=2048,
        layers=27,
        dense_layers=1,
        dense_ffn=10_944,
        expert_ffn=1408,
        shared_experts=2,
        attention=MLAConfig(
            heads=16, q_lora=None, kv_lora=512, nope_dim=128, rope_dim=64, v_dim=128
        ),
        router=RouterConfig(experts=64, active=6, scoring="softmax", renormalize=False, scale=1.0),
        rope=RopeConfig(factor=40.0, mscale=0.707, mscale_all_dim=0.707),
        context=163_840,
        init_std=0.02,
        dtype="bfloat16",
        scan_layers=True,
        remat="full",
        logits_chunk=512,
    )


def _student(
    d_model: int,
    layers: int,
    ffn: int,
    vocab: int,
    attention: GQAConfig,
    rope: RopeConfig,
    norm_eps: float,
) -> ModelConfig:
    """A dense student of R1 as its `config.json` has it; all have 131,072 positions and a head of
    their own."""
    return ModelConfig(
        vocab=vocab,
        d_model=d_model,
        layers=layers,
        attention=attention,
        dense_layers=layers,
        dense_ffn=ffn,
        rope=rope,
        context=131_072,
        norm_eps=norm_eps,
        dtype="bfloat16",
        remat="full",
        logits_chunk=512,
    )


def _qwen2(heads: int, kv_heads: int) -> GQAConfig:
    return GQAConfig(heads=heads, kv_heads=kv_heads, head_dim=128, qkv_bias=True)


_HALVES = RopeConfig(interleaved=False)
_HALVES_1M = RopeConfig(theta=1e6, interleaved=False)
_LLAMA3_ROPE = RopeConfig(
    theta=500_000.0,
    interleaved=False,
    scaling="llama3",
    factor=8.0,
    original_context=8192,
    beta_fast=4.0,
    beta_slow=1.0,
)


def r1_distill_qwen_1_5b() -> ModelConfig:
    """DeepSeek-R1-Distill-Qwen-1.5B, from Qwen2.5-Math-1.5B (hence rope theta 10,000)."""
    return _student(1536, 28, 8960, 151_936, _qwen2(12, 2), _HALVES, 1e-6)


def r1_distill_qwen_7b() -> ModelConfig:
    """DeepSeek-R1-Distill-Qwen-7B, from Qwen2.5-Math-7B (hence rope theta 10,000)."""
    return _student(3584, 28, 18_944, 152_064, _qwen2(28, 4), _HALVES, 1e-6)


def r1_distill_qwen_14b() -> ModelConfig:
    """DeepSeek-R1-Distill-Qwen-14B, from Qwen2.5-14B."""
    return _student(5120, 48, 13_824, 152_064, _qwen2(40, 8), _HALVES_1M, 1e-5)


def r1_distill_qwen_32b() -> ModelConfig:
    """DeepSeek-R1-Distill-Qwen-32B, from Qwen2.5-32B, whose norm_eps this is: public tables
    disagree about the student's own."""
    return _student(5120, 64, 27_648, 152_064, _qwen2(40, 8), _HALVES_1M, 1e-5)


def r1_distill_llama_8b() -> ModelConfig:
    """DeepSeek-R1-Distill-Llama-8B, from Llama-3.1-8B."""
    attention = GQAConfig(heads=32, kv_heads=8, head_dim=128)
    return _student(4096, 32, 14_336, 128_256, attention, _LLAMA3_ROPE, 1e-5)


def r1_distill_llama_70b() -> ModelConfig:
    """DeepSeek-R1-Distill-Llama-70B, from Llama-3.3-70B-Instruct."""
    attention = GQAConfig(heads=64, kv_heads=8, head_dim=128)
    return _student(8192, 80, 28_672, 128_256, attention, _LLAMA3_ROPE, 1e-5)


def r1_0528_qwen3_8b() -> ModelConfig:
    """DeepSeek-R1-0528-Qwen3-8B: Qwen3-8B with YaRN over 32,768 positions.

    Its `config.json` also has an `attn_factor` of 0.878, which would cancel YaRN's temperature.
    Transformers knows no such field and keeps the temperature; so does this preset.
    """
    attention = GQAConfig(heads=32, kv_heads=8, head_dim=128, qk_norm=True)
    rope = RopeConfig(
        theta=1e6, interleaved=False, factor=4.0, original_context=32_768, mscale_all_dim=0.0
    )
    return _student(4096, 36, 12_288, 151_936, attention, rope, 1e-6)


def tiny() -> ModelConfig:
    """The embedded model, DeepSeek-V3 in miniature: every part of it, small enough for a CPU."""
    return ModelConfig(
        vocab=108,
        d_model=64,
        layers=2,
        dense_layers=0,
        dense_ffn=0,
        expert_ffn=32,
        shared_experts=2,
        attention=MLAConfig(heads=2, q_lora=48, kv_lora=32, nope_dim=24, rope_dim=8, v_dim=24),
        router=RouterConfig(experts=8, active=2),
        context=256,
        init_std=0.06,
        scan_layers=False,
        experts_multiply="dense",
    )


def tiny_student() -> ModelConfig:
    """The embedded student, R1's distilled models in miniature: dense, grouped-query attention as
    Qwen2.5's, a third of the embedded model's parameters."""
    return ModelConfig(
        vocab=108,
        d_model=48,
        layers=2,
        attention=GQAConfig(heads=4, kv_heads=2, head_dim=12, qkv_bias=True),
        dense_layers=2,
        dense_ffn=112,
        rope=_HALVES,
        context=256,
        init_std=0.06,
        scan_layers=False,
    )


MODELS: dict[str, Callable[[], ModelConfig]] = {
    "deepseek-v3": deepseek_v3,
    "deepseek-r1": deepseek_v3,  # the same architecture
    "deepseek-v2-lite": deepseek_v2_lite,
    "deepseek-r1-distill-qwen-1.5b": r1_distill_qwen_1_5b,
    "deepseek-r1-distill-qwen-7b": r1_distill_qwen_7b,
    "deepseek-r1-distill-qwen-14b": r1_distill_qwen_14b,
    "deepseek-r1-distill-qwen-32b": r1_distill_qwen_32b,
    "deepseek-r1-distill-llama-8b": r1_distill_llama_8b,
    "deepseek-r1-distill-llama-70b": r1_distill_llama_70b,
    "deepseek-r1-0528-qwen3-8b": r1_0528_qwen3_8b,
}
