"""What a model is: its sizes, attention, router and rotary embedding, checked on construction."""

import dataclasses
import math
from typing import Literal

from r1jax.checks import check, check_positive

AttentionName = Literal["auto", "plain", "blockwise", "splash", "triton"]


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding; when `factor` > 1 stretched beyond the context that a model was first
    trained on, by YaRN (arXiv 2309.00071) or as Llama 3.1 does."""

    theta: float = 10_000.0
    #: Which numbers are a pair: neighbours (DeepSeek), or those half a head apart (Llama, Qwen).
    interleaved: bool = True
    scaling: Literal["yarn", "llama3"] = "yarn"
    factor: float = 1.0
    original_context: int = 4096
    #: Pairs that turn more than beta_fast times within the original context keep their speed, those
    #: that turn less than beta_slow times are slowed by `factor`. Llama 3.1: 4 and 1.
    beta_fast: float = 32.0
    beta_slow: float = 1.0  # below beta_fast
    #: DeepSeek splits YaRN's attention temperature in two: `mscale` / `mscale_all_dim` scales the
    #: rotary part, `mscale_all_dim` squared the softmax. Qwen: 1 and 0.
    mscale: float = 1.0
    mscale_all_dim: float = 1.0  # of the softmax

    def __post_init__(self):
        check_positive(self, "theta", "factor", "original_context", "beta_fast", "beta_slow")
        check(
            self.scaling in ("yarn", "llama3"),
            f"RopeConfig.scaling must be yarn or llama3, got {self.scaling!r}",
        )
        check(
            self.beta_slow < self.beta_fast,
            f"RopeConfig.beta_slow={self.beta_slow} must be below beta_fast={self.beta_fast}",
        )


@dataclasses.dataclass(frozen=True)
class MLAConfig:
    """Multi-head latent attention (DeepSeek-V2, section 2.1)."""

    heads: int
    q_lora: int | None  # None: queries are projected directly, as in V2-Lite
    kv_lora: int
    nope_dim: int
    rope_dim: int
    v_dim: int

    def __post_init__(self):
        check_positive(self, "heads", "kv_lora", "nope_dim", "rope_dim", "v_dim")
        check(
            self.q_lora is None or self.q_lora > 0,
            f"MLAConfig.q_lora must be positive or None, got {self.q_lora}",
        )
        check(self.rope_dim % 2 == 0, f"MLAConfig.rope_dim must be even, got {self.rope_dim}")

    @property
    def qk_dim(self) -> int:
        return self.nope_dim + self.rope_dim

    @property
    def rotary_dim(self) -> int:
        return self.rope_dim


@dataclasses.dataclass(frozen=True)
class GQAConfig:
    """Grouped-query attention (arXiv 2305.13245), as the dense students have it."""

    heads: int
    kv_heads: int  # each serves heads / kv_heads query heads
    head_dim: int
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3: RMS norm of each query and key head

    def __post_init__(self):
        check_positive(self, "heads", "kv_heads", "head_dim")
        check(
            self.heads % self.kv_heads == 0,
            f"GQAConfig.kv_heads={self.kv_heads} must divide heads={self.heads}",
        )
        check(self.head_dim % 2 == 0, f"GQAConfig.head_dim must be even, got {self.head_dim}")

    @property
    def qk_dim(self) -> int:
        return self.head_dim

    @property
    def rotary_dim(self) -> int:
        return self.head_dim


@dataclasses.dataclass(frozen=True)
class RouterConfig:
    """How tokens choose experts (DeepSeek-V3, section 2.1.2; V2 for "softmax")."""

    experts: int
    active: int
    groups: int = 1
    group_limit: int = 1
    scoring: Literal["sigmoid", "softmax"] = "sigmoid"
    renormalize: bool = True
    scale: float = 1.0

    def __post_init__(self):
        check_positive(self, "experts", "active", "groups", "group_limit", "scale")
        check(
            self.experts % self.groups == 0,
            f"RouterConfig.groups={self.groups} must divide experts={self.experts}",
        )
        check(
            self.group_limit <= self.groups,
            f"RouterConfig.group_limit={self.group_limit} exceeds groups={self.groups}",
        )
        allowed = self.experts // self.groups * self.group_limit
        check(
            self.active <= allowed,
            f"RouterConfig.active={self.active} exceeds the {allowed} "
            "experts that the group limit leaves",
        )
        check(
            self.scoring in ("sigmoid", "softmax"),
            f"RouterConfig.scoring must be sigmoid or softmax, got {self.scoring!r}",
        )


#: What an adapter may stand beside, as a checkpoint's modules are called.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "q_b_proj", "kv_b_proj",
                "gate_proj", "up_proj", "down_proj")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters (LoRA, arXiv 2106.09685) that are trained in place of the weights, which are frozen.
    Routed experts have none."""

    rank: int = 0  # 0: none, all weights are trained
    alpha: float = 32.0  # what adapters make is multiplied by alpha / rank
    targets: str = "all"  # modules that have one, by commas, such as q_proj,v_proj
    #: Embedding and head are trained whole beside them. It costs their size in float32 three times
    #: over, and is most of what adapters lack where the vocabulary is much of the model.
    embeddings: bool = False
    #: What the frozen weights are kept in; stored: what is computed in.
    weights: Literal["stored", "bf16", "int8", "int4"] = "stored"
    beside: str = ""  # which state of the frozen model, a run notes as it begins

    def __post_init__(self):
        check(self.rank >= 0, f"LoraConfig.rank must not be negative, got {self.rank}")
        for name, value in (("weights", self.weights), ("embeddings", self.embeddings)):
            check(
                self.rank > 0 or value in ("stored", False),
                f"LoraConfig.{name}={value}: of adapters, which LoraConfig.rank asks for",
            )
        check(self.alpha > 0, f"LoraConfig.alpha must be positive, got {self.alpha}")
        unknown = [t for t in self.modules() if t not in LORA_TARGETS]
        check(
            not unknown,
            f"LoraConfig.targets={self.targets}: expected all, or of {', '.join(LORA_TARGETS)}",
        )

    def modules(self) -> tuple[str, ...]:
        if self.targets == "all":
            return LORA_TARGETS
        return tuple(t.strip() for t in self.targets.split(","))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A transformer: dense layers first, then MoE layers. DeepSeek-V3 has MLA and both kinds;
    the dense students have grouped-query attention and no MoE layer, so no router."""

    vocab: int  # 0: as the tokenizer has it
    d_model: int
    layers: int
    attention: MLAConfig | GQAConfig
    dense_layers: int  # how many of the first layers have a dense FFN
    dense_ffn: int
    expert_ffn: int = 0
    shared_experts: int = 0
    router: RouterConfig | None = None
    rope: RopeConfig = RopeConfig()
    context: int = 4096
    mtp_depth: int = 0
    #: What the first MTP module reads of the layers below it: their output before the final norm,
    #: or after it (see `model.mtp`). It is what its weights were trained on.
    mtp_hidden: Literal["unnormed", "normed"] = "unnormed"
    tied_head: bool = False
    norm_eps: float = 1e-6
    init_std: float = 0.02

    # How it runs, not what it is:

    dtype: Literal["float32", "bfloat16"] = "float32"  # of what is computed
    #: Of what is kept: float32 in training, where dtype=bfloat16 may still compute in bfloat16.
    #: int8, int4: matrices in so many bits, for what is not trained (r1jax/model/quantise.py);
    #: stored: as a folder has them, in 4 or 8 bits.
    param_dtype: Literal["float32", "bfloat16", "int8", "int4", "stored"] = "float32"
    #: Adapters that are trained in place of it; None: none.
    lora: LoraConfig | None = None
    scan_layers: bool = True
    remat: Literal["none", "dots", "full"] = "none"
    #: How tokens attend (`model/attend.py`): "plain" materialises the scores, "blockwise" goes
    #: through them in blocks, "splash" is a TPU's kernel, "triton" a GPU's. "auto": plain for rows
    #: of less than 1,024 tokens, else the device's kernel, or blockwise where it has none.
    attention_impl: AttentionName = "auto"
    #: How a device multiplies tokens by its experts (`model/experts.py`). dense: every token by
    #: every expert, fastest where experts are tiny; grouped: pairs sorted by expert, by kernels on
    #: TPU and GPU; blocked: in blocks of one expert, for many tokens on a CPU.
    experts_multiply: Literal["dense", "blocked", "grouped"] = "grouped"
    #: How tokens reach the devices of their experts (`model/travel.py`). ring: all are gathered;
    #: all_to_all: each goes where it has experts; auto: what moves fewer rows, on a CPU a ring.
    experts_travel: Literal["auto", "ring", "all_to_all"] = "auto"
    #: Of both: what a buffer holds, in times of what a device gets by balanced routing. What does
    #: not fit is done after that, and nothing is dropped.
    experts_room: float = 1.25
    #: Log-probabilities are taken over this many positions at a time, so that the float32
    #: [batch, time, vocabulary] logits never exist at once. 0: all at once.
    logits_chunk: int = 0

    def __post_init__(self):
        check(self.vocab >= 0, f"ModelConfig.vocab must not be negative, got {self.vocab}")
        check_positive(self, "d_model", "layers", "context", "init_std", "experts_room")
        check(
            0 <= self.dense_layers <= self.layers,
            f"ModelConfig.dense_layers="
            f"{self.dense_layers} must lie between 0 and layers={self.layers}",
        )
        check(
            self.dense_layers == 0 or self.dense_ffn > 0,
            "ModelConfig.dense_ffn must be positive when there are dense layers",
        )
        check(
            self.router_rows == 0 or (self.router is not None and self.expert_ffn > 0),
            "ModelConfig: MoE layers need a router and a positive expert_ffn",
        )
        check(
            self.shared_experts >= 0 and self.mtp_depth >= 0 and self.logits_chunk >= 0,
            "ModelConfig.shared_experts, mtp_depth and logits_chunk must not be negative",
        )
        check(
            self.mtp_hidden in ("unnormed", "normed"),
            f"ModelConfig.mtp_hidden must be unnormed or normed, got {self.mtp_hidden!r}",
        )

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def router_rows(self) -> int:
        """Layers that route, MTP's included."""
        return self.moe_layers + self.mtp_depth

    @property
    def softmax_scale(self) -> float:
        """1/sqrt(qk_dim), times YaRN's temperature squared (DeepSeek's `mscale_all_dim`)."""
        temperature = yarn_mscale(self.rope, self.rope.mscale_all_dim)
        return self.attention.qk_dim**-0.5 * temperature**2


UNROLLED = 8  # layers, at most: a loop over few costs more than their code takes to compile
#: Of a ModelConfig: how it runs, which may change between what made weights and what uses them.
HOW_IT_RUNS = (
    "dtype",
    "param_dtype",
    "scan_layers",
    "remat",
    "attention_impl",
    "experts_multiply",
    "experts_travel",
    "experts_room",
    "logits_chunk",
)


def run_as(model: ModelConfig, other: ModelConfig) -> ModelConfig:
    """`model`, run as `other` is."""
    return dataclasses.replace(model, **{name: getattr(other, name) for name in HOW_IT_RUNS})


def check_moves(model: ModelConfig, lr: float, name: str = "OptimConfig.lr") -> None:
    """Raises InputError if parameters are too coarse for a learning rate, which is called `name`.

    AdamW moves a weight by about lr an update, and weights have a size of init_std or so. bfloat16
    has 8 bits: a weight w that is moved by less than 2^-9 to 2^-8 |w| rounds back to itself. Frozen
    weights may be kept in anything.
    """
    if model.lora is not None:
        return
    check(
        model.param_dtype in ("float32", "bfloat16"),
        f"ModelConfig.param_dtype={model.param_dtype} cannot be trained: adapters beside it can, "
        "--lora.rank=16",
    )
    least = model.init_std * 2**-8
    check(
        model.param_dtype != "bfloat16" or lr >= least or lr == 0,
        f"ModelConfig.param_dtype=bfloat16 cannot hold updates of {name}={lr:g}: a "
        f"weight of the size of init_std={model.init_std:g} moves by {least:.1g} or not at all; "
        "param_dtype=float32 can, and dtype=bfloat16 computes in bfloat16 all the same",
    )


def yarn_mscale(rope: RopeConfig, mscale: float) -> float:
    """YaRN's attention temperature, 0.1 * mscale * ln(factor) + 1 (arXiv 2309.00071, eq. 22)."""
    if rope.scaling != "yarn" or rope.factor <= 1.0:
        return 1.0
    return 0.1 * mscale * math.log(rope.factor) + 1.0
