"""R1's stages, complete: those of the embedded world. (`paper`: those that were published.)"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from r1jax.config import OptimConfig, RewardConfig, RLConfig, RunConfig, SamplingConfig, SFTConfig
from r1jax.pipeline import base, world
from r1jax.pipeline.filters import FilterConfig
from r1jax.pipeline.paper import paper
from r1jax.pipeline.plan import (
    AllScenarios,
    ColdStart,
    Distillation,
    Evaluate,
    R1Config,
    RejectionSFT,
)
from r1jax.pipeline.rejection import RejectionConfig
from r1jax.presets import r1_zero_tiny, reward_model_tiny
from r1jax.reward_models.recipe import RewardModelConfig

TOKENS = 176  # of a reply in the world
ROWS = 192  # of a document


def tiny() -> R1Config:
    """The embedded world: all stages on a laptop, each with a flaw to mend that one can see."""
    zero = _rl(steps=30, language=0.0)
    general = "+".join((*world.GENERAL, world.ALIKE))
    asked = SamplingConfig(temperature=0.7, max_prompt=16, max_tokens=TOKENS, slots=128, refill=16)
    return R1Config(
        zero=zero,
        cold_start=ColdStart(_sampled(4, 1), _sft(epochs=2.0, rows=8), limit=150),
        reasoning_rl=_rl(steps=25, language=1.0),
        rejection_sft=RejectionSFT(_sampled(2, 1), _sft(epochs=2.0, rows=8), limit=1000),
        all_scenarios=AllScenarios(
            helpful=_judge("pairwise"),
            safety=_judge("pointwise"),
            rules=dataclasses.replace(_rl(steps=8, language=1.0), sampling=asked),
            preferences=dataclasses.replace(_rl(steps=25, language=1.0), sampling=asked),
            helpful_kinds=general,
        ),
        distill=Distillation(_sampled(1, 1), _sft(epochs=3.0, rows=8), _rl(30, 1.0)),
        evaluate=Evaluate(k=4, max_tokens=TOKENS, limit=120),
    )


def _rl(steps: int, language: float) -> RunConfig:
    return dataclasses.replace(
        r1_zero_tiny(),
        task="problems",
        model=base.model(),
        steps=steps,
        evaluate_every=10,
        evaluate_samples=128,
        final_samples=256,
        sampling=SamplingConfig(max_prompt=16, max_tokens=TOKENS, slots=128, refill=16),
        rl=RLConfig(questions=16, group=16, minibatches=2, reference_every=50, rows=8),
        reward=RewardConfig(language=language),
        optim=OptimConfig(lr=3e-4, b2=0.99),
        log_replies=False,
    )


def _sft(epochs: float, rows: int) -> SFTConfig:
    return SFTConfig(
        model=base.model(),
        base="",
        tokenizer="",
        epochs=epochs,
        rows=rows,
        length=ROWS,
        log_every=5,
        optim=OptimConfig(lr=1e-3, schedule="cosine", steps=1, final=0.1, b2=0.99),
    )


def _sampled(k: int, keep: int) -> RejectionConfig:
    return RejectionConfig(
        k=k,
        keep=keep,
        max_tokens=TOKENS,
        directives=False,
        filters=FilterConfig(min_language=1.0, max_paragraph=0),
    )


def _judge(kind: Literal["pairwise", "pointwise"]) -> RewardModelConfig:
    return dataclasses.replace(
        reward_model_tiny(kind),
        model=base.model(),
        length=64,
        heldout_share=0.1,
        heldout_most=256,
        evaluate_every=20,
        checkpoint_every=20,
    )


PRESETS: dict[str, Callable[[], R1Config]] = {"tiny": tiny, "paper": paper}
