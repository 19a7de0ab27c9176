"""How likely a run's replies are to the base that it began with, and where either hesitates.

Perplexity of RL replies under the base says how far they are from what the base would write: near
that of its own replies, RL has sharpened what was there (Yue et al., arXiv 2504.13837). Forks are
the fifth of all places whose next token has the most entropy, where a reply goes one way or
another; RL is said to move mostly those (Wang et al., arXiv 2506.01939).

All at temperature 1, of the models themselves. N replies  T tokens
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from r1jax.analysis.emergence.intervals import Estimate, estimate, mean, sums_by
from r1jax.architecture import ModelConfig
from r1jax.model.head import log_probs
from r1jax.model.params import Weights
from r1jax.model.transformer import forward

ROWS, MULTIPLE = 64, 32  # replies of a batch; its tokens are rounded up to these
FORKS = 0.2  # of all places


@dataclasses.dataclass(frozen=True)
class Written:
    """Replies: their prompts, tokens, questions, and whether each reflects."""

    prompts: Sequence[Sequence[int]]
    replies: Sequence[Sequence[int]]
    question: np.ndarray
    reflects: np.ndarray


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """perplexity: of replies (base, run, or the run's that reflect or do not) under the base, and
    of the run's under itself. entropy, forks: nats a token where each reads its own replies, over
    all places and over forks. base_at_forks: the base's entropy at the forks of the run's replies.
    shared: of these, the share that are forks to the base too."""

    perplexity: dict[str, Estimate]
    entropy: dict[str, Estimate]
    forks: dict[str, Estimate]
    base_at_forks: Estimate
    shared: Estimate


def lines(found: Likelihood) -> list[str]:
    """What a command prints."""
    p, places = found.perplexity, ("base", "run")
    told = [f"{name} {p[name]}" for name in p if p[name].value is not None]
    entropies = ", ".join(f"{n} {found.entropy[n]}, at forks {found.forks[n]}" for n in places)
    return [
        f"perplexity under the base: {'; '.join(told)}",
        f"entropy, nats a token: {entropies}; of the base at the run's forks "
        f"{found.base_at_forks}; forks that are the base's too: {found.shared}",
    ]


def likelihood(
    base: Weights, run: Weights, model: ModelConfig, of_base: Written, of_run: Written
) -> Likelihood:
    """Of two models of one shape, and what each wrote."""
    own, under_base, under_run = (
        token_values(weights, model, written)
        for weights, written in ((base, of_base), (base, of_run), (run, of_run))
    )
    reflects, everything = np.asarray(of_run.reflects, bool), np.ones(len(of_run.replies), bool)
    some = {"run": everything, "run, reflective": reflects, "run, others": ~reflects}
    perplexity = {"base": _perplexity(own, of_base, np.ones(len(of_base.replies), bool))}
    perplexity |= {name: _perplexity(under_base, of_run, mask) for name, mask in some.items()}
    perplexity["run, under itself"] = _perplexity(under_run, of_run, everything)
    parts = {"base": (own, of_base), "run": (under_run, of_run)}
    entropy = {name: _mean_at(*part, _all(part[0])) for name, part in parts.items()}
    forks = {name: _mean_at(*part, _forks(part[0])) for name, part in parts.items()}
    at = _forks(under_run)
    both = [b * 1.0 for b in _forks(under_base)]
    return Likelihood(
        perplexity,
        entropy,
        forks,
        _mean_at(under_base, of_run, at),
        _mean_at([(None, b) for b in both], of_run, at),
    )


def token_values(
    weights: Weights, model: ModelConfig, written: Written
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each reply (log-probability of each of its tokens, entropy that each was drawn from)."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    whole = [[*p, *r] for p, r in zip(written.prompts, written.replies, strict=True)]
    length = -(-max(map(len, whole)) // MULTIPLE) * MULTIPLE + 1
    for start in range(0, len(whole), ROWS):
        tokens_BT = np.zeros((ROWS, length), np.int32)
        for i, text in enumerate(whole[start : start + ROWS]):
            tokens_BT[i, : len(text)] = text
        logp_BT, entropy_BT = (np.asarray(a) for a in _score(weights, tokens_BT, model))
        for i, text in enumerate(whole[start : start + ROWS]):
            first = len(written.prompts[start + i]) - 1  # place t tells token t + 1
            here = slice(first, len(text) - 1)
            found.append((logp_BT[i, here], entropy_BT[i, here]))
    return found


@functools.partial(jax.jit, static_argnames="model")
def _score(weights: Weights, tokens_BT: jax.Array, model: ModelConfig):
    hidden_BTD = forward(weights, tokens_BT[:, :-1], model).hidden_BTD
    return log_probs(weights.params, hidden_BTD, tokens_BT[:, 1:], model)


def _perplexity(values, written: Written, mask: np.ndarray) -> Estimate:
    rows = [(-logp.sum(), len(logp)) for (logp, _), m in zip(values, mask, strict=True) if m]
    sums_QM = sums_by(np.asarray(written.question)[mask], np.array(rows, float).reshape(-1, 2))
    return estimate(sums_QM, lambda t: np.exp(t[..., 0] / t[..., 1]), int(mask.sum()))


def _all(values) -> list[np.ndarray]:
    return [np.ones(len(entropy), bool) for _, entropy in values]


def _forks(values) -> list[np.ndarray]:
    """Where the entropy is among the largest fifth of all places."""
    bound = np.quantile(np.concatenate([entropy for _, entropy in values]), 1 - FORKS)
    return [entropy >= bound for _, entropy in values]


def _mean_at(values, written: Written, at: Sequence[np.ndarray]) -> Estimate:
    """Of second values over the places `at`, by question."""
    parts = [(v[a], q) for (_, v), a, q in zip(values, at, written.question, strict=True)]
    cluster = np.concatenate([np.full(len(v), q) for v, q in parts])
    return mean(np.concatenate([v for v, _ in parts]).astype(float), cluster)
