"""Published runs carry the published numbers, and say which were not published."""

import dataclasses

import pytest

from experiments import r1_zero
from r1jax import sharding
from r1jax.model.params import weight_specs
from r1jax.presets import RUNS, SOURCES, UNREPORTED
from r1jax.published import tiny
from r1jax.rl.algorithms import settings


def field(config, path: str):
    for name in path.split("."):
        config = getattr(config, name)
    return config


def test_tiny_has_the_parameters_the_readme_says():
    specs = weight_specs(tiny())
    assert sharding.count(specs.params) == 167_904
    assert sharding.count(specs.router_bias_LE) == 2 * 8


@pytest.mark.parametrize("name", RUNS)
def test_every_preset_builds(name):
    assert RUNS[name]().rl.questions > 0


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_of_a_field_that_exists(name):
    for path in SOURCES[name]:
        field(RUNS[name](), path)


@pytest.mark.parametrize("name", SOURCES)
def test_every_number_of_a_published_run_has_a_source_or_is_marked_unreported(name):
    run = RUNS[name]()
    # How it is run here, not what is learned: these are no claims about the paper.
    ours = {
        "rl.rows", "rl.row_tokens", "rl.correction", "rl.routing_replay",
        "rl.gamma", "rl.gae_lambda", "rl.value_clip", "rl.critic_lr",
        "rl.max_draws", "rl.overlong_buffer", "rl.overlong_weight",
        "sampling.slots", "sampling.refill", "sampling.top_k", "sampling.top_p",
        "sampling.drafts", "sampling.draft_tokens",
        "optim.schedule", "optim.steps", "optim.final", "optim.mtp_weight",
        "optim.moments",
        "reward.repetition", "reward.partial", "reward.target_language", "reward.only",
        "reward.own", "reward.own_seconds", "reward.models", "reward.control",
        "reward.random_share",
    }  # fmt: skip
    for part in ("rl", "sampling", "optim", "reward"):
        for f in dataclasses.fields(field(run, part)):
            path = f"{part}.{f.name}"
            assert (path in SOURCES[name]) != (path in ours), path


def test_r1_zero_paper_has_the_published_numbers():
    run = RUNS["r1_zero_paper"]()
    assert run.optim.lr == 3e-6
    assert run.rl.kl_coef == 0.001
    assert run.rl.group == 16
    assert run.sampling.temperature == 1.0
    assert run.sampling.max_tokens == 32_768
    assert run.rl.reference_every == 400
    replies = run.rl.questions * run.rl.group
    assert replies == 8192
    assert replies // run.rl.minibatches == 512
    assert run.steps * run.rl.minibatches == 10_400
    assert SOURCES["r1_zero_paper"]["rl.clip_low"] == UNREPORTED


def test_r1_stage2_paper_clips_at_epsilon_10_so_never_from_below():
    rl = RUNS["r1_stage2_paper"]().rl
    assert (rl.clip_low, rl.clip_high) == (10.0, 10.0)
    assert 1 - rl.clip_low < 0 < 1 + rl.clip_high == 11.0
    assert SOURCES["r1_stage2_paper"]["steps"] == UNREPORTED


def test_only_stage_2_rewards_language_consistency():
    weights = {name: run().reward.weights for name, run in RUNS.items()}
    stage_2 = weights.pop("r1_stage2_paper")
    assert weights.pop("stories") == {"accuracy": 1.0, "partial": 1.0, "format": 0.0}
    assert stage_2 == {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    assert all(w == {"accuracy": 1.0, "format": 1.0} for w in weights.values())


def test_dapo_preset_clips_higher_and_has_no_kl_term():
    rl = RUNS["tiny_dapo"]().rl
    assert rl.algorithm == "dapo"
    assert settings(rl) == (0.2, 0.28, 0.0)
    assert rl.max_draws > 1
    assert rl.overlong_buffer > 0


def test_a_preset_that_was_named_reaches_the_run(monkeypatch):
    """For run.json; one that was not is not claimed, since fields may have come from elsewhere."""

    class Begun(Exception):
        pass

    def reinforce(*_, preset, name):
        raise Begun(preset)

    monkeypatch.setattr(r1_zero, "reinforce", reinforce)
    for flags, preset in ([], ""), (["--preset=tiny_dapo"], "tiny_dapo"):
        with pytest.raises(Begun, match=f"^{preset}$"):
            r1_zero.main(flags)
