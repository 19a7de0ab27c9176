"""Which tokens a model reflects with, and as many equally frequent ones that it does not.

A ban is of every item of the vocabulary that holds a reflective term as a word, with or without a
blank before it and in any case (as NoWait does, arXiv 2506.08343). A term that is spelled from
pieces gets through; the share of replies that still reflect says how often.

The placebo is of as many other tokens. Each stands for one that is banned: the one left whose count
in the replies as they are is nearest. It is a word of two letters or more, so that no digit, sign,
single letter (a variable), tag, box or end of a reply is ever among them: without these the task
could not be solved, whatever they have to do with reflection. Where a vocabulary has few such words
(the embedded one has four, which no reply uses), the placebo is rarer than the ban: both shares
of the tokens drawn are printed and kept.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from r1jax.analysis.reflection import REFLECTIVE_TERMS
from r1jax.checks import InputError, check
from r1jax.data.tokenizer import Tokenizer

BANNED = -1e9  # added to a logit: never drawn
VERDICTS = ("right", "wrong")  # of the embedded world, whose verdicts are reflective words too
_NEEDED = ("<think>", "</think>", "<answer>", "</answer>", "\\boxed{", " \\boxed{")


def reflective_tokens(tokenizer: Tokenizer, verdicts: bool, where: str) -> dict[str, list[int]]:
    """The items of the vocabulary that hold each reflective term; `verdicts` counts "right" too.
    Raises InputError that names `where` if there is none."""
    terms = (*REFLECTIVE_TERMS, *(VERDICTS if verdicts else ()))
    pattern = re.compile(rf"\b({'|'.join(dict.fromkeys(terms))})\b", re.IGNORECASE)
    found: dict[str, list[int]] = {}
    for token in _words(tokenizer):
        for term in {m.lower() for m in pattern.findall(tokenizer.decode([token]))}:
            found.setdefault(term, []).append(token)
    check(
        bool(found),
        f"{where}: no token of its vocabulary holds a reflective term ({', '.join(terms)})",
    )
    return found


def placebo_tokens(
    tokenizer: Tokenizer, banned: Collection[int], drawn: Mapping[int, int]
) -> list[int]:
    """As many as `banned`, or all that there are; `drawn`: how often each token was drawn."""
    needed = {i for text in _NEEDED for i in _encoded(tokenizer, text)}
    left = [t for t in _words(tokenizer) if t not in banned and t not in needed]
    left = [t for t in left if _is_word(tokenizer.decode([t]))]
    # Of those never drawn one is as good as another: the first stand for all.
    never = [t for t in left if not drawn.get(t)][: len(banned)]
    pool, chosen = [*(t for t in left if drawn.get(t)), *never], []
    for token in sorted(banned, key=lambda t: (-drawn.get(t, 0), t)):
        if pool:
            count = drawn.get(token, 0)
            nearest = min(pool, key=lambda t: (abs(drawn.get(t, 0) - count), t))
            pool.remove(nearest)
            chosen.append(nearest)
    return chosen


def share_of(tokens: Collection[int], drawn: Counter[int]) -> float:
    """Of all tokens drawn."""
    return sum(drawn[t] for t in tokens) / max(drawn.total(), 1)


def shown(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    return [tokenizer.decode([t]) for t in tokens]


def _words(tokenizer: Tokenizer) -> list[int]:
    return [i for i in range(tokenizer.vocab_size) if i not in tokenizer.added_ids]


def _is_word(text: str) -> bool:
    return len(text.strip()) > 1 and text.strip().isalpha()


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """Nothing where a vocabulary of words has not all of them."""
    try:
        return tokenizer.encode(text)
    except InputError:
        return []
