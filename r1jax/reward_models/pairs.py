"""What reward models learn from: pairs of replies, and replies labelled safe or unsafe.

N pairs
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from r1jax.checks import check
from r1jax.data.sources import field, read_jsonl

MAX_WEIGHT = 10.0  # of a pair: a rare kind of pair must not become the whole gradient


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One judge's view of a pair: which reply it was shown first, and by how much it preferred
    that one to the other, on the judge's own scale."""

    first: Literal["chosen", "rejected"]
    gap: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two replies to a prompt, thought included. `where` is the file and line, for errors."""

    prompt: str
    chosen: str
    rejected: str
    judgements: tuple[Judgement, ...] = ()
    where: str = ""

    @property
    def replies(self) -> tuple[str, ...]:
        return self.chosen, self.rejected


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A reply, thought included, and whether it is safe."""

    prompt: str
    response: str
    safe: bool
    where: str = ""

    @property
    def replies(self) -> tuple[str, ...]:
        return (self.response,)


E = TypeVar("E", Pair, Labelled)


def read_pairs(path: str | Path) -> list[Pair]:
    """{"prompt", "chosen", "rejected"} and, optional, "judgements": [{"first", "gap"}, ...].

    Raises InputError with file:line for a line that is not one.
    """

    def parse(row: dict[str, Any], line: int) -> Pair:
        prompt, chosen, rejected = (_text(row, name) for name in ("prompt", "chosen", "rejected"))
        check(chosen != rejected, 'fields "chosen" and "rejected" are the same text')
        judgements: tuple[Judgement, ...] = ()
        if "judgements" in row:
            judgements = tuple(map(_judgement, field(row, "judgements", list)))
            for first in ("chosen", "rejected"):
                check(
                    any(j.first == first for j in judgements),
                    f'field "judgements": none was shown the {first} reply first, so that what '
                    "the judge gives to a position cannot be averaged out",
                )
        return Pair(prompt, chosen, rejected, judgements, f"{path}:{line}")

    return read_jsonl(path, parse)


def read_labelled(path: str | Path) -> list[Labelled]:
    """{"prompt", "response", "safe": true or false}. Raises InputError with file:line."""

    def parse(row: dict[str, Any], line: int) -> Labelled:
        prompt, response = _text(row, "prompt"), _text(row, "response")
        return Labelled(prompt, response, field(row, "safe", bool), f"{path}:{line}")

    return read_jsonl(path, parse)


def _text(row: dict[str, Any], name: str) -> str:
    text = field(row, name, str)
    check(bool(text.strip()), f'field "{name}" is blank')
    return text


def _judgement(row: Any) -> Judgement:
    check(isinstance(row, dict), 'field "judgements" must be a list of objects')
    first, gap = field(row, "first", str), row.get("gap")
    if first not in ("chosen", "rejected"):
        check(False, f'field "first" must be "chosen" or "rejected", got {first!r}')
    check(type(gap) in (int, float) and np.isfinite(gap), f'field "gap" must be a number: {gap!r}')
    return Judgement(first, float(gap))  # type: ignore[arg-type]


def averaged_gap(judgements: Sequence[Judgement]) -> float:
    """By how much the judges prefer the chosen reply, whatever they give to a position.

    The mean over the showings in each order, and then of the two orders: what a judge adds to the
    reply that it is shown first, whatever that is, cancels, however often each order was asked.
    """
    orders = {"chosen": 1, "rejected": -1}
    means = (
        sign * np.mean([j.gap for j in judgements if j.first == first])
        for first, sign in orders.items()
    )
    return float(sum(means) / 2)


def judged(pairs: Sequence[Pair], min_gap: float) -> tuple[list[Pair], Counter[str]]:
    """The pairs whose averaged gap exceeds `min_gap`, the preferred reply as the chosen one; those
    without judgements as they are. And how many of those judged were "kept", "swapped" (kept, the
    other way round) and "dropped".

    DeepSeek-R1 (Nature 645:633): four judgements, positions swapped, gap > 1.
    """
    kept, counts = [], Counter(kept=0, swapped=0, dropped=0)
    for pair in pairs:
        if not pair.judgements:
            kept.append(pair)
            continue
        gap = averaged_gap(pair.judgements)
        if abs(gap) <= min_gap:
            counts["dropped"] += 1
            continue
        if gap < 0:
            counts["swapped"] += 1
            pair = dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen)
        counts["kept"] += 1
        kept.append(pair)
    return kept, counts


def balance_weights(longer_N: np.ndarray) -> np.ndarray:
    """A weight for each pair, of mean 1, under which length says nothing about preference.

    longer_N: tokens of the chosen reply minus those of the rejected one.

    Pairs are put together by how large the difference is (1, 2-3, 4-7, 8-15, ... tokens), and in
    each class both directions get the same total weight: under the weights, the chosen reply is
    the longer one as often as the shorter one, at every size of the difference. (Balanced in sign
    alone, a few large differences would still teach the model that longer is better.) The classes
    keep their shares of the data, but for those where one direction is so rare that its pairs
    would weigh more than MAX_WEIGHT each: there, the common direction is turned down instead. A
    class with only one direction weighs nothing.

    Weighting instead of dropping, since judged pairs are dear: of 95 : 5 it keeps the information
    of about twice as many pairs as sampling down to 5 : 5 would.
    """
    longer = np.asarray(longer_N)
    size = np.frexp(np.abs(longer))[1]  # bits of the difference
    weight = np.ones(longer.shape)
    for bits in np.unique(size[longer != 0]):
        sides = [(size == bits) & (longer > 0), (size == bits) & (longer < 0)]
        rare, common = sorted(sides, key=np.sum)
        n_rare, n_common = rare.sum(), common.sum()
        if n_rare == 0:
            weight[common] = 0
            continue
        weight[rare] = min((n_rare + n_common) / (2 * n_rare), MAX_WEIGHT)
        weight[common] = weight[rare][0] * n_rare / n_common
    check(
        bool(weight.any()),
        "length balance: every chosen reply is the longer one, or every one the shorter one, so "
        "that length explains all preferences; pass --no-balance to train on them all the same",
    )
    return weight * (weight.size / weight.sum())


def split(examples: Sequence[E], share: float) -> tuple[list[E], list[E]]:
    """(train, held out). By prompt, so that one given twice is on one side only."""
    prompts = list(dict.fromkeys(e.prompt for e in examples))
    order = np.random.default_rng(0).permutation(len(prompts))
    chosen = {prompts[i] for i in order[: max(1, round(share * len(prompts)))]}
    train = [e for e in examples if e.prompt not in chosen]
    return train, [e for e in examples if e.prompt in chosen]
