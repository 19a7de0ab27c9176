"""A task: problems to train and to test on, and how the model reads and answers them."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from r1jax.config import InputError, RunConfig, check
from r1jax.data import countdown, stories, templates
from r1jax.data.pipeline import Mixture
from r1jax.data.problems import Problem
from r1jax.data.rows import Bad
from r1jax.data.sources import READERS
from r1jax.data.tokenizer import Tokenizer

# Problems that need no file: how they are divided into those to train on and those held out.
EMBEDDED = {"countdown": countdown.split, "stories": stories.split}


@dataclasses.dataclass(frozen=True)
class Task:
    tokenizer: Tokenizer
    mixture: Mixture[Problem]  # to train on
    heldout: Sequence[Problem]
    template: Callable[[str], str]  # a question -> what the model reads
    opening: str  # how every reply begins, because the prompt ends with it

    @functools.cached_property
    def train(self) -> list[Problem]:
        return [problem for problems, _ in self.mixture for problem in problems]

    def prompt(self, problem: Problem) -> list[int]:
        """Token ids, after the beginning-of-sequence token where the tokenizer has one."""
        return self.tokenizer.encode_prompt(self.template(problem.prompt))

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
    template: Callable[[str], str]
    if cfg.tokenizer:
        tokenizer, template, opening = Tokenizer.load(cfg.tokenizer), templates.r1_zero, ""
        if cfg.task == "stories":
            template = templates.bare
    else:
        tokenizer = Tokenizer.words(countdown.VOCABULARY)
        template, opening = templates.opened, "<think> "
    if not cfg.data:
        train, heldout = EMBEDDED[cfg.task](cfg.heldout_share)
        mixture = [(train, 1.0)]
    else:
        given = read_mixture(cfg.data, cfg.task, cfg.bad_rows)
        if not cfg.tokenizer:
            given = [([_in_words(p, cfg.data) for p in some], weight) for some, weight in given]
        mixture, heldout = _split(given, cfg.heldout_share)
    task = Task(tokenizer, mixture, heldout, template, opening)
    check(
        all(train for train, _ in mixture) and bool(heldout),
        f"{cfg.data or 'the embedded problems'}: RunConfig.heldout_share={cfg.heldout_share} "
        f"leaves {len(task.train)} problems to train on and {len(heldout)} held out",
    )
    return task


def parse_data(data: str) -> list[tuple[str, str, float | None]]:
    """(task or "", file, weight) of each part of "[TASK=]FILE[:WEIGHT],...".

    Either all parts have a weight or none has. Raises InputError that names the part at fault.
    """
    parts = []
    for part in data.split(","):
        task, _, file = part.partition("=")
        if task not in READERS:  # the file's name has the sign
            task, file = "", part
        file, colon, weight = file.rpartition(":") if ":" in file else (file, "", "")
        if colon:
            try:
                share = float(weight)
            except ValueError:
                raise InputError(f"{part}: {weight!r} is not a weight") from None
            check(0 < share < float("inf"), f"{part}: the weight must be positive")
        check(bool(file), f"{data}: a file has no name")
        parts.append((task, file, share if colon else None))
    weighted = sum(weight is not None for *_, weight in parts)
    check(weighted in (0, len(parts)), f"{data}: give all files a weight, FILE:WEIGHT, or none")
    return parts


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


def _in_words(problem: Problem, path: str) -> Problem:
    """A user's countdown problem as the embedded base reads it: four numbers, largest first."""
    numbers = tuple(sorted(problem.numbers, reverse=True))
    question = templates.countdown_question(numbers, problem.answer)
    unknown = [word for word in question.split() if word not in countdown.VOCABULARY]
    if unknown or len(numbers) != 4:
        raise InputError(
            f"{path}: problem {problem.id}: the embedded tokenizer knows four numbers from 1 to "
            f"{countdown.HIGHEST}; pass --tokenizer=FILE for others"
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
