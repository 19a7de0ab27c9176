"""Replies of several models at once: one compiled program over a leading axis of members.

Members have weights, prompts and keys of their own, and share a model's shape and how replies are
drawn. The loop over tokens stands outside and members inside, so that no predicate is of a member;
on a mesh of members every device has some of them, loops for itself, and sends nothing.

The schedule is the same for all: a member's free slots are refilled where enough of them are, and
the loop goes on until one has as many again. What a reply draws depends on its key, question,
sample and position alone, so replies are those of an `Engine`. It is for small models: the cache
has all positions that a reply might need, from the start.

M members  S slots of each  R prompts read at a time  P positions of a prompt  W steps of a call
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.architecture import ModelConfig
from r1jax.checks import check
from r1jax.config import SamplingConfig
from r1jax.model.cache import init_cache
from r1jax.model.params import Weights
from r1jax.sampling import slots
from r1jax.sampling.layout import as_drawn
from r1jax.sampling.requests import MOST_BIASES, Completion, EngineStats, How, Request
from r1jax.sampling.rows import begin, blank
from r1jax.sampling.sizes import ladder
from r1jax.sampling.slots import WINDOW, Drawn

MEMBER = "member"  # the mesh's axis
LEAST_SLOTS = 8
SHRINK = 4  # so many times fewer slots must do, before the running ones are moved together,
SMALL = 32  # and so many are left


def members_mesh(devices: Sequence[jax.Device]) -> Mesh:
    return jax.make_mesh((len(devices),), (MEMBER,), axis_types=(AxisType.Auto,), devices=devices)


def over_members(mesh: Mesh, function, args: int, given: int = 0, donate: tuple[int, ...] = ()):
    """`function` of so many arguments with a leading axis of members, and of `given` numbers behind
    them, on each device of its own. Where they lie is said, so that it is compiled once."""
    specs = (P(MEMBER),) * args + (P(),) * given
    call = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(MEMBER), check_vma=False)
    where = tuple(NamedSharding(mesh, spec) for spec in specs)
    return jax.jit(
        call, in_shardings=where, out_shardings=NamedSharding(mesh, P(MEMBER)),
        donate_argnums=donate,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a member is asked: requests, how each is drawn, and the data of its key."""

    requests: Sequence[Request] = ()
    hows: Sequence[How] = ()
    key: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint32))


class _Member:
    """One's requests on the host. slots: its own, in the rows of all."""

    def __init__(self, asked: Asked):
        self.asked = asked
        self.waiting = collections.deque(range(len(asked.requests)))
        self.running: dict[int, int] = {}  # requests by slot
        self.tokens: list[list[np.ndarray]] = [[] for _ in asked.requests]
        self.logps: list[list[np.ndarray]] = [[] for _ in asked.requests]
        self.cut = [False] * len(asked.requests)
        self.stats = EngineStats()

    def completions(self) -> list[Completion]:
        parts = zip(self.tokens, self.logps, self.cut, strict=True)
        return [Completion(np.concatenate(t), np.concatenate(p), cut) for t, p, cut in parts]


class MembersEngine:
    """For as many members as `mesh` (of `members_mesh`) divides. As `Engine`, without drafts,
    recorded routing, cut distributions, guides and stop strings."""

    def __init__(
        self,
        model: ModelConfig,
        cfg: SamplingConfig,
        mesh: Mesh,
        members: int,
        stop: Sequence[int],
        biases: int = MOST_BIASES,
    ):
        assert members % mesh.size == 0
        check(cfg.drafts == "none", f"SamplingConfig.drafts={cfg.drafts}: not of several members")
        self.model, self.cfg, self.mesh, self.members = model, cfg, mesh, members
        self.stop, self.biases, self._length = tuple(stop), biases, cfg.max_prompt + cfg.max_tokens
        self._prompt = max(cfg.max_prompt - 1, 1)
        self._lay_out = over_members(mesh, self._laid, 1)
        self._admit = over_members(mesh, self._admitted, 4, donate=(1,))
        self._decode = over_members(mesh, self._decoded, 4, given=2, donate=(1,))
        self._shrink = over_members(mesh, self._shrunk, 2)
        self._new_cache = jax.jit(
            self._empty, static_argnums=0, out_shardings=NamedSharding(mesh, P(MEMBER))
        )

    def generate(
        self, weights_M: Weights, asked: Sequence[Asked]
    ) -> list[tuple[list[Completion], EngineStats]]:
        """Of each member, in the order of its requests; weights with a leading axis of members."""
        members = [_Member(one) for one in asked]
        most = max(len(one.requests) for one in asked)
        if not most:
            return [([], EngineStats())] * len(members)
        count = ladder(most, LEAST_SLOTS, self.cfg.slots)
        rows = blank(len(members) * count, self.model.vocab, len(self.stop), self.biases)
        biased = any(how.bias for one in asked for how in one.hows)
        weights_M, cache_M = self._lay_out(weights_M), self._new_cache(count)
        while any(one.waiting or one.running for one in members):
            cache_M = self._fill(weights_M, cache_M, members, rows, count)
            keep_M = [
                count - min(self.cfg.refill, len(one.waiting)) if one.waiting else -1
                for one in members
            ]
            few = 0 if any(one.waiting for one in members) else self._few(count)
            busiest = max(len(one.running) for one in members)
            if few and busiest <= few:
                cache_M, rows, count = self._move(cache_M, members, rows, count, few)
                few = self._few(count)
            given = rows.replace(cutoffs=None, biases=rows.biases if biased else None)
            by_member = jax.tree.map(lambda a, n=count: a.reshape(-1, n, *a.shape[1:]), given)
            cache_M, (token_MWS, logp_MWS, steps_M) = self._decode(
                weights_M, cache_M, by_member, np.array(keep_M, np.int32),
                np.int32(few), np.int32(WINDOW),
            )  # fmt: skip
            drawn = jax.device_get((token_MWS, logp_MWS, steps_M))
            for m, one in enumerate(members):
                _note(one, m * count, count, rows, *(a[m] for a in drawn))
        return [(one.completions(), one.stats) for one in members]

    def _few(self, count: int) -> int:
        few = count // SHRINK
        return few if few >= SMALL else 0

    def _fill(self, weights_M, cache_M, members: Sequence[_Member], rows, count: int):
        """The cache with the prompts of what goes into free slots."""
        batches = []
        for m, one in enumerate(members):
            free = [s for s in range(count) if s not in one.running]
            waiting = len(one.waiting)
            ready = waiting and len(free) >= min(self.cfg.refill, waiting)
            batch: dict[tuple[int, ...], list[int]] = {}  # slots by prompt
            for slot in free[:waiting] if ready else ():
                i = one.waiting.popleft()
                request, how = one.asked.requests[i], one.asked.hows[i]
                one.running[slot] = i
                begin(rows, m * count + slot, request, how, one.asked.key, self.model.vocab)
                batch.setdefault(tuple(request.prompt[:-1]), []).append(slot)
            one.stats += EngineStats(prefilled=len(batch))
            batches.append(list(batch.items()))
        # As many prompts at a time whatever there are: fewer would be another program.
        reads = self.cfg.refill
        for at in range(0, max(map(len, batches)), reads):
            tokens_MRP = np.zeros((len(members), reads, self._prompt), np.int32)
            from_MS = np.full((len(members), count), -1, np.int32)
            for m, read in enumerate(batches):
                for r, (prompt, targets) in enumerate(read[at : at + reads]):
                    tokens_MRP[m, r, : len(prompt)] = prompt
                    from_MS[m, targets] = r
            cache_M = self._admit(weights_M, cache_M, tokens_MRP, from_MS)
        return cache_M

    def _move(self, cache_M, members: Sequence[_Member], rows, count: int, few: int):
        """The running slots together, in `few`."""
        from_MS = np.zeros((len(members), few), np.int32)
        for m, one in enumerate(members):
            stay = sorted(one.running)
            from_MS[m, : len(stay)] = stay
            one.running = {to: one.running[s] for to, s in enumerate(stay)}
        old = from_MS + count * np.arange(len(members))[:, None]
        rows = jax.tree.map(lambda a: a[old.reshape(-1)], rows)
        for m, one in enumerate(members):
            rows.active_S[m * few + len(one.running) : (m + 1) * few] = False
        return self._shrink(cache_M, from_MS), rows, few

    def _empty(self, count: int):
        shapes = jax.eval_shape(lambda: init_cache(self.model, count, self._length))
        return jax.tree.map(lambda s: jnp.zeros((self.members, *s.shape), s.dtype), shapes)

    # What is compiled, as one device sees it.

    def _laid(self, weights_M):
        return jax.vmap(lambda weights: as_drawn(weights, self.model))(weights_M)

    def _admitted(self, weights_M, cache_M, tokens_MRP, from_MS):
        axis = int(self.model.scan_layers)

        def one(weights, cache, tokens_RP, from_S):
            fresh = slots.prefill(weights, tokens_RP, model=self.model)

            def put(a, b):
                length = b.shape[-2]
                new = jnp.take(b, jnp.maximum(from_S, 0), axis=axis)
                shape = [1] * a.ndim
                shape[axis] = -1
                read = (from_S >= 0).reshape(shape)
                return a.at[..., :length, :].set(jnp.where(read, new, a[..., :length, :]))

            return jax.tree.map(put, cache, fresh)

        return jax.vmap(one)(weights_M, cache_M, tokens_MRP, from_MS)

    def _decoded(self, weights_M, cache_M, rows_M, keep_M, few, steps):
        keys_MS = jax.vmap(slots.reply_keys)(rows_M)
        axes: Any = Drawn(0, 0, (), None, None, None)  # the number of steps is that of all
        step = jax.vmap(
            lambda *args: slots.decode_step(*args, model=self.model),
            in_axes=(0, 0, 0, (0, 0, axes)),
            out_axes=(0, 0, axes),
        )
        drawn = jax.vmap(slots.undrawn, out_axes=axes)(rows_M)
        small = rows_M.token_S, rows_M.position_S, rows_M.left_S, rows_M.active_S

        def goes_on(state):
            _, (*_, active_MS), drawn = state
            count_M = jnp.sum(active_MS, axis=1)
            enough = jnp.all(count_M > keep_M) & (jnp.max(count_M) > few)
            return enough & (drawn.steps < steps)

        def body(state):
            return step(weights_M, rows_M, keys_MS, state)

        cache_M, _, drawn = jax.lax.while_loop(goes_on, body, (cache_M, small, drawn))
        steps_M = jnp.full(len(keep_M), drawn.steps)
        return cache_M, (drawn.token_WST[..., 0], drawn.logp_WST[..., 0], steps_M)

    def _shrunk(self, cache_M, from_MS):
        axis = int(self.model.scan_layers)

        def one(cache, from_S):
            return jax.tree.map(lambda a: jnp.take(a, from_S, axis=axis), cache)

        return jax.vmap(one)(cache_M, from_MS)


def _note(one: _Member, first: int, count: int, rows, token_WS, logp_WS, steps) -> None:
    """What a call drew of a member, whose slots are `first` and those behind it."""
    drawn_WS = token_WS >= 0
    one.stats += EngineStats(
        decode_steps=int(steps),
        slot_steps=int(steps) * count,
        tokens=int(drawn_WS.sum()),
        drawing=int(drawn_WS.sum()),
    )
    for slot, i in list(one.running.items()):
        here, tokens = first + slot, token_WS[:, slot][drawn_WS[:, slot]]
        if not tokens.size:
            continue
        one.tokens[i].append(tokens)
        one.logps[i].append(logp_WS[:, slot][drawn_WS[:, slot]])
        rows.token_S[here] = tokens[-1]
        rows.left_S[here] -= len(tokens)
        rows.position_S[here] += len(tokens)
        stopped = int(tokens[-1]) in one.asked.hows[i].stop
        if stopped or not rows.left_S[here]:
            one.cut[i] = not stopped
            rows.active_S[here] = False
            del one.running[slot]
