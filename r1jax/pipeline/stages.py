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

from r1jax import sharding
from r1jax.checks import check
from r1jax.config import RewardConfig, RunConfig, SFTConfig
from r1jax.data.problems import Problem
from r1jax.data.sources import read_problems
from r1jax.evaluation.questions import evenly
from r1jax.pipeline import base, made, readable, rows, runs, table
from r1jax.pipeline import evaluate as evaluation
from r1jax.pipeline.plan import WORLD, R1Config
from r1jax.pipeline.rejection import RejectionConfig
from r1jax.reward_models.recipe import RewardModelConfig


@dataclasses.dataclass(frozen=True)
class At:
    """A pipeline's folder and configuration, as its stages see them."""

    cfg: R1Config
    say: Callable[[str], None]

    @property
    def out(self) -> Path:
        return Path(self.cfg.out)

    @property
    def begins(self) -> str:
        """The base model."""
        return str(self.out / "world" / "model") if self.cfg.base == WORLD else self.cfg.base

    def world(self, name: str) -> str:
        return str(self.out / "world" / name)

    def mesh(self):
        return sharding.make_mesh(self.cfg.mesh)

    def rl(self, cfg: RunConfig, out: str, data: str = "reasoning.jsonl") -> RunConfig:
        """A run of this pipeline: of its mesh and seed, in its folder, on the world's problems
        where it names none."""
        data = cfg.data or self._data(data)
        return dataclasses.replace(cfg, **self._own(out), data=data)

    def _data(self, named: str) -> str:
        check(
            self.cfg.base == WORLD, f"--base={self.cfg.base}: each RL stage needs its --STAGE.data"
        )
        return ",".join(self.world(part) for part in named.split(","))

    def sft(self, cfg: SFTConfig, out: str, data: Path) -> SFTConfig:
        return dataclasses.replace(cfg, **self._own(out), data=str(data))

    def judge(self, cfg: RewardModelConfig, out: str, data: str) -> RewardModelConfig:
        return dataclasses.replace(cfg, **self._own(out), data=cfg.data or self._data(data))

    def _own(self, out: str) -> dict:
        begun = (self.out / out / "checkpoints").is_dir()
        own = {"out": str(self.out / out), "resume": "auto" if begun else "no"}
        return own | {"mesh": self.cfg.mesh, "seed": self.cfg.seed}


class Stage(NamedTuple):
    """needs: folders or files in OUT. about: what it does; mends: the flaw that it is for; as the
    page says them. gives, begins: what its model and the one it begins from are called."""

    name: str
    needs: tuple[str, ...]
    run: Callable[[At], None]
    about: str
    gives: str = ""
    begins: str = ""
    mends: str = ""


def prepare(at: At) -> None:
    """The world's model and data, where a pipeline begins from it."""
    if at.cfg.base == WORLD:
        made.write_world(at.out / "world", seed=at.cfg.seed)
        base.write_model(at.out / "world" / "model", base.model(), base.SHIPPED)
        base.write_model(at.out / "world" / "student", base.student(), base.SHIPPED_STUDENT)


def zero(at: At) -> None:
    runs.reinforce(at.rl(at.cfg.zero, "zero"), at.begins, at.say)


def cold_start(at: At) -> None:
    cfg, folder = at.cfg.cold_start, at.out / "cold_start"
    data = Path(cfg.data) if cfg.data else folder / "rows.jsonl"
    if not cfg.data and not data.exists():
        problems = _problems(at.cfg.zero.data or at.world("reasoning.jsonl"), cfg.limit)
        _draw(at, cfg.sample, "zero", problems, folder / "drawn")
        _rewrite(problems, folder)
    runs.tune(at.sft(cfg.sft, "cold_start", data), at.begins, at.say)


def _problems(path: str, limit: int) -> list[Problem]:
    found = read_problems(path)
    return [found[i] for i in evenly(len(found), limit or len(found))]


def _draw(at: At, cfg: RejectionConfig, model: str, problems: list[Problem], out: Path) -> None:
    cfg = dataclasses.replace(cfg, seed=at.cfg.seed)
    runs.sample(cfg, str(at.out / model), problems, out, at.mesh(), at.say)


def _rewrite(problems: list[Problem], folder: Path) -> None:
    """rows.jsonl: what was kept, in a readable form, with what was changed; dropped.jsonl: what was
    not, and replies that never check what they say."""
    by_id = {problem.id: problem for problem in problems}
    good, bad = [], rows.read(folder / "drawn" / "dropped.jsonl")
    for row in rows.read(folder / "drawn" / "kept.jsonl"):
        if by_id[row["id"]].kind != "countdown":
            good.append(row)
        elif readable.checks(row["completion"]):
            text, changed = readable.rewritten(by_id[row["id"]], row["completion"])
            good.append(row | {"completion": text, "drawn": row["completion"], "changed": changed})
        else:
            bad.append(row | {"reason": "unchecked"})
    check(bool(good), f"{folder}: no reply is fit to be learnt from: drawn/ has them all")
    rows.write(folder / "dropped.jsonl", bad)
    rows.write(folder / "rows.jsonl", good)


def reasoning_rl(at: At) -> None:
    cfg = at.rl(at.cfg.reasoning_rl, "reasoning_rl")
    runs.reinforce(cfg, str(at.out / "cold_start"), at.say)
    if at.cfg.ablations:
        reward = dataclasses.replace(cfg.reward, language=0.0)
        without = dataclasses.replace(cfg, reward=reward, out=f"{cfg.out}/without_language")
        runs.reinforce(without, str(at.out / "cold_start"), at.say)


def rejection_sft(at: At) -> None:
    cfg, folder = at.cfg.rejection_sft, at.out / "rejection_sft"
    data = folder / "rows.jsonl"
    if not data.exists():
        if cfg.data:
            reasoning = rows.read(Path(cfg.data))
        else:
            problems = _problems(at.cfg.reasoning_rl.data or at.world("reasoning.jsonl"), cfg.limit)
            _draw(at, cfg.sample, "reasoning_rl", problems, folder / "drawn")
            reasoning = rows.read(folder / "drawn" / "kept.jsonl")
        general = _general(at)
        most = round(cfg.ratio * len(general)) if cfg.ratio else len(reasoning)
        taken = [reasoning[i] for i in evenly(len(reasoning), most)]
        at.say(f"{len(taken):,} reasoning rows and {len(general):,} general ones")
        rows.write(data, [*taken, *general])
    runs.tune(at.sft(cfg.sft, "rejection_sft", data), at.begins, at.say)


def all_scenarios(at: At) -> None:
    cfg, begins = at.cfg.all_scenarios, str(at.out / "rejection_sft")
    runs.reward_model(
        at.judge(cfg.helpful, "all_scenarios/helpful", "preferences.jsonl"), begins, at.say
    )
    runs.reward_model(at.judge(cfg.safety, "all_scenarios/safety", "safety.jsonl"), begins, at.say)
    rules = at.rl(cfg.rules, "all_scenarios/rules")
    runs.reinforce(rules, begins, at.say)
    last = at.rl(cfg.preferences, "all_scenarios", "reasoning.jsonl:1,general.jsonl:1")
    last = dataclasses.replace(last, reward=preferred(at, last.reward))
    runs.reinforce(last, str(at.out / "all_scenarios" / "rules"), at.say)
    if at.cfg.ablations:
        steps = cfg.rules.steps + cfg.preferences.steps
        whole = dataclasses.replace(last, steps=steps, out=f"{last.out}/whole")
        runs.reinforce(whole, begins, at.say)


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
    cfg, folder = at.cfg.distill, at.out / "distill"
    data, student = folder / "rows.jsonl", cfg.student or at.world("student")
    check(bool(cfg.student) or at.cfg.base == WORLD, "--distill.student=DIR is needed")
    if not data.exists():
        if cfg.data:
            reasoning = rows.read(Path(cfg.data))
        else:
            problems = _problems(at.cfg.reasoning_rl.data or at.world("reasoning.jsonl"), cfg.limit)
            _draw(at, cfg.sample, "all_scenarios", problems, folder / "drawn")
            reasoning = rows.read(folder / "drawn" / "kept.jsonl")
        rows.write(data, [*reasoning, *_general(at)])
    runs.tune(at.sft(cfg.sft, "distill", data), student, at.say)
    if cfg.alone is not None:
        runs.reinforce(at.rl(cfg.alone, "distill/alone"), student, at.say)


def _general(at: At) -> list[rows.Row]:
    return rows.read(Path(at.cfg.rejection_sft.general or at.world("general_sft.jsonl")))


def evaluate(at: At) -> None:
    models = {"Base": Path(at.begins)}
    models |= {s.gives: at.out / s.name for s in STAGES if s.gives and (at.out / s.name).exists()}
    if (alone := at.out / "distill" / "alone").exists():
        models["Student, RL alone"] = alone
    folder = Path(at.cfg.heldout or at.world("heldout"))
    found = evaluation.evaluate(
        at.cfg.evaluate, models, folder, at.out / "evaluate", at.cfg.seed, at.mesh(), at.say
    )
    for line in table.lines(found):
        at.say(line)


STAGES: tuple[Stage, ...] = (
    Stage(
        "zero", (), zero, "RL from the base, paid for right answers and for form", "Zero", "Base",
        "the base guesses, and rarely checks what it says",
    ),
    Stage(
        "cold_start", ("zero",), cold_start, "The base tuned on Zero's own replies, those that are "
        "right and in one language, rewritten to be read", "Dev1", "Base",
        "Zero mixes languages, goes on when it is done, and gives bare answers",
    ),
    Stage(
        "reasoning_rl", ("cold_start",), reasoning_rl, "RL as for Zero, and paid for a thought in "
        "one language", "Dev2", "Dev1", "Dev1 has lost much of what Zero could do",
    ),
    Stage(
        "rejection_sft", ("reasoning_rl",), rejection_sft, "The base tuned on Dev2's right replies "
        "and on replies to other requests", "Dev3", "Base",
        "Dev2 has learnt sums alone, and answers other requests out of form",
    ),
    Stage(
        "all_scenarios", ("rejection_sft",), all_scenarios, "RL by rules, then also by models of "
        "what people find helpful and safe", "R1", "Dev3",
        "Dev3 is as good as its data: some replies are wrong, some harmful ones are given",
    ),
    Stage(
        "distill", ("all_scenarios",), distill, "A smaller, dense model tuned on R1's right "
        "replies; beside it the same by RL alone", "Student", "its own base",
        "RL makes less of a small model than a large one's replies do, the paper says",
    ),
    Stage("evaluate", (), evaluate, "every model asked the same held-out questions"),
)  # fmt: skip
