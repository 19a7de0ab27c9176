"""What an engine is asked, and what it answers."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from r1jax.checks import check
from r1jax.config import SamplingConfig

MOST_BIASES = 32  # biased tokens of a request, where an engine is not made for more
MOST_STOPS = 8  # stop tokens of a request, where the engine's own are not more
MOST_TOPS = 20  # likeliest tokens that a request may be told of at each position


class Guide(Protocol):
    """Says what a reply may draw next: a budget, a grammar, a script. It sees the reply's tokens
    alone, so that a guided reply, too, depends on nothing else."""

    #: Tokens after which it is asked anew at once, whatever `next` said.
    pauses: Sequence[int]

    def next(self) -> tuple[np.ndarray | None, int]:
        """(which tokens may be drawn, for how many of them this holds at most). The first is a bit
        a token in uint32 words, lowest bit first, at least one set; None: all may."""
        ...

    def feed(self, tokens: Sequence[int]) -> None:
        """What was drawn since."""
        ...


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt, the numbers that its randomness comes from, and how it is drawn. None: as the
    engine's SamplingConfig says."""

    prompt: Sequence[int]
    question: int
    sample: int
    seed: int = 0  # where it is submitted without a key
    temperature: float | None = None  # 0: greedy
    top_k: int | None = None  # 0: off
    top_p: float | None = None
    max_tokens: int | None = None
    stop: Sequence[int] | None = None  # tokens that end the reply
    stop_strings: Sequence[str] = ()  # end it with the token that completes one
    bias: Mapping[int, float] = dataclasses.field(default_factory=dict)  # added to logits, by token
    routing: bool = False  # the reply says which experts its tokens went to
    tops: bool = False  # the reply says which tokens were likeliest, by the model itself
    guide: Guide | None = None  # of this reply alone: it has a state


@dataclasses.dataclass(frozen=True)
class How:
    """A request's own values, and the engine's where it has none."""

    temperature: float
    top_k: int
    top_p: float
    max_tokens: int
    stop: tuple[int, ...]
    bias: Mapping[int, float]

    @property
    def cut(self) -> bool:
        """Whether some tokens may not be drawn for being unlikely."""
        return bool(self.top_k or self.top_p < 1)


def how(
    r: Request, cfg: SamplingConfig, stop: tuple[int, ...], vocab: int, biases: int = MOST_BIASES
) -> How:
    """Raises InputError that names what does not fit the engine."""
    check(
        0 < len(r.prompt) <= cfg.max_prompt,
        f"prompt of question {r.question} has {len(r.prompt)} tokens; "
        f"SamplingConfig.max_prompt={cfg.max_prompt}",
    )

    def own(name: str):
        value = getattr(r, name)
        return getattr(cfg, name) if value is None else value

    found = How(
        temperature=own("temperature"),
        top_k=own("top_k"),
        top_p=own("top_p"),
        max_tokens=own("max_tokens"),
        stop=stop if r.stop is None else tuple(r.stop),
        bias=r.bias,
    )
    t, most = found.temperature, max(MOST_STOPS, len(stop))
    marks = len(found.stop) + len(r.guide.pauses if r.guide else ())
    check(0 <= t < math.inf, f"Request.temperature must be finite and not negative, got {t}")
    check(0 < found.top_p <= 1, f"Request.top_p must lie in (0, 1], got {found.top_p}")
    check(found.top_k >= 0, f"Request.top_k must not be negative, got {found.top_k}")
    check(
        0 < found.max_tokens <= cfg.max_tokens,
        f"Request.max_tokens must lie between 1 and SamplingConfig.max_tokens={cfg.max_tokens}, "
        f"got {found.max_tokens}",
    )
    check(
        not isinstance(r.stop_strings, str) and all(r.stop_strings),
        f"Request.stop_strings must be texts with something in them, got {r.stop_strings!r}",
    )
    check(marks <= most, f"Request.stop has {marks} tokens, at most {most}")
    check(
        len(found.bias) <= biases,
        f"Request.bias has {len(found.bias)} tokens, at most {biases}",
    )
    for token, value in found.bias.items():
        check(0 <= token < vocab, f"Request.bias: the model has no token {token}")
        check(math.isfinite(value), f"Request.bias of token {token} must be finite, got {value}")
    return found


@dataclasses.dataclass(frozen=True, eq=False)  # of arrays, which no == compares
class Completion:
    """A reply. `logps[i]` is of tokens[i] under the distribution it was sampled from.

    experts: where Request.routing asks for it, the experts that each token of prompt and reply was
    sent to in each MoE layer, but for the last one, which the sampler never reads: [tokens - 1,
    layers, experts a token], uint8 up to 256 experts, else uint16; 464 bytes a DeepSeek-V3 token.
    """

    tokens: np.ndarray  # int32, the stop token included
    logps: np.ndarray  # float32
    truncated: bool  # max_tokens came before a stop token
    experts: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)  # of arrays, which no == compares
class Tops:
    """Of T tokens under the model's own distribution, before temperature, bias or guide: each one's
    log-probability, and the K likeliest at its place, likeliest first (K: MOST_TOPS, or the
    vocabulary where that is smaller)."""

    logp_T: np.ndarray
    token_TK: np.ndarray
    logp_TK: np.ndarray

    def __getitem__(self, which: slice) -> "Tops":
        return Tops(self.logp_T[which], self.token_TK[which], self.logp_TK[which])


@dataclasses.dataclass(frozen=True, eq=False)  # of arrays, which no == compares
class Event:
    """What a reply has drawn since the last one."""

    id: int
    tokens: np.ndarray  # int32, the stop token included
    logps: np.ndarray  # float32
    finish: Literal["", "stop", "length"]  # "": it goes on
    experts: np.ndarray | None = None  # with the last one: see Completion
    tops: Tops | None = None  # where Request.tops asks for it
    cached: int = 0  # tokens of the prompt that were found in the cache


@dataclasses.dataclass(frozen=True)
class EngineStats:
    """Sums over steps; `b - a` is what was done between the two."""

    decode_steps: int = 0
    slot_steps: int = 0  # of the slots that were there at each step
    tokens: int = 0  # drawn
    prefilled: int = 0  # prompts that were read; the others found them read
    prompt_tokens: int = 0  # of all prompts
    cached_tokens: int = 0  # of these, found in the cache
    drawing: int = 0  # slot-steps that drew a token, or several
    drafts: int = 0  # slot-steps that had a guess
    draft_tokens: int = 0  # guessed
    accepted_tokens: int = 0  # and right
    accepted_at: tuple[int, ...] = ()  # of these the first of a step, the second, ...

    def __add__(self, other: "EngineStats") -> "EngineStats":
        return self._with(other, 1)

    def __sub__(self, before: "EngineStats") -> "EngineStats":
        return self._with(before, -1)

    def _with(self, other: "EngineStats", sign: int) -> "EngineStats":
        def one(a, b):
            if isinstance(a, tuple):
                pairs = itertools.zip_longest(a, b, fillvalue=0)
                return tuple(x + sign * y for x, y in pairs)
            return a + sign * b

        names = (f.name for f in dataclasses.fields(self))
        return EngineStats(*(one(getattr(self, name), getattr(other, name)) for name in names))

    @property
    def utilization(self) -> float:
        """Share of slot-steps that drew a token."""
        return self.drawing / max(1, self.slot_steps)

    @property
    def acceptance(self) -> float:
        """Share of guesses that were right."""
        return self.accepted_tokens / max(1, self.draft_tokens)

    @property
    def tokens_a_step(self) -> float:
        """That a slot draws in a step in which it draws."""
        return self.tokens / max(1, self.drawing)


def drafts_line(s: EngineStats) -> str:
    """What drafts came to."""
    right = f"{s.acceptance:.1%} of {s.draft_tokens:,} guesses were right"
    return f"{right}; {s.tokens_a_step:.2f} tokens a step"
