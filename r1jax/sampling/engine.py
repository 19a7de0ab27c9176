"""The rollout engine: prefill, decode, continuous batching.

A fixed number of slots decode in lock-step inside one compiled loop. It returns to the host as
soon as `refill` slots have finished; their replies are collected, new prompts are prefilled
through the same forward and put in their place. So a long tail idles a few slots, not the batch.
Where someone reads along, the loop also returns every few tokens.

S slots  A slots refilled at a time  P prompt length  M reply length  V vocabulary
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.config import InputError, ModelConfig, SamplingConfig, check
from r1jax.model.cache import Cache, init_cache
from r1jax.model.params import Weights
from r1jax.model.transformer import forward, unembed, unstacked
from r1jax.sampling.samplers import sample, sample_keys

BURST = 8  # steps between two looks at what is drawn

OnTokens = Callable[[int, list[int]], None]  # the index of a request, its reply's next tokens


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt, and the two numbers that its randomness comes from."""

    prompt: Sequence[int]
    question: int
    sample: int


@dataclasses.dataclass(frozen=True)
class Completion:
    """A reply. `logps[i]` is of tokens[i] under the distribution it was sampled from."""

    tokens: np.ndarray  # int32, the stop token included
    logps: np.ndarray  # float32
    truncated: bool  # max_tokens came before a stop token


@dataclasses.dataclass(frozen=True)
class EngineStats:
    decode_steps: int
    utilization: float  # share of slot-steps that decoded a wanted token


class Slots(flax.struct.PyTreeNode):
    cache: Cache
    token_S: jax.Array  # last token drawn, next to be read
    position_S: jax.Array  # where it stands
    count_S: jax.Array  # tokens drawn so far
    active_S: jax.Array  # bool
    question_S: jax.Array
    sample_S: jax.Array
    tokens_SM: jax.Array
    logps_SM: jax.Array
    steps: jax.Array  # decoding steps so far
    busy: jax.Array  # active slots, summed over those steps


class Engine:
    """Compiled once for a model, a sampling configuration and a mesh, over whose devices `refill`
    and `slots` are rounded up to divide."""

    def __init__(self, model: ModelConfig, cfg: SamplingConfig, mesh: Mesh, stop: Sequence[int]):
        check(
            cfg.max_prompt + cfg.max_tokens <= model.context,
            f"max_prompt + max_tokens = {cfg.max_prompt + cfg.max_tokens} exceeds "
            f"ModelConfig.context={model.context}",
        )
        # Every device holds as many slots, and is given as many at each refill.
        refill = -(-cfg.refill // mesh.size) * mesh.size
        slots = -(-cfg.slots // refill) * refill
        self.cfg = dataclasses.replace(cfg, refill=refill, slots=slots)
        self.model, self.mesh = model, mesh
        self.stop = tuple(stop)

    def generate(
        self,
        weights: Weights,
        requests: Sequence[Request],
        key: jax.Array,
        on_tokens: OnTokens | None = None,
    ) -> tuple[list[Completion], EngineStats]:
        """One completion a request, in the order of the requests.

        on_tokens: is told the tokens of each reply as they are drawn, BURST or so at a time, the
        stop token included. The replies are those drawn without it. Raises InputError if a prompt
        is empty or longer than cfg.max_prompt.
        """
        for r in requests:
            if not 0 < len(r.prompt) <= self.cfg.max_prompt:
                raise InputError(
                    f"prompt of question {r.question} has {len(r.prompt)} tokens; "
                    f"SamplingConfig.max_prompt={self.cfg.max_prompt}"
                )
        with jax.set_mesh(self.mesh):
            return self._generate(weights, requests, key, on_tokens)

    def _generate(self, weights, requests, key, on_tokens):
        cfg, static = self.cfg, {"model": self.model, "cfg": self.cfg, "stop": self.stop}
        slots = _empty(model=self.model, cfg=cfg, mesh=self.mesh)
        completions: list[Completion | None] = [None] * len(requests)
        running: dict[int, int] = {}  # slot -> request
        free, pending = list(range(cfg.slots)), 0
        burst = np.int32(BURST if on_tokens else np.iinfo(np.int32).max)
        told_S = np.zeros(cfg.slots, np.int32)  # tokens of each running slot's reply

        def wanted() -> int:
            """Free slots worth an admission; 0 when nothing waits."""
            return min(cfg.refill, len(requests) - pending)

        while wanted() or running:
            while 0 < wanted() <= len(free):
                batch = range(pending, pending + wanted())
                taken, free = free[: len(batch)], free[len(batch) :]
                slots = _admit(weights, slots, self._prompts(requests, batch, taken), key, **static)
                running.update(zip(taken, batch, strict=True))
                told_S[taken] = 0
                pending = batch.stop
            keep = cfg.slots - wanted() if wanted() else 0
            slots, active_S = _decode(weights, slots, key, np.int32(keep), burst, **static)
            active = np.asarray(active_S)
            if on_tokens:
                tokens_SW, count_S = (np.asarray(a) for a in _news(slots, told_S))
                for s, request in running.items():
                    on_tokens(request, tokens_SW[s, : count_S[s] - told_S[s]].tolist())
                told_S = count_S.copy()
            finished = [s for s in running if not active[s]]
            for start in range(0, len(finished), cfg.refill):
                group = finished[start : start + cfg.refill]
                padded = np.asarray(group + [0] * (cfg.refill - len(group)), np.int32)
                rows = [np.asarray(a) for a in _collect(slots, padded, mesh=self.mesh)]
                for s, tokens, logps, count in zip(group, *rows, strict=False):
                    tokens, logps = tokens[:count], logps[:count]
                    truncated = int(tokens[-1]) not in self.stop
                    completions[running.pop(s)] = Completion(tokens, logps, truncated)
            free += finished
        steps, busy = int(slots.steps), int(slots.busy)
        return completions, EngineStats(steps, busy / max(1, steps * cfg.slots))

    def _prompts(self, requests, batch: range, taken: list[int]):
        """Host arrays of one admission, padded to `refill` rows; slot S means nowhere."""
        cfg = self.cfg
        rows = cfg.refill
        tokens = np.zeros((rows, cfg.max_prompt), np.int32)
        length, question, number = (np.ones(rows, np.int32) for _ in range(3))
        slot = np.full(rows, cfg.slots, np.int32)
        for row, (i, s) in enumerate(zip(batch, taken, strict=True)):
            r = requests[i]
            tokens[row, : len(r.prompt)] = r.prompt
            length[row], question[row], number[row], slot[row] = (
                len(r.prompt),
                r.question,
                r.sample,
                s,
            )
        return tokens, length, question, number, slot


@functools.partial(jax.jit, static_argnames=("model", "cfg", "mesh"))
def _empty(*, model: ModelConfig, cfg: SamplingConfig, mesh: Mesh) -> Slots:
    zeros = jnp.zeros(cfg.slots, jnp.int32)
    slots = Slots(
        cache=init_cache(model, cfg.slots, cfg.max_prompt + cfg.max_tokens),
        token_S=zeros,
        position_S=zeros,
        count_S=zeros,
        active_S=jnp.zeros(cfg.slots, bool),
        question_S=zeros,
        sample_S=zeros,
        tokens_SM=jnp.zeros((cfg.slots, cfg.max_tokens), jnp.int32),
        logps_SM=jnp.zeros((cfg.slots, cfg.max_tokens), jnp.float32),
        steps=jnp.zeros((), jnp.int32),
        busy=jnp.zeros((), jnp.int32),
    )
    return _pin(slots, model)


def _pin(slots: Slots, model: ModelConfig) -> Slots:
    """Keeps every slot's row on its own device through the compiled loop."""

    def cache_rows(a):
        lead = (None,) * model.scan_layers  # a stacked cache has a leading layer axis
        return sharding.constrain(a, *lead, "batch", *(None,) * (a.ndim - len(lead) - 1))

    def rows(a):
        return sharding.constrain(a, "batch", *(None,) * (a.ndim - 1)) if a.ndim else a

    cache = jax.tree.map(cache_rows, slots.cache)
    return jax.tree.map(rows, slots.replace(cache=None)).replace(cache=cache)


_STATIC = ("model", "cfg", "stop")


@functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames="slots")
def _admit(weights, slots: Slots, prompts, key, *, model, cfg, stop) -> Slots:
    """Prefills A prompts and puts them, with their first token, into their slots."""
    tokens_AP, length_A, question_A, sample_A, slot_A = prompts
    segments_AP = (jnp.arange(cfg.max_prompt)[None, :] < length_A[:, None]).astype(jnp.int32)
    fresh = init_cache(model, cfg.refill, cfg.max_prompt)
    out = forward(weights, tokens_AP, model, segments_BT=segments_AP, cache=fresh)
    last_AD = jnp.take_along_axis(out.hidden_BTD, (length_A - 1)[:, None, None], axis=1)[:, 0]
    keys = sample_keys(key, question_A, sample_A, length_A)
    token_A, logp_A = sample(unembed(weights.params, last_AD, model), keys, cfg)

    def put_cache(all_slots, new):
        lead, head = (slice(None),) * model.scan_layers, slice(cfg.max_prompt)
        return all_slots.at[(*lead, slot_A, ..., head, slice(None))].set(new, mode="drop")

    def put(all_slots, new):
        return all_slots.at[slot_A].set(new, mode="drop")

    return _pin(
        slots.replace(
            cache=jax.tree.map(put_cache, slots.cache, out.cache),
            token_S=put(slots.token_S, token_A),
            position_S=put(slots.position_S, length_A),
            count_S=put(slots.count_S, jnp.ones_like(length_A)),
            active_S=put(slots.active_S, _goes_on(token_A, jnp.ones_like(length_A), cfg, stop)),
            question_S=put(slots.question_S, question_A),
            sample_S=put(slots.sample_S, sample_A),
            tokens_SM=slots.tokens_SM.at[slot_A, 0].set(token_A, mode="drop"),
            logps_SM=slots.logps_SM.at[slot_A, 0].set(logp_A, mode="drop"),
        ),
        model,
    )


@functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames="slots")
def _decode(weights, slots: Slots, key, keep, burst, *, model, cfg, stop):
    """Decodes until at most `keep` slots are active, or `burst` steps are made.

    Returns the slots and who is active.
    """
    last = slots.steps + jnp.minimum(burst, jnp.iinfo(jnp.int32).max - slots.steps)
    weights = unstacked(weights, model)

    def step(slots: Slots) -> Slots:
        out = forward(
            weights,
            slots.token_S[:, None],
            model,
            positions_BT=slots.position_S[:, None],
            segments_BT=slots.active_S[:, None].astype(jnp.int32),
            cache=slots.cache,
        )
        position_S = slots.position_S + slots.active_S
        keys = sample_keys(key, slots.question_S, slots.sample_S, position_S)
        token_S, logp_S = sample(unembed(weights.params, out.hidden_BTD[:, 0], model), keys, cfg)
        token_S = jnp.where(slots.active_S, token_S, slots.token_S)
        count_S = slots.count_S + slots.active_S
        # A slot that is done writes past the end, which is dropped.
        at = jnp.arange(cfg.slots), jnp.where(slots.active_S, slots.count_S, cfg.max_tokens)
        return slots.replace(
            cache=out.cache,
            token_S=token_S,
            position_S=position_S,
            count_S=count_S,
            active_S=slots.active_S & _goes_on(token_S, count_S, cfg, stop),
            tokens_SM=slots.tokens_SM.at[at].set(token_S, mode="drop"),
            logps_SM=slots.logps_SM.at[at].set(logp_S, mode="drop"),
            steps=slots.steps + 1,
            busy=slots.busy + jnp.sum(slots.active_S),
        )

    slots = jax.lax.while_loop(
        lambda slots: (jnp.sum(slots.active_S) > keep) & (slots.steps < last),
        lambda slots: _pin(step(slots), model),
        slots,
    )
    return slots, _everywhere(slots.active_S)


def _goes_on(token, count, cfg: SamplingConfig, stop) -> jax.Array:
    stopped = jnp.any(token[:, None] == jnp.asarray(stop, jnp.int32)[None, :], axis=1)
    return ~stopped & (count < cfg.max_tokens)


def _everywhere(x: jax.Array) -> jax.Array:
    """Replicated, so that every host reads the same and takes the same decisions."""
    return sharding.constrain(x, *(None,) * x.ndim)


@jax.jit
def _news(slots: Slots, told_S):
    """(tokens_SW, count_S): what each slot has drawn after its first told_S tokens."""
    # An admission draws one token, and each step of a burst one more.
    at_SW = told_S[:, None] + jnp.arange(BURST + 1)[None]
    at_SW = jnp.minimum(at_SW, slots.tokens_SM.shape[1] - 1)
    news_SW = jnp.take_along_axis(slots.tokens_SM, at_SW, axis=1)
    return _everywhere(news_SW), _everywhere(slots.count_S)


@functools.partial(jax.jit, static_argnames="mesh")
def _collect(slots: Slots, slot_A, *, mesh: Mesh):
    """(tokens_AM, logps_AM, count_A) of the given slots."""
    return [_everywhere(a[slot_A]) for a in (slots.tokens_SM, slots.logps_SM, slots.count_S)]
