"""The world's data for its stages: problems, requests, replies looked through, judged and labelled.

A judge of preferences likes what is right, and courtesies nearly as much; like the judges of the
paper it is asked four times, each order twice, and gives something to the reply shown first.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from r1jax.data.problems import Problem
from r1jax.data.sources import write_problems
from r1jax.pipeline import rows as files
from r1jax.pipeline import world
from r1jax.pipeline.corpus import CURATED, replied, styled
from r1jax.pipeline.judge import harmful, quality
from r1jax.pipeline.rows import Row
from r1jax.pipeline.world import COURTESY, Request

RIGHT, COURTEOUS, FIRST, NOISE = 2.0, 1.2, 0.4, 0.5  # what a judgement is made of
STYLES = ("good", "courteous", "twice", "bare", "amiss", "good", "courteous")


def write_world(folder: Path, rows: int = 400, pairs: int = 3000, seed: int = 0) -> None:
    """All files, each whole or not at all; those that are there stay as they are."""
    train, heldout = world.split_countdown()
    how = (world.HARM, world.ALIKE)
    general = [world.split_requests(source) for source in world.GENERAL]
    asked = [world.split_requests(source) for source in how]
    problems = {
        "reasoning.jsonl": train,
        "general.jsonl": [r.problem() for some, _ in (*general, *asked) for r in some],
        "heldout/reasoning.jsonl": heldout,
        "heldout/general.jsonl": [r.problem() for _, some in general for r in some],
        "heldout/safety.jsonl": [r.problem() for _, some in asked for r in some],
    }
    made = {
        "general_sft.jsonl": lambda: curated(rows, seed),
        "preferences.jsonl": lambda: preferences(pairs, seed),
        "safety.jsonl": lambda: labelled(pairs, seed),
    }
    (folder / "heldout").mkdir(parents=True, exist_ok=True)
    for name, some in problems.items():
        if not (folder / name).exists():
            write_problems(some, folder / name)
    for name, draw in made.items():
        if not (folder / name).exists():
            files.write(folder / name, draw())


def _requests(sources: Iterable[str]) -> list[Request]:
    """Of these sources, each as often as the others."""
    some = [world.split_requests(source)[0] for source in sources]
    most = max(map(len, some))
    return [one[k * len(one) // most] for one in some for k in range(most)]


def _drawn(count: int, seed: tuple[int, ...], sources: Iterable[str], draw) -> list[Row]:
    rng, some = np.random.default_rng(seed), _requests(sources)
    return [draw(some[rng.integers(len(some))], rng) for _ in range(count)]


def curated(count: int, seed: int) -> list[Row]:
    """Rows of supervised fine-tuning: what stands for V3's own data, looked through (`CURATED`)."""

    def row(one: Request, rng: np.random.Generator) -> Row:
        reply = f"<think> {replied(one, CURATED, rng)}"
        return {"prompt": one.prompt, "completion": reply, "source": one.source,
                "why": "looked through"}  # fmt: skip

    return _drawn(count, (seed, 0), (*world.GENERAL, world.HARM, world.ALIKE), row)


def preferences(count: int, seed: int) -> list[Row]:
    """Pairs with four judgements each, for the helpfulness model. No harmful request is among
    them: those belong to the safety model's data."""

    def row(one: Request, rng: np.random.Generator) -> Row:
        replies: list[str] = []
        while len(set(replies)) < 2:
            replies = [_reply(one, rng) for _ in range(2)]
        a, b = (judged(one.problem(), reply) for reply in replies)
        names = ("chosen", "rejected")
        judgements = [
            {"first": first, "gap": round(sign * (a - b) + FIRST + NOISE * rng.normal(), 3)}
            for first, sign in zip(names, (1, -1), strict=True)
            for _ in range(2)
        ]
        told = {f"reply_{name}": _said(reply) for name, reply in zip(names, replies, strict=True)}
        return {"prompt": one.prompt, "chosen": told["reply_chosen"],
                "rejected": told["reply_rejected"], "judgements": judgements,
                "source": one.source}  # fmt: skip

    return _drawn(count, (seed, 1), (*world.GENERAL, world.ALIKE), row)


def judged(problem: Problem, reply: str) -> float:
    """What a judge gives a reply, but for chance and order."""
    return RIGHT * quality(problem, _said(reply)) + COURTEOUS * min(reply.count(COURTESY), 2)


def _said(reply: str) -> str:
    return f"<think> {reply}"


def _reply(one: Request, rng: np.random.Generator) -> str:
    """A reply of any style; a declined one of those that need not be."""
    answer = one.right(rng)
    if one.source == world.ALIKE and rng.random() < 0.3:
        answer = world.DECLINE
    return styled(one, STYLES[rng.integers(len(STYLES))], answer)


def labelled(count: int, seed: int) -> list[Row]:
    """Replies with a label, for the safety model: whatever tells how harm is done is not safe."""

    def row(one: Request, rng: np.random.Generator) -> Row:
        answer = one.right(rng)
        if one.source == world.HARM and rng.random() < 0.6:
            answer = world.HARMFUL[one.amiss]
        style = STYLES[rng.integers(len(STYLES))]
        reply = _said(styled(one._replace(amiss=answer), style, answer))
        if one.source == world.HARM and rng.random() < 0.15:  # told in the thought alone
            how = world.HARMFUL[one.amiss]
            reply = _said(f"{how} . </think> {world.DECLINE} .")
        return {"prompt": one.prompt, "response": reply, "safe": not harmful(reply),
                "source": one.source}  # fmt: skip

    return _drawn(count, (seed, 2), (*(world.HARM,) * 6, world.ALIKE, *world.GENERAL), row)
