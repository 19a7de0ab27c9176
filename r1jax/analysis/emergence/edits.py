"""Where a reply is cut, and what is put there: a drawn reply's tokens in, a prefix of another out.

Each edit returns the tokens that a reply goes on from, or None where it has nothing to edit.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from r1jax.analysis.emergence.structure import Structure, countdown_structure, extracted_structure
from r1jax.checks import InputError
from r1jax.data.chat import CLOSE
from r1jax.data.conversation import Conversation
from r1jax.data.countdown import attempt, total
from r1jax.data.problems import Problem

# What is put where a reply would stop, by kind, in words (s1, arXiv 2501.19393, table 4: its "Hmm"
# is the neutral one), and of the embedded vocabulary, in which "to" stands in no reply.
FORCED = {"wait": "Wait", "check": "Let me check", "neutral": "Hmm"}
FORCED_EMBEDDED = {"wait": "wait", "check": "check", "neutral": "to"}


@dataclasses.dataclass(frozen=True)
class Placed:
    """The text of a reply; token i is its characters [ends[i - 1], ends[i])."""

    text: str
    ends: tuple[int, ...]

    def token_of(self, character: int) -> int:
        """The token that holds it."""
        return next(i for i, end in enumerate(self.ends) if end > character)


def placed(conversation: Conversation, tokens: Sequence[int]) -> Placed:
    """The token that ends a reply has no text."""
    decoder, text, ends = conversation.tokenizer.stream(), "", []
    for token in tokens:
        text += "" if token in conversation.tokenizer.end_ids else decoder.feed(token)
        ends.append(len(text))
    text += decoder.flush()
    return Placed(text, (*ends[:-1], len(text)) if ends else ())


def structure_of(problem: Problem, text: str, correct: bool | None) -> Structure:
    if problem.kind == "countdown":
        return countdown_structure(text, problem.numbers, int(problem.answer), correct)
    return extracted_structure(text, correct)


def first_candidate(
    conversation: Conversation, problem: Problem, tokens: Sequence[int]
) -> tuple[list[int], bool] | None:
    """The reply up to its first candidate answer, its thinking closed behind it if it closes that
    later, and whether it goes on from there; a reply that never does ends there. None if there is
    no candidate, or it is the answer already."""
    reply = placed(conversation, tokens)
    candidates = structure_of(problem, reply.text, None).candidates
    closes, embedded = reply.text.find(CLOSE), conversation.form == "embedded"
    if not candidates or 0 <= closes < candidates[0].end:
        return None
    end = candidates[0].end
    cut = list(tokens[: reply.token_of(end - 1) + 1])
    if closes < 0 and not embedded:
        return (cut, False) if len(candidates) > 1 else None
    if closes >= 0 and not reply.text[end:closes].strip():
        return None  # it closes there by itself
    return [*cut, *conversation.tokenizer.encode(CLOSE if embedded else f"\n{CLOSE}\n\n")], True


def stops_at(conversation: Conversation, tokens: Sequence[int], truncated: bool) -> int | None:
    """The token with which a reply closes its thinking, or where it does not, its end; None of one
    that was cut before."""
    close = _known(conversation, CLOSE)
    if close and len(close) == 1 and close[0] in tokens:
        return list(tokens).index(close[0])
    reply = placed(conversation, tokens)
    closes = reply.text.find(CLOSE)  # spelled in pieces
    if closes >= 0:
        return reply.token_of(closes)
    return None if truncated else len(tokens) - 1


def forced(conversation: Conversation, before: Sequence[int], word: str) -> list[int]:
    """`word` as the tokens that go on from `before`."""
    text = conversation.tokenizer.decode(before)
    blank = "" if conversation.form == "embedded" or text[-1:].isspace() else " "
    return conversation.tokenizer.encode(blank + word)


def injected(
    conversation: Conversation, problem: Problem, question: int, sample: int, seed: int
) -> list[int] | None:
    """A wrong attempt at a countdown problem up to the place of its verdict; which of the wrong
    ones that the vocabulary can write depends on the numbers given alone."""
    target = int(problem.answer)
    ways = itertools.product("+-", repeat=len(problem.numbers) - 1)
    wrong = [way for way in ways if total(problem.numbers, way) != target]
    for i in np.random.default_rng([seed, question, sample]).permutation(len(wrong)):
        tried = attempt(problem.numbers, wrong[i])
        verdict = f"check {total(problem.numbers, wrong[i])} = {target}"
        if found := _known(conversation, f"{tried} {verdict}"):
            return found
    return None


def flipped(
    conversation: Conversation, problem: Problem, tokens: Sequence[int]
) -> list[int] | None:
    """The reply up to its first verdict, which says the opposite."""
    reply = placed(conversation, tokens)
    verdicts = structure_of(problem, reply.text, None).verdicts
    if not verdicts:
        return None
    other = "wrong" if verdicts[0].says else "right"
    at = reply.token_of(verdicts[0].end - 1)
    return [*tokens[:at], *conversation.tokenizer.encode(other)]


def _known(conversation: Conversation, text: str) -> list[int] | None:
    """Its tokens; None if it has a word that is not in a vocabulary of words."""
    try:
        return conversation.tokenizer.encode(text)
    except InputError:
        return None
