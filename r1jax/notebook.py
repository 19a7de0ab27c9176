"""The commands as functions, for notebooks and programs: `import r1jax`.

A `Model` is opened, generates, and is trained by `train_rl` or `train_sft`: each leaves the same
folder as its command, and returns the model that it made.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax import sft, sharding
from r1jax.analysis.report import write_report
from r1jax.config import (
    ConversationName,
    InputError,
    ModelConfig,
    SamplingConfig,
    SFTConfig,
    TaskName,
    check,
)
from r1jax.data.chat import Message
from r1jax.data.conversation import Conversation, make_conversation
from r1jax.data.countdown import VOCABULARY
from r1jax.data.documents import read_documents
from r1jax.data.problems import Problem
from r1jax.data.sources import READERS
from r1jax.data.tasks import make_task
from r1jax.data.tokenizer import Tokenizer
from r1jax.model.params import Weights
from r1jax.models import first_weights, from_model, with_vocab
from r1jax.models import open_model as open_on_disk
from r1jax.presets import RUNS
from r1jax.published import tiny
from r1jax.rewards.components import COMPONENTS
from r1jax.rewards.grading import Grade, Grader
from r1jax.rewards.own import Function, own
from r1jax.rl import loop
from r1jax.sampling.engine import Engine, Request

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """base: what a run that begins from it calls it."""

    base: str
    config: ModelConfig
    weights: Weights
    conversation: Conversation
    mesh: Mesh

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
        asked = [self.conversation.prompt(prompt) for prompt in prompts]
        ids = [self.conversation.tokenizer.encode(text) for text in asked]
        empty = next((i for i, some in enumerate(ids) if not some), None)
        check(empty is None, f"prompt {empty}: there is nothing in it")
        longest = max(map(len, ids), default=1)
        check(
            longest + max_tokens <= self.config.context,
            f"a prompt of {longest} tokens and max_tokens={max_tokens} exceed the model's context "
            f"of {self.config.context}",
        )
        slots = max(1, min(128, n * len(ids)))
        sampling = SamplingConfig(
            temperature=temperature,
            top_p=top_p,
            max_prompt=longest,
            max_tokens=max_tokens,
            slots=slots,
            refill=slots,
        )
        ends = sorted(self.conversation.tokenizer.end_ids)
        engine = Engine(self.config, sampling, self.mesh, ends)
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
    a run. Raises InputError that names what is not there, or the file that is wrong."""
    on = sharding.make_mesh(mesh)
    if str(name) == "embedded":
        config, words = tiny(), Tokenizer.words(VOCABULARY)
        talks = make_conversation(words, "", conversation, "plain")
        return Model("embedded", config, first_weights("embedded", config, on), talks, on)
    found = open_on_disk(name)
    weights = found.weights(found.config, on)
    return Model(found.base, found.config, weights, found.conversation(conversation), on)


def grade(
    problems: Sequence[Problem | Row],
    replies: Sequence[str],
    reward: Function | None = None,
    task: TaskName = "problems",
) -> list[Grade]:
    """Of each reply to the problem of the same index: by the rule for its kind, and by `reward`, a
    function of (problem, reply), if one is given (`r1jax/rewards/own.py`).

    Raises InputError that names a problem which cannot be read, and ValueError if there are not as
    many replies as problems.
    """
    weights, components = {"accuracy": 1.0, "format": 0.0}, dict(COMPONENTS)
    if reward is not None:
        weights[_name(reward)], components[_name(reward)] = 1.0, own(reward)
    with Grader(weights, components=components) as grader:
        return grader.grade(_read(problems, task), list(replies))


def train_rl(
    model: Model | str,
    problems: Sequence[Problem | Row] = (),
    reward: Function | None = None,
    /,
    *,
    out: str | Path,
    task: TaskName = "problems",
    preset: str = "",
    reward_weight: float = 1.0,
    **changes: Any,
) -> Model:
    """R1-Zero's GRPO from `model` on `problems` (none: those embedded), as `experiments.r1_zero`.

    problems: rows of the form `task`, which are kept in OUT/problems.jsonl. reward: a function of
    (problem, reply) that pays beside accuracy and format, by `reward_weight`; it travels to the
    grader's processes by value. preset: tiny for the embedded model, small for others. changes:
    fields of RunConfig; of a part of it, a dict: `steps=20, rl={"group": 8}, reward={"format": 0}`.

    With resume="yes" it goes on where OUT was stopped: pass the same arguments again, for
    config.json cannot hold a function. Raises InputError as the command does.
    """
    opened = open_model(model) if isinstance(model, str) else model
    cfg = RUNS[preset or ("tiny" if opened.base == "embedded" else "small")]()
    changes = {"out": str(out), **changes}
    resumes = changes.get("resume", "no") != "no"
    if opened.base != "embedded":
        cfg = from_model(cfg, opened.base, resumes)
    if problems:
        changes |= {"task": task, "data": str(_keep(problems, Path(out) / "problems.jsonl"))}
    cfg = changed(cfg, changes)
    functions = {}
    if reward is not None:
        functions[_name(reward)] = own(reward, timeout_s=cfg.reward.own_seconds), reward_weight
    found = make_task(cfg)
    cfg = with_vocab(cfg, found.tokenizer.vocab_size)
    mesh = sharding.make_mesh(cfg.mesh)
    run = loop.train(cfg, found, mesh, lambda: _copied(opened, mesh), functions=functions)
    if jax.process_index() == 0 and run.at > 0:
        write_report(run.out)
    run.check_ended()
    return open_model(run.out, cfg.mesh)


def train_sft(
    model: Model | str, rows: Sequence[Row], /, *, out: str | Path, **changes: Any
) -> Model:
    """Supervised fine-tuning of `model` on `rows`, as `experiments.sft`: {"messages"} or {"prompt",
    "completion"}, of which the last reply is trained on. They are kept in OUT/rows.jsonl.

    changes: fields of SFTConfig, as for `train_rl`. Raises InputError as the command does.
    """
    opened = open_model(model) if isinstance(model, str) else model
    check(len(rows) > 0, "rows: there is nothing to train on")
    cfg = SFTConfig(
        # Small updates would be lost in bfloat16 parameters.
        model=dataclasses.replace(opened.config, param_dtype="float32"),
        base=opened.base,
        tokenizer="" if opened.base == "embedded" else open_on_disk(opened.base).files,
    )
    changes = {"out": str(out), "data": str(_keep(rows, Path(out) / "rows.jsonl")), **changes}
    cfg = changed(cfg, changes)
    documents = read_documents(cfg, opened.conversation)
    mesh, pad = sharding.make_mesh(cfg.mesh), opened.conversation.tokenizer.pad_id
    run = sft.train(cfg, documents, pad, mesh, lambda: _copied(opened, mesh))
    run.check_ended()
    return open_model(run.out, cfg.mesh)


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with some fields changed; a part of it by a dict. Raises InputError for a field that
    is not there."""
    known = [f.name for f in dataclasses.fields(config)]
    values = {}
    for name, value in changes.items():
        kind = type(config).__name__
        check(name in known, f"{kind} has no field {name!r}; it has {', '.join(known)}")
        now = getattr(config, name)
        part = dataclasses.is_dataclass(now) and isinstance(value, Mapping)
        fits = part or not dataclasses.is_dataclass(now) or type(value) is type(now)
        check(fits, f"{kind}.{name} takes a dict of its fields, got {value!r:.60}")
        values[name] = changed(now, value) if part else value
    return dataclasses.replace(config, **values)


def _copied(model: Model, mesh: Mesh) -> Weights:
    """Training takes the arrays it is given: those of the opened model stay the user's."""
    check(mesh.size == model.mesh.size, "mesh: open the model on the mesh that it is trained on")
    return jax.tree.map(lambda a: a.copy(), model.weights)


def _keep(rows: Sequence[Problem | Row], path: Path) -> Path:
    """Writes rows as lines of JSON, where they are not there already."""
    plain = [dataclasses.asdict(r) if isinstance(r, Problem) else dict(r) for r in rows]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path}: holds other rows: choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _read(problems: Sequence[Problem | Row], task: TaskName) -> list[Problem]:
    """Problems as they are, and rows by the reader of their form. Raises InputError."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [p for p in problems if not isinstance(p, Problem)]
        file = _keep(rows, Path(folder) / "problems.jsonl")
        read = iter(READERS[task](str(file), "stop") if rows else [])
        return [p if isinstance(p, Problem) else next(read) for p in problems]


def _name(function: Function) -> str:
    return getattr(function, "__name__", type(function).__name__)
