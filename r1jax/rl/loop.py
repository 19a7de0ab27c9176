"""R1-Zero: draw, grade, update, again (DeepSeek-R1, arXiv 2501.12948, section 2.2).

A step is one rollout and the updates made on it. Its line in metrics.jsonl holds what the policy
did at the start of that step; held-out values, where evaluated, are of the same policy. A last
line, after the last update, holds the final held-out values.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import optim, processes, sharding
from r1jax.analysis.reflection import has_thoughts
from r1jax.checkpoint import abstract_like
from r1jax.checks import InputError, check
from r1jax.config import RunConfig
from r1jax.data.conversation import Conversation
from r1jax.data.pipeline import stream
from r1jax.data.tasks import Task, fit_prompts
from r1jax.evaluation.metrics import pass_at_1
from r1jax.evaluation.questions import evenly
from r1jax.metrics import on_host
from r1jax.model.adapters import without_adapters
from r1jax.model.params import Weights
from r1jax.model.quantise import keep_weights
from r1jax.reward_models.model import reward_specs
from r1jax.reward_models.train import load_reward_model
from r1jax.rewards.blind import blinded
from r1jax.rewards.components import Component, in_chat, overlong
from r1jax.rewards.grading import Grader
from r1jax.rewards.own import components_of
from r1jax.rewards.sandbox import Limits
from r1jax.rl.algorithms import ALGORITHMS, settings
from r1jax.rl.biases import bias_vector, biases_of
from r1jax.rl.critic import critic_of
from r1jax.rl.evaluation import evaluation_steps
from r1jax.rl.failures import Failures, check_graders
from r1jax.rl.grpo import Frozen, PolicyState, grpo_step, reference_of
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.rollout import Sample, by_source, draw, sample_metrics
from r1jax.rl.types import (
    Rollout,
    abstract_rollout,
    fill,
    layout_of,
    make_rollout,
    rollout_shardings,
)
from r1jax.run import Run
from r1jax.sampling.lanes import Lanes
from r1jax.sampling.requests import MOST_BIASES

# What `grpo_step` reports of one update, and so is absent from the last line.
UPDATE_KEYS = (
    "reward/mean", "kl", "entropy", "clip/low", "clip/high", "clip/bounded", "grad_norm", "lr",
    "groups/zero_std", "reward/ungraded", "router/max_load", "rows/fill", "sampler/logp_diff",
    "sampler/utilization", "sampler/tokens_per_device_second",
    "time/rollout", "time/reward", "time/update", "tokens_per_second",
)  # fmt: skip
HELDOUT_KEYS = tuple(
    f"heldout/{name}"
    for name in ("accuracy", "se", "greedy", "reward", "length", "truncated", "reflection")
)

# What a run's key is folded with, so that no two uses of it draw the same.
TRAINING, EVALUATION, SHUFFLING, BLINDING = range(4)
# Of a row of samples.jsonl, what replies.jsonl has of every reply.
LOGGED = ("step", "split", "problem_id", "sample", "prompt", "text", "tokens", "truncated",
          "outcome")  # fmt: skip
TRACKED = 8  # held-out problems whose greedy replies are kept at every evaluation
Shown = dict[str, Sequence[Sample]]  # replies by split
Functions = Mapping[str, tuple[Component, float]]  # rewards by name, with their weights


def mixed(group: Sequence[Sample]) -> bool:
    """Some of the graded replies are right, and not all (DAPO, eq. 11): other parts of the reward,
    such as a penalty for length, make no group worth more draws."""
    right = [s.correct for s in group if s.graded]
    return any(right) and not all(right)


def new_grader(
    cfg: RunConfig,
    mesh: Mesh | None = None,
    conversation: Conversation | None = None,
    functions: Functions | None = None,
) -> Grader:
    """Of the rewards that cfg weighs: built-in components, the user's functions, reward models
    (on `mesh`, or the one that cfg names), and DAPO's overlong penalty where it is on. `functions`
    are more of the user's, which no configuration can name.

    A chat model's format is that of its conversation, without <answer> tags. Raises InputError for
    a function or a model's folder that is not there.
    """
    models = {}
    for part in cfg.reward.model_parts:
        where = mesh or sharding.make_mesh(cfg.mesh)
        try:
            models[part.name] = load_reward_model(part.path, where).component()
        except InputError as error:
            raise InputError(f"--reward.models={part.name}={part.path}: {error}") from error
    weights, components = cfg.reward.weights, components_of(cfg.reward, models)
    if conversation is not None and conversation.form == "chat":
        components = in_chat(components)
    for name, (component, weight) in (functions or {}).items():
        check(name not in components, f"reward: a component is already called {name!r}")
        weights, components[name] = weights | {name: weight}, component
    if buffer := cfg.rl.overlong_buffer:
        weights = weights | {"overlong": cfg.rl.overlong_weight}
        components["overlong"] = overlong(cfg.sampling.max_tokens, buffer)
    unsafe = cfg.i_know_that_model_code_runs_unsandboxed
    limits = Limits(numpy=cfg.sandbox_numpy)
    return Grader(weights, cfg.grading_workers, components=components, limits=limits, unsafe=unsafe)


def require(grader: Grader, task: Task, say: Callable[[str], None]) -> None:
    """Raises InputError in every process if one of them cannot grade the task's problems: the
    others would wait for it for ever."""

    def ready() -> list:
        grader.require((*task.train, *task.heldout), say)
        return []

    processes.gather(ready)


def check_sizes(cfg: RunConfig, mesh: Mesh) -> None:
    """Raises InputError if replies do not fit the model, or its experts do not divide over the
    mesh."""
    prompt, reply, context = cfg.sampling.max_prompt, cfg.sampling.max_tokens, cfg.model.context
    check(
        prompt + reply <= context,
        f"--sampling.max-prompt={prompt} and --sampling.max-tokens={reply} together exceed "
        f"--model.context={context}",
    )
    over, router = mesh.shape[sharding.EXPERT], cfg.model.router
    check(
        router is None or router.experts % over == 0,
        f"--mesh={cfg.mesh}: {router and router.experts} experts do not divide over {over} "
        "expert-parallel devices",
    )


# What is asked of a policy and how its replies are drawn and paid: of a run at its last step, the
# values that stand there are of these.
EVALUATED = ("task", "tiers", "data", "bad_rows", "long_prompts", "conversation", "tokenizer",
             "seed", "sampling", "logit_bias", "reward")  # fmt: skip


def check_goes_on(run: Run) -> None:
    """Raises InputError if a run at its last step would do no more than be evaluated otherwise, in
    place of what it ended with."""
    otherwise = [name for name in run.changes if name.split(".")[0] in EVALUATED]
    check(
        run.first < run.total or not otherwise,
        f"{run.out} is at its last step, {run.total}: with another {', '.join(otherwise)} only its "
        "last evaluation would be another; give more --steps to train on, or begin another run "
        f"with --base={run.out}",
    )


@dataclasses.dataclass(frozen=True)
class Computes:
    """What draws and what updates: for a run alone, or for one of several that do it together
    (`sweeps/population.py`)."""

    engine: Callable[..., Any] = Lanes  # one of several has `generate`, `loaded` and `stats`
    step: Callable[..., tuple[PolicyState, dict[str, jax.Array]]] = grpo_step


ALONE = Computes()


class Trainer:
    """Everything of a run that does not change: engine, grader, data, compiled step."""

    def __init__(
        self,
        cfg: RunConfig,
        task: Task,
        mesh: Mesh,
        grader: Grader,
        computes: Computes = ALONE,
    ):
        self.cfg, self.task, self.mesh, self.grader = cfg, task, mesh, grader
        stop, routing = sorted(task.tokenizer.end_ids), cfg.rl.routing_replay
        verdicts = task.conversation.form == "embedded"
        self.biases = biases_of(cfg.logit_bias, task.tokenizer, verdicts)
        most = max(MOST_BIASES, len(self.biases))
        self.engine = computes.engine(
            cfg.model, cfg.sampling, mesh, stop, biases=most, routing=routing
        )
        # All of them in every process: a rollout is of the whole mesh.
        self.questions = stream(task.mixture, cfg.seed)
        self.key = jax.random.key(cfg.seed)
        self.layout = layout_of(cfg, sharding.rows_over(mesh), mesh.shape[sharding.CONTEXT])
        self._hyper = hyper_of(cfg, bias_vector(self.biases, cfg.model.vocab))
        self._step = computes.step
        self._compiling: Future | None = None

    def evaluate_if_due(
        self, weights: Weights, step: int, last: bool = False
    ) -> tuple[dict[str, float | None], Shown]:
        """Held-out metrics and replies: many at the first and the last step, fewer at the others
        that are evaluated (`evaluation_steps`), absent values and no replies elsewhere."""
        cfg = self.cfg
        if step == 0 or last:
            return self.evaluate(weights, step, cfg.final_samples)
        if step in evaluation_steps(cfg.steps, cfg.evaluate_every, cfg.evaluate_dense):
            return self.evaluate(weights, step, cfg.evaluate_samples)
        return dict.fromkeys((*HELDOUT_KEYS, *by_source([], self.task.sources, "heldout/"))), {}

    def evaluate(
        self, weights: Weights, step: int, count: int
    ) -> tuple[dict[str, float | None], Shown]:
        """`count` sampled held-out replies, and a greedy one to each of as many problems. Of the
        same few problems each time (split "tracked"), so that one sees them change."""
        heldout = self.task.heldout
        group = -(-count // len(heldout))
        asked, tracked = evenly(len(heldout), count), evenly(len(heldout), TRACKED)
        key = jax.random.fold_in(jax.random.fold_in(self.key, EVALUATION), step)
        ask = functools.partial(
            draw, self.engine, self.grader, self.task, weights, key=key, bias=self.biases
        )
        once = list(dict.fromkeys((*asked, *tracked)))
        with self.engine.loaded(weights):
            # The first are graded while the second are drawn.
            grading = ask([(i, heldout[i]) for i in asked], group)
            grading_greedy = ask([(i, heldout[i]) for i in once], 1, temperature=0.0)
        (greedy, _), (samples, _) = grading_greedy(), grading()
        metrics = sample_metrics(samples)
        groups = [samples[i : i + group] for i in range(0, len(samples), group)]
        n_Q = np.array([sum(s.graded for s in some) for some in groups])
        pass_1 = pass_at_1(n_Q, np.array([sum(s.correct for s in some) for some in groups]))
        values = {
            "accuracy": pass_1.value if pass_1 else None,
            "se": pass_1.se_questions if pass_1 else None,  # over questions
            "greedy": sample_metrics(greedy[: len(asked)])["reward/accuracy"],
            "reward": float(np.mean([s.grade.reward for s in samples if s.graded] or [0.0])),
            "length": metrics["length/mean"],
            "truncated": metrics["length/truncated"],
            "reflection": metrics.get("reflection/fraction"),
        }
        by_problem = dict(zip(once, greedy, strict=True))
        found = {f"heldout/{name}": value for name, value in values.items()}
        found |= by_source(samples, self.task.sources, "heldout/")
        return found, {"heldout": samples, "tracked": [by_problem[i] for i in tracked]}

    def rollout(
        self, weights: Weights, step: int, position: int
    ) -> tuple[list[Sample], dict[str, float], int]:
        """(samples, seconds and how the engine was used, next position in the data) of one step.

        With rl.max_draws > 1, as many questions more are asked as mixed groups are missing, again
        and again (dynamic sampling; DAPO, arXiv 2503.14476, section 3.2, draws whole batches); what
        is missing in the end other groups fill. All processes have the same grades here, so they
        decide alike.
        """
        rl = self.cfg.rl
        key = jax.random.fold_in(jax.random.fold_in(self.key, TRAINING), step)
        groups: list[list[Sample]] = []
        seconds = {"time/rollout": 0.0, "time/reward": 0.0}
        again, before, missing = rl.max_draws > 1, self.engine.stats, rl.questions
        with self.engine.loaded(weights) if again else contextlib.nullcontext():
            for _ in range(rl.max_draws):
                asked = [(i, self.questions[i]) for i in range(position, position + missing)]
                position += missing
                ask = draw(
                    self.engine, self.grader, self.task, weights, asked, rl.group, key,
                    bias=self.biases, routing=rl.routing_replay,
                )  # fmt: skip
                drawn, took = ask()
                seconds = {name: seconds[name] + took[name] for name in seconds}
                groups += [drawn[i : i + rl.group] for i in range(0, len(drawn), rl.group)]
                missing = rl.questions - sum(map(mixed, groups))
                if missing == 0:
                    break
        if again:
            groups.sort(key=lambda group: not mixed(group))
        used = self.engine.stats - before
        rate = used.tokens / seconds["time/rollout"] / self.mesh.size
        values = {"sampler/utilization": used.utilization, "sampler/tokens_per_device_second": rate}
        if used.drafts:
            values["sampler/draft_acceptance"] = used.acceptance
            values["sampler/tokens_per_step"] = used.tokens_a_step
        samples = [s for group in groups[: rl.questions] for s in group]
        rng = np.random.default_rng([self.cfg.seed, BLINDING, step])
        paid = blinded([s.grade for s in samples], self.cfg.reward, rl.group, rng)
        samples = [s.paid(grade) for s, grade in zip(samples, paid, strict=True)]
        return samples, seconds | values, position

    def rollout_of(self, samples: Sequence[Sample], step: int) -> Rollout:
        """As host arrays, packed for the updates of this step."""
        return make_rollout(
            [s.prompt for s in samples],
            [s.completion for s in samples],
            [s.grade.reward for s in samples],
            [s.graded for s in samples],
            self.layout,
            np.random.default_rng([self.cfg.seed, SHUFFLING, step]),
        )

    def update(self, state: PolicyState, rollout: Rollout) -> tuple[PolicyState, dict[str, float]]:
        """The state after the updates on a rollout (of host arrays), and what they report, their
        seconds with it."""
        started = time.perf_counter()
        state, update = self.step(state, self.to_devices(rollout))
        values = on_host(update)
        seconds = time.perf_counter() - started
        return state, values | {"rows/fill": fill(rollout), "time/update": seconds}

    def step(self, state: PolicyState, rollout: Rollout) -> tuple[PolicyState, dict[str, Any]]:
        """`grpo_step` with this run's settings; the state is donated."""
        if self._compiling is not None:
            return self._compiling.result()(state, rollout, hyper=self._hyper)
        return self._step(state, rollout, hyper=self._hyper, **static_of(self.cfg))

    def compile_step(self) -> None:
        """Begins to, in a thread: the first replies are drawn meanwhile."""
        if not isinstance(self._step, jax.stages.Wrapped):
            return
        lower, abstract = self._step.lower, abstract_rollout(self.layout, self.cfg.rl.questions)
        where = rollout_shardings(self.layout, self.mesh)
        args = abstract_policy(self.cfg, self.mesh), abstract_like(abstract, where)

        def compiled() -> jax.stages.Compiled:
            with jax.set_mesh(self.mesh):
                return lower(*args, hyper=self._hyper, **static_of(self.cfg)).compile()

        pool = ThreadPoolExecutor(1)
        self._compiling = pool.submit(compiled)
        pool.shutdown(wait=False)

    def to_devices(self, host: Rollout) -> Rollout:
        """The rollout, each device given only its own rows."""
        return sharding.place(host, rollout_shardings(self.layout, self.mesh))


def fitting(cfg: RunConfig, task: Task, mesh: Mesh, say: Callable[[str], None]) -> Task:
    """`task` with the prompts that fit. Raises InputError for what does not fit the model or the
    mesh."""
    check_sizes(cfg, mesh)
    task, left_out = fit_prompts(task, cfg.sampling.max_prompt, cfg.long_prompts)
    if left_out:
        say(left_out)
    return task


@contextlib.contextmanager
def begun(
    cfg: RunConfig,
    task: Task,
    mesh: Mesh,
    steps: int,
    base: Callable[[], Weights],
    say: Callable[[str], None],
    functions: Functions | None = None,
    preset: str = "",
    computes: Computes = ALONE,
) -> Iterator[tuple[Run, Trainer, PolicyState, int]]:
    """(the run, which is open meanwhile, its trainer, its policy and its position in the data),
    from `base()` weights or where cfg.out's newest checkpoint left them."""
    read = functools.partial(map, repr, (*task.train, *task.heldout))
    run = Run(cfg, cfg.model, steps, say, preset, data=read)
    with (
        new_grader(cfg, mesh, task.conversation, functions) as grader,
        run,
        jax.set_mesh(mesh),
    ):
        check_goes_on(run)
        require(grader, task, say)
        trainer = Trainer(cfg, task, mesh, grader, computes)

        def begin() -> PolicyState:
            return new_policy(cfg, base(), mesh)

        def state() -> tuple[PolicyState, int]:
            restored = run.restore(to_save(abstract_policy(cfg, mesh)))
            if not restored:
                return begin(), 0
            saved, note = restored
            train = optim.as_saved(saved.train, lambda: begin().train)
            return saved.replace(train=train), note["position"]

        yield run, trainer, *state()  # of which nothing is kept here: a step takes it


def train(
    cfg: RunConfig,
    task: Task,
    mesh: Mesh,
    base: Callable[[], Weights],
    say: Callable[[str], None] = print,
    functions: Functions | None = None,
    preset: str = "",
    settled: Callable[[int], str] | None = None,
    computes: Computes = ALONE,
) -> Run:
    """Runs cfg from `base()` weights, or from cfg.out's newest checkpoint with cfg.resume.
    `functions` pay beside what cfg names; `preset` is what cfg was made from, for run.json.
    `settled` ends it early, as of `Run.steps`. `computes` draws and updates.

    Returns the run, ended or stopped by a signal. Raises InputError as Run does, and if every
    grader of a step failed.
    """
    task = fitting(cfg, task, mesh, say)
    made = begun(cfg, task, mesh, cfg.steps, base, say, functions, preset, computes)
    with made as (run, trainer, state, position):
        if run.first < run.total:
            trainer.compile_step()
        failures = Failures(say)
        for step in run.steps(settled):
            heldout, shown = trainer.evaluate_if_due(state.train.weights, step)
            if step == run.first and shown:
                check_graders(shown["heldout"], step)
            if step == 0 and any(has_thoughts(p.kind) for p in task.heldout):
                say(gate(shown["heldout"]))
            samples, reported, position = trainer.rollout(state.train.weights, step, position)
            check_graders(samples, step)
            failures.add(samples, step)
            rollout = trainer.rollout_of(samples, step)
            state, update = trainer.update(state, rollout)
            metrics = step_metrics(samples, update | reported, task.sources)
            if metrics["reward/mean"] == 0 and step == run.first:
                say(f"warning: every reward of step {step} is 0: no reply was right or in form")
            shown = shown | {"train": samples}
            rows = rows_of(task, step, shown)
            run.log(step, metrics | heldout, rows, rollout, replies_of(cfg, task, step, shown))
            run.end_step(
                to_save(state), metrics, rollout, functools.partial(dict, position=position)
            )
        if run.stopped is None:
            run.save(to_save(state), functools.partial(dict, position=position))  # if settled
            evaluate_end(run, trainer, state.train.weights)
        failures.sum_up()
    return run


def evaluate_end(run: Run, trainer: Trainer, weights: Weights) -> None:
    """The last line of a run, of the policy after all updates: held-out values alone."""
    cfg, task, end = trainer.cfg, trainer.task, run.at
    heldout, shown = trainer.evaluate_if_due(weights, end, last=True)
    of_replies = step_metrics(shown["heldout"], {}, task.sources)
    absent = dict.fromkeys((*of_replies, *UPDATE_KEYS))
    rows, replies = rows_of(task, end, shown), replies_of(cfg, task, end, shown)
    run.log(end, absent | heldout, rows, replies=replies)


def step_metrics(
    samples: Sequence[Sample], reported: dict[str, float], sources: Sequence[str]
) -> dict[str, float | None]:
    """A step's line: of its replies, all and by source, and what drawing, grading and updating
    reported."""
    tokens = sum(len(s.completion.tokens) for s in samples)
    seconds = sum(value for name, value in reported.items() if name.startswith("time/"))
    rate = {"tokens_per_second": tokens / seconds} if seconds else {}
    return {**sample_metrics(samples), **by_source(samples, sources), **reported, **rate}


def rows_of(task: Task, step: int, shown: Shown) -> list[dict]:
    """Lines of samples.jsonl, by split: a few of each, but for those that are tracked."""
    return [
        s.row(step, split, task)
        for split, some in shown.items()
        for s in (some if split == "tracked" else _to_show(some))
    ]


def replies_of(cfg: RunConfig, task: Task, step: int, shown: Shown) -> list[dict]:
    """Lines of replies.jsonl, if they are wanted: all that were sampled, in the first process."""
    if not cfg.log_replies or jax.process_index():
        return []
    sampled = {split: some for split, some in shown.items() if split != "tracked"}  # greedy ones
    rows = (s.row(step, split, task) for split, some in sampled.items() for s in some)
    return [{name: row[name] for name in LOGGED} for row in rows]


def new_policy(cfg: RunConfig, weights: Weights, mesh: Mesh) -> PolicyState:
    """A policy at step 0, and its reference: a copy, since the step donates its state. The given
    weights become the policy's, in the types that the model declares, and must not be used
    again."""
    where = policy_shardings(cfg, mesh)
    if cfg.model.lora is not None:
        weights = keep_weights(weights, dataclasses.replace(cfg.model, lora=None))
    weights = sharding.place(weights, without_adapters(where.train.weights))
    create = functools.partial(policy_around, cfg)
    state = jax.jit(create, out_shardings=where, donate_argnums=0)(weights)
    # A run that is resumed gets these types: it must begin with them, or it changes half-way.
    chex.assert_trees_all_equal_shapes_and_dtypes(state, abstract_policy(cfg, mesh))
    return state


def to_save(policy: PolicyState) -> PolicyState:
    return policy.replace(train=optim.to_save(policy.train))


def has_critic(cfg: RunConfig) -> bool:
    return ALGORITHMS[cfg.rl.algorithm].critic is not None


def policy_around(cfg: RunConfig, weights: Weights) -> PolicyState:
    """No reference is kept where no KL term needs one, and no critic where nothing asks it. Beside
    adapters the reference is the model that is frozen."""
    weights = keep_weights(weights, cfg.model)
    reference: Weights | Frozen | None = None
    if settings(cfg.rl).kl_coef:
        copied = cfg.model.lora is None
        reference = reference_of(jax.tree.map(jnp.copy, weights)) if copied else Frozen()
    critic = optim.new_state(critic_of(weights, cfg.model), cfg.optim) if has_critic(cfg) else None
    return PolicyState(optim.new_state(weights, cfg.optim, mtp=False), reference, critic)


def policy_shardings(cfg: RunConfig, mesh: Mesh) -> PolicyState:
    train = optim.state_shardings(cfg.model, cfg.optim, mesh, mtp=False)
    reference: Weights | Frozen | None = None
    if settings(cfg.rl).kl_coef:
        reference = reference_of(train.weights) if cfg.model.lora is None else Frozen()
    critic = None
    if has_critic(cfg):
        critic = optim.shardings_around(reward_specs(cfg.model), cfg.optim, mesh)
    return PolicyState(train, reference, critic)


def abstract_policy(cfg: RunConfig, mesh: Mesh) -> PolicyState:
    """Shapes and shardings of a PolicyState; allocates nothing."""

    def create() -> PolicyState:
        return policy_around(cfg, optim.init_weights(cfg.model, jax.random.key(0)))

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
