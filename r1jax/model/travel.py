"""How tokens reach their experts, which stay on their devices. Inside a shard_map, functions of
one signature:

    (x_ND, gates_NK, experts_NK, weights, multiply) -> [N, D]

the sum over each token's experts, wherever among the devices of the expert axis they are.
`multiply` is one of `experts`, with these arguments and the number of pairs that it may expect.

N tokens on a device  K experts a token  D d_model  X devices of the expert axis  M gathered tokens
L devices that a token has experts on, at most  S = N L rows to be sent  C rows of the buffer that
receives them
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from r1jax.architecture import ModelConfig, RouterConfig
from r1jax.model.experts import FEW, Moves, in_parts, summed, taken
from r1jax.sharding import EXPERT

#: Tokens of an expert group that travel at once: of more, some after others. What is in memory is
#: of these, and an expert of DeepSeek-V3 still gets 2,048 rows at a time.
AT_ONCE = 65_536


def ring(x_ND, gates_NK, experts_NK, weights, multiply):
    """All tokens of the expert group are gathered, every device applies its experts to its own
    pairs among them, and a reduce-scatter sums the contributions and brings each token home."""
    first = jax.lax.axis_index(EXPERT) * weights[0].shape[0]

    def some(x_ND, gates_NK, experts_NK):
        gathered = (jax.lax.all_gather(a, EXPERT, tiled=True) for a in (x_ND, gates_NK, experts_NK))
        x_MD, gates_MK, experts_MK = gathered
        # By balanced routing, as many pairs are here as this device's tokens have.
        out_MD = multiply(x_MD, gates_MK, experts_MK - first, weights, experts_NK.size)
        return jax.lax.psum_scatter(out_MD, EXPERT, scatter_dimension=0, tiled=True)

    return _some_at_once(some, x_ND, gates_NK, experts_NK)


def all_to_all(x_ND, gates_NK, experts_NK, weights, multiply, most, room):
    """Each token goes to the devices of its experts, once to each, `most` at most, and their sums
    come home.

    A device receives into a buffer of `room` times what it gets where routing is balanced. What
    does not fit comes after that, so none is dropped.
    """
    local, devices = weights[0].shape[0], jax.lax.axis_size(EXPERT)

    def some(x_ND, gates_NK, experts_NK):
        n = len(x_ND)
        size = min(max(FEW, -(-int(room * n * most) // 8) * 8), n * devices)
        plan = plan_of(experts_NK // local, devices, most)
        used = -(-jnp.max(plan.held_X) // size)
        # As many everywhere: the devices of other groups meet these in collectives, too.
        used = jax.lax.pmax(used, jax.sharding.get_abstract_mesh().axis_names)

        def part(i, differentiated, others):
            x_ND, gates_NK, weights = differentiated
            (plan, experts_NK), rows = others, n * most
            there, back = plan.offsets(i, size)
            x_CD, gates_CK = (
                _sent(taken(a, plan.moves), there, back, size, rows) for a in (x_ND, gates_NK)
            )
            sent = experts_NK.at[plan.moves.source_R].get(mode="clip")
            experts_CK = _exchange(sent, jnp.full((size, sent.shape[1]), -1), there)
            first = jax.lax.axis_index(EXPERT) * local
            here_CK = jnp.where(experts_CK < 0, -1, experts_CK - first)
            out_CD = multiply(x_CD, gates_CK, here_CK, weights, experts_NK.size)
            out_SD = _sent(out_CD, back, there, rows, size)
            return summed(out_SD, plan.moves)

        return in_parts(part, used, (x_ND, gates_NK, weights), (plan, experts_NK))

    return _some_at_once(some, x_ND, gates_NK, experts_NK)


def of(cfg: ModelConfig, mesh: AbstractMesh) -> Callable:
    """The function that cfg.experts_travel names. auto: the one that moves fewer rows, where a ring
    brings every token to every device; on a CPU, which has no such exchange, a ring."""
    assert cfg.router is not None
    devices, device = mesh.shape[EXPERT], mesh.abstract_device
    most = most_devices(cfg.router, devices)
    emulated = device is not None and device.platform == "cpu"
    name = cfg.experts_travel
    if name == "auto":
        name = "ring" if emulated or most == devices else "all_to_all"
    if name == "ring":
        return ring
    return functools.partial(all_to_all, most=most, room=cfg.experts_room)


def most_devices(router: RouterConfig, devices: int) -> int:
    """On how many of the devices a token may have experts, by the router's limit of groups."""
    group, local = router.experts // router.groups, router.experts // devices
    of_a_group = max(
        (first + group - 1) // local - first // local + 1
        for first in range(0, router.experts, group)
    )
    return min(router.active, devices, router.group_limit * of_a_group)


def parts_of(tokens: int, devices: int) -> int:
    """In how many equal parts so many tokens a device travel; at once where none of few divide."""
    least = max(1, tokens * devices // AT_ONCE)
    return next((n for n in range(least, 4 * least) if tokens % n == 0), 1)


def _some_at_once(fn, *arrays):
    """fn(*arrays) for all N tokens, or for a part of them after another; parts are computed again
    in the backward pass."""
    n = len(arrays[0])
    parts = parts_of(n, jax.lax.axis_size(EXPERT))
    if parts == 1:
        return fn(*arrays)
    apart = [a.reshape(parts, n // parts, -1) for a in arrays]
    out = jax.lax.map(lambda some: jax.checkpoint(fn)(*some), apart)
    return out.reshape(n, -1)


class Offsets(NamedTuple):
    """Of a ragged all-to-all: from where and how many rows go to each device, where they come to
    lie there, and how many are received from each."""

    from_X: jax.Array
    sent_X: jax.Array
    to_X: jax.Array
    received_X: jax.Array


class Plan(NamedTuple):
    """What is sent where. Every device's rows lie by destination, and a destination gets them by
    sender; it takes them `size` at a time."""

    moves: Moves  # of tokens into the S rows to be sent
    count_XX: jax.Array  # rows from each device to each
    held_X: jax.Array  # rows that each device gets

    def offsets(self, i, size: int) -> tuple[Offsets, Offsets]:
        """Of the i-th `size` rows that devices get: there, and back."""
        before_XX = jnp.cumsum(self.count_XX, axis=0) - self.count_XX  # at the receiver
        start_XX = jnp.cumsum(self.count_XX, axis=1) - self.count_XX  # at the sender
        low_XX = jnp.clip(i * size - before_XX, 0, self.count_XX)
        sent_XX = jnp.clip((i + 1) * size - before_XX, 0, self.count_XX) - low_XX
        at_sender_XX = start_XX + low_XX
        at_receiver_XX = jnp.where(sent_XX > 0, before_XX + low_XX - i * size, 0)
        me = jax.lax.axis_index(EXPERT)
        there = Offsets(at_sender_XX[me], sent_XX[me], at_receiver_XX[me], sent_XX[:, me])
        back = Offsets(at_receiver_XX[:, me], sent_XX[:, me], at_sender_XX[:, me], sent_XX[me])
        return there, back


def plan_of(device_NK: jax.Array, devices: int, most: int) -> Plan:
    """For tokens whose experts are on these devices, of which a token has `most` at most."""
    n = len(device_NK)
    goes_NX = jnp.any(device_NK[:, :, None] == jnp.arange(devices)[None, None, :], axis=1)
    count_X = jnp.sum(goes_NX, axis=0, dtype=jnp.int32)
    count_XX = jax.lax.all_gather(count_X, EXPERT)
    nowhere = n * most
    # Rows by destination, then token; those that go nowhere last.
    goes_XN = goes_NX.T.reshape(-1)
    source_S = jnp.argsort(~goes_XN, stable=True)[:nowhere]
    source_S = jnp.where(jnp.arange(nowhere) < jnp.sum(count_X), source_S % n, n)
    row_NX = (jnp.cumsum(count_X) - count_X)[None, :] + jnp.cumsum(goes_NX, axis=0) - 1
    row_NX = jnp.where(goes_NX, row_NX, nowhere)
    rows_NL = jnp.sort(row_NX, axis=1)[:, :most]
    return Plan(Moves(source_S, rows_NL), count_XX, jnp.sum(count_XX, axis=0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _sent(rows, there: Offsets, back: Offsets, size: int, size_back: int):
    """What comes to lie in the receiver's `size` rows; the gradient goes the other way."""
    return _exchange(rows, jnp.zeros((size, *rows.shape[1:]), rows.dtype), there)


_sent.defvjp(
    lambda rows, there, back, size, size_back: (
        _sent(rows, there, back, size, size_back),
        (there, back),
    ),
    lambda size, size_back, saved, d: (_sent(d, *saved[::-1], size_back, size), None, None),
)


def _exchange(operand, output, offsets: Offsets):
    """`ragged_all_to_all` over the expert axis; where XLA has none, which is on a CPU, the same by
    gathering all and choosing by index."""
    args = tuple(a.astype(jnp.int32) for a in offsets)

    def real(operand, output, *args):
        return jax.lax.ragged_all_to_all(operand, output, *args, axis_name=EXPERT)

    return jax.lax.platform_dependent(operand, output, *args, cpu=_exchange_emulated, default=real)


def _exchange_emulated(operand, output, from_X, sent_X, to_X, received_X):
    me, size = jax.lax.axis_index(EXPERT), len(operand)
    operand_XSD, from_XX, sent_XX, to_XX = (
        jax.lax.all_gather(a, EXPERT) for a in (operand, from_X, sent_X, to_X)
    )
    from_X, sent_X, to_X = from_XX[:, me], sent_XX[:, me], to_XX[:, me]
    row_C1 = jnp.arange(len(output))[:, None]
    comes_CX = (row_C1 >= to_X[None, :]) & (row_C1 < (to_X + sent_X)[None, :])
    sender_C = jnp.argmax(comes_CX, axis=1)
    row_C = sender_C * size + jnp.arange(len(output)) - to_X[sender_C] + from_X[sender_C]
    received = operand_XSD.reshape(-1, operand.shape[1]).at[row_C].get(mode="clip")
    return jnp.where(jnp.any(comes_CX, axis=1)[:, None], received, output)
