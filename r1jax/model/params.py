"""The parameter tree, declared once: shape, logical axes and initialiser of every array.

L layers  D d_model  V vocabulary  H heads  Q query latent  C key-value latent  N nope dim
R rope dim  U value dim  X = N + R  Y = N + U  E experts  F FFN width  S width of shared experts
In grouped-query attention: K key-value heads  X head dim
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.architecture import GQAConfig, MLAConfig, ModelConfig
from r1jax.sharding import ParamSpec

# A ParamSpec, ShapeDtypeStruct, NamedSharding or jax.Array: the tree is the same. None where a
# model does not have it.
Leaf = Any


class MLA(flax.struct.PyTreeNode):
    """Multi-head latent attention. Without a query latent, q_a and q_norm are None, Q = D."""

    q_a_DQ: Leaf
    q_norm_Q: Leaf
    q_b_QHX: Leaf
    kv_a_DC: Leaf
    kv_norm_C: Leaf
    k_rope_DR: Leaf
    kv_b_CHY: Leaf
    out_HUD: Leaf


class GQA(flax.struct.PyTreeNode):
    """Grouped-query attention. Biases and norms are None in models without them."""

    q_DHX: Leaf
    k_DKX: Leaf
    v_DKX: Leaf
    out_HXD: Leaf
    q_bias_HX: Leaf
    k_bias_KX: Leaf
    v_bias_KX: Leaf
    q_norm_X: Leaf
    k_norm_X: Leaf


class FFN(flax.struct.PyTreeNode):
    """SwiGLU: (silu(x gate) * (x up)) down."""

    gate_DF: Leaf
    up_DF: Leaf
    down_FD: Leaf


class MoE(flax.struct.PyTreeNode):
    """Routed experts; `shared` (None if there are none) sees every token."""

    router_DE: Leaf
    gate_EDF: Leaf
    up_EDF: Leaf
    down_EFD: Leaf
    shared: FFN | None


class Layer(flax.struct.PyTreeNode):
    attention_norm_D: Leaf
    attention: MLA | GQA
    ffn_norm_D: Leaf
    ffn: FFN | MoE


class MTP(flax.struct.PyTreeNode):
    """One multi-token prediction depth (DeepSeek-V3, section 2.2)."""

    hidden_norm_D: Leaf
    embed_norm_D: Leaf
    project_ED: Leaf  # E = 2D here: [embedding; hidden]
    layer: Layer
    norm_D: Leaf


class Params(flax.struct.PyTreeNode):
    """`dense` and `moe` are stacks: every array has a leading layer axis."""

    embed_VD: Leaf
    dense: Layer | None
    moe: Layer | None
    norm_D: Leaf
    head_DV: Leaf  # None: tied to the embedding
    mtp: tuple[MTP, ...]


class Weights(flax.struct.PyTreeNode):
    """All that `forward` needs: what the optimizer trains, and the router's selection biases,
    which the balance rule moves (DeepSeek-V3, section 2.1.2). One row a MoE layer, MTP's last;
    None for a model that routes nothing."""

    params: Params
    router_bias_LE: Leaf


def _zeros(_key, shape, dtype):
    return jnp.zeros(shape, dtype)


def _ones(_key, shape, dtype):
    return jnp.ones(shape, dtype)


def _normal(std: float):
    return lambda key, shape, dtype: (std * jax.random.normal(key, shape)).astype(dtype)


def _mla(mla: MLAConfig, d: int, w) -> MLA:
    q = mla.q_lora or d
    return MLA(
        q_a_DQ=ParamSpec((d, q), ("embed", "latent"), w, (1, 1)) if mla.q_lora else None,
        q_norm_Q=ParamSpec((q,), (None,), _ones) if mla.q_lora else None,
        q_b_QHX=ParamSpec((q, mla.heads, mla.qk_dim), ("embed", "heads", None), w, (1, 2)),
        kv_a_DC=ParamSpec((d, mla.kv_lora), ("embed", "latent"), w, (1, 1)),
        kv_norm_C=ParamSpec((mla.kv_lora,), (None,), _ones),
        k_rope_DR=ParamSpec((d, mla.rope_dim), ("embed", None), w, (1, 1)),
        kv_b_CHY=ParamSpec(
            (mla.kv_lora, mla.heads, mla.nope_dim + mla.v_dim), ("embed", "heads", None), w, (1, 2)
        ),
        out_HUD=ParamSpec((mla.heads, mla.v_dim, d), ("heads", None, "embed"), w, (2, 1)),
    )


def _gqa(gqa: GQAConfig, d: int, w) -> GQA:
    x = gqa.head_dim

    def project(heads: int) -> ParamSpec:
        return ParamSpec((d, heads, x), ("embed", "heads", None), w, (1, 2))

    def bias(heads: int) -> ParamSpec | None:
        return ParamSpec((heads, x), ("heads", None), _zeros) if gqa.qkv_bias else None

    norm = ParamSpec((x,), (None,), _ones) if gqa.qk_norm else None
    return GQA(
        q_DHX=project(gqa.heads),
        k_DKX=project(gqa.kv_heads),
        v_DKX=project(gqa.kv_heads),
        out_HXD=ParamSpec((gqa.heads, x, d), ("heads", None, "embed"), w, (2, 1)),
        q_bias_HX=bias(gqa.heads),
        k_bias_KX=bias(gqa.kv_heads),
        v_bias_KX=bias(gqa.kv_heads),
        q_norm_X=norm,
        k_norm_X=norm,
    )


def _layer(cfg: ModelConfig, moe: bool) -> Layer:
    a, d, w = cfg.attention, cfg.d_model, _normal(cfg.init_std)

    def ffn(width: int) -> FFN:
        return FFN(
            gate_DF=ParamSpec((d, width), ("embed", "ffn"), w, (1, 1)),
            up_DF=ParamSpec((d, width), ("embed", "ffn"), w, (1, 1)),
            down_FD=ParamSpec((width, d), ("ffn", "embed"), w, (1, 1)),
        )

    def experts() -> MoE:
        assert cfg.router is not None
        e, f = cfg.router.experts, cfg.expert_ffn
        return MoE(
            router_DE=ParamSpec((d, e), ("embed", None), w),
            gate_EDF=ParamSpec((e, d, f), ("experts", "embed", None), w, (1, 1)),
            up_EDF=ParamSpec((e, d, f), ("experts", "embed", None), w, (1, 1)),
            down_EFD=ParamSpec((e, f, d), ("experts", None, "embed"), w, (1, 1)),
            shared=ffn(cfg.shared_experts * f) if cfg.shared_experts else None,
        )

    return Layer(
        attention_norm_D=ParamSpec((d,), (None,), _ones),
        attention=_mla(a, d, w) if isinstance(a, MLAConfig) else _gqa(a, d, w),
        ffn_norm_D=ParamSpec((d,), (None,), _ones),
        ffn=experts() if moe else ffn(cfg.dense_ffn),
    )


def _stack(cfg: ModelConfig, moe: bool, n: int) -> Layer | None:
    """A layer's specs with a leading layer axis; None for no layers."""
    if n == 0:
        return None

    def one(spec: ParamSpec) -> ParamSpec:
        return ParamSpec((n, *spec.shape), ("layers", *spec.axes), spec.init, spec.matrix)

    return jax.tree.map(one, _layer(cfg, moe), is_leaf=lambda x: isinstance(x, ParamSpec))


def weight_specs(cfg: ModelConfig) -> Weights:
    """The whole model as ParamSpecs; allocates nothing."""
    d, w = cfg.d_model, _normal(cfg.init_std)

    def norm() -> ParamSpec:
        return ParamSpec((d,), (None,), _ones)

    params = Params(
        embed_VD=ParamSpec((cfg.vocab, d), ("vocab", "embed"), w, (1, 0)),
        dense=_stack(cfg, False, cfg.dense_layers),
        moe=_stack(cfg, True, cfg.moe_layers),
        norm_D=norm(),
        head_DV=None if cfg.tied_head else ParamSpec((d, cfg.vocab), ("embed", "vocab"), w, (1, 1)),
        mtp=tuple(
            MTP(
                hidden_norm_D=norm(),
                embed_norm_D=norm(),
                project_ED=ParamSpec((2 * d, d), (None, "embed"), w, (1, 1)),
                layer=_layer(cfg, moe=True),
                norm_D=norm(),
            )
            for _ in range(cfg.mtp_depth)
        ),
    )
    bias = None
    if cfg.router is not None and cfg.router_rows:
        bias = ParamSpec((cfg.router_rows, cfg.router.experts), (None, None), _zeros)
    return Weights(params=params, router_bias_LE=bias)
