"""Engines side by side, each in a thread of its own, for the cores of a CPU.

Of a small model no operation is long enough for XLA:CPU to share out, so an engine keeps one core
busy, however many slots it has. What a request draws does not depend on the engine that draws it.
"""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax.architecture import ModelConfig
from r1jax.config import SamplingConfig
from r1jax.model.params import Weights
from r1jax.sampling.engine import Completion, Engine, EngineStats, OnDone, Request

LEAST = 64  # slots of a lane: with fewer, a step costs more than it draws


class Lanes:
    """As `Engine`, with its arguments, for whoever wants whole replies. `cfg.slots` are those of
    all lanes, of which there is one a core (`cores`) as long as each has LEAST."""

    def __init__(
        self, model: ModelConfig, cfg: SamplingConfig, mesh: Mesh, stop: Sequence[int], **more
    ):
        n = max(1, min(cores(mesh), cfg.slots // LEAST))
        refill = max(1, cfg.refill // n)
        slots = -(-cfg.slots // (n * refill)) * refill
        part = dataclasses.replace(cfg, slots=slots, refill=refill)
        self._engines = [Engine(model, part, mesh, stop, **more) for _ in range(n)]

    @property
    def stats(self) -> EngineStats:
        return sum((engine.stats for engine in self._engines), EngineStats())

    @contextlib.contextmanager
    def loaded(self, weights: Weights) -> Iterator[None]:
        first, *rest = self._engines
        with first.loaded(weights):
            for engine in rest:
                engine.load_as(first)
            try:
                yield
            finally:
                for engine in rest:
                    engine.load(None)

    def generate(
        self,
        weights: Weights,
        requests: Sequence[Request],
        key: jax.Array,
        on_done: OnDone | None = None,
    ) -> tuple[list[Completion], EngineStats]:
        """As `Engine.generate`. on_done: from any thread, one call at a time."""
        first, *rest = self._engines
        if not rest:
            return first.generate(weights, requests, key, on_done=on_done)
        before, parts, over = self.stats, dealt(requests, len(self._engines)), threading.Event()
        telling = threading.Lock()

        def draw(engine: Engine, part: list[int]) -> list[Completion]:
            def done(i: int, completion: Completion) -> None:
                with telling:
                    if over.is_set():
                        raise InterruptedError
                    if on_done:
                        on_done(part[i], completion)

            return engine.generate(weights, [requests[i] for i in part], key, on_done=done)[0]

        with self.loaded(weights), ThreadPoolExecutor(len(parts)) as pool:
            lanes = [pool.submit(draw, *pair) for pair in zip(self._engines, parts, strict=True)]
            try:
                done, _ = wait(lanes, return_when=FIRST_EXCEPTION)
            finally:
                over.set()  # one has failed, or Ctrl-C: nobody waits for the others' replies
            for lane in done:
                lane.result()
        found: list[Any] = [None] * len(requests)
        for part, lane in zip(parts, lanes, strict=True):
            for i, completion in zip(part, lane.result(), strict=True):
                found[i] = completion
        return found, self.stats - before


def cores(mesh: Mesh) -> int:
    """That one device has for itself, which $NPROC says to XLA too: one on a mesh, and where it is
    an accelerator, all of whose work is parallel as it is."""
    if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu":
        return 1
    if told := os.environ.get("NPROC", ""):
        return int(told) if told.isdigit() else 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dealt(requests: Sequence[Request], lanes: int) -> list[list[int]]:
    """The numbers of each lane's requests: of prompts in turn, so that each is read by one lane."""
    parts: list[list[int]] = [[] for _ in range(lanes)]
    lane: dict[tuple[int, ...], int] = {}
    for i, request in enumerate(requests):
        parts[lane.setdefault(tuple(request.prompt), len(lane) % lanes)].append(i)
    return parts
