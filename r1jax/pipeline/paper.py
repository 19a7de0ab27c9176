"""R1's stages as they were published, and where each number is from.

A step of these runs is a rollout of 8,192 replies and 16 updates; what the authors call a step is
an update. None of the data was published: each stage's is to be given. What is marked unreported
has this project's default.
"""

import dataclasses

from r1jax.config import OptimConfig, RewardConfig, RunConfig, SFTConfig
from r1jax.pipeline.filters import FilterConfig
from r1jax.pipeline.plan import (
    AllScenarios,
    ColdStart,
    Distillation,
    Evaluate,
    R1Config,
    RejectionSFT,
)
from r1jax.pipeline.rejection import RejectionConfig
from r1jax.presets import (
    DISTILLED_SOURCES,
    REWARD_MODEL_SOURCES,
    SOURCES,
    UNREPORTED,
    distill_qwen_1_5b,
    helpfulness_paper,
    r1_stage2_paper,
    r1_zero_paper,
    safety_paper,
)
from r1jax.published import deepseek_v3

CONTEXT = 32_768  # tokens of a reply, and of a row
UPDATES = 16  # a rollout


def paper() -> R1Config:
    """DeepSeek-R1 as published: 671B, its data to be given; SOURCES says where numbers are from."""
    drawn = RejectionConfig(temperature=1.0, max_tokens=CONTEXT, filters=FilterConfig())
    return R1Config(
        zero=_on_problems(r1_zero_paper()),
        cold_start=ColdStart(drawn, _sft(rows=128)),
        reasoning_rl=_on_problems(r1_stage2_paper()),
        rejection_sft=RejectionSFT(drawn, _sft(rows=128), ratio=3.0),
        all_scenarios=AllScenarios(
            helpful=helpfulness_paper(),
            safety=safety_paper(),
            rules=_last_stage(1300 // UPDATES),
            preferences=_last_stage(400 // UPDATES),
        ),
        distill=Distillation(
            dataclasses.replace(drawn, temperature=0.6, top_p=0.95),
            distill_qwen_1_5b(),
            alone=None,
        ),
        evaluate=Evaluate(k=0, max_tokens=CONTEXT),
        base="deepseek-ai/DeepSeek-V3-Base",
        out="runs/r1_paper",
    )


def _on_problems(run: RunConfig) -> RunConfig:
    return dataclasses.replace(run, task="problems")


def _last_stage(steps: int) -> RunConfig:
    """Stage 4: as stage 2, at a temperature of 0.7."""
    run = _on_problems(r1_stage2_paper())
    return dataclasses.replace(
        run,
        steps=steps,
        sampling=dataclasses.replace(run.sampling, temperature=0.7),
        reward=RewardConfig(language=1.0),
    )


def _sft(rows: int) -> SFTConfig:
    return SFTConfig(
        model=deepseek_v3(),
        base="",
        tokenizer="",
        epochs=2.0,
        rows=rows,
        length=CONTEXT,
        optim=OptimConfig(lr=5e-5, schedule="cosine", steps=1, final=0.1),
    )


_N = "Nature 645:633, Methods"
_S = "Nature 645:633, supplement"
_V1 = "arXiv 2501.12948v1"
_OPTIM = ("b1", "b2", "weight_decay", "clip_norm", "warmup", "bias_rate", "balance_alpha")


def _under(stage: str, sources: dict[str, str]) -> dict[str, str]:
    return {f"{stage}.{field}": source for field, source in sources.items()}


def _of_sft(stage: str, lr: str, epochs: str, rows: str) -> dict[str, str]:
    return _under(
        f"{stage}.sft",
        {
            "model": "arXiv 2412.19437",
            "epochs": epochs,
            "rows": f"{rows}; packed documents here, where the unit is unreported",
            "length": f"{_S}: 32,768 tokens",
            "long_documents": UNREPORTED,
            "optim.lr": lr,
            "optim.schedule": f"{_S}: cosine",
            "optim.final": f"{_S}: to a tenth",
            "optim.mtp_weight": UNREPORTED,
            **{f"optim.{name}": UNREPORTED for name in _OPTIM},
        },
    )


def _of_sample(stage: str, temperature: str) -> dict[str, str]:
    filters = ("min_language", "max_paragraph", "max_repetition")
    return _under(
        f"{stage}.sample",
        {
            "k": f"{_V1}, section 2.3.3: multiple; how many is unreported",
            "keep": UNREPORTED,
            "temperature": temperature,
            "top_p": UNREPORTED,
            "max_tokens": UNREPORTED,
            "filters.language": f"{_V1}, section 2.3.3: mixed languages are dropped",
            "filters.code_blocks": f"{_V1}, section 2.3.3: dropped",
            **{f"filters.{name}": f"{_V1}: dropped; the limit is unreported" for name in filters},
        },
    ) | {f"{stage}.limit": UNREPORTED}


_LAST = {
    **SOURCES["r1_stage2_paper"],
    "sampling.temperature": f"{_N}: 0.7",
    "reward.language": f"{_N}: on all data",
}

PAPER_SOURCES: dict[str, str] = {
    "base": "Nature 645:633: DeepSeek-V3-Base",
    "cold_start.data": f"{_N}: rewritten by DeepSeek-V3, then people; here they stay as drawn",
    **_under("zero", SOURCES["r1_zero_paper"]),
    **_of_sample("cold_start", f"{_N}: samples of R1-Zero at T = 1"),
    **_of_sft("cold_start", f"{_S}: 5e-5 to 5e-6", f"{_S}: 2 to 3", f"{_S}: 128"),
    **_under("reasoning_rl", SOURCES["r1_stage2_paper"]),
    **_of_sample("rejection_sft", UNREPORTED),
    **_of_sft("rejection_sft", f"{_S}: 5e-5 to 5e-6", f"{_V1}, section 2.3.3: two", f"{_S}: 128"),
    "rejection_sft.ratio": f"{_V1}, section 2.3.3: about 600k reasoning rows to 200k others",
    "rejection_sft.general": f"{_V1}, section 2.3.3: parts of V3's SFT data, unpublished",
    **_under("all_scenarios.helpful", REWARD_MODEL_SOURCES["helpfulness_paper"]),
    **_under("all_scenarios.safety", REWARD_MODEL_SOURCES["safety_paper"]),
    **_under("all_scenarios.rules", _LAST),
    "all_scenarios.rules.steps": f"{_N}: the first 1,300 of 1,700 updates; 81 rollouts are 1,296",
    **_under("all_scenarios.preferences", _LAST),
    "all_scenarios.preferences.steps": f"{_N}: preferences in the last 400 of 1,700 updates",
    "all_scenarios.helpful_weight": f"{_N}: rewards are summed; the models' scale is unreported",
    "all_scenarios.safety_weight": f"{_N}: rewards are summed; the models' scale is unreported",
    "all_scenarios.helpful_kinds": f"{_N}: queries of the helpfulness data; name yours",
    "all_scenarios.safety_kinds": f"{_N}: queries of the safety data; empty: all",
    **_of_sample("distill", UNREPORTED),
    **_under("distill.sft", DISTILLED_SOURCES["qwen_1_5b"]),
    "distill.sft.optim.mtp_weight": "the students have no MTP depth",
    "evaluate.k": f"{_S}: by benchmark (r1jax/evaluation/benchmarks.py)",
    "evaluate.temperature": f"{_S}: 0.6",
    "evaluate.top_p": f"{_S}: 0.95",
    "evaluate.max_tokens": f"{_S}: 32,768",
}
