"""All about the slots but the cache. The host knows it, and hands it to every call of `decode`.

S slots  E stop tokens  N biased tokens  K numbers of a key's data  M words of a bit a token
J drafts
"""

from typing import Any

import flax.struct
import jax
import numpy as np

from r1jax.sampling.requests import MOST_BIASES, MOST_STOPS, How, Request
from r1jax.sampling.samplers import Biases, Cutoffs


class Rows(flax.struct.PyTreeNode):
    """What no active slot needs is None: `cutoffs`, `biases`, `may_SM`, which tokens each may draw
    (see `Guide`), and `draft_SJ`, the guesses at the next ones. On the host, arrays of numpy."""

    token_S: Any  # to be read next
    position_S: Any  # where it stands
    left_S: Any  # tokens that may still be drawn
    active_S: Any  # bool
    key_SK: Any  # uint32, a key's data
    question_S: Any
    sample_S: Any
    temperature_S: Any
    stop_SE: Any  # -1: none
    cutoffs: Cutoffs | None
    biases: Biases | None
    may_SM: Any = None  # uint32
    draft_SJ: Any = None  # -1: none


def blank(slots: int, vocab: int, stops: int, biases: int = MOST_BIASES, drafts: int = 0) -> Rows:
    """Of slots that do nothing. `stops` of a request fit, or MOST_STOPS if these are more."""

    def zeros(*shape: int, dtype: Any = np.int32) -> Any:
        return np.zeros((slots, *shape), dtype)

    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    return Rows(
        token_S=zeros(),
        position_S=zeros(),
        left_S=zeros(),
        active_S=zeros(dtype=bool),
        key_SK=zeros(*key.shape, dtype=np.uint32),
        question_S=zeros(),
        sample_S=zeros(),
        temperature_S=zeros(dtype=np.float32),
        stop_SE=zeros(max(MOST_STOPS, stops)),
        cutoffs=Cutoffs(top_k_S=zeros(), top_p_S=zeros(dtype=np.float32) + np.float32(1)),
        biases=Biases(
            biased_SN=zeros(biases) + np.int32(vocab),
            bias_SN=zeros(biases, dtype=np.float32),
        ),
        draft_SJ=zeros(drafts) - np.int32(1) if drafts else None,
    )


def begin(rows: Rows, slot: int, request: Request, how: How, key: np.ndarray, vocab: int) -> None:
    """The slot reads the prompt's last token next; the others are in the cache."""
    last = len(request.prompt) - 1
    rows.token_S[slot], rows.position_S[slot] = request.prompt[last], last
    rows.left_S[slot], rows.active_S[slot] = how.max_tokens, True
    rows.key_SK[slot] = key
    rows.question_S[slot], rows.sample_S[slot] = request.question, request.sample
    rows.temperature_S[slot] = how.temperature
    rows.stop_SE[slot] = -1
    marks = [*how.stop, *(request.guide.pauses if request.guide else ())]
    rows.stop_SE[slot, : len(marks)] = marks
    cutoffs: Any = rows.cutoffs
    cutoffs.top_k_S[slot], cutoffs.top_p_S[slot] = how.top_k, how.top_p
    biases: Any = rows.biases
    biases.biased_SN[slot] = vocab
    biases.biased_SN[slot, : len(how.bias)] = list(how.bias)
    biases.bias_SN[slot, : len(how.bias)] = list(how.bias.values())
    if rows.draft_SJ is not None:
        rows.draft_SJ[slot] = -1
