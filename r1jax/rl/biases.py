"""What is added to logits wherever a run draws and trains: its policy is the distribution after it.

`--logit-bias=reflective=-1e9` bans reflection from a run, replies held out too, and so asks whether
it would have learnt as much without (at training time, as `experiments.intervene` asks afterwards).
"""

from collections.abc import Mapping

import numpy as np

from r1jax.analysis.emergence.bans import reflective_tokens
from r1jax.checks import InputError, check
from r1jax.data.tokenizer import Tokenizer

REFLECTIVE = "reflective"


def biases_of(text: str, tokenizer: Tokenizer, verdicts: bool = False) -> dict[int, float]:
    """By token, of "NAME=BIAS,...": a NAME is the text of one token, or `reflective`, all that hold
    a reflective term (`verdicts`: those of the embedded world too). Raises InputError."""
    found: dict[int, float] = {}
    for part in text.split(",") if text else []:
        name, sign, value = part.rpartition("=")
        flag = f"--logit-bias={part}"
        try:
            bias = float(value)
        except ValueError:
            bias = np.nan
        check(bool(name and sign) and np.isfinite(bias), f"{flag}: expected NAME=BIAS, a number")
        for token in _tokens(name, tokenizer, verdicts, flag):
            check(token not in found, f"{flag}: {tokenizer.decode([token])!r} has a bias already")
            found[token] = bias
    return found


def _tokens(name: str, tokenizer: Tokenizer, verdicts: bool, flag: str) -> list[int]:
    if name == REFLECTIVE:
        of_terms = reflective_tokens(tokenizer, verdicts, flag).values()
        return sorted({token for tokens in of_terms for token in tokens})
    try:
        tokens = tokenizer.encode(name)
    except InputError as error:
        raise InputError(f"{flag}: {error}") from None
    check(len(tokens) == 1, f"{flag}: {name!r} is {len(tokens)} tokens, expected one")
    return tokens


def bias_vector(biases: Mapping[int, float], vocab: int) -> np.ndarray | None:
    """[vocab], or None where nothing is added."""
    if not biases:
        return None
    bias_V = np.zeros(vocab, np.float32)
    bias_V[list(biases)] = list(biases.values())
    return bias_V
