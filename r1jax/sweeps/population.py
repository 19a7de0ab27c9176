"""Runs that share shapes as one compiled program: a leading axis of members over parameters, hyper-
parameters and slots.

Each member is a run like any (`rl/loop.py`), in a thread of its own: its questions, grades, log,
checkpoints and report are its own. What is compiled they do together: a member that comes to draw,
or to update, waits there until all that are still at work wait, and what most wait for is done in
one call. Members may be at different steps, end at different times, or fail: a seat that asks for
nothing is computed with another's numbers, which go nowhere.

On several devices members are spread over them, those of each in a row. A device loops over its own
members, and nothing is sent between devices.
"""

import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax import sharding
from r1jax.config import RunConfig
from r1jax.data.tasks import make_task
from r1jax.pipeline.reinforcement import reinforce
from r1jax.rl.algorithms import settings
from r1jax.rl.grpo import PolicyState, grpo_step
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import Computes
from r1jax.rl.types import Rollout, layout_of
from r1jax.run import STOPS, tell_threads
from r1jax.sampling.engine import Completion, EngineStats, Request
from r1jax.sampling.members import MEMBER, Asked, MembersEngine, members_mesh, over_members
from r1jax.sampling.requests import how

Outcome = Exception | None  # of a member: what ended it, None where it is finished


def program_of(cfg: RunConfig) -> Hashable:
    """What members of one program have in common; None: a run for which there is none.

    The program is for small models: replicated, whose whole cache is there from the start.
    """
    alone = cfg.mesh != "1" or cfg.learn_from or cfg.rl.routing_replay or cfg.lora.rank
    if alone or cfg.sampling.drafts != "none" or cfg.rl.max_draws > 1:
        return None
    hyper = jax.tree.structure(hyper_of(cfg))
    sampling = dataclasses.replace(cfg.sampling, temperature=1.0)
    same = bool(settings(cfg.rl).kl_coef), cfg.logit_bias, cfg.tokenizer
    static = tuple(sorted(static_of(cfg).items(), key=lambda item: item[0]))
    return static, layout_of(cfg, 1), cfg.rl.questions, sampling, hyper, same


def run_members(
    cfgs: Sequence[RunConfig],
    say: Callable[[str, str], None],
    devices: Sequence[jax.Device] | None = None,
) -> list[Outcome]:
    """All runs to their ends, as one program on `devices` (all there are); what became of each.

    Their configurations have the same `program_of`. say: is told of a member's folder, and a line.
    A signal ends all after the steps that they are in, each with its checkpoint (Stopped). A member
    that fails leaves the others as they are.
    """
    found: list[Outcome] = [None] * len(cfgs)
    together = Population(len(cfgs), list(devices or jax.devices()))

    def member(i: int, cfg: RunConfig) -> None:
        try:
            told = functools.partial(say, cfg.out)
            reinforce(cfg, make_task(cfg), say=told, mesh=together.mesh_of(i),
                      computes=together.computes(i))  # fmt: skip
        except Exception as error:
            found[i] = error
        finally:
            together.leave(i)

    threads = [
        threading.Thread(target=member, args=(i, c), daemon=True) for i, c in enumerate(cfgs)
    ]
    with _signals():
        for thread in threads:
            thread.start()
        together.serve()
        for thread in threads:
            thread.join()
    return found


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """What comes to the main thread is told to the members."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, lambda n, _: tell_threads(signal.Signals(n))) for n in STOPS}
    try:
        yield
    finally:
        tell_threads(None)
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclasses.dataclass
class _Call:
    """What a member waits for. done: it has `result`, or `error`."""

    kind: str
    args: tuple[Any, ...]
    done: threading.Event = dataclasses.field(default_factory=threading.Event)
    result: Any = None
    error: Exception | None = None


class Population:
    """Seats for members, over devices; more where these would not divide."""

    def __init__(self, members: int, devices: list[jax.Device]):
        devices = devices[: min(members, len(devices))]
        self._per = -(-members // len(devices))
        self._devices, self._mesh = devices, members_mesh(devices)
        self.seats = self._per * len(devices)
        self._at_work, self._waiting = set(range(members)), {}  # type: ignore[var-annotated]
        self._changed = threading.Condition()
        self._engine: MembersEngine | None = None
        self._steps: dict[Hashable, Callable[..., Any]] = {}

    def mesh_of(self, i: int) -> Mesh:
        """Of the one device that has a member."""
        return sharding.mesh_over("1", [self._devices[i // self._per]])

    def computes(self, i: int) -> Computes:
        return Computes(functools.partial(_Engine, self, i), functools.partial(self._step, i))

    def leave(self, i: int) -> None:
        with self._changed:
            self._at_work.discard(i)
            self._changed.notify()

    def call(self, i: int, kind: str, *args: Any) -> Any:
        """What member i gets of a call that it makes with others."""
        call = _Call(kind, args)
        with self._changed:
            self._waiting[i] = call
            self._changed.notify()
        call.done.wait()
        if call.error is not None:
            raise call.error
        return call.result

    def serve(self) -> None:
        """Does what members wait for, until all have left."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._at_work <= self._waiting.keys(), timeout=None)
                if not self._at_work:
                    return
                kinds = [call.kind for call in self._waiting.values()]
                kind = max(sorted(set(kinds)), key=kinds.count)
                calls = {i: c for i, c in self._waiting.items() if c.kind == kind}
                for i in calls:
                    del self._waiting[i]
            try:
                results = getattr(self, f"_do_{kind}")({i: c.args for i, c in calls.items()})
                for i, call in calls.items():
                    call.result = results[i]
            except Exception as error:
                for call in calls.values():
                    call.error = error
            for call in calls.values():
                call.done.set()

    def _step(self, i: int, state: PolicyState, rollout: Rollout, hyper, **static):
        return self.call(i, "step", state, rollout, hyper, static)

    def _do_step(self, calls: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        static = next(iter(calls.values()))[3]
        key = tuple(sorted(static.items(), key=lambda item: item[0]))
        if key not in self._steps:
            self._steps[key] = over_members(
                self._mesh, functools.partial(_stepped, static), 3, donate=(0,)
            )
        given = {i: args[:3] for i, args in calls.items()}
        state_M, rollout_M, hyper_M = (
            self._stacked({i: args[k] for i, args in given.items()}) for k in range(3)
        )
        return self._apart(self._steps[key](state_M, rollout_M, hyper_M), list(calls))

    def _do_generate(self, calls: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        if self._engine is None:
            make = next(iter(calls.values()))[0]
            self._engine = make(self._mesh, self.seats)
        weights_M = self._stacked({i: args[1] for i, args in calls.items()})
        every = [calls[i][2] if i in calls else Asked() for i in range(self.seats)]
        found = self._engine.generate(weights_M, every)
        return {i: found[i] for i in calls}

    def _stacked(self, trees: dict[int, Any]) -> Any:
        """Of a tree a member, one with a leading axis of all seats. A seat without one has that of
        another of its device, or of any."""
        where, parts = NamedSharding(self._mesh, P(MEMBER)), []
        for d, device in enumerate(self._devices):
            mine = range(d * self._per, (d + 1) * self._per)
            some = next((i for i in mine if i in trees), next(iter(trees)))
            one = [jax.device_put(trees[i if i in trees else some], device) for i in mine]
            parts.append(_stack(one))

        def whole(*leaves):
            shape = (self.seats, *leaves[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, where, list(leaves))

        return jax.tree.map(whole, *parts)

    def _apart(self, tree: Any, members: Sequence[int]) -> dict[int, Any]:
        """Each member's part, on its device."""
        found: dict[int, Any] = {}
        for d in range(len(self._devices)):
            mine = jax.tree.map(functools.partial(_shard, first=d * self._per), tree)
            found |= {d * self._per + k: one for k, one in enumerate(_unstack(mine))}
        return {i: found[i] for i in members}


def _shard(a: jax.Array, first: int) -> jax.Array:
    """Of an array over members that part whose first is this one, where it lies."""
    return next(s.data for s in a.addressable_shards if (s.index[0].start or 0) == first)


@jax.jit
def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(a) for a in leaves]), *trees)


@jax.jit
def _unstack(tree):
    count = jax.tree.leaves(tree)[0].shape[0]
    return [jax.tree.map(lambda a, k=k: a[k], tree) for k in range(count)]


def _stepped(static: dict[str, Any], state_M: PolicyState, rollout_M: Rollout, hyper_M):
    """As one device sees it. Of each member as many micro-batches are computed as of the one that
    fills most: the others' last ones hold nothing."""
    filled = jnp.max(rollout_M.filled_M, axis=0)
    rollout_M = rollout_M.replace(filled_M=filled)
    axes = jax.tree.map(lambda _: 0, rollout_M).replace(filled_M=None)

    def one(state, rollout, hyper):
        return grpo_step(state, rollout, hyper, **static)

    return jax.vmap(one, in_axes=(0, axes, 0))(state_M, rollout_M, hyper_M)


class _Engine:
    """What a member has of the engine of all."""

    def __init__(self, together: Population, i: int, model, cfg, mesh, stop, biases, routing):
        self._together, self._i, self._cfg, self._model = together, i, cfg, model
        self._stop, self._biases, self.stats = tuple(stop), biases, EngineStats()

        def make(mesh: Mesh, members: int) -> MembersEngine:
            return MembersEngine(model, cfg, mesh, members, stop, biases)

        self._make = make

    @contextlib.contextmanager
    def loaded(self, weights) -> Iterator[None]:
        yield

    def generate(
        self, weights, requests: Sequence[Request], key: jax.Array
    ) -> tuple[list[Completion], EngineStats]:
        hows = [how(r, self._cfg, self._stop, self._model.vocab, self._biases) for r in requests]
        asked = Asked(requests, hows, np.asarray(jax.random.key_data(key)))
        found, used = self._together.call(self._i, "generate", self._make, weights, asked)
        self.stats += used
        return found, used
