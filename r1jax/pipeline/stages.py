"""The stages: what each begins from, what it makes, and what it is for.

    OUT/world/          the base's directory and the data that no stage makes
    OUT/zero/           an RL run                        R1-Zero
    OUT/cold_start/     an SFT run; drawn/ what was sampled, rows.jsonl what was kept    Dev1
    OUT/reasoning_rl/   an RL run                        Dev2
    OUT/rejection_sft/  as cold_start                    Dev3
    OUT/all_scenarios/  an RL run; helpful/, safety/: reward models; rules/: its first part    R1
    OUT/distill/        an SFT run of the student; alone/: the same student by RL
    OUT/evaluate/       a folder a model, and table.json

A stage reads only folders and files; whatever stands in their place is taken as it is.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from r1jax import processes
from r1jax.checks import check
from r1jax.config import RewardConfig
from r1jax.pipeline import base, datasets, made, runs, table
from r1jax.pipeline import evaluate as evaluation
from r1jax.pipeline.place import At
from r1jax.pipeline.plan import WORLD


class Stage(NamedTuple):
    """needs: folders or files in OUT. about: what it does; mends: the flaw that it is for. gives:
    what its model is called; begins: the one whose weights it begins with; learns: the one whose
    replies it learns from; kind: how."""

    name: str
    needs: tuple[str, ...]
    run: Callable[[At], None]
    about: str
    gives: str = ""
    begins: str = ""
    mends: str = ""
    learns: str = ""
    kind: str = "SFT"


def prepare(at: At) -> None:
    """The world's models and data, where a pipeline begins from it."""

    def write() -> list:
        if at.cfg.base == WORLD and jax.process_index() == 0:
            made.write_world(at.out / "world", seed=at.cfg.seed)
            base.write_model(at.out / "world" / "model", base.model(), base.SHIPPED)
            base.write_model(at.out / "world" / "student", base.student(), base.SHIPPED_STUDENT)
        return []

    processes.gather(write)


def zero(at: At) -> None:
    runs.reinforce(at.rl(at.cfg.zero, "zero"), at.begins, at.say)


def cold_start(at: At) -> None:
    data = datasets.cold_start(at)
    runs.tune(at.sft(at.cfg.cold_start.sft, "cold_start", data), at.begins, at.say)


def reasoning_rl(at: At) -> None:
    cfg, begins = at.cfg.reasoning_rl, str(at.out / "cold_start")
    runs.reinforce(at.rl(cfg, "reasoning_rl"), begins, at.say)
    if at.cfg.ablations:
        without = dataclasses.replace(cfg, reward=dataclasses.replace(cfg.reward, language=0.0))
        runs.reinforce(at.rl(without, "reasoning_rl/without_language"), begins, at.say)


def rejection_sft(at: At) -> None:
    data = datasets.rejection_sft(at)
    runs.tune(at.sft(at.cfg.rejection_sft.sft, "rejection_sft", data), at.begins, at.say)


def all_scenarios(at: At) -> None:
    cfg, begins = at.cfg.all_scenarios, str(at.out / "rejection_sft")
    helpful = at.judge(cfg.helpful, "all_scenarios/helpful", "preferences.jsonl")
    runs.reward_model(helpful, begins, at.say)
    safety = at.judge(cfg.safety, "all_scenarios/safety", "safety.jsonl")
    runs.reward_model(safety, begins, at.say)
    runs.reinforce(at.rl(cfg.rules, "all_scenarios/rules"), begins, at.say)

    def with_preferences(steps: int, out: str, begins: str) -> None:
        run = at.rl(cfg.preferences, out, "reasoning.jsonl:1,general.jsonl:1")
        run = dataclasses.replace(run, steps=steps, reward=preferred(at, run.reward))
        runs.reinforce(run, begins, at.say)

    with_preferences(cfg.preferences.steps, "all_scenarios", f"{at.out}/all_scenarios/rules")
    if at.cfg.ablations:
        whole = cfg.rules.steps + cfg.preferences.steps
        with_preferences(whole, "all_scenarios/whole", begins)


def preferred(at: At, reward: RewardConfig) -> RewardConfig:
    """`reward` with the two models, and rules only for what has one. What is truly good is logged
    beside it in the world, and pays nothing."""
    cfg = at.cfg.all_scenarios
    parts = [
        f"helpful={at.out}/all_scenarios/helpful:{cfg.helpful_weight}" + _kinds(cfg.helpful_kinds),
        f"safety={at.out}/all_scenarios/safety:{cfg.safety_weight}" + _kinds(cfg.safety_kinds),
    ]
    reward = dataclasses.replace(reward, models=",".join(filter(None, (reward.models, *parts))))
    if at.cfg.base != WORLD:
        return reward
    return dataclasses.replace(reward, own=f"{runs.QUALITY}:0:own", only="accuracy:countdown")


def _kinds(named: str) -> str:
    return f":{named}" if named else ""


def distill(at: At) -> None:
    cfg = at.cfg.distill
    check(bool(cfg.student) or at.cfg.base == WORLD, "--distill.student=DIR is needed")
    student = cfg.student or at.world("student")
    runs.tune(at.sft(cfg.sft, "distill", datasets.distill(at)), student, at.say)
    if cfg.alone is not None:
        runs.reinforce(at.rl(cfg.alone, "distill/alone"), student, at.say)


def evaluate(at: At) -> None:
    given = bool(at.cfg.heldout) or at.cfg.base == WORLD
    check(given, "--heldout=DIR is needed: a folder of problems or benchmarks")
    models = {"Base": Path(at.begins)}
    models |= {s.gives: at.out / s.name for s in STAGES if s.gives and (at.out / s.name).exists()}
    if (alone := at.out / "distill" / "alone").exists():
        models["Student, RL alone"] = alone
    folder = Path(at.cfg.heldout or at.world("heldout"))
    found = evaluation.evaluate(
        at.cfg.evaluate, models, folder, at.out / "evaluate", at.cfg.seed, at.mesh(), at.say
    )
    for line in table.lines(found) if any(found.values()) else ():
        at.say(line)


STAGES: tuple[Stage, ...] = (
    Stage(
        "zero", (), zero, "RL from the base, paid for right answers and for form", "Zero", "Base",
        "the base guesses, and rarely checks what it says", kind="RL",
    ),
    Stage(
        "cold_start", ("zero",), cold_start, "The base tuned on Zero's own replies, those that are "
        "right and in one language, rewritten to be read", "Dev1", "Base",
        "Zero mixes languages, goes on when it is done, and gives bare answers", "Zero",
    ),
    Stage(
        "reasoning_rl", ("cold_start",), reasoning_rl, "RL as for Zero, and paid for a thought in "
        "one language", "Dev2", "Dev1", "Dev1 has lost much of what Zero could do", kind="RL",
    ),
    Stage(
        "rejection_sft", ("reasoning_rl",), rejection_sft, "The base tuned on Dev2's right replies "
        "and on replies to other requests", "Dev3", "Base",
        "Dev2 has learnt sums alone, and answers other requests out of form", "Dev2",
    ),
    Stage(
        "all_scenarios", ("rejection_sft",), all_scenarios, "RL by rules, then also by models of "
        "what people find helpful and safe", "R1", "Dev3",
        "Dev3 is as good as its data: some replies are wrong, some harmful ones are given",
        kind="RL",
    ),
    Stage(
        "distill", ("all_scenarios",), distill, "A smaller, dense model tuned on R1's right "
        "replies, and beside it by RL alone", "Student", "its own base",
        "a large model's replies teach a small one more than its own tries do, the paper says",
        "R1",
    ),
    Stage("evaluate", (), evaluate, "Every model asked the same held-out questions"),
)  # fmt: skip
