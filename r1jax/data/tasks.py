"""A task: problems to train and to test on, and how the model reads and answers them."""

import dataclasses
from collections.abc import Callable, Sequence

import grain
import numpy as np

from r1jax.config import InputError, RunConfig, check
from r1jax.data import countdown, sources, templates
from r1jax.data.problems import Problem
from r1jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Task:
    tokenizer: Tokenizer
    train: Sequence[Problem]
    heldout: Sequence[Problem]
    template: Callable[[str], str]  # a question -> what the model reads
    opening: str  # how every reply begins, because the prompt ends with it

    def prompt(self, problem: Problem) -> list[int]:
        """Token ids, after the beginning-of-sequence token where the tokenizer has one."""
        bos = self.tokenizer.bos_id
        ids = self.tokenizer.encode(self.template(problem.prompt))
        return ids if bos is None else [bos, *ids]

    def text(self, reply: Sequence[int]) -> str:
        """The whole reply as text, without the end-of-sequence token."""
        ids = [int(t) for t in reply if t != self.tokenizer.eos_id]
        return self.opening + self.tokenizer.decode(ids)


def make_task(cfg: RunConfig) -> Task:
    """Reads what cfg names. Raises InputError that names the file, line or flag at fault."""
    for flag in ("data", "tokenizer"):
        needed = cfg.task != "countdown" and not getattr(cfg, flag)
        check(not needed, f"--task={cfg.task} needs --{flag}=FILE")
    template: Callable[[str], str]
    if cfg.tokenizer:
        tokenizer, template, opening = Tokenizer.load(cfg.tokenizer), templates.r1_zero, ""
    else:
        tokenizer = Tokenizer.words(countdown.VOCABULARY)
        template, opening = templates.opened, "<think> "
    if not cfg.data:
        train, heldout = countdown.split(cfg.heldout_share)
    else:
        read = {"countdown": sources.read_countdown, "gsm8k": sources.read_gsm8k}[cfg.task]
        problems = read(cfg.data)
        if not cfg.tokenizer:
            problems = [_in_words(p, cfg.data) for p in problems]
        train, heldout = _split(problems, cfg.heldout_share)
    check(
        bool(train and heldout),
        f"{cfg.data or 'the embedded problems'}: RunConfig.heldout_share={cfg.heldout_share} "
        f"leaves {len(train)} problems to train on and {len(heldout)} held out",
    )
    return Task(tokenizer, train, heldout, template, opening)


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


def _split(problems: list[Problem], share: float) -> tuple[list[Problem], list[Problem]]:
    """(train, held out). Split by prompt, so that a problem given twice is on one side only."""
    prompts = list(dict.fromkeys(p.prompt for p in problems))
    order = np.random.default_rng(0).permutation(len(prompts))
    chosen = {prompts[i] for i in order[: max(1, round(share * len(prompts)))]}
    train = [p for p in problems if p.prompt not in chosen]
    return train, [p for p in problems if p.prompt in chosen]


def shuffled(problems: Sequence[Problem], seed: int) -> grain.MapDataset:
    """Every problem once an epoch, in an order of its own each epoch, for ever.

    Element i is the same in every process, so a position is all that resuming needs.
    """
    return grain.MapDataset.source(problems).seed(seed).shuffle().repeat()
