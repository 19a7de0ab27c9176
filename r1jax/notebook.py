"""The commands as functions, for notebooks and programs: `import r1jax`.

A `Model` is opened, generates, and is trained by `train_rl` or `train_sft`: each leaves the same
folder as its command, and returns the model that it made.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax import given, sharding
from r1jax.architecture import ModelConfig
from r1jax.checks import check, check_seed
from r1jax.config import ConversationName, RewardConfig, SamplingConfig, SFTConfig, TaskName
from r1jax.data.chat import Message
from r1jax.data.conversation import Conversation
from r1jax.data.problems import Problem
from r1jax.data.tasks import make_task
from r1jax.given import Reward, Row
from r1jax.model.params import Weights, weight_specs
from r1jax.models import OnDisk, from_model, to_train, with_lora
from r1jax.models import open_model as open_on_disk
from r1jax.pipeline.reinforcement import reinforce
from r1jax.pipeline.tuning import fine_tune
from r1jax.presets import RUNS
from r1jax.rewards.components import in_chat
from r1jax.rewards.grading import Grade, Grader
from r1jax.rewards.own import components_of
from r1jax.run import Stopped
from r1jax.sampling.engine import Request
from r1jax.sampling.lanes import Lanes
from r1jax.sampling.sizes import sized


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """source: where it is from. asks: the conversation that it was told to have."""

    source: OnDisk
    weights: Weights
    conversation: Conversation
    asks: ConversationName
    mesh: Mesh

    def __repr__(self) -> str:
        size = sharding.count(weight_specs(self.config).params)
        return f"<r1jax model {self.base}: {size:,} parameters, asked by {self.conversation.form}>"

    @property
    def base(self) -> str:
        """What a run that begins from it calls it."""
        return self.source.base

    @property
    def config(self) -> ModelConfig:
        return self.source.config

    def generate(
        self,
        prompts: Sequence[str | Sequence[Message]],
        *,
        n: int = 1,
        temperature: float = 0.6,
        top_p: float = 0.95,
        max_tokens: int = 256,
        seed: int = 0,
    ) -> list[str]:
        """`n` replies to each prompt, those to the first before those to the second. A prompt is a
        text or messages; it becomes what the model reads by its conversation.

        Raises InputError for a prompt that leaves no room for max_tokens in the model's context.
        """
        check(n > 0, f"n must be positive, got {n}")
        check_seed(seed, "seed")
        check(not isinstance(prompts, str), "prompts: takes a list of them, got one text")
        asked = [self.conversation.prompt(prompt) for prompt in prompts]
        ids = [self.conversation.tokenizer.encode_prompt(text) for text in asked]
        if not ids:
            return []
        empty = next((i for i, some in enumerate(ids) if not some), None)
        check(empty is None, f"prompt {empty}: there is nothing in it")
        longest = max(map(len, ids))
        check(
            longest + max_tokens <= self.config.context,
            f"a prompt of {longest} tokens and max_tokens={max_tokens} exceed the model's context "
            f"of {self.config.context}",
        )
        sampling = SamplingConfig(temperature, top_p=top_p, max_tokens=max_tokens)
        sampling = sized(sampling, longest, n * len(ids), self.config.context)
        ends = sorted(self.conversation.tokenizer.end_ids)
        engine = Lanes(self.config, sampling, self.mesh, ends)
        requests = [Request(some, i, k) for i, some in enumerate(ids) for k in range(n)]
        completions, _ = engine.generate(self.weights, requests, jax.random.key(seed))
        return [
            self.conversation.reply(asked[r.question], c.tokens.tolist())
            for r, c in zip(requests, completions, strict=True)
        ]


def open_model(
    name: str | Path = "embedded", mesh: str = "1", conversation: ConversationName = "auto"
) -> Model:
    """A model by name ("embedded"), a Hugging Face directory, org/name on its Hub, or the folder of
    a run. Raises InputError that names what is not there, or the file that is wrong.

    conversation: how it is asked; auto: by its chat template if it has one, or as its run was told
    to; else a text goes on, and `train_rl` asks by R1-Zero's prompt, as what it returns then does.
    """
    on, found = sharding.make_mesh(mesh), open_on_disk(name)
    asks = found.conversation_name if conversation == "auto" else conversation
    return Model(found, found.weights(found.config, on), found.conversation(asks), asks, on)


def grade(
    problems: Sequence[Problem | Row],
    replies: Sequence[str],
    reward: Reward | None = None,
    *,
    task: TaskName = "problems",
    chat: bool = False,
) -> list[Grade]:
    """Of each reply to the problem of the same index: by the rule for its kind, and by `reward`, as
    `train_rl` would pay it. chat: the replies are a chat model's, without <answer> tags.

    Raises InputError that names a problem which cannot be read, or if there are not as many replies
    as problems.
    """
    check(
        len(problems) == len(replies),
        f"{len(problems)} problems, but {len(replies)} replies to them",
    )
    functions, named = given.parts(reward)
    cfg = given.changed(RewardConfig(), named)
    check(not cfg.models, "reward: models are opened by a run only")
    components = components_of(cfg)
    parts = given.components(functions, cfg)
    weights = cfg.weights | {name: weight for name, (_, weight) in parts.items()}
    components |= {name: component for name, (component, _) in parts.items()}
    rows = given.rows_of(problems, task, bool(functions))
    with Grader(weights, components=in_chat(components) if chat else components) as grader:
        found = given.read(rows, task)
        grader.require(found)
        return grader.grade(found, list(replies))


def train_rl(
    model: Model | str,
    /,
    problems: Sequence[Problem | Row] = (),
    reward: Reward | None = None,
    *,
    out: str | Path,
    task: TaskName = "problems",
    preset: str = "",
    **changes: Any,
) -> Model:
    """R1-Zero's GRPO from `model` on `problems` (none: those embedded), as `experiments.r1_zero`.

    problems: rows of the form `task`, which are kept in OUT/problems.jsonl. One without an "id" is
    called by its number; where a function pays, one without a "kind" is of the kind "own". reward:
    a function of (problem, reply) that pays beside accuracy and format, or a dict of weights
    (`Reward`); functions travel to the grader's processes by value. preset: tiny for the embedded
    model, small for others. changes: fields of RunConfig; of a part of it, a dict:
    `steps=20, rl={"group": 8}`.

    With resume="auto" it goes on where OUT was stopped: pass the same arguments again, for
    config.json cannot hold a function. Raises InputError as the command does, and Stopped where a
    signal (in a notebook, to interrupt the kernel) ended it after a step, with a checkpoint.
    """
    opened = open_model(model) if isinstance(model, str) else model
    check(preset in ("", *RUNS), f"preset={preset}: must be one of {', '.join(RUNS)}")
    asked = bool(problems) or task != "problems"  # else the embedded problems, as the command does
    usual = "tiny" if opened.base == "embedded" else "small" if asked else "stories"
    cfg = RUNS[preset or usual]()
    functions, named = given.parts(reward)
    changes = {"out": str(out), "conversation": opened.asks, **changes}
    if named:
        changes["reward"] = named
    if opened.base != "embedded":
        cfg = from_model(cfg, opened.base, changes.get("resume", "no") != "no")
    rows = given.rows_of(problems, task, bool(functions))
    given.read(rows, task)  # before anything is written
    if asked:
        changes |= {"task": task, "data": str(Path(out) / "problems.jsonl") if rows else ""}
    cfg = given.changed(cfg, changes)
    same = _shapes(cfg.model) == _shapes(opened.config)
    check(same, f"preset={preset}, model: not the shape of {opened.base}, which is to be trained")
    parts = given.components(functions, cfg.reward)
    if rows:
        given.keep(rows, Path(cfg.data))
    found = make_task(cfg)
    with _called_again():
        run = reinforce(cfg, found, lambda mesh: _copies(opened, mesh), print, parts, preset)
    form = found.conversation.form
    return open_model(run.out, cfg.mesh, "auto" if form == "embedded" else form)


def train_sft(
    model: Model | str, /, examples: Sequence[Row], *, out: str | Path, **changes: Any
) -> Model:
    """Supervised fine-tuning of `model`, as `experiments.sft`, on examples: {"messages"} or
    {"prompt", "completion"}, of which the last reply is trained on. They are kept in
    OUT/rows.jsonl.

    changes: fields of SFTConfig, as for `train_rl`; steps: updates. Raises as `train_rl` does.
    """
    opened = open_model(model) if isinstance(model, str) else model
    check(len(examples) > 0, "examples: there is nothing to train on")
    cfg = SFTConfig(
        # Small updates would be lost in bfloat16 parameters.
        model=to_train(opened.config),
        base=opened.base,
        tokenizer=opened.source.files,
        conversation=opened.asks,
    )
    changes = {"out": str(out), "data": str(Path(out) / "rows.jsonl"), **changes}
    cfg = with_lora(given.changed(cfg, changes))
    rows = [given.plain(row, f"example {i}") for i, row in enumerate(examples, start=1)]
    given.keep(rows, Path(cfg.data))
    with _called_again():
        run = fine_tune(cfg, lambda mesh: _copies(opened, mesh))
    return open_model(run.out, cfg.mesh, cfg.conversation)


def _shapes(model: ModelConfig) -> list[tuple[int, ...]]:
    return [spec.shape for spec in jax.tree.leaves(weight_specs(model), is_leaf=sharding.is_spec)]


def _copies(model: Model, mesh: Mesh) -> Weights:
    """Training takes the arrays it is given: those of the opened model stay the user's."""
    check(mesh.size == model.mesh.size, "mesh: open the model on the mesh that it is trained on")
    return jax.tree.map(lambda a: a.copy(), model.weights)


@contextlib.contextmanager
def _called_again() -> Iterator[None]:
    """A command goes on by a flag, a function by being called again."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(stopped.where, stopped.by, 'call it again with resume="auto"') from None
