"""The runs that stages are made of, each as its own command starts it."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from jax.sharding import Mesh

from r1jax import sharding
from r1jax.checks import check
from r1jax.config import RewardConfig, RunConfig, SFTConfig
from r1jax.data.problems import Problem
from r1jax.data.tasks import make_task
from r1jax.evaluation.local import Local
from r1jax.evaluation.protocol import Protocol
from r1jax.models import (
    first_weights,
    from_model,
    open_model,
    to_train,
    tuned_from,
    with_vocab,
)
from r1jax.pipeline import reinforcement, rejection
from r1jax.pipeline.judge import __file__ as JUDGE
from r1jax.pipeline.tuning import fine_tune
from r1jax.reward_models import train as reward_models
from r1jax.reward_models.recipe import RewardModelConfig, read_data, reading
from r1jax.rewards.components import in_chat
from r1jax.rewards.grading import Grader
from r1jax.rewards.own import components_of

Say = Callable[[str], None]
QUALITY = f"{JUDGE}:quality"  # judges the world's problems of the kind "own"


def reinforce(cfg: RunConfig, begins: str, say: Say) -> None:
    """RL from the model `begins` (`experiments.r1_zero --model`), with its report."""
    cfg = from_model(cfg, begins, resumes=False)
    reinforcement.reinforce(cfg, make_task(cfg), say=say)


def tune(cfg: SFTConfig, begins: str, say: Say) -> None:
    """Supervised fine-tuning of the model `begins` (`experiments.sft --model`)."""
    fine_tune(tuned_from(cfg, begins), say=say)


def reward_model(cfg: RewardModelConfig, begins: str, say: Say) -> None:
    """A reward model (`experiments.reward_model`), from the weights of the model `begins`."""
    source = open_model(begins)
    cfg = dataclasses.replace(
        cfg, model=to_train(source.config), base=source.base, tokenizer=source.files
    )
    tokenizer, _ = reading(cfg)
    cfg, data = with_vocab(cfg, tokenizer.vocab_size), read_data(cfg)
    mesh = sharding.make_mesh(cfg.mesh)
    say(f"reward model, {cfg.kind}, reads the {cfg.reads}: {data.said}")
    run = reward_models.train(
        cfg, data, mesh, lambda: first_weights(cfg.base, cfg.model, mesh, cfg.seed), say
    )
    run.check_ended()


def sample(
    cfg: rejection.RejectionConfig,
    model: str,
    problems: list[Problem],
    out: Path,
    mesh: Mesh,
    say: Say,
) -> rejection.Counts:
    """Replies of a model, those kept and those dropped (`experiments.rejection_sample`)."""
    replier, weights = replier_of(model, cfg.protocol, mesh, say)
    with grader_for(problems, replier.form) as grader:
        counts = rejection.sample(
            replier, problems, grader, cfg, out, identity={"weights": weights}, say=say
        )
    for line in counts.lines():
        say(line)
    check(counts.kept > 0, f"{out}: nothing is kept: dropped.jsonl has the reasons")
    return counts


def replier_of(model: str, protocol: Protocol, mesh: Mesh, say: Say) -> tuple[Local, str]:
    """A model that replies, and which weights these are."""
    source = open_model(model)
    return Local(source, protocol, mesh, say=say), source.state()


def grader_for(problems: Iterable[Problem], form: str) -> Grader:
    """By the rules, and of the world's requests by its judge."""
    own = f"{QUALITY}:0:own" if any(problem.kind == "own" for problem in problems) else ""
    rewards = RewardConfig(own=own)
    components = components_of(rewards)
    return Grader(rewards.weights, components=in_chat(components) if form == "chat" else components)
