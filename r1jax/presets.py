"""Runs, published ones among them, as functions that return complete configurations.

Where a paper or a published config gives no value, the docstring says so.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from r1jax.architecture import ModelConfig, run_as
from r1jax.base import BaseConfig
from r1jax.config import (
    CorpusConfig,
    OptimConfig,
    RewardConfig,
    RLConfig,
    RunConfig,
    SamplingConfig,
    SFTConfig,
)
from r1jax.published import (
    deepseek_v3,
    r1_0528_qwen3_8b,
    r1_distill_llama_8b,
    r1_distill_llama_70b,
    r1_distill_qwen_1_5b,
    r1_distill_qwen_7b,
    r1_distill_qwen_14b,
    r1_distill_qwen_32b,
    tiny,
    tiny_student,
)
from r1jax.reward_models.recipe import RewardModelConfig


def tiny_base(
    corpus: CorpusConfig | None = None,
    model: ModelConfig | None = None,
    heldout_share: float = 0.125,
    seed: int = 0,
) -> BaseConfig:
    """How the embedded base is made; `corpus` for another mixture of traces, `model` for another
    model. However that runs later, in bfloat16 or beside adapters for one, its base is made as the
    shipped one was."""
    return BaseConfig(
        model=dataclasses.replace(run_as(model or tiny(), tiny()), lora=None),
        corpus=corpus or CorpusConfig(),
        seed=seed,
        heldout_share=heldout_share,
        optim=OptimConfig(
            lr=4e-3,
            schedule="cosine",
            warmup=50,
            steps=1000,
            weight_decay=0.01,
            bias_rate=1e-3,
            balance_alpha=1e-4,
        ),
    )


def r1_zero_tiny() -> RunConfig:
    """The embedded default: R1-Zero on countdown, in minutes on a laptop."""
    return RunConfig(
        model=tiny(),
        sampling=SamplingConfig(max_prompt=12, max_tokens=176, slots=128, refill=16),
        rl=RLConfig(questions=16, group=16, minibatches=2, reference_every=50, rows=8),
        optim=OptimConfig(lr=3e-4, b2=0.99),
        steps=60,
        evaluate_dense=0,
        evaluate_every=5,
        log_replies=True,
    )


def r1_zero_tiny_student() -> RunConfig:
    """RL alone on the embedded student, whose base is made first: what distillation into it is to
    be compared with (arXiv 2501.12948v1, section 4.1)."""
    return dataclasses.replace(
        r1_zero_tiny(), model=tiny_student(), base="train", out="runs/r1_zero_student"
    )


def r1_zero_small() -> RunConfig:
    """A small random model for tasks with a published tokenizer (GSM8K): a check of the whole loop
    on real text, not a model that will solve it. Its vocabulary is the tokenizer's."""
    model = dataclasses.replace(
        tiny(), vocab=0, context=1024, dtype="float32", experts_multiply="grouped", logits_chunk=32
    )
    return RunConfig(
        model=model,
        base="random",
        out="runs/r1_zero_small",
        steps=4,
        evaluate_samples=16,
        final_samples=16,
        sampling=SamplingConfig(max_prompt=384, max_tokens=96, slots=32, refill=16),
        rl=RLConfig(questions=4, group=8, minibatches=2),
        optim=OptimConfig(lr=3e-4),
    )


def stories() -> RunConfig:
    """RL on a real pre-trained model that writes children's stories: --model=DIR names it, such as
    stories260K of llama2.c. A story must use three words; each that it uses is a part of the
    reward, and all of them as much again. In minutes on a laptop."""
    return dataclasses.replace(
        r1_zero_small(),
        task="stories",
        out="runs/stories",
        steps=40,
        evaluate_samples=128,
        final_samples=512,
        sampling=SamplingConfig(max_prompt=32, max_tokens=96, slots=128, refill=32),
        rl=RLConfig(questions=16, group=16, minibatches=2, kl_coef=0.01),
        reward=RewardConfig(accuracy=1.0, partial=1.0, format=0.0),
        optim=OptimConfig(lr=5e-4, b2=0.99),
    )


def r1_zero_paper() -> RunConfig:
    """DeepSeek-R1-Zero as published in Nature 645:633 ([N]); see SOURCES for each number.

    A rollout of 512 questions x 16 replies is split at random into 16 updates of 512 replies. What
    the authors call a step is one update; a step here is one rollout: 650 rollouts make their
    10,400 updates. Replies are cut at 32,768 tokens until update 8,200 (rollout 512), then at
    65,536: resume there with --sampling.max-tokens=65536.
    """
    return RunConfig(
        model=deepseek_v3(),
        base="random",
        out="runs/r1_zero_paper",
        steps=650,
        sampling=SamplingConfig(
            temperature=1.0, max_prompt=4096, max_tokens=32_768, slots=2048, refill=1024
        ),
        rl=RLConfig(
            algorithm="grpo",
            questions=512,
            group=16,
            minibatches=16,
            clip_low=10.0,
            clip_high=10.0,
            kl_coef=1e-3,
            reference_every=400,
        ),
        optim=OptimConfig(lr=3e-6),
    )


def r1_stage2_paper() -> RunConfig:
    """R1's second stage, its first RL stage (reasoning RL), as published in [N].

    As R1-Zero, from the cold-start model. Beside accuracy and format it was rewarded for language
    consistency: words in the target language / all words of the chain of thought, added as it is.
    """
    return dataclasses.replace(
        r1_zero_paper(), out="runs/r1_stage2_paper", reward=RewardConfig(language=1.0)
    )


def dapo(run: RunConfig) -> RunConfig:
    """`run` with DAPO's settings (arXiv 2503.14476): its own clip range and no KL, token mean,
    dynamic sampling, and overlong shaping over the last fifth of the budget.

    Paper: right and wrong are +1 and -1, nothing is paid for format, and full length costs 1. Code:
    1 and 0, the run's other rewards stay, and full length costs half (RLConfig.overlong_weight)."""
    rl = dataclasses.replace(
        run.rl,
        algorithm="dapo",
        clip_low=None,
        clip_high=None,
        kl_coef=None,
        max_draws=12,
        overlong_buffer=run.sampling.max_tokens // 5,
    )
    return dataclasses.replace(run, rl=rl)


def r1_zero_tiny_dapo() -> RunConfig:
    """The embedded default by DAPO."""
    return dapo(r1_zero_tiny())


RUNS: dict[str, Callable[[], RunConfig]] = {
    "tiny": r1_zero_tiny,
    "tiny_dapo": r1_zero_tiny_dapo,
    "tiny_student": r1_zero_tiny_student,
    "small": r1_zero_small,
    "stories": stories,
    "r1_zero_paper": r1_zero_paper,
    "r1_stage2_paper": r1_stage2_paper,
}

UNREPORTED = "unreported"
_N = "Nature 645:633, Methods"
_NOT_PUBLISHED = (
    "sampling.max_prompt", "optim.b1", "optim.b2", "optim.weight_decay", "optim.clip_norm",
    "optim.warmup", "optim.bias_rate", "optim.balance_alpha",
)  # fmt: skip
_SHARED_SOURCES = {
    "optim.lr": _N,
    "rl.kl_coef": _N,
    "rl.group": _N,
    "rl.questions": f"{_N}: 8,192 outputs a rollout = 512 questions x 16",
    "rl.minibatches": f"{_N}: 16 minibatches of 512, one inner epoch",
    "rl.reference_every": _N,
    "rl.algorithm": "arXiv 2402.03300; token- or sequence-level averaging is unreported",
    "sampling.temperature": _N,
    "sampling.max_tokens": _N,
    "model": "arXiv 2412.19437",
    "reward.accuracy": f"{_N}: accuracy and format, equal weight, summed",
    "reward.format": f"{_N}: accuracy and format, equal weight, summed",
    **dict.fromkeys(_NOT_PUBLISHED, UNREPORTED),
}

# Where each number of a published run comes from. What is unreported still needs a value to run;
# it is then this project's default (for R1-Zero's clip range: that of R1's first RL stage).
SOURCES: dict[str, dict[str, str]] = {
    "r1_zero_paper": _SHARED_SOURCES
    | {
        "steps": f"{_N}: 10,400 updates",
        "rl.clip_low": UNREPORTED,
        "rl.clip_high": UNREPORTED,
        "reward.language": f"{_N}: no such reward in R1-Zero",
    },
    "r1_stage2_paper": _SHARED_SOURCES
    | {
        "steps": UNREPORTED,
        "rl.clip_low": f"{_N}: epsilon = 10, so the lower bound is vacuous",
        "rl.clip_high": f"{_N}: epsilon = 10",
        "reward.language": "arXiv 2501.12948v1, section 2.3.2: directly summed with accuracy",
    },
}


def reward_model_tiny(kind: Literal["pairwise", "pointwise"] = "pairwise") -> RewardModelConfig:
    """The embedded reward models: replies to countdown problems, in a minute on a laptop.
    Helpfulness reads the summary, safety the whole reply, as R1's."""
    return RewardModelConfig(
        model=tiny(),
        optim=OptimConfig(lr=1e-3, warmup=20, b2=0.99),
        kind=kind,
        reads="summary" if kind == "pairwise" else "reply",
        out="runs/reward_model" if kind == "pairwise" else "runs/safety_model",
        batch=64,
        length=96,
        heldout_share=0.125,
        heldout_most=512,
        evaluate_every=20,
        checkpoint_every=20,
        made=3840,
    )


def safety_tiny() -> RewardModelConfig:
    """The embedded safety model, of labelled replies."""
    return reward_model_tiny("pointwise")


def reward_model_small() -> RewardModelConfig:
    """A small random model for your own data and a published tokenizer: a check of the whole path,
    not a judge. Its vocabulary is the tokenizer's."""
    return dataclasses.replace(
        reward_model_tiny(),
        model=r1_zero_small().model,
        base="random",
        out="runs/reward_model_small",
        batch=8,
        length=512,
        heldout_share=0.1,
    )


def helpfulness_paper() -> RewardModelConfig:
    """DeepSeek-R1's helpfulness reward model as published in [N]: 66,000 pairs, each judged four
    times by DeepSeek-V3 with positions swapped, of which the averaged scores differ by more than 1.
    It has R1's architecture and reads the final summary. See REWARD_MODEL_SOURCES."""
    return RewardModelConfig(
        model=deepseek_v3(),
        optim=OptimConfig(lr=6e-6),
        kind="pairwise",
        reads="summary",
        base="random",
        out="runs/helpfulness_paper",
        epochs=1,
        batch=256,
        length=8192,
        min_gap=1.0,
    )


def safety_paper() -> RewardModelConfig:
    """DeepSeek-R1's safety reward model as published in [N]: 106,000 replies labelled safe or
    unsafe, read as a whole; hyperparameters "the same as the helpful reward model"."""
    return dataclasses.replace(
        helpfulness_paper(), kind="pointwise", reads="reply", out="runs/safety_paper"
    )


REWARD_MODELS: dict[str, Callable[[], RewardModelConfig]] = {
    "tiny_pairwise": reward_model_tiny,
    "tiny_pointwise": safety_tiny,
    "small": reward_model_small,
    "helpfulness_paper": helpfulness_paper,
    "safety_paper": safety_paper,
}

_REWARD_MODEL_SOURCES = {
    "model": f"{_N}: R1's architecture, with a reward head",
    "kind": _N,
    "reads": _N,
    "epochs": _N,
    "batch": _N,
    "length": f"{_N}: in training; no limit in use",
    "optim.lr": _N,
    "base": UNREPORTED,
    "optim.schedule": UNREPORTED,
    "heldout_share": UNREPORTED,
    **{name: UNREPORTED for name in _NOT_PUBLISHED if name.startswith("optim.")},
}
REWARD_MODEL_SOURCES: dict[str, dict[str, str]] = {
    "helpfulness_paper": _REWARD_MODEL_SOURCES
    | {
        "min_gap": f"{_N}: the judge's scale is unreported",
        "balance": f"{_N}: chosen and rejected of comparable length; how is unreported",
    },
    "safety_paper": _REWARD_MODEL_SOURCES,
}


def distill_tiny() -> SFTConfig:
    """The embedded student, from the replies of an embedded teacher, in a minute on a laptop. Its
    base has read what the embedded one has, and is made first (or found in the user's cache)."""
    return SFTConfig(
        model=tiny_student(),
        base="train",
        tokenizer="",
        out="runs/distill/student",
        long_documents="drop",
        epochs=3.0,
        rows=8,
        length=176,
        optim=OptimConfig(lr=2e-3, schedule="cosine", steps=1, final=0.1, b2=0.99),
    )


def distill_paper() -> SFTConfig:
    """A student of R1's of any size: what its report says of all (Nature 645:633, supplement). The
    learning rate is each student's own; this one is in the middle. See DISTILLED_SOURCES."""
    return _student_of_r1(tiny_student(), "DIR", 5e-5)


def _student_of_r1(model: ModelConfig, base: str, lr: float) -> SFTConfig:
    return SFTConfig(
        model=model,
        base=base,
        tokenizer="",
        out="runs/distill/student",
        long_documents="drop",
        epochs=2.0,
        rows=64,
        length=32_768,
        optim=OptimConfig(lr=lr, schedule="cosine", steps=1, final=0.1),
    )


def distill_qwen_1_5b() -> SFTConfig:
    """DeepSeek-R1-Distill-Qwen-1.5B, from Qwen2.5-Math-1.5B."""
    return _student_of_r1(r1_distill_qwen_1_5b(), "Qwen/Qwen2.5-Math-1.5B", 1e-4)


def distill_qwen_7b() -> SFTConfig:
    """DeepSeek-R1-Distill-Qwen-7B, from Qwen2.5-Math-7B."""
    return _student_of_r1(r1_distill_qwen_7b(), "Qwen/Qwen2.5-Math-7B", 8e-5)


def distill_qwen_14b() -> SFTConfig:
    """DeepSeek-R1-Distill-Qwen-14B, from Qwen2.5-14B."""
    return _student_of_r1(r1_distill_qwen_14b(), "Qwen/Qwen2.5-14B", 7e-5)


def distill_qwen_32b() -> SFTConfig:
    """DeepSeek-R1-Distill-Qwen-32B, from Qwen2.5-32B."""
    return _student_of_r1(r1_distill_qwen_32b(), "Qwen/Qwen2.5-32B", 6e-5)


def distill_llama_8b() -> SFTConfig:
    """DeepSeek-R1-Distill-Llama-8B, from Llama-3.1-8B."""
    return _student_of_r1(r1_distill_llama_8b(), "meta-llama/Llama-3.1-8B", 5e-5)


def distill_llama_70b() -> SFTConfig:
    """DeepSeek-R1-Distill-Llama-70B, from Llama-3.3-70B-Instruct."""
    return _student_of_r1(r1_distill_llama_70b(), "meta-llama/Llama-3.3-70B-Instruct", 2e-5)


def distill_0528_qwen3_8b() -> SFTConfig:
    """DeepSeek-R1-0528-Qwen3-8B, from Qwen3-8B-Base: its card says no more than that R1-0528's
    thoughts were distilled into it, so that every number is R1's of a student of its size."""
    return _student_of_r1(r1_0528_qwen3_8b(), "Qwen/Qwen3-8B-Base", 8e-5)


DISTILLED: dict[str, Callable[[], SFTConfig]] = {
    "tiny": distill_tiny,
    "paper": distill_paper,
    "qwen_1_5b": distill_qwen_1_5b,
    "qwen_7b": distill_qwen_7b,
    "qwen_14b": distill_qwen_14b,
    "qwen_32b": distill_qwen_32b,
    "llama_8b": distill_llama_8b,
    "llama_70b": distill_llama_70b,
    "qwen3_8b_0528": distill_0528_qwen3_8b,
}

_S = "Nature 645:633, supplement, distillation"
_DISTILLED_SOURCES = {
    "model": "r1jax/published.py",
    "base": _S,
    "epochs": f"{_S}: 2 to 3",
    "rows": f"{_S}: batch 64; whether several samples share a row is {UNREPORTED}",
    "length": f"{_S}: the longest context",
    "long_documents": f"{UNREPORTED}: what became of longer samples",
    "optim.lr": _S,
    "optim.schedule": _S,
    "optim.final": f"{_S}: to a tenth",
    **{name: UNREPORTED for name in _NOT_PUBLISHED if name.startswith("optim.")},
}
DISTILLED_SOURCES: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        ("qwen_1_5b", "qwen_7b", "qwen_14b", "qwen_32b", "llama_8b", "llama_70b"),
        _DISTILLED_SOURCES,
    ),
    "qwen3_8b_0528": dict.fromkeys(_DISTILLED_SOURCES, UNREPORTED)
    | {"model": "r1jax/published.py", "base": "model card of DeepSeek-R1-0528-Qwen3-8B"},
}
