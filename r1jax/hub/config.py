"""`config.json` of Hugging Face <-> ModelConfig.

What decides the numbers is read or refused, never skipped: a field that asks for something that
the model does not do is an error that names it.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from r1jax.architecture import (
    UNROLLED,
    GQAConfig,
    MLAConfig,
    ModelConfig,
    RopeConfig,
    RouterConfig,
)
from r1jax.checks import InputError, check
from r1jax.hub.files import has_weights, stored_tensors

ARCHITECTURES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}

# Fields that change what a model computes, and the values that this one computes.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": (None, "silu"),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "use_sliding_window": (None, False),
    "moe_layer_freq": (None, 1),
}
_DTYPES: dict[str, Literal["float32", "bfloat16"]] = {"float32": "float32", "bfloat16": "bfloat16"}


class Fields:
    """The fields of a JSON object, each of the type it must have. Errors name file and field."""

    def __init__(self, values: dict[str, Any], where: str):
        self.values, self.where = values, where

    def integer(self, name: str, default: int | None = None) -> int:
        value = self._get(name, default)
        self._check(type(value) is int, name, "an integer", value)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        self._check(type(value) in (int, float), name, "a number", value)
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._get(name, default)
        self._check(type(value) is bool, name, "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        self._check(type(value) is str, name, "a string", value)
        return value

    def object(self, name: str) -> "Fields | None":
        value = self.values.get(name)
        if value is None:
            return None
        self._check(type(value) is dict, name, "an object", value)
        return Fields(value, f"{self.where}: {name}")

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        value = default if value is None else value
        check(value is not None, f"{self.where}: field {name} is missing")
        return value

    def _check(self, ok: bool, name: str, wanted: str, value: Any) -> None:
        check(ok, f"{self.where}: field {name} must be {wanted}, got {value!r}")


def read_fields(folder: str | Path) -> Fields:
    """The config.json of a folder. Raises InputError, naming the file."""
    file = Path(folder) / "config.json"
    try:
        values = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{file}: invalid JSON: {error}") from None
    check(isinstance(values, dict), f"{file}: expected a JSON object")
    return Fields(values, str(file))


def read_config(folder: str | Path) -> ModelConfig:
    """The model that a directory's config.json describes, to run in the type it is stored in.

    Raises InputError that names the file and the field, for a field that is missing or of the
    wrong type, and for a model that this one is not.
    """
    fields = read_fields(folder)
    kind = fields.text("model_type")
    check(
        kind in ARCHITECTURES,
        f"{fields.where}: model_type {kind!r} is not supported; {', '.join(ARCHITECTURES)} are",
    )
    for name, allowed in _ONLY.items():
        value = fields.values.get(name)
        check(value in allowed, f"{fields.where}: {name}={value!r} is not supported")
    # Newer files say it a layer, in words; they may say full attention so, too.
    layer_types = fields.values.get("layer_types") or []
    ok = isinstance(layer_types, list) and all(type(one) is str for one in layer_types)
    check(ok, f"{fields.where}: field layer_types must be a list of strings, got {layer_types!r}")
    others = sorted({*layer_types} - {"full_attention"})
    check(not others, f"{fields.where}: layer_types: {', '.join(others)} is not supported")
    packing(fields)
    try:
        model = (_deepseek if kind.startswith("deepseek") else _dense)(fields, kind)
    except InputError as error:
        message = str(error)
        raise InputError(
            message if message.startswith(fields.where) else f"{fields.where}: {message}"
        ) from None
    # Transformers writes the field, but drops the module.
    module = f"model.layers.{model.layers}.eh_proj."  # weight, or what it is packed as
    stored = stored_tensors(folder) if model.mtp_depth and has_weights(folder) else {module}
    if not any(name.startswith(module) for name in stored):
        model = dataclasses.replace(model, mtp_depth=0, mtp_hidden="unnormed")
    return model


class Packing(NamedTuple):
    """How a checkpoint's matrices are stored. method: "" where they are plain. block: rows and
    columns that share a scale in FP8. zeros_from: what is added to stored zero points."""

    method: str = ""
    block: tuple[int, int] = (128, 128)
    zeros_from: int = 0


_PACKED_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")


def packing(fields: Fields) -> Packing:
    """Raises InputError that names file and field for a form that is not read."""
    quantized = fields.object("quantization_config")
    if quantized is None:
        return Packing()
    method, where = quantized.text("quant_method"), quantized.where
    known = ("fp8", "compressed-tensors", "gptq", "awq")
    said = f"{where}: quant_method {method!r} is not supported; {', '.join(known)} are"
    check(method in known, said)
    if method == "compressed-tensors":
        kind = quantized.text("format")
        said = f"{where}: format {kind!r} is not supported; {', '.join(_PACKED_FORMATS)} are"
        check(kind in _PACKED_FORMATS, said)
        return Packing(method)
    if method in ("gptq", "awq"):
        bits = quantized.integer("bits")
        check(bits in ((4,) if method == "awq" else (4, 8)), f"{where}: bits={bits} is not read")
        version = quantized.text("version", "gemm").lower()
        check(method == "gptq" or version == "gemm", f"{where}: version {version!r} is not read")
        first_format = quantized.text("checkpoint_format", "gptq") == "gptq"
        return Packing(method, zeros_from=int(method == "gptq" and first_format))
    block = quantized.values.get("weight_block_size", [128, 128])
    ok = isinstance(block, list) and len(block) == 2
    ok = ok and all(type(n) is int and n > 0 for n in block)
    check(ok, f"{where}: field weight_block_size must be two integers, got {block!r}")
    return Packing(method, (block[0], block[1]))


def _deepseek(fields: Fields, kind: str) -> ModelConfig:
    layers = fields.integer("num_hidden_layers")
    dense_layers = min(layers, fields.integer("first_k_dense_replace"))
    if fields.values.get("n_routed_experts") is None:
        dense_layers = layers
    heads = fields.integer("num_attention_heads")
    check(
        fields.integer("num_key_value_heads", heads) == heads,
        f"{fields.where}: num_key_value_heads must equal num_attention_heads in latent attention",
    )
    q_lora = fields.values.get("q_lora_rank")
    rope_dim = fields.integer("qk_rope_head_dim")
    return ModelConfig(
        **_common(fields),
        layers=layers,
        attention=MLAConfig(
            heads=heads,
            q_lora=None if q_lora is None else fields.integer("q_lora_rank"),
            kv_lora=fields.integer("kv_lora_rank"),
            nope_dim=fields.integer("qk_nope_head_dim"),
            rope_dim=rope_dim,
            v_dim=fields.integer("v_head_dim"),
        ),
        dense_layers=dense_layers,
        dense_ffn=fields.integer("intermediate_size"),
        expert_ffn=fields.integer("moe_intermediate_size", 0),
        shared_experts=fields.integer("n_shared_experts", 0),
        router=None if dense_layers == layers else _router(fields, kind),
        rope=_rope(
            fields,
            interleaved=kind == "deepseek_v2" or fields.flag("rope_interleave", True),
            temperature=True,
        ),
        **_mtp(fields, fields.integer("num_nextn_predict_layers", 0) * (dense_layers < layers)),
    )


def _mtp(fields: Fields, depth: int) -> dict[str, Any]:
    if not depth:
        return {}
    # A key of our own. Published files do not say; vLLM feeds their module normed states.
    return {"mtp_depth": depth, "mtp_hidden": fields.text("mtp_hidden", "normed")}


def _router(fields: Fields, kind: str) -> RouterConfig:
    v3 = kind == "deepseek_v3"
    scoring = fields.text("scoring_func", "sigmoid" if v3 else "softmax")
    method = fields.text("topk_method", "noaux_tc" if v3 else "greedy")
    grouped = method in ("noaux_tc", "group_limited_greedy")
    expected = ("sigmoid", "noaux_tc") if v3 else ("softmax", "greedy or group_limited_greedy")
    check(
        scoring == expected[0] and method in expected[1].split(" or "),
        f"{fields.where}: scoring_func={scoring!r} with topk_method={method!r} is not supported; "
        f"{kind} has {expected[0]} and {expected[1]}",
    )
    return RouterConfig(
        experts=fields.integer("n_routed_experts"),
        active=fields.integer("num_experts_per_tok"),
        groups=fields.integer("n_group", 1) if grouped else 1,
        group_limit=fields.integer("topk_group", 1) if grouped else 1,
        scoring="sigmoid" if v3 else "softmax",
        renormalize=fields.flag("norm_topk_prob", v3),
        scale=fields.number("routed_scaling_factor", 1.0),
    )


def _dense(fields: Fields, kind: str) -> ModelConfig:
    layers, heads = fields.integer("num_hidden_layers"), fields.integer("num_attention_heads")
    width = fields.integer("hidden_size")
    return ModelConfig(
        **_common(fields),
        layers=layers,
        attention=GQAConfig(
            heads=heads,
            kv_heads=fields.integer("num_key_value_heads", heads),
            head_dim=fields.integer("head_dim", width // max(1, heads)),
            qkv_bias=kind == "qwen2",
            qk_norm=kind == "qwen3",
        ),
        dense_layers=layers,
        dense_ffn=fields.integer("intermediate_size"),
        rope=_rope(fields, interleaved=False, temperature=False),
    )


def _common(fields: Fields) -> dict[str, Any]:
    stored = fields.text("dtype", fields.text("torch_dtype", "float32"))
    dtype = _DTYPES.get(stored, "float32")
    quantised = packing(fields).method in ("compressed-tensors", "gptq", "awq")
    return {
        "vocab": fields.integer("vocab_size"),
        "d_model": fields.integer("hidden_size"),
        "context": fields.integer("max_position_embeddings"),
        "tied_head": fields.flag("tie_word_embeddings"),
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "init_std": fields.number("initializer_range", 0.02),
        "dtype": dtype,
        "param_dtype": "stored" if quantised else dtype,
        "scan_layers": fields.integer("num_hidden_layers") > UNROLLED,
    }


def _rope(fields: Fields, interleaved: bool, temperature: bool) -> RopeConfig:
    """`rope_theta` and `rope_scaling`, or `rope_parameters` with both, as newer files have it.

    temperature: whether the architecture scales the softmax by mscale_all_dim (DeepSeek's do).
    """
    scaling = fields.object("rope_parameters") or fields.object("rope_scaling")
    plain = fields.number("rope_theta", 10_000.0)
    if scaling is None:
        return RopeConfig(theta=plain, interleaved=interleaved)
    theta = scaling.number("rope_theta", plain)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind == "default":
        return RopeConfig(theta=theta, interleaved=interleaved)
    check(
        kind in ("yarn", "llama3"),
        f"{scaling.where}: rope_type {kind!r} is not supported; default, yarn and llama3 are",
    )
    context = fields.integer("max_position_embeddings")
    original = scaling.integer("original_max_position_embeddings", context)
    if kind == "llama3":
        return RopeConfig(
            theta=theta,
            interleaved=interleaved,
            scaling="llama3",
            factor=scaling.number("factor"),
            original_context=original,
            beta_fast=scaling.number("high_freq_factor"),
            beta_slow=scaling.number("low_freq_factor"),
        )
    check(scaling.flag("truncate", True), f"{scaling.where}: truncate=false is not supported")
    factor = scaling.number("factor", context / original)
    mscale, all_dim = scaling.number("mscale", 0.0), scaling.number("mscale_all_dim", 0.0)
    given = scaling.values.get("attention_factor")
    if given is not None or not (temperature and mscale and all_dim):
        check(
            not (temperature and all_dim),
            f"{scaling.where}: mscale_all_dim needs mscale, and no attention_factor beside it",
        )
        mscale, all_dim = _mscale(scaling, factor, mscale, all_dim), 0.0
    return RopeConfig(
        theta=theta,
        interleaved=interleaved,
        factor=factor,
        original_context=original,
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        mscale=mscale,
        mscale_all_dim=all_dim,
    )


def _mscale(scaling: Fields, factor: float, mscale: float, all_dim: float) -> float:
    """The mscale whose temperature, 0.1 mscale ln(factor) + 1, scales queries and keys as asked:
    by attention_factor, by the ratio of the temperatures of both, or by YaRN's own (mscale 1)."""
    unit = 0.1 * math.log(factor) if factor > 1 else 0.0
    if scaling.values.get("attention_factor") is not None:
        wanted = scaling.number("attention_factor")
    elif mscale and all_dim:
        wanted = (unit * mscale + 1) / (unit * all_dim + 1)
    else:
        return 1.0
    check(
        unit > 0 or wanted == 1,
        f"{scaling.where}: attention_factor needs a factor above 1, got {factor}",
    )
    return (wanted - 1) / unit if unit else 1.0


def architecture(model: ModelConfig) -> str:
    """The model_type that a model is written as. Raises InputError for one that has none."""
    a = model.attention
    if isinstance(a, MLAConfig):
        softmax = model.router is not None and model.router.scoring == "softmax"
        kind = "deepseek_v2" if softmax else "deepseek_v3"
        check(
            not (softmax and model.mtp_depth),
            "ModelConfig.mtp_depth: deepseek_v2 has no MTP layers to write them as",
        )
        return kind
    check(not model.rope.interleaved, "RopeConfig.interleaved: dense students rotate halves")
    check(
        not (a.qkv_bias and a.qk_norm) and model.router_rows == 0,
        "ModelConfig: no architecture of Hugging Face has these parts together",
    )
    return "qwen2" if a.qkv_bias else "qwen3" if a.qk_norm else "llama"


def write_config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a model; `read_config` of it gives the same model."""
    kind, a, rope = architecture(model), model.attention, model.rope
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": model.vocab,
        "hidden_size": model.d_model,
        "intermediate_size": model.dense_ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": a.heads,
        "hidden_act": "silu",
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied_head,
        "attention_bias": False,
        "rope_theta": rope.theta,
        "rope_scaling": _rope_scaling(rope),
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if isinstance(a, GQAConfig):
        return values | {"num_key_value_heads": a.kv_heads, "head_dim": a.head_dim}
    values |= {
        "num_key_value_heads": a.heads,
        "q_lora_rank": a.q_lora,
        "kv_lora_rank": a.kv_lora,
        "qk_nope_head_dim": a.nope_dim,
        "qk_rope_head_dim": a.rope_dim,
        "v_head_dim": a.v_dim,
        "first_k_dense_replace": model.dense_layers,
        "moe_layer_freq": 1,
    }
    if kind == "deepseek_v3":
        values |= {
            "rope_interleave": rope.interleaved,
            "num_nextn_predict_layers": model.mtp_depth,
        }
    if model.mtp_depth:
        values["mtp_hidden"] = model.mtp_hidden
    if model.router is None:
        return values
    r, grouped = model.router, "noaux_tc" if kind == "deepseek_v3" else "group_limited_greedy"
    return values | {
        "moe_intermediate_size": model.expert_ffn,
        "n_shared_experts": model.shared_experts,
        "n_routed_experts": r.experts,
        "num_experts_per_tok": r.active,
        "n_group": r.groups,
        "topk_group": r.group_limit,
        "scoring_func": r.scoring,
        "topk_method": "greedy" if kind == "deepseek_v2" and r.groups == 1 else grouped,
        "norm_topk_prob": r.renormalize,
        "routed_scaling_factor": r.scale,
    }


def _rope_scaling(rope: RopeConfig) -> dict[str, Any] | None:
    if rope.factor <= 1:
        return None
    values = {"factor": rope.factor, "original_max_position_embeddings": rope.original_context}
    if rope.scaling == "llama3":
        turns = {"low_freq_factor": rope.beta_slow, "high_freq_factor": rope.beta_fast}
        return {"rope_type": "llama3", "type": "llama3"} | values | turns
    values |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
    if rope.mscale_all_dim:
        values |= {"mscale": rope.mscale, "mscale_all_dim": rope.mscale_all_dim}
    elif rope.mscale != 1:
        values |= {"attention_factor": 0.1 * rope.mscale * math.log(rope.factor) + 1}
    return {"rope_type": "yarn", "type": "yarn"} | values
