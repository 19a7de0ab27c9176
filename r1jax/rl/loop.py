"""R1-Zero: draw, grade, update, again (DeepSeek-R1, arXiv 2501.12948, section 2.2).

A step is one rollout and the updates made on it. Its line in metrics.jsonl holds what the policy
did at the start of that step; held-out values, where evaluated, are of the same policy. A last
line, after the last update, holds the final held-out values.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from r1jax import optim, sharding
from r1jax.checkpoint import Checkpoints, abstract_like
from r1jax.config import InputError, RunConfig, check, save_config
from r1jax.data.pipeline import stream
from r1jax.data.tasks import Task
from r1jax.metrics import MetricsLog, Progress
from r1jax.model.params import Weights
from r1jax.rewards.components import COMPONENTS, language, overlong
from r1jax.rewards.grading import Grader
from r1jax.rl.grpo import PolicyState, grpo_step
from r1jax.rl.rollout import Sample, draw, sample_metrics
from r1jax.rl.types import Rollout, make_rollout
from r1jax.sampling.engine import Engine

# What `grpo_step` reports of one update, and so is absent from the last line.
UPDATE_KEYS = (
    "reward/mean", "kl", "entropy", "clip/low", "clip/high", "grad_norm", "lr",
    "groups/zero_std", "router/max_load", "sampler/logp_diff", "time/rollout", "time/reward",
    "time/update", "tokens_per_second",
)  # fmt: skip
HELDOUT_KEYS = tuple(
    f"heldout/{name}"
    for name in ("accuracy", "greedy", "reward", "length", "truncated", "reflection")
)


def new_grader(cfg: RunConfig) -> Grader:
    """Of the rewards that cfg weighs, and DAPO's overlong penalty where it is on."""
    weights, buffer = cfg.reward.weights, cfg.rl.overlong_buffer
    components = COMPONENTS | {"language": language(cfg.reward.target_language)}
    if buffer:
        weights = weights | {"overlong": 1.0}
        components = components | {"overlong": overlong(cfg.sampling.max_tokens, buffer)}
    unsafe = cfg.i_know_that_model_code_runs_unsandboxed
    return Grader(weights, cfg.grading_workers, components=components, unsafe=unsafe)


def check_mesh(cfg: RunConfig, mesh: Mesh) -> None:
    """Raises InputError if the run's rows or experts do not divide over the mesh."""
    over, router = mesh.shape[sharding.EXPERT], cfg.model.router
    check(
        router is None or router.experts % over == 0,
        f"--mesh={cfg.mesh}: {router and router.experts} experts do not divide over {over} "
        "expert-parallel devices",
    )
    rl = cfg.rl
    rows = rl.questions * rl.group // (rl.minibatches * rl.microbatches)
    check(
        rows % mesh.size == 0,
        f"--mesh={cfg.mesh}: {rows} rows an update (questions x group / minibatches / "
        f"microbatches) do not divide over {mesh.size} devices",
    )


def check_prompts(cfg: RunConfig, task: Task) -> None:
    """Raises InputError that names the first problem whose prompt is too long, before any work."""
    for problem in (*task.train, *task.heldout):
        tokens, limit = len(task.prompt(problem)), cfg.sampling.max_prompt
        check(
            tokens <= limit,
            f"prompt of problem {problem.id} has {tokens} tokens; "
            f"SamplingConfig.max_prompt={limit}",
        )


class Trainer:
    """Everything of a run that does not change: engines, grader, data, compiled step."""

    def __init__(self, cfg: RunConfig, task: Task, mesh: Mesh, grader: Grader):
        self.cfg, self.task, self.mesh, self.grader = cfg, task, mesh, grader
        stop = sorted(task.tokenizer.end_ids)
        greedy = dataclasses.replace(cfg.sampling, temperature=0.0)
        self.engine = Engine(cfg.model, cfg.sampling, mesh, stop)
        self.greedy = Engine(cfg.model, greedy, mesh, stop)
        # All of them in every process: a rollout is of the whole mesh.
        self.questions = stream(task.mixture, cfg.seed)
        self.key = jax.random.key(cfg.seed)
        self.step_fn = functools.partial(
            grpo_step, model=cfg.model, cfg=cfg.rl, optim_cfg=cfg.optim, sampling=cfg.sampling
        )

    def evaluate_if_due(
        self, weights: Weights, step: int
    ) -> tuple[dict[str, float | None], list[Sample]]:
        """Held-out metrics and replies: many at the first and the last step, fewer every
        `evaluate_every` steps, absent values and no replies at the others."""
        cfg = self.cfg
        if step in (0, cfg.steps):
            return self.evaluate(weights, step, cfg.final_samples)
        if step % cfg.evaluate_every == 0:
            return self.evaluate(weights, step, cfg.evaluate_samples)
        return dict.fromkeys(HELDOUT_KEYS), []

    def evaluate(
        self, weights: Weights, step: int, count: int
    ) -> tuple[dict[str, float | None], list[Sample]]:
        """`count` sampled held-out replies, and a greedy one to each of as many problems."""
        heldout = self.task.heldout
        group = -(-count // len(heldout))
        # Evenly over the held-out problems, where there are more of them than replies.
        n = min(count, len(heldout))
        asked = [(i, heldout[i]) for i in (k * len(heldout) // n for k in range(n))]
        key = jax.random.fold_in(jax.random.fold_in(self.key, 1), step)
        # The first are graded while the second are drawn.
        sampled = draw(self.engine, self.grader, self.task, weights, asked, group, key)
        greedy, _ = draw(self.greedy, self.grader, self.task, weights, asked, 1, key)()
        samples, _ = sampled()
        metrics = sample_metrics(samples)
        values = (
            metrics["reward/accuracy"],
            sample_metrics(greedy)["reward/accuracy"],
            float(np.mean([s.grade.reward for s in samples])),
            metrics["length/mean"],
            metrics["length/truncated"],
            metrics["reflection/fraction"],
        )
        return dict(zip(HELDOUT_KEYS, values, strict=True)), samples

    def rollout(
        self, weights: Weights, step: int, position: int
    ) -> tuple[list[Sample], dict[str, float], int]:
        """(samples, seconds, next position in the data) of one step.

        Groups whose rewards differ come first. With rl.max_draws > 1, it draws again while they
        are too few (DAPO, arXiv 2503.14476, section 3.2).
        """
        rl, key = self.cfg.rl, jax.random.fold_in(jax.random.fold_in(self.key, 0), step)
        mixed: list[list[Sample]] = []
        uniform: list[list[Sample]] = []
        seconds = {"time/rollout": 0.0, "time/reward": 0.0}
        for _ in range(rl.max_draws):
            asked = [(i, self.questions[i]) for i in range(position, position + rl.questions)]
            position += rl.questions
            drawn, took = draw(self.engine, self.grader, self.task, weights, asked, rl.group, key)()
            seconds = {name: seconds[name] + took[name] for name in seconds}
            for start in range(0, len(drawn), rl.group):
                group = drawn[start : start + rl.group]
                differ = len({s.grade.reward for s in group}) > 1
                (mixed if differ else uniform).append(group)
            if len(mixed) >= rl.questions:
                break
        return [s for g in (mixed + uniform)[: rl.questions] for s in g], seconds, position

    def to_devices(self, samples: Sequence[Sample]) -> Rollout:
        """The rollout, each device given only its own rows."""
        cfg = self.cfg
        host = make_rollout(
            [s.prompt for s in samples],
            [s.completion for s in samples],
            [s.grade.reward for s in samples],
            cfg.rl.group,
            cfg.sampling.max_prompt + cfg.sampling.max_tokens,
        )

        def where(a: np.ndarray) -> NamedSharding:
            axes = ("questions", "replies", *(None,) * (a.ndim - 2))
            return NamedSharding(self.mesh, sharding.partition(a.shape, axes, self.mesh))

        return sharding.place(host, jax.tree.map(where, host))


def train(
    cfg: RunConfig,
    task: Task,
    mesh: Mesh,
    base: Callable[[], Weights],
    say: Callable[[str], None] = print,
) -> Path:
    """Runs cfg from `base()` weights, or from cfg.out's newest checkpoint with cfg.resume.

    Returns cfg.out as a path. Raises InputError for an out folder that holds another run, for a
    checkpoint of another model, if every grader of a step failed, and for a loss that is not
    finite (the batch is then saved and named).
    """
    check_mesh(cfg, mesh)
    check_prompts(cfg, task)
    out = Path(cfg.out)
    # Every process of a pod keeps a log; the first one's is the run's.
    log_folder = out / f"process_{jax.process_index()}" if jax.process_index() else out
    with (
        new_grader(cfg) as grader,
        Checkpoints(out / "checkpoints") as checkpoints,
        jax.set_mesh(mesh),
    ):
        grader.require((*task.train, *task.heldout))
        trainer = Trainer(cfg, task, mesh, grader)
        first, position, restored = 0, 0, None
        newest = checkpoints.newest()
        if newest is not None:
            check(cfg.resume, f"{out} already holds a run: resume it or choose another folder")
            check(newest <= cfg.steps, f"--steps={cfg.steps}: {out} is already at step {newest}")
            first, restored, note = checkpoints.restore(abstract_policy(cfg, mesh), cfg.model)
            position = note["position"]
            say(f"resumed from step {first}")
        with (
            MetricsLog(log_folder, resume_from=first - 1 if cfg.resume else None) as log,
            Progress(cfg.steps) as progress,
        ):
            save_config(dataclasses.replace(cfg, resume=False), log_folder / "config.json")
            state = restored or new_policy(cfg, base(), mesh)
            for step in range(first, cfg.steps):
                heldout, replies = trainer.evaluate_if_due(state.train.weights, step)
                if step == 0:
                    say(gate(replies))
                state, position, metrics, samples = one_step(trainer, state, step, position, out)
                rows = _rows(task, step, heldout=replies, train=samples)
                log.log(step, metrics | heldout, rows)
                progress.update(step + 1, metrics | heldout)
                if metrics["reward/mean"] == 0 and step == first:
                    say(f"warning: every reward of step {step} is 0: no reply was right or in form")
                if (step + 1) % cfg.checkpoint_every == 0 or step + 1 == cfg.steps:
                    checkpoints.save(step + 1, state, cfg.model, {"position": position})
            heldout, replies = trainer.evaluate_if_due(state.train.weights, cfg.steps)
            absent = dict.fromkeys((*sample_metrics(replies), *UPDATE_KEYS))
            log.log(cfg.steps, absent | heldout, _rows(task, cfg.steps, heldout=replies))
            progress.update(cfg.steps, heldout)
    return out


def _rows(task: Task, step: int, **samples: Sequence[Sample]) -> list[dict]:
    """Lines of samples.jsonl, by split."""
    return [s.row(step, split, task) for split, some in samples.items() for s in _to_show(some)]


def one_step(trainer: Trainer, state: PolicyState, step: int, position: int, out: Path):
    """Draws and grades a rollout and updates on it.

    Returns (state, position, metrics, samples).
    """
    samples, seconds, position = trainer.rollout(state.train.weights, step, position)
    check_graders(samples, step)
    rollout = trainer.to_devices(samples)
    started = time.perf_counter()
    key = jax.random.fold_in(jax.random.fold_in(trainer.key, 2), step)
    state, update = trainer.step_fn(state, rollout, key)
    update = {name: float(value) for name, value in update.items()}
    seconds["time/update"] = time.perf_counter() - started
    if not np.isfinite(update["loss"] + update["grad_norm"]):
        path = out / f"nan_step_{step}.npz"
        np.savez_compressed(path, **dataclasses.asdict(jax.device_get(rollout)))
        raise InputError(f"step {step}: the loss is not finite; its batch is saved as {path}")
    metrics = {**sample_metrics(samples), **update, **seconds}
    tokens = sum(len(s.completion.tokens) for s in samples)
    metrics["tokens_per_second"] = tokens / sum(seconds.values())
    return state, position, metrics, samples


def check_graders(samples: Sequence[Sample], step: int) -> None:
    """Raises InputError if no answer could be graded, and at least every second reply has one: a
    step without rewards must not pass for one in which all was wrong."""
    answered = [s.grade for s in samples if s.grade.answer is not None]
    if 2 * len(answered) >= len(samples) and all(g.outcome == "failed" for g in answered):
        raise InputError(
            f"step {step}: every reply's grader failed ({len(answered)} of {len(samples)} replies "
            f"have an answer): {answered[0].detail}"
        )


def new_policy(cfg: RunConfig, weights: Weights, mesh: Mesh) -> PolicyState:
    """A policy at step 0, and its reference: a copy, since the step donates its state. The given
    weights become the policy's and must not be used again."""

    def create(weights: Weights) -> PolicyState:
        return PolicyState(optim.new_state(weights, cfg.optim), jax.tree.map(jnp.copy, weights))

    where = policy_shardings(cfg, mesh)
    weights = sharding.place(weights, where.reference)
    return jax.jit(create, out_shardings=where, donate_argnums=0)(weights)


def policy_shardings(cfg: RunConfig, mesh: Mesh) -> PolicyState:
    train = optim.state_shardings(cfg.model, cfg.optim, mesh)
    return PolicyState(train, train.weights)


def abstract_policy(cfg: RunConfig, mesh: Mesh) -> PolicyState:
    """Shapes and shardings of a PolicyState; allocates nothing."""

    def create() -> PolicyState:
        train = optim.new_state(optim.init_weights(cfg.model, jax.random.key(0)), cfg.optim)
        return PolicyState(train, train.weights)

    return abstract_like(jax.eval_shape(create), policy_shardings(cfg, mesh))


def gate(samples: Sequence[Sample]) -> str:
    """Whether reflection pays in the base: it decides whether RL will amplify it or remove it."""

    def share(group: Sequence[Sample]) -> str:
        right = sum(s.correct for s in group)
        return f"{right / len(group):.3f} ({right} of {len(group)})" if group else "none drawn"

    reflective = share([s for s in samples if s.reflective_terms])
    linear = share([s for s in samples if not s.reflective_terms])
    return f"base: P(correct | reflective) = {reflective}, P(correct | linear) = {linear}"


def _to_show(samples: Sequence[Sample], count: int = 4) -> list[Sample]:
    """A few replies for samples.jsonl: evenly spaced ones, and the first that is correct and
    reflects."""
    spaced = list(samples[:: max(1, len(samples) // count)][:count])
    aha = next((s for s in samples if s.correct and s.reflective_terms), None)
    return spaced if aha is None or aha in spaced else [*spaced, aha]
