"""The programs of a job: the functions that the commands jit, with arguments of the shapes, types
and shardings that those give them, and of which nothing exists.

R prompts at a time  P positions of a prompt  S slots
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from launch.planning import formula
from launch.planning.chips import Topology
from launch.planning.targets import Compiled, compile_on
from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.checkpoint import abstract_like
from r1jax.checks import check
from r1jax.config import RunConfig
from r1jax.data.packing import Batch
from r1jax.model.attend import AHEAD, LIVE
from r1jax.model.experts import OVERFLOW
from r1jax.model.params import Weights
from r1jax.model.quantise import abstract_weights, kept_specs, nbytes
from r1jax.model.transformer import unstacked
from r1jax.rl.algorithms import settings
from r1jax.rl.grpo import grpo_step
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import abstract_policy, check_sizes
from r1jax.rl.types import Layout, abstract_rollout, layout_of, rollout_shardings
from r1jax.sampling import slots
from r1jax.sampling.layout import abstract_laid, exchanged, experts_of
from r1jax.sampling.rows import blank
from r1jax.sampling.slots import WINDOW
from r1jax.sft import abstract_state, sft_step

Job = Literal["grpo", "sft", "sample", "prefill"]
USUAL = {OVERFLOW: 0.0}  # routing that is even enough for the experts' buffers
JOBS: tuple[Job, ...] = ("grpo", "sft", "sample", "prefill")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function and its arguments. holds: bytes a device, by what they are. flops: what one run
    needs by formula, on all devices. turns: of loops whose bound is an argument; named: of those
    that were traced in such a scope. tokens: that a run trains on, reads or draws."""

    name: str
    mesh: Mesh
    function: Any
    args: tuple
    static: dict[str, Any]
    holds: dict[str, float]
    flops: float
    turns: float
    tokens: float
    host: float  # bytes that each process of the run holds of it, beside what is compiled
    notes: tuple[str, ...] = ()
    named: Mapping[str, float] = dataclasses.field(default_factory=lambda: USUAL)

    def compile(self, where: Topology) -> Compiled:
        return compile_on(self.mesh, where, self.function, *self.args, **self.static)


def sized(cfg: RunConfig, tokens: int, rows: int, per_device: int, devices: int) -> RunConfig:
    """cfg with rows of `tokens` (prompt and reply), `rows` replies an update, and so many rows a
    device at once; 0 leaves what is there. Raises InputError for rows that no whole questions are.
    """
    if tokens:
        check(tokens > 1, f"--tokens={tokens}: a prompt and a reply are at least 2")
        prompt = min(cfg.sampling.max_prompt, max(1, tokens // 4))
        sampling = dataclasses.replace(cfg.sampling, max_prompt=prompt, max_tokens=tokens - prompt)
        cfg = dataclasses.replace(cfg, sampling=sampling)
    if rows:
        rl = cfg.rl
        replies = rows * rl.minibatches
        check(
            replies % rl.group == 0,
            f"--rows={rows}: {rl.minibatches} updates of so many replies are no whole groups of "
            f"--rl.group={rl.group}",
        )
        cfg = dataclasses.replace(cfg, rl=dataclasses.replace(rl, questions=replies // rl.group))
    if per_device:
        cfg = dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, rows=per_device * devices))
    return cfg


def program(job: Job, cfg: RunConfig, mesh: Mesh, where: Topology, rows: int) -> Program:
    """Of one job; sampling needs weights that are laid out, which is a program before it. rows: of
    supervised training, an update."""
    check_sizes(cfg, mesh)
    if job == "grpo":
        return _grpo(cfg, mesh)
    if job == "sft":
        return _sft(cfg, mesh, rows)
    return prefill(cfg, mesh, where) if job == "prefill" else decode(cfg, mesh, where)


def held(tree) -> float:
    """Bytes a device, of arrays with shardings; without one, whole."""

    def mine(a) -> jax.ShapeDtypeStruct:
        shape = a.shape if a.sharding is None else a.sharding.shard_shape(a.shape)
        return jax.ShapeDtypeStruct(shape, a.dtype)

    return float(nbytes(jax.tree.map(mine, tree)))


def _grpo(cfg: RunConfig, mesh: Mesh) -> Program:
    layout = layout_on(cfg, mesh)
    rollout = abstract_like(
        abstract_rollout(layout, cfg.rl.questions), rollout_shardings(layout, mesh)
    )
    # Outside the mesh: optax builds small arrays here, and no device of a topology can hold one.
    policy = abstract_policy(cfg, mesh)
    replies, length = cfg.rl.questions * cfg.rl.group, longest(cfg)
    holds = {
        "parameters": held(policy.train.weights),
        "moments": held(policy.train.opt_state),
        "reference": held(policy.reference),
        "critic": held(policy.critic),
        "batch": held(rollout),
    }
    return Program(
        "grpo_step", mesh, grpo_step, (policy, rollout, hyper_of(cfg)), static_of(cfg),
        {name: size for name, size in holds.items() if size},
        formula.grpo(cfg.model, replies * length, length, bool(settings(cfg.rl).kl_coef)),
        layout.microbatches, replies * length, nbytes(rollout), _idle(layout, cfg, mesh),
    )  # fmt: skip


def layout_on(cfg: RunConfig, mesh: Mesh) -> Layout:
    return layout_of(cfg, sharding.rows_over(mesh), mesh.shape[sharding.CONTEXT])


def longest(cfg: RunConfig) -> int:
    return cfg.sampling.max_prompt + cfg.sampling.max_tokens


def _idle(layout: Layout, cfg: RunConfig, mesh: Mesh) -> tuple[str, ...]:
    """What is said where the rows of an update are fewer than are computed."""
    most = cfg.rl.questions * cfg.rl.group // cfg.rl.minibatches
    most = -(-most // (layout.length // longest(cfg)))
    computed = layout.microbatches * layout.rows
    if computed == most:
        return ()
    return (
        f"{most} rows an update are computed as {computed}, since --mesh splits them over "
        f"{sharding.rows_over(mesh)}: {1 - most / computed:.0%} of the work is padding; a mesh has "
        f"none whose fsdp x expert is a divisor of {most}, and the rest context",
    )


def _sft(cfg: RunConfig, mesh: Mesh, rows: int) -> Program:
    over, parts = sharding.rows_over(mesh), 2 * mesh.shape[sharding.CONTEXT]
    rows = rows or over
    check(rows % over == 0, f"--rows={rows}: rows an update do not divide over {over} devices")
    check(
        parts == 2 or longest(cfg) % parts == 0,
        f"--tokens={longest(cfg)}: do not divide into {parts} parts, two of each device that "
        "shares a row",
    )
    state = abstract_state(cfg.model, cfg.optim, mesh)
    where = sharding.batch_sharding(mesh)
    length = longest(cfg)

    def array(dtype) -> Any:
        return jax.ShapeDtypeStruct((rows, length), dtype, sharding=where)

    types = {"trained_BT": np.bool_}
    batch = Batch(**{f: array(types.get(f, np.int32)) for f in Batch.__dataclass_fields__})
    holds = {
        "parameters": held(state.weights),
        "moments": held(state.opt_state),
        "batch": held(batch),
    }
    return Program(
        "sft_step", mesh, sft_step, (state, batch), {"model": cfg.model, "cfg": cfg.optim}, holds,
        formula.sft(cfg.model, rows * length, length), 1, rows * length, nbytes(batch),
    )  # fmt: skip


def reshard(cfg: RunConfig, mesh: Mesh) -> Program:
    """Weights from where training has them to where sampling reads them."""
    model, weights = cfg.model, _trained(cfg.model, mesh)
    weights = weights.replace(params=weights.params.replace(mtp=()))
    return Program(
        "exchange of weights", mesh, exchanged, (weights,), {"model": model, "mesh": mesh},
        {"parameters": held(weights)}, 0, 1, 0, 0,
    )  # fmt: skip


def _trained(model: ModelConfig, mesh: Mesh) -> Weights:
    return abstract_like(abstract_weights(model), sharding.shardings(kept_specs(model), mesh))


def _drawn(model: ModelConfig, mesh: Mesh, where: Topology) -> tuple[Weights, Mesh]:
    """Weights as sampling reads them, and the mesh that they are on then."""
    laid = abstract_laid(_trained(model, mesh), model, mesh)
    mesh = sharding.for_sampling(mesh, experts_of(model))
    if not model.scan_layers:
        laid = compile_on(mesh, where, jax.jit(unstacked, static_argnums=1), laid, model).out
    return laid, mesh


def prefill(cfg: RunConfig, mesh: Mesh, where: Topology) -> Program:
    """Reading prompts: as many at a time as the engine reads."""
    laid, mesh = _drawn(cfg.model, mesh, where)
    length = cfg.sampling.max_prompt
    rows = mesh.size * -(-cfg.sampling.refill // mesh.size)
    tokens = _everywhere(mesh, (rows, length), jnp.int32)
    return Program(
        "prefill", mesh, slots.prefill, (laid, tokens), {"model": cfg.model},
        {"parameters": held(laid)},
        formula.forward(cfg.model, rows * length, length, head=False), 1, rows * length, 0,
    )  # fmt: skip


def decode(cfg: RunConfig, mesh: Mesh, where: Topology) -> Program:
    """A burst of as many steps as a rollout makes at a time, of all slots, over a cache as long as
    the longest reply's."""
    laid, mesh = _drawn(cfg.model, mesh, where)
    count = mesh.size * -(-cfg.sampling.slots // mesh.size)
    length = longest(cfg)
    cache = compile_on(
        mesh, where, slots.new_cache, model=cfg.model, slots=count, length=length,
        routing=cfg.rl.routing_replay,
    ).out  # fmt: skip
    # As a run of RL draws: the whole distribution, no token biased.
    rows = blank(count, cfg.model.vocab, 1).replace(cutoffs=None, biases=None)
    rows = jax.tree.map(lambda a: _everywhere(mesh, a.shape, a.dtype), rows)
    number = _everywhere(mesh, (), jnp.int32)
    return Program(
        f"decode, {WINDOW} steps", mesh, slots.decode, (laid, cache, rows, number, number),
        {"model": cfg.model}, {"parameters": held(laid), "cache": held(cache)},
        WINDOW * formula.decode(cfg.model, count, length), WINDOW, WINDOW * count, 0,
        named=USUAL | {AHEAD: math.ceil(length / LIVE) - 1},
    )  # fmt: skip


def _everywhere(mesh: Mesh, shape: tuple[int, ...], dtype) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.replicated(mesh))
