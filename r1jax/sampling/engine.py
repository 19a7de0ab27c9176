"""The rollout engine: continuous batching over slots that stay between calls.

A call of `step` puts waiting requests into free slots, decodes all slots in lock-step inside one
compiled loop, and tells what was drawn. The loop returns as soon as enough slots have finished to
be refilled, so a long tail idles a few slots and not the batch.

It costs what is in use. Slots, positions of the cache and prompt lengths are sizes from a short
ladder that are taken when they are needed, so few programs are compiled. A prompt is read once on
each device that has replies to it: the others copy what it left in the cache. A prompt's last
token is left to the loop, so that all tokens are drawn there.

What a request draws depends on its key, question, sample and position alone (`sample_keys`): with
drafts (`cfg.drafts`), too, which make a step draw several of a reply's tokens, and no other ones.

On a mesh every device admits its own slots; slot s is of device s // (slots a device). None share
a row here, also where they do in training.

Features cost where they are used: a guided reply ends a burst where its guide has to be asked, and
a reply that is told its likeliest tokens has them sorted out in that burst.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.architecture import ModelConfig
from r1jax.checks import check
from r1jax.config import SamplingConfig
from r1jax.model.cache import Cache
from r1jax.model.params import Weights
from r1jax.sampling import slots
from r1jax.sampling.admission import assign
from r1jax.sampling.layout import experts_of, lay_out
from r1jax.sampling.reading import Reader
from r1jax.sampling.requests import (
    MOST_BIASES,
    MOST_TOPS,
    Completion,
    EngineStats,
    Event,
    How,
    Request,
    Tops,
    how,
)
from r1jax.sampling.rows import Rows, begin, blank
from r1jax.sampling.sizes import ladder
from r1jax.sampling.slots import WINDOW
from r1jax.sampling.stops import Text, kept
from r1jax.sharding import for_sampling

BURST = 8  # steps between two looks at what is drawn
# The ladders' first rungs. Below them, what is saved is less than another program costs.
LEAST_SLOTS, LEAST_LENGTH = 8, 256
ROOM = 32  # positions of the cache that a reply finds when it begins
SHRINK = 4  # so many times fewer slots must do, before the running ones are moved together,
SMALL = 16  # and so many are left on each device

OnTokens = Callable[[int, list[int]], None]  # the index of a request, its reply's next tokens
OnDone = Callable[[int, Completion], None]  # the index of a request, its whole reply

__all__ = ["BURST", "Completion", "Engine", "EngineStats", "Event", "Request"]


@dataclasses.dataclass(eq=False)
class Reply:
    """A request on its way."""

    id: int
    request: Request
    how: How
    key: np.ndarray  # its data
    prefix: bytes  # the prompt but for its last token
    drawn: list[int]  # where strings may end it, or it is to be found again
    cached: int = 0  # tokens of the prefix that were in the cache


class Engine:
    """For a model and a mesh, over whose devices cfg.slots are rounded up to divide. `cfg` says how
    requests are drawn that do not say so, and what they may need at most. `text` of tokens is read
    for stop strings alone. biases: how many tokens a request may bias. routing: requests may ask
    for experts, which are recorded beside the cache. positions: of prompt and reply together, at
    most; 0: cfg.max_prompt + cfg.max_tokens. reuse: what has been read stays in the cache, and
    prompts that begin with it are read from there on, also after the engine was idle. together:
    prompts that are read at a time, at most; 0: cfg.refill."""

    def __init__(
        self,
        model: ModelConfig,
        cfg: SamplingConfig,
        mesh: Mesh,
        stop: Sequence[int],
        text: Text | None = None,
        biases: int = MOST_BIASES,
        routing: bool = False,
        positions: int = 0,
        reuse: bool = False,
        together: int = 0,
    ):
        check(
            (positions or cfg.max_prompt + cfg.max_tokens) <= model.context,
            f"max_prompt + max_tokens = {positions or cfg.max_prompt + cfg.max_tokens} exceeds "
            f"ModelConfig.context={model.context}",
        )
        self.positions, self.reuse = positions or cfg.max_prompt + cfg.max_tokens, reuse
        self._trained_on, mesh = mesh, for_sampling(mesh, experts_of(model))
        self.cfg, self.model, self.mesh, self.stop = cfg, model, mesh, tuple(stop)
        check(
            not routing or model.moe_layers > 0,
            "Engine: the model has no MoE layers, so there is no routing to be recorded",
        )
        check(
            cfg.drafts != "mtp" or model.mtp_depth > 0,
            "SamplingConfig.drafts=mtp: the model has no module of multi-token prediction; "
            "drafts=lookup needs none",
        )
        self.text, self.biases, self.routing = text, biases, routing
        self._drafts = cfg.draft_tokens if cfg.drafts != "none" else 0
        most = together or cfg.refill
        self._reader = Reader(model, mesh, most, cfg.max_prompt, routing, cfg.drafts)
        self.stats = EngineStats()
        self._most = -(-cfg.slots // mesh.size)  # slots a device
        self._next = 0
        self._weights: Weights | None = None  # as laid out
        self._loaded: Weights | None = None  # as given
        self.clear()

    def clear(self) -> None:
        """Forgets all requests, and the cache. The weights stay."""
        self._waiting: collections.deque[Reply] = collections.deque()
        self._running: dict[int, Reply] = {}  # by slot
        self._prefix: dict[int, bytes] = {}  # by slot, also of those that have finished
        self._cache: Cache | None = None
        self._per = self._length = 0  # slots a device, positions of the cache
        self._rows = self._blank(0)

    def load(self, weights: Weights | None) -> None:
        """From now on replies are drawn from these weights. None: makes room in memory."""
        self._weights = self._loaded = None
        if weights is not None:
            mtp = self.cfg.drafts == "mtp"
            self._weights = lay_out(weights, model=self.model, mesh=self._trained_on, mtp=mtp)
        self._prefix.clear()  # what earlier weights left in the cache

    def load_as(self, other: "Engine") -> None:
        """As `load`, of the weights that another engine of this model and mesh has laid out."""
        self._weights, self._loaded = other._weights, other._loaded
        self._prefix.clear()

    @contextlib.contextmanager
    def loaded(self, weights: Weights) -> Iterator[None]:
        """Within, replies are drawn from these weights: laid out once, whatever is generated."""
        if weights is self._loaded:
            yield
            return
        self.load(weights)
        self._loaded = weights
        try:
            yield
        finally:
            self.clear()
            self.load(None)

    def generate(
        self,
        weights: Weights,
        requests: Sequence[Request],
        key: jax.Array,
        on_tokens: OnTokens | None = None,
        on_done: OnDone | None = None,
    ) -> tuple[list[Completion], EngineStats]:
        """One completion a request, in the order of the requests. Afterwards the engine holds
        no cache, and weights only within `loaded`.

        on_tokens: is told the tokens of each reply as they are drawn, BURST or so at a time, the
        stop token included. on_done: is told each reply as soon as it has ended, in the same order
        in every process. The replies are those drawn without the two. Raises InputError if a prompt
        is empty or longer than cfg.max_prompt.
        """
        assert not self.busy, "other requests are on their way"
        before = self.stats
        drawn: list[list[Event]] = [[] for _ in requests]
        done: dict[int, Completion] = {}
        try:
            data = np.asarray(jax.random.key_data(key))
            index = {self._submit(r, data): i for i, r in enumerate(requests)}
            with self.loaded(weights):
                while self.busy:
                    for event in self.step(BURST if on_tokens else WINDOW):
                        i = index[event.id]
                        drawn[i].append(event)
                        if on_tokens:
                            on_tokens(i, event.tokens.tolist())
                        if event.finish:
                            done[i] = _completion(drawn[i])
                            drawn[i].clear()
                            if on_done:
                                on_done(i, done[i])
        finally:
            self.clear()
        return [done[i] for i in range(len(requests))], self.stats - before

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def submit(self, request: Request, key: jax.Array | None = None) -> int:
        """The id that events will have. key: where the reply's randomness comes from; without one,
        request.seed. Raises InputError if the request does not fit the engine."""
        data = jax.random.key_data(jax.random.key(request.seed) if key is None else key)
        return self._submit(request, np.asarray(data))

    def _submit(self, request: Request, key: np.ndarray) -> int:
        found = how(request, self.cfg, self.stop, self.model.vocab, self.biases)
        check(
            self.text is not None or not request.stop_strings,
            "Request.stop_strings: the engine was given no way to read text",
        )
        check(self.routing or not request.routing, "Request.routing: the engine records none")
        together = len(request.prompt) + found.max_tokens
        check(
            together <= self.positions,
            f"prompt and max_tokens are {together} tokens together, more than {self.positions}",
        )
        prefix = np.asarray(request.prompt[:-1], np.int32).tobytes()
        self._next += 1
        self._waiting.append(Reply(self._next, request, found, key, prefix, []))
        return self._next

    def cancel(self, id: int) -> None:
        """There will be no more events of it. Nothing happens if it has finished."""
        self._waiting = collections.deque(r for r in self._waiting if r.id != id)
        for slot in [s for s, r in self._running.items() if r.id == id]:
            self._free(slot)

    def step(self, steps: int = BURST) -> list[Event]:
        """Admits what waits and decodes up to `steps` steps. An event for each reply that has
        drawn something."""
        if not self.busy:
            return []
        assert self._weights is not None, "load() comes first"
        with jax.set_mesh(self.mesh):
            self._admit()
            self._fit()
            return self._decode(steps)

    def score(self, texts: Sequence[Sequence[int]]) -> list[Tops]:
        """What the model itself thinks of all tokens of each text but the first. Raises InputError
        for a text that is empty or longer than the engine's positions."""
        assert self._weights is not None, "load() comes first"
        for text in texts:
            fits = 0 < len(text) <= self.positions
            check(fits, f"a text of {len(text)} tokens: takes 1 to {self.positions}")
        with jax.set_mesh(self.mesh):
            return self._reader.score(self._weights, texts)

    def _admit(self) -> None:
        """Gives waiting requests free slots, once these are enough (cfg.refill) or all."""
        n, waiting = self.mesh.size, len(self._waiting)
        free = self._most * n - len(self._running)
        if not waiting or free < min(self.cfg.refill, waiting):
            return
        batch = [self._waiting.popleft() for _ in range(min(free, waiting))]
        longest = max(len(r.request.prompt) for r in batch)
        prompt = self._reader.length(longest - 1)
        if not self._running and not self.reuse:  # nothing to be kept: only what is needed
            self._cache, self._per, self._length = None, 0, 0
            self._prefix.clear()
        length = max(prompt, longest + min(ROOM, self.cfg.max_tokens))
        wanted = -(-min(self._most * n, len(self._running) + waiting) // n)
        per = self._slots(wanted)  # fewer than before only where all that is there is at rest
        per = max(self._per, per) if self._running else per
        self._refit(per, max(self._length, self._positions(length)))
        found = assign(batch, n, self._per, self._running, self._prefix, self.reuse)
        self._cache = self._reader.read(self._weights, self._cache, found, prompt, self._per)
        for slot, reply in found.slots.items():
            self._running[slot] = reply
            reply.cached = found.cached[slot]
            begin(self._rows, slot, reply.request, reply.how, reply.key, self.model.vocab)
        self.stats += EngineStats(
            prefilled=sum(map(len, found.read)),
            prompt_tokens=sum(len(r.request.prompt) for r in batch),
            cached_tokens=sum(found.cached.values()),
        )

    def _blank(self, count: int) -> Rows:
        return blank(count, self.model.vocab, len(self.stop), self.biases, self._drafts)

    def _slots(self, wanted: int) -> int:
        return ladder(wanted, max(1, LEAST_SLOTS // self.mesh.size), self._most)

    def _positions(self, wanted: int) -> int:
        return ladder(wanted, LEAST_LENGTH, self.positions)

    def _free(self, slot: int) -> None:
        reply = self._running.pop(slot)
        self._rows.active_S[slot] = False
        if self.reuse:  # all that was read, as what was used last
            whole = np.array([*reply.request.prompt, *reply.drawn], np.int32)
            self._prefix.pop(slot, None)
            self._prefix[slot] = whole[: self._rows.position_S[slot]].tobytes()

    def _fit(self) -> None:
        """More positions where the cache is full, and fewer slots where few would do."""
        per, length = self._per, self._length
        if (far := self._far()) >= length:
            length = self._positions(far + 1)
        running = int(np.bincount([s // per for s in self._running]).max())
        while not self._waiting and running <= (few := _few(per)) and self._slots(few) < per:
            per = self._slots(few)
        self._refit(per, length)

    def _far(self) -> int:
        """The farthest position that is read next."""
        return int(self._rows.position_S[self._rows.active_S].max())

    def _refit(self, per: int, length: int) -> None:
        """Changes the sizes of what is on the devices; of fewer slots than before, the running ones
        are kept, and the prompts of no others."""
        n, old = self.mesh.size, self._per
        if (per, length) == (old, self._length):
            return
        if self._cache is None:
            self._cache = slots.new_cache(
                model=self.model,
                slots=n * per,
                length=length,
                routing=self.routing,
                drafts=self.cfg.drafts,
            )
            self._rows = self._blank(n * per)
        else:
            from_S, taken = np.zeros(n * per, np.int32), np.zeros(n * per, bool)
            moved: dict[int, int] = {}
            for d in range(n):
                mine = range(d * old, d * old + old)
                stay = list(mine) if per >= old else self._staying(mine, per)
                for to, s in enumerate(stay, start=d * per):
                    from_S[to], taken[to], moved[s] = s - d * old, True, to
            self._cache = slots.refit(self._cache, from_S, model=self.model, length=length)
            old_S = from_S + np.repeat(np.arange(n) * old, per)
            self._rows = jax.tree.map(lambda a: a[old_S], self._rows)
            self._rows.active_S[~taken] = False
            self._running = {moved[s]: r for s, r in self._running.items()}
            self._prefix = {moved[s]: p for s, p in self._prefix.items() if s in moved}
        self._per, self._length = per, length

    def _staying(self, mine: range, per: int) -> list[int]:
        """Of a device's slots, those that stay where there will be fewer: the running ones, and
        where prompts are found again what was used last."""
        stay = [s for s in mine if s in self._running]
        last = [s for s in self._prefix if s in mine and s not in self._running]
        return sorted(stay + last[len(last) - min(len(last), per - len(stay)) :] * self.reuse)

    def _guided(self) -> tuple[np.ndarray | None, dict[int, int]]:
        """(a bit a token of what each slot may draw, None where none is told; of guided slots, for
        how many tokens this holds)."""
        may_SM, all_hold = None, {}
        for slot, reply in self._running.items():
            if reply.request.guide is None:
                continue
            may_M, holds = reply.request.guide.next()
            all_hold[slot] = max(1, holds)
            if may_M is not None:
                if may_SM is None:
                    words = -(-self.model.vocab // 32)
                    may_SM = np.full((len(self._rows.token_S), words), 2**32 - 1, np.uint32)
                may_SM[slot] = may_M
        return may_SM, all_hold

    def _decode(self, steps: int) -> list[Event]:
        n, running = self.mesh.size, len(self._running)
        if self._waiting:
            keep = self._most * n - min(self.cfg.refill, len(self._waiting))
        else:
            few = _few(self._per)  # fewer than some device has, or it would have been refitted
            keep = few * n if running > few * n else few
        rows = self._rows
        if not any(r.how.cut for r in self._running.values()):
            rows = rows.replace(cutoffs=None)
        if not any(r.how.bias for r in self._running.values()):
            rows = rows.replace(biases=None)
        may_SM, all_hold = self._guided()
        # A slot draws no more than its guide and the cache have room for; and the call ends about
        # when the first has, since it waits for the others then.
        left_S = np.minimum(rows.left_S, self._length - rows.position_S)
        for slot, holds in all_hold.items():
            left_S[slot] = min(left_S[slot], holds)
        room = min(self._length - self._far(), *all_hold.values(), WINDOW * (1 + self._drafts))
        told = any(r.request.tops for r in self._running.values())
        self._cache, found = slots.decode(
            self._weights,
            self._cache,
            rows.replace(may_SM=may_SM, left_S=left_S),
            np.int32(keep),
            np.int32(min(steps, -(-room // (1 + self._drafts)))),
            model=self.model,
            k=min(MOST_TOPS, self.model.vocab) if told else 0,
            drafts=self._drafts,
        )
        found = jax.tree.map(np.asarray, found)
        drawn_WST, tried_2J = found.token_WST >= 0, np.zeros((2, 0), int)
        if self._drafts:
            tried_2J = found.tried_2J
            self._rows = self._rows.replace(draft_SJ=np.array(found.draft_SJ))
        self.stats += EngineStats(
            decode_steps=int(found.steps),
            slot_steps=int(found.steps) * n * self._per,
            tokens=int(drawn_WST.sum()),
            drawing=int(drawn_WST[..., 0].sum()),
            drafts=int(tried_2J[0, :1].sum()),
            draft_tokens=int(tried_2J[0].sum()),
            accepted_tokens=int(tried_2J[1].sum()),
            accepted_at=tuple(tried_2J[1].tolist()),
        )
        asked = [slot for slot, r in self._running.items() if r.request.routing]
        of_all, events = (found.token_WST, found.logp_WST, *found.told), {}
        for slot in list(self._running):
            events[slot] = self._event(slot, *(a[:, slot][drawn_WST[:, slot]] for a in of_all))
        ended = [slot for slot in asked if events[slot].finish]
        for slot, experts in self._experts(ended).items():
            events[slot] = dataclasses.replace(events[slot], experts=experts)
        return list(events.values())

    def _experts(self, ended: Sequence[int]) -> dict[int, np.ndarray]:
        """Of slots that have just ended: the experts of all that they have read, as Completion
        has them. Some at a time, so that a large cache is never gathered as a whole."""
        n, per, router = self.mesh.size, self._per, self.model.router
        found: dict[int, np.ndarray] = {}
        if not ended:
            return found
        assert self._cache is not None and router is not None
        of_device = [[s for s in ended if s // per == d] for d in range(n)]
        most = min(per, -(-self.cfg.refill // n))
        for at in range(0, max(map(len, of_device)), most):
            some = [mine[at : at + most] for mine in of_device]
            from_X = np.zeros((n, most), np.int32)
            for d, mine in enumerate(some):
                from_X[d, : len(mine)] = [s % per for s in mine]
            read_XLY = np.asarray(
                slots.routing_of(self._cache.experts, from_X.reshape(-1), model=self.model)
            )
            for d, mine in enumerate(some):
                for i, s in enumerate(mine, start=d * most):
                    read = read_XLY[i, : self._rows.position_S[s]]
                    shape = -1, self.model.moe_layers, router.active
                    found[s] = read.reshape(shape).copy()
        return found

    def _event(self, slot: int, tokens: np.ndarray, logps: np.ndarray, *told: np.ndarray) -> Event:
        reply, rows, count = self._running[slot], self._rows, len(tokens)
        rows.token_S[slot] = tokens[-1]
        rows.left_S[slot] -= count
        stopped = int(tokens[-1]) in reply.how.stop
        new = tokens.tolist()
        if strings := reply.request.stop_strings:
            assert self.text is not None
            if keep := kept(reply.drawn, new, strings, self.text):
                stopped, tokens, logps = True, tokens[:keep], logps[:keep]
        if strings or self.reuse:
            reply.drawn += new
        if reply.request.guide is not None:
            reply.request.guide.feed(new)
        tops = None
        if reply.request.tops:
            tops = Tops(*told)[: len(tokens)]
        rows.position_S[slot] += len(tokens)
        finish = "stop" if stopped else "" if rows.left_S[slot] else "length"
        if finish:
            self._free(slot)
        return Event(
            reply.id,
            tokens.copy(),
            logps.copy(),
            finish,  # type: ignore[arg-type]
            tops=tops,
            cached=reply.cached,
        )


def _few(per: int) -> int:
    """Running slots a device that would do with far fewer than `per`; 0 where these are few."""
    few = per // SHRINK
    return few if few >= SMALL else 0


def _completion(events: Sequence[Event]) -> Completion:
    """What all events of a reply come to."""
    return Completion(
        np.concatenate([e.tokens for e in events]),
        np.concatenate([e.logps for e in events]),
        events[-1].finish == "length",
        events[-1].experts,
    )
