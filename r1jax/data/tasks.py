"""A task: problems to train and to test on, and how the model reads and answers them."""

import dataclasses
import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from r1jax.checks import InputError, check
from r1jax.config import TIERS, Long, RunConfig, tiers_of
from r1jax.data import countdown, stories, templates
from r1jax.data.conversation import Conversation, make_conversation
from r1jax.data.pipeline import Mixture
from r1jax.data.problems import Problem
from r1jax.data.rows import Bad
from r1jax.data.sources import READERS
from r1jax.data.tokenizer import Tokenizer

EMBEDDED = ("countdown", "stories")  # tasks whose problems need no file


@dataclasses.dataclass(frozen=True)
class Task:
    conversation: Conversation
    mixture: Mixture[Problem]  # to train on
    heldout: Sequence[Problem]

    @property
    def tokenizer(self) -> Tokenizer:
        return self.conversation.tokenizer

    @functools.cached_property
    def train(self) -> list[Problem]:
        return [problem for problems, _ in self.mixture for problem in problems]

    @functools.cached_property
    def sources(self) -> list[str]:
        """Where the problems are from, if not all from one place: files, or tiers."""
        found = list(dict.fromkeys(p.source for p in self.train if p.source))
        return found if len(found) > 1 else []

    def prompt(self, problem: Problem) -> list[int]:
        """Token ids, after the beginning-of-sequence token where the tokenizer has one. Raises
        InputError that names the problem, if its question holds the chat template's own tokens."""
        try:
            return self.conversation.prompt_ids(problem.prompt)
        except InputError as error:
            raise InputError(f"problem {problem.id}: {error}") from None

    @functools.cached_property
    def opening(self) -> str:
        """How every reply begins, because every prompt ends with it."""
        return self.conversation.opening(self.conversation.prompt(self.train[0].prompt))

    def text(self, reply: Sequence[int]) -> str:
        """The whole reply as text, without the token that ends it."""
        ids = [int(t) for t in reply if t not in self.tokenizer.end_ids]
        return self.opening + self.tokenizer.decode(ids)


def make_task(cfg: RunConfig) -> Task:
    """Reads what cfg names. Raises InputError that names the file, line or flag at fault."""
    check(bool(cfg.data) or cfg.task in EMBEDDED, f"--task={cfg.task} needs --data=FILE")
    check(
        not cfg.data or cfg.task in READERS,
        f"--task={cfg.task} has its own problems: leave out --data",
    )
    check(
        bool(cfg.tokenizer) or cfg.task == "countdown",
        f"--task={cfg.task} needs --tokenizer=FILE, or --model=DIR which has one",
    )
    words = countdown.VOCABULARY
    tokenizer = Tokenizer.load(cfg.tokenizer) if cfg.tokenizer else Tokenizer.words(words)
    if not cfg.data:
        mixture, heldout = _embedded(cfg)
    else:
        given = read_mixture(cfg.data, cfg.task, cfg.bad_rows)
        if not cfg.tokenizer:
            given = [([_in_words(p, cfg.data) for p in some], weight) for some, weight in given]
        mixture, heldout = _split(given, cfg.heldout_share)
    _check_shares(cfg, mixture, heldout)
    # A story goes on from its first sentence; other problems are asked.
    otherwise: Literal["plain", "r1_zero"] = "plain" if cfg.task == "stories" else "r1_zero"
    wanted = cfg.conversation
    if wanted == "auto" and cfg.tokenizer and cfg.base in ("embedded", "train", "random"):
        wanted = otherwise  # no model that was ever tuned on the template
    conversation = make_conversation(tokenizer, cfg.tokenizer, wanted, otherwise)
    return Task(conversation, mixture, heldout)


def _embedded(cfg: RunConfig) -> tuple[Mixture[Problem], list[Problem]]:
    """(to train on, held out): every tier as often as the others, and as many of each held out."""
    if cfg.task == "stories":
        train, heldout = stories.split(cfg.heldout_share)
        return [(train, 1.0)], heldout
    tiers = tiers_of(cfg.tiers, "RunConfig.tiers")
    split = [countdown.split(tier, cfg.heldout_share) for tier in tiers]
    few = min(len(heldout) for _, heldout in split)
    even = [heldout[k * len(heldout) // few] for _, heldout in split for k in range(few)]
    return [(train, 1.0) for train, _ in split], even


def _check_shares(cfg: RunConfig, mixture: Mixture[Problem], heldout: Sequence[Problem]) -> None:
    """Raises InputError if there is nothing to train on (or nothing of one file), or held out."""
    name, count = cfg.data or "the embedded problems", sum(len(train) for train, _ in mixture)
    said = (
        f"{name}: --heldout-share={cfg.heldout_share} leaves {count:,} problems to train "
        f"on and {len(heldout):,} held out"
    )
    if count + len(heldout) == 1:
        raise InputError(f"{name}: there is one problem; one to train on and one held out is least")
    check(count > 0 and len(heldout) > 0, said)
    empty = next((i for i, (train, _) in enumerate(mixture) if not train), None)
    if empty is not None:
        one = parse_data(cfg.data)[empty][1] if cfg.data else "one tier"
        raise InputError(f"{said}: of {one} all are held out")


def fit_prompts(task: Task, limit: int, policy: Long) -> tuple[Task, str]:
    """The task whose prompts have at most `limit` tokens, and a line that says how many others
    were left out, "" if none.

    Raises InputError with their number and the longest if policy is stop, or if nothing would be
    left to train on (of any one source) or to test on.
    """
    problems = [*task.train, *task.heldout]
    lengths = {id(problem): len(task.prompt(problem)) for problem in problems}
    long = [problem for problem in problems if lengths[id(problem)] > limit]
    if not long:
        return task, ""
    worst = max(long, key=lambda problem: lengths[id(problem)])
    tokens = lengths[id(worst)]
    said = (
        f"{len(long):,} of {len(problems):,} prompts have more than --sampling.max-prompt="
        f"{limit:,} tokens; the longest, of problem {worst.id}, has {tokens:,}"
    )
    advice = f"--sampling.max-prompt={tokens} takes all, --long-prompts=drop leaves them out"
    check(policy == "drop", f"{said}: {advice}")

    def fitting(some: Sequence[Problem]) -> list[Problem]:
        return [problem for problem in some if lengths[id(problem)] <= limit]

    mixture = [(fitting(some), weight) for some, weight in task.mixture]
    heldout = fitting(task.heldout)
    left = all(some for some, _ in mixture) and bool(heldout)
    check(left, f"{said}: without them a file has none left to train on, or none is held out")
    return dataclasses.replace(task, mixture=mixture, heldout=heldout), f"{said}: left out"


def parse_data(data: str, flag: str = "--data") -> list[tuple[str, str, float | None]]:
    """(task or "", file, weight) of each part of "[TASK=]FILE[:WEIGHT],...".

    Either all parts have a weight or none has. Raises InputError that names the part at fault: so
    does a word before "=" that is no task, unless the whole is the name of a file that exists.
    """
    parts = []
    for part in data.split(","):
        name, colon, weight = part.rpartition(":") if ":" in part else (part, "", "")
        if colon:
            try:
                share = float(weight)
            except ValueError:
                raise InputError(f"{part}: {weight!r} is not a weight") from None
            check(0 < share < float("inf"), f"{part}: the weight must be positive")
        task, sign, file = name.partition("=")
        if task not in READERS:  # or the file's name has the sign
            known = not sign or not task.isidentifier() or Path(name).exists()
            check(known, f"{flag}={part}: {_no_task(task)}, and there is no file {name}")
            task, file = "", name
        check(bool(file), f"{data}: a file has no name")
        parts.append((task, file, share if colon else None))
    weighted = sum(weight is not None for *_, weight in parts)
    check(weighted in (0, len(parts)), f"{data}: give all files a weight, FILE:WEIGHT, or none")
    return parts


def _no_task(name: str) -> str:
    near = difflib.get_close_matches(name, READERS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(READERS)}"
    return f"no task is called {name!r} ({hint})"


def read_mixture(data: str, task: str, bad: Bad) -> Mixture[Problem]:
    """The files of `data` (see `parse_data`), of the form `task` where they do not say another,
    with their weights; all one source where they have none."""
    mixture: list[tuple[list[Problem], float]] = []
    for name, path, weight in parse_data(data):
        problems = READERS[name or task](path, bad)
        if weight is None and mixture:
            mixture[0][0].extend(problems)
        else:
            mixture.append((problems, weight or 1.0))
    return mixture


def read_files(data: str, task: str, bad: Bad = "stop", flag: str = "--data") -> list[Problem]:
    """The problems of "[TASK=]FILE,...", of the form `task` where a file does not say another.
    Raises InputError as `parse_data` and the readers do."""
    parts = parse_data(data, flag)
    check(all(weight is None for *_, weight in parts), f"{data}: files are not weighted here")
    return [problem for name, path, _ in parts for problem in READERS[name or task](path, bad)]


def _in_words(problem: Problem, path: str) -> Problem:
    """A user's countdown problem as the embedded base reads it: numbers largest first."""
    place, other = f"{path}: problem {problem.id}", "; pass --tokenizer=FILE for others"
    check(
        problem.kind == "countdown",
        f"{place} is of the kind {problem.kind}: the embedded model is asked countdown{other}",
    )
    numbers = tuple(sorted(problem.numbers, reverse=True))
    question = templates.countdown_question(numbers, problem.answer)
    unknown = [word for word in question.split() if word not in countdown.VOCABULARY]
    check(
        not unknown and len(numbers) in TIERS,
        f"{place}: the embedded tokenizer knows {TIERS[0]} to {TIERS[-1]} numbers from 1 to "
        f"{countdown.HIGHEST}"
        + (f", and targets of them, not {', '.join(unknown)}" if unknown else "")
        + other,
    )
    return dataclasses.replace(problem, prompt=question, numbers=numbers)


def _split(
    mixture: Mixture[Problem], share: float
) -> tuple[list[tuple[list[Problem], float]], list[Problem]]:
    """(train, held out). Split by prompt, so that a problem given twice is on one side only."""
    problems = [p for some, _ in mixture for p in some]
    prompts = list(dict.fromkeys(p.prompt for p in problems))
    order = np.random.default_rng(0).permutation(len(prompts))
    chosen = {prompts[i] for i in order[: max(1, round(share * len(prompts)))]}
    train = [([p for p in some if p.prompt not in chosen], weight) for some, weight in mixture]
    return train, [p for p in problems if p.prompt in chosen]
