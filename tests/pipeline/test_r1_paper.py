"""`--preset=paper` is complete, and says where each number is from."""

import dataclasses

import pytest

from r1jax.config import OptimConfig, RLConfig, SamplingConfig
from r1jax.config_file import fields_of, from_values
from r1jax.pipeline.paper import PAPER_SOURCES, UPDATES, paper
from r1jax.pipeline.plan import R1Config
from r1jax.pipeline.presets import PRESETS
from r1jax.presets import UNREPORTED

# How it is run here, not what is learned: no claims about the paper.
OURS = {
    "rl.rows", "rl.row_tokens", "rl.correction", "rl.routing_replay", "rl.gamma", "rl.gae_lambda",
    "rl.value_clip", "rl.critic_lr", "rl.max_draws", "rl.overlong_buffer", "rl.overlong_weight",
    "sampling.slots", "sampling.refill", "sampling.top_k", "sampling.top_p", "optim.schedule",
    "sampling.drafts", "sampling.draft_tokens", "optim.steps", "optim.final", "optim.mtp_weight",
    "optim.moments",
}  # fmt: skip
RUNS = ("zero", "reasoning_rl", "all_scenarios.rules", "all_scenarios.preferences")
PARTS = {"rl": RLConfig, "sampling": SamplingConfig, "optim": OptimConfig}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_whole_and_survives_its_own_file(name):
    cfg = PRESETS[name]()
    assert from_values(R1Config, dataclasses.asdict(cfg)) == cfg


def test_every_source_is_of_a_field_that_exists():
    known = fields_of(paper())
    for name in PAPER_SOURCES:
        assert name in known or any(field.startswith(f"{name}.") for field in known), name


@pytest.mark.parametrize("stage", RUNS)
def test_every_number_of_an_rl_stage_has_a_source_or_is_marked(stage):
    for part, kind in PARTS.items():
        for field in dataclasses.fields(kind):
            path = f"{part}.{field.name}"
            assert (f"{stage}.{path}" in PAPER_SOURCES) != (path in OURS), path


@pytest.mark.parametrize("stage", ["cold_start", "rejection_sft", "distill"])
def test_every_number_of_a_tuning_stage_has_a_source_or_is_marked(stage):
    told = {f"optim.{field.name}" for field in dataclasses.fields(OptimConfig)} - {
        "optim.steps",
        "optim.moments",
    }
    told |= {"model", "epochs", "rows", "length"}
    assert {f"{stage}.sft.{name}" for name in told} <= set(PAPER_SOURCES)
    drawn = ("k", "keep", "temperature", "top_p", "max_tokens")
    assert {f"{stage}.sample.{name}" for name in drawn} <= set(PAPER_SOURCES)


def test_it_has_the_published_numbers():
    cfg = paper()
    for stage in (cfg.cold_start, cfg.rejection_sft):
        optim = stage.sft.optim
        assert (optim.lr, optim.lr * optim.final, optim.schedule) == (5e-5, 5e-6, "cosine")
        assert (stage.sft.rows, stage.sft.length) == (128, 32_768)
    assert cfg.cold_start.sample.temperature == 1.0
    assert cfg.rejection_sft.sft.epochs == 2 and cfg.rejection_sft.ratio == 3.0
    rules, last = cfg.all_scenarios.rules, cfg.all_scenarios.preferences
    assert rules.sampling.temperature == last.sampling.temperature == 0.7
    assert last.steps * UPDATES == 400 and 0 <= 1300 - rules.steps * UPDATES < UPDATES
    assert cfg.reasoning_rl.reward.language == last.reward.language == 1.0
    assert cfg.zero.reward.language is None
    assert cfg.all_scenarios.helpful.reads == "summary"
    assert cfg.all_scenarios.safety.reads == "reply"
    assert PAPER_SOURCES["zero.rl.clip_low"] == UNREPORTED
