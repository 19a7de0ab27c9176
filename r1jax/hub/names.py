"""Which tensor of a Hugging Face checkpoint each parameter is.

A linear layer is [outputs, inputs] there and [inputs, outputs] here, where either may be several
axes (heads and head dim, say). Layers and experts, stacked here, are tensors of their own there.
"""

import dataclasses
import math
from collections.abc import Iterator

from r1jax.architecture import ModelConfig
from r1jax.model.params import FFN, GQA, MLA, Layer, MoE, Weights, weight_specs
from r1jax.sharding import ParamSpec


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the checkpoint, or some of its rows, as an entry of one of our parameters.

    leaf: the parameter's path, such as "params.moe.ffn.up_EDF".
    lead: which entry of its leading axes: () or (layer,) or (layer, expert).
    inner: the shape of that entry.
    inputs: how many of the entry's axes, the first, are the inputs of a matrix; 0: the tensor has
        our order of axes (an embedding, a bias, a scale).
    first: the row of the tensor that the entry begins at; `rows` of `total` are the entry's.
    copies: other names that the same values go by.
    """

    name: str
    leaf: str
    lead: tuple[int, ...]
    inner: tuple[int, ...]
    inputs: int = 0
    first: int = 0
    total: int = 0
    copies: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[int, ...]:
        """The axes of a row: a matrix's inputs; an embedding's width; none of a vector."""
        if self.inputs:
            return (math.prod(self.inner[: self.inputs]),)
        return self.inner[1:] if self.leaf.endswith("_VD") else ()

    @property
    def rows(self) -> int:
        return math.prod(self.inner) // math.prod(self.columns)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor in the checkpoint."""
        return (self.total or self.rows, *self.columns)


def tensors(model: ModelConfig) -> Iterator[Tensor]:
    """Every parameter of the model, in the order that checkpoints are written in. The parts of a
    tensor that is several parameters follow each other."""
    specs = weight_specs(model)
    p = specs.params
    # An MTP module stands in the checkpoint as one more layer, with the tensors it shares again.
    again = [f"model.layers.{model.layers + i}" for i in range(model.mtp_depth)]
    copies = tuple(f"{name}.embed_tokens.weight" for name in again)
    yield Tensor(
        "model.embed_tokens.weight", "params.embed_VD", (), p.embed_VD.shape, copies=copies
    )
    for stack, first in (("dense", 0), ("moe", model.dense_layers)):
        layer = getattr(p, stack)
        if layer is not None:
            for i in range(layer.ffn_norm_D.shape[0]):
                yield from _layer(layer, f"params.{stack}", f"model.layers.{first + i}", (i,))
                yield from _bias(model, specs, stack == "moe", first + i, i)
    yield Tensor("model.norm.weight", "params.norm_D", (), p.norm_D.shape)
    if p.head_DV is not None:
        copies = tuple(f"{name}.shared_head.head.weight" for name in again)
        yield Tensor("lm_head.weight", "params.head_DV", (), p.head_DV.shape, 1, copies=copies)
    for i, name in enumerate(again):
        mtp, leaf = p.mtp[i], f"params.mtp.{i}"
        for there, here, inputs in (
            ("enorm", "embed_norm_D", 0),
            ("hnorm", "hidden_norm_D", 0),
            ("eh_proj", "project_ED", 1),
            ("shared_head.norm", "norm_D", 0),
        ):
            shape = getattr(mtp, here).shape
            yield Tensor(f"{name}.{there}.weight", f"{leaf}.{here}", (), shape, inputs)
        yield from _layer(mtp.layer, f"{leaf}.layer", name, ())
        yield from _bias(model, specs, True, model.layers + i, model.moe_layers + i)


def _layer(layer: Layer, leaf: str, name: str, lead: tuple[int, ...]) -> Iterator[Tensor]:
    skip = len(lead)

    def one(
        there: str, here: str, spec: ParamSpec, inputs: int = 0, first: int = 0, total: int = 0
    ) -> Tensor:
        shape = spec.shape[skip:]
        return Tensor(f"{name}.{there}", f"{leaf}.{here}", lead, shape, inputs, first, total)

    yield one("input_layernorm.weight", "attention_norm_D", layer.attention_norm_D)
    if isinstance(layer.attention, MLA):
        yield from _mla(layer.attention, one)
    else:
        yield from _gqa(layer.attention, one)
    yield one("post_attention_layernorm.weight", "ffn_norm_D", layer.ffn_norm_D)
    if isinstance(layer.ffn, FFN):
        yield from _ffn(layer.ffn, one, "mlp", "ffn")
    else:
        yield from _moe(layer.ffn, one, f"{name}.mlp", f"{leaf}.ffn", lead)


def _mla(a: MLA, one) -> Iterator[Tensor]:
    at = "self_attn"
    if a.q_a_DQ is None:
        yield one(f"{at}.q_proj.weight", "attention.q_b_QHX", a.q_b_QHX, 1)
    else:
        yield one(f"{at}.q_a_proj.weight", "attention.q_a_DQ", a.q_a_DQ, 1)
        yield one(f"{at}.q_a_layernorm.weight", "attention.q_norm_Q", a.q_norm_Q)
        yield one(f"{at}.q_b_proj.weight", "attention.q_b_QHX", a.q_b_QHX, 1)
    c, r = a.kv_a_DC.shape[-1], a.k_rope_DR.shape[-1]
    both = f"{at}.kv_a_proj_with_mqa.weight"
    yield one(both, "attention.kv_a_DC", a.kv_a_DC, 1, first=0, total=c + r)
    yield one(both, "attention.k_rope_DR", a.k_rope_DR, 1, first=c, total=c + r)
    yield one(f"{at}.kv_a_layernorm.weight", "attention.kv_norm_C", a.kv_norm_C)
    yield one(f"{at}.kv_b_proj.weight", "attention.kv_b_CHY", a.kv_b_CHY, 1)
    yield one(f"{at}.o_proj.weight", "attention.out_HUD", a.out_HUD, 2)


def _gqa(a: GQA, one) -> Iterator[Tensor]:
    at = "self_attn"
    for name, here, spec in (
        ("q", "q_DHX", a.q_DHX),
        ("k", "k_DKX", a.k_DKX),
        ("v", "v_DKX", a.v_DKX),
    ):
        yield one(f"{at}.{name}_proj.weight", f"attention.{here}", spec, 1)
    yield one(f"{at}.o_proj.weight", "attention.out_HXD", a.out_HXD, 2)
    for name, here, spec in (
        ("q_proj.bias", "q_bias_HX", a.q_bias_HX),
        ("k_proj.bias", "k_bias_KX", a.k_bias_KX),
        ("v_proj.bias", "v_bias_KX", a.v_bias_KX),
        ("q_norm.weight", "q_norm_X", a.q_norm_X),
        ("k_norm.weight", "k_norm_X", a.k_norm_X),
    ):
        if spec is not None:
            yield one(f"{at}.{name}", f"attention.{here}", spec)


def _ffn(ffn: FFN, one, name: str, leaf: str) -> Iterator[Tensor]:
    yield one(f"{name}.gate_proj.weight", f"{leaf}.gate_DF", ffn.gate_DF, 1)
    yield one(f"{name}.up_proj.weight", f"{leaf}.up_DF", ffn.up_DF, 1)
    yield one(f"{name}.down_proj.weight", f"{leaf}.down_FD", ffn.down_FD, 1)


def _moe(moe: MoE, one, name: str, leaf: str, lead: tuple[int, ...]) -> Iterator[Tensor]:
    yield one("mlp.gate.weight", "ffn.router_DE", moe.router_DE, 1)
    experts = (
        ("gate", "gate_EDF", moe.gate_EDF),
        ("up", "up_EDF", moe.up_EDF),
        ("down", "down_EFD", moe.down_EFD),
    )
    for e in range(moe.gate_EDF.shape[len(lead)]):
        for there, here, spec in experts:
            full, shape = f"{name}.experts.{e}.{there}_proj.weight", spec.shape[len(lead) + 1 :]
            yield Tensor(full, f"{leaf}.{here}", (*lead, e), shape, 1)
    if moe.shared is not None:
        yield from _ffn(moe.shared, one, "mlp.shared_experts", "ffn.shared")


def _bias(model: ModelConfig, specs: Weights, moe: bool, layer: int, row: int) -> Iterator[Tensor]:
    """DeepSeek-V2 has no selection bias: there is nothing to read, and only zeros to write."""
    if moe and model.router is not None and model.router.scoring == "sigmoid":
        name = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
        yield Tensor(name, "router_bias_LE", (row,), specs.router_bias_LE.shape[1:])
