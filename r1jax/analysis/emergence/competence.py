"""How well a model of the embedded world adds up and judges: by teacher forcing, without sampling.

Every problem is tried in every way, written as the corpus writes an attempt and its check, and the
model is asked for the probabilities of what stands there. Reflection helps where the two errors of
a verdict sum to less than 1 (Yu et al., arXiv 2510.12157, section 3).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from r1jax.architecture import ModelConfig
from r1jax.data.conversation import Conversation
from r1jax.data.countdown import attempt, total, ways
from r1jax.data.problems import Problem
from r1jax.model.head import log_probs
from r1jax.model.params import Weights
from r1jax.model.transformer import forward

ROWS = 256  # attempts of a batch


@dataclasses.dataclass(frozen=True)
class Competence:
    """Means over all problems and ways. slips: 1 - P(the total) at a step of an attempt.
    accepts_wrong: P(right) of P(right) + P(wrong), behind the check of a wrong total (e+).
    rejects_right: P(wrong) of both behind that of the target (e-). opens: P(check) behind the first
    attempt, where a guess would close its thinking."""

    slips: float
    accepts_wrong: float
    rejects_right: float
    opens: float


def competence(
    weights: Weights, model: ModelConfig, conversation: Conversation, problems: Sequence[Problem]
) -> Competence:
    """Of a model that is asked in the embedded words, each a token."""
    encode = conversation.tokenizer.encode
    right, wrong = (encode(word)[0] for word in ("right", "wrong"))
    tried = [(p, way) for p in problems for way in ways(len(p.numbers))]
    rows, first, holds = [], [], []
    for problem, way in tried:
        prompt, reached = conversation.prompt_ids(problem.prompt), total(problem.numbers, way)
        said = f"{attempt(problem.numbers, way)} check {reached} = {problem.answer} right"
        rows.append([*prompt, *encode(said)])
        first.append(len(prompt))
        holds.append(reached == int(problem.answer))
    length = max(map(len, rows))
    tokens_NT = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        tokens_NT[i, : len(row)] = row
    # Place t tells token t + 1.
    next_NT = np.roll(tokens_NT, -1, axis=1)
    last = np.array([len(row) - 2 for row in rows])  # tells the verdict
    otherwise_NT = next_NT.copy()
    otherwise_NT[np.arange(len(rows)), last] = wrong
    found_NT, other_NT = (
        np.concatenate(
            [
                np.exp(_log_probs(weights, *_padded(tokens_NT, targets_NT, i), model))[
                    : len(rows) - i
                ]
                for i in range(0, len(rows), ROWS)
            ]
        )
        for targets_NT in (next_NT, otherwise_NT)
    )
    each = np.arange(len(rows))
    assert all(tokens_NT[each, last + 1] == right)
    says_right, says_wrong = found_NT[each, last], other_NT[each, last]
    accepts, good = says_right / (says_right + says_wrong), np.array(holds)
    slips, opens = [], []
    for i, (problem, _) in enumerate(tried):
        steps = first[i] + 4 * np.arange(1, len(problem.numbers)) - 1
        slips += (1 - found_NT[i, steps]).tolist()
        opens.append(found_NT[i, steps[-1] + 1])
    return Competence(
        slips=float(np.mean(slips)),
        accepts_wrong=float(accepts[~good].mean()),
        rejects_right=float(1 - accepts[good].mean()),
        opens=float(np.mean(opens)),
    )


def _padded(
    tokens_NT: np.ndarray, targets_NT: np.ndarray, start: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows from `start` on, as many as a batch has."""
    some = [a[start : start + ROWS] for a in (tokens_NT, targets_NT)]
    short = ROWS - len(some[0])
    tokens_BT, targets_BT = (np.pad(a, ((0, short), (0, 0))) for a in some)
    return tokens_BT, targets_BT


@functools.partial(jax.jit, static_argnames="model")
def _log_probs(
    weights: Weights, tokens_BT: jax.Array, targets_BT: jax.Array, model: ModelConfig
) -> jax.Array:
    hidden_BTD = forward(weights, tokens_BT, model).hidden_BTD
    return log_probs(weights.params, hidden_BTD, targets_BT, model)[0]
