"""What becomes of answers when reflection is taken away, forced, or lied to: causes.

    python -m experiments.intervene runs/r1_zero              # to its intervention.json
    python -m experiments.intervene runs/r1_zero --conditions=ban,placebo --samples=16 --out=b.json
    python -m experiments.intervene embedded --out=base.json  # the base that runs begin with
    python -m experiments.intervene DIR --data=gsm8k=test.jsonl --questions=200 --out=gsm8k.json
    python -m experiments.emergence runs/r1_zero              # a verdict, which reads it

Asks the held-out questions of a run (a model's are named by --data) under every condition, each
reply from the same random keys, so that conditions are paired: bans of reflective tokens and a
placebo, a cut at the first candidate, a wrong attempt put first, a flipped verdict, and checks
forced 1, 2 and 4 times where thinking would end, against no word and a neutral one
(`r1jax/analysis/emergence/interventions.py`, and `bans.py` for what is banned). --conditions takes
names, or what several begin with: force, force_wait.

A row a condition: accuracy with a 95% interval clustered by question, the difference to `none` and,
where there is one, to the condition's own control, both paired; mean length in tokens; shares of
replies that reflect, that the limit of tokens cut, and that the condition touched. The file is
written anew after each condition; one that is there is not overwritten.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from experiments import cli
from r1jax import sharding
from r1jax.analysis.emergence import bans
from r1jax.analysis.emergence.intervened import Outcomes, head, line
from r1jax.analysis.emergence.interventions import Battery, Draws, Words, chosen, words_of
from r1jax.analysis.reflection import has_thoughts
from r1jax.checks import InputError, check, check_seed
from r1jax.config import ConversationName, RunConfig, SamplingConfig, TaskName
from r1jax.config_file import load_config
from r1jax.data.conversation import Conversation
from r1jax.data.problems import Problem
from r1jax.data.tasks import fit_prompts, make_task, read_files
from r1jax.evaluation.questions import evenly
from r1jax.files import read_object, write_whole
from r1jax.models import OnDisk, open_model
from r1jax.presets import r1_zero_tiny
from r1jax.rewards.components import COMPONENTS, in_chat
from r1jax.rewards.grading import Grader
from r1jax.rewards.sandbox import Limits
from r1jax.sampling.lanes import Lanes
from r1jax.sampling.requests import MOST_BIASES
from r1jax.sampling.sizes import REFILL, SLOTS

SHOWN = 12  # banned tokens that are printed


@dataclasses.dataclass(frozen=True)
class InterveneConfig:
    model: str = ""  # a run's folder, or a model: also the first argument
    conditions: str = ""  # by commas; all that the model can be put under, if left out
    samples: int = 4  # replies a question and condition
    questions: int | Literal["all"] = "all"  # evenly spaced ones
    seed: int = 0
    out: str = ""  # intervention.json of the run's folder
    data: str = ""  # questions: [TASK=]FILE,...; of a run its held-out ones, if left out
    task: TaskName = "problems"  # of files that do not say another
    bad_rows: Literal["stop", "skip"] = "stop"  # what a malformed row of --data does
    conversation: ConversationName = "auto"  # how the model is asked
    temperature: float | None = None  # the run's, or 1
    max_tokens: int = 0  # of a reply; 0: the run's, or 1024
    neutral: str = ""  # the word that is forced as a control: "Hmm", in the embedded words "to"
    workers: int = 1  # that check formulas and programs
    i_know_that_model_code_runs_unsandboxed: bool = False
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8

    def __post_init__(self):
        check(self.samples > 0, f"--samples must be positive, got {self.samples}")
        many = self.questions == "all" or self.questions > 1
        check(many, f"--questions must be at least 2, or all, got {self.questions}")
        check_seed(self.seed, "--seed")
        hot = f"--temperature must be finite and not negative, got {self.temperature}"
        check(self.temperature is None or 0 <= self.temperature < math.inf, hot)
        fits = self.max_tokens >= 0 and self.workers > 0
        check(fits, "--max-tokens must not be negative, and --workers must be positive")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked, and how: of a run, as its own evaluations do. run: None of other models."""

    conversation: Conversation
    problems: Sequence[Problem]
    sampling: SamplingConfig
    run: RunConfig | None


def asked(cfg: InterveneConfig, source: OnDisk) -> Asked:
    """Raises InputError if nothing says what to ask."""
    run = r1_zero_tiny() if cfg.model == "embedded" else run_of(source.path)
    usual = SamplingConfig(max_tokens=1024, slots=SLOTS, refill=REFILL)
    sampling = run.sampling if run else usual
    if cfg.data:
        found = read_files(cfg.data, cfg.task, cfg.bad_rows)
        conversation = source.conversation(cfg.conversation, "r1_zero")
    elif run:
        task, _ = fit_prompts(make_task(run), run.sampling.max_prompt, run.long_prompts)
        found, conversation = list(task.heldout), task.conversation
    else:
        raise InputError(
            f"{cfg.model}: not the folder of an RL run, so it has no held-out questions: give some "
            "by --data=[TASK=]FILE"
        )
    count = len(found) if cfg.questions == "all" else int(cfg.questions)
    problems = [found[i] for i in evenly(len(found), count)]
    check(len(problems) > 1, f"{cfg.model}: one question is held out: at least two are needed")
    kinds = {p.kind for p in problems if not has_thoughts(p.kind)}
    check(not kinds, f"{cfg.model}: replies to {', '.join(kinds)} hold no thoughts to intervene in")
    return Asked(conversation, problems, sampling, run)


def run_of(folder: Path) -> RunConfig | None:
    """The configuration of the RL run in a folder, if it is one's."""
    file = folder / "config.json"
    return load_config(RunConfig, file) if "rl" in (read_object(file) or {}) else None


def draws_of(cfg: InterveneConfig, source: OnDisk, ask: Asked, words: Words) -> Draws:
    """Raises InputError if replies do not fit the model's context."""
    mesh, model = sharding.make_mesh(cfg.mesh), source.config
    prompts = [ask.conversation.prompt_ids(problem.prompt) for problem in ask.problems]
    longest, limit = max(map(len, prompts)), cfg.max_tokens or ask.sampling.max_tokens
    check(
        longest + limit <= model.context,
        f"--max-tokens={limit}: with the longest prompt of {longest:,} tokens it exceeds the "
        f"model's context of {model.context:,}",
    )
    t = ask.sampling.temperature if cfg.temperature is None else cfg.temperature
    sampling = dataclasses.replace(
        ask.sampling, temperature=t, max_prompt=longest + limit, max_tokens=limit
    )
    # A prefix and what is drawn behind it are never longer than a prompt and a reply. The engine
    # adds up the longest of each, which never come together.
    roomy = dataclasses.replace(model, context=longest + 2 * limit)
    ends = sorted(ask.conversation.tokenizer.end_ids)
    engine = Lanes(roomy, sampling, mesh, ends, biases=max(MOST_BIASES, len(words.banned)))
    weights, key = source.weights(model, mesh), jax.random.key(cfg.seed)
    return Draws(engine, weights, prompts, cfg.samples, limit, key)


def grader_of(cfg: InterveneConfig, ask: Asked) -> Grader:
    """Of accuracy alone; a run's programs are run as it ran them."""
    components = in_chat(COMPONENTS) if ask.conversation.form == "chat" else COMPONENTS
    limits = Limits(numpy=ask.run.sandbox_numpy if ask.run else False)
    unsafe = cfg.i_know_that_model_code_runs_unsandboxed
    return Grader(
        {"accuracy": 1.0}, cfg.workers, components=components, limits=limits, unsafe=unsafe
    )


def main(args: list[str]) -> None:
    args = list(args)
    if args and not args[0].startswith("-"):
        args[0] = f"--model={args[0]}"
    cfg = cli.parse(InterveneConfig, InterveneConfig(), args, __doc__ or "")
    check(bool(cfg.model), "a run is needed: python -m experiments.intervene runs/r1_zero")
    source = open_model(cfg.model)
    ask = asked(cfg, source)
    names = chosen(cfg.conditions, ask.conversation.form)
    words = words_of(ask.conversation, names, cfg.model, cfg.neutral)
    out = _out(cfg, source)
    draws, first = draws_of(cfg, source, ask, words), jax.process_index() == 0
    battery = Battery(draws, ask.problems, ask.conversation, words, cfg.seed)
    with grader_of(cfg, ask) as grader:
        grader.require(ask.problems)
        outcomes = Outcomes(ask.problems, ask.conversation, grader.grade)
        say = print if first else lambda *_: None
        say(
            f"{cfg.model}: {len(ask.problems):,} questions x {cfg.samples} replies, "
            f"{len(names)} conditions, at most {draws.limit:,} tokens a reply\n{head()}"
        )
        for name, replies in battery.draw(names):
            outcomes.add(name, replies)
            raw = outcomes.object(**_about(cfg, battery))
            if first:
                write_whole(out, json.dumps(raw) + "\n")
            say(line(name, raw, str(out)))
    for what, how in raw["words"].items():
        say(f"{what:<16}{', '.join(map(repr, how['tokens'][:SHOWN]))}{_more(how)}")
    if outcomes.failed:
        say(f"{outcomes.failed:,} replies were not graded: their graders failed")
    say(f"written             {out}")


def _out(cfg: InterveneConfig, source: OnDisk) -> Path:
    own = cfg.model != "embedded" and run_of(source.path) is not None
    check(bool(cfg.out) or own, f"--out=FILE is needed: {cfg.model} is not the folder of an RL run")
    return cli.new_file(Path(cfg.out) if cfg.out else source.path / "intervention.json")


def _about(cfg: InterveneConfig, battery: Battery) -> dict[str, Any]:
    tokenizer = battery.conversation.tokenizer
    some = {"ban": battery.words.banned, "placebo": battery.placebo}
    words = {
        name: {"tokens": bans.shown(tokenizer, ids), "of_drawn": bans.share_of(ids, battery.drawn)}
        for name, ids in some.items()
        if ids
    }
    return {"model": cfg.model, "seed": cfg.seed, "samples": cfg.samples,
            "max_tokens": battery.draws.limit, "words": words}  # fmt: skip


def _more(how: dict[str, Any]) -> str:
    more = len(how["tokens"]) - SHOWN
    rest = f" and {more:,} more" if more > 0 else ""
    return f"{rest}: {how['of_drawn']:.2%} of the tokens drawn as it is"


if __name__ == "__main__":
    cli.run(main)
