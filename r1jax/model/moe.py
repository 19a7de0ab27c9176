"""Mixture of experts with truly sharded, dropless experts (DeepSeek-V3, section 2.1.2).

Every device owns E / (expert axis) experts for good. In the ring form, the tokens of an expert
group are all-gathered, each device applies its experts to all of them, and a reduce-scatter sums
the contributions and brings each token home. No capacity limit, no dropped token.

B batch  T time  N = B T tokens on a device  M gathered tokens  D d_model  E local experts
K experts a token  F expert FFN width
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.architecture import ModelConfig, RouterConfig
from r1jax.checks import check
from r1jax.kernels.grouped_matmul import grouped_matmul
from r1jax.kernels.routing import route
from r1jax.model.layers import matmul
from r1jax.model.matrices import dense, swiglu
from r1jax.model.params import MoE
from r1jax.sharding import EXPERT, FSDP, RULES


class RouterStats(flax.struct.PyTreeNode):
    """What training needs to know of one layer's routing."""

    load_E: jax.Array  # valid tokens sent to each expert, over all devices
    balance_B: jax.Array  # sequence-wise balance loss of each row, before alpha
    experts_BTK: jax.Array  # int32: where each token was sent
    differs_BT: jax.Array | None  # where experts were given: bool, it would have chosen others


def moe(
    x_BTD: jax.Array,
    p: MoE,
    bias_E: jax.Array,
    valid_BT: jax.Array,
    cfg: ModelConfig,
    given_BTK: jax.Array | None = None,
) -> tuple[jax.Array, RouterStats]:
    """Returns [B, T, D] and the routing statistics. `valid_BT` marks tokens that are counted;
    `given_BTK` are the experts to be taken, int32, where the first of a token is not -1."""
    # The router decides between experts on small differences: float32 throughout, and not the
    # bfloat16 passes that a TPU makes of a float32 matmul by default.
    assert cfg.router is not None
    logits_BTE = jnp.matmul(
        x_BTD.astype(jnp.float32),
        p.router_DE.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    experts = tuple(dense(w, x_BTD.dtype) for w in (p.gate_EDF, p.up_EDF, p.down_EFD))
    local = functools.partial(_routed, cfg=cfg)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        b, e, over = x_BTD.shape[0], cfg.router.experts, mesh.shape[EXPERT]
        check(
            b % mesh.size == 0, f"--mesh: a batch of {b} does not divide over {mesh.size} devices"
        )
        check(e % over == 0, f"--mesh: RouterConfig.experts={e} does not divide over its {over}")
        rows = P(RULES["batch"])
        local = jax.shard_map(
            functools.partial(local, expert_parallel=True),
            in_specs=(rows, rows, rows, P(), (P(EXPERT), P(EXPERT), P(EXPERT)), rows),
            out_specs=(rows, (P(), rows, rows, rows)),
        )
    routed_BTD, stats = local(x_BTD, logits_BTE, valid_BT, bias_E, experts, given_BTK)
    out = routed_BTD if p.shared is None else routed_BTD + swiglu(x_BTD, p.shared)
    return out, RouterStats(*stats)


def _routed(x_BTD, logits_BTE, valid_BT, bias_E, experts, given_BTK, *, cfg, expert_parallel=False):
    """The routed part, as one device sees it. Returns (out_BTD, the fields of RouterStats)."""
    b, t, d = x_BTD.shape
    x_ND = x_BTD.reshape(b * t, d)
    given_NK = None if given_BTK is None else given_BTK.reshape(b * t, -1)
    logits_NE = logits_BTE.reshape(b * t, -1)
    routing = route(logits_NE, bias_E, valid_BT.reshape(-1), cfg.router, given_NK)
    apply = _EXPERTS[cfg.experts_impl]
    if not expert_parallel:
        out_ND = apply(x_ND, routing.gates_NK, routing.experts_NK, experts)
        load_E = routing.load_E
    else:
        first = jax.lax.axis_index(EXPERT) * experts[0].shape[0]
        # Each data-parallel device has its own gradient of these; the cast's transpose sums them.
        experts = jax.lax.pcast(experts, FSDP, to="varying")
        gathered = [
            jax.lax.all_gather(a, EXPERT, tiled=True)
            for a in (x_ND, routing.gates_NK, routing.experts_NK)
        ]
        x_MD, gates_MK, experts_MK = gathered
        out_MD = apply(x_MD, gates_MK, experts_MK - first, experts)
        out_ND = jax.lax.psum_scatter(out_MD, EXPERT, scatter_dimension=0, tiled=True)
        # Global counts: a sign taken of each device's own would let the biases drift apart.
        load_E = jax.lax.psum(routing.load_E, (FSDP, EXPERT))
    stats = (
        load_E,
        _balance_loss(logits_BTE, valid_BT, cfg.router),
        routing.experts_NK.reshape(b, t, -1),
        None if routing.differs_N is None else routing.differs_N.reshape(b, t),
    )
    return out_ND.reshape(b, t, d), stats


def experts_dense(x_MD, gates_MK, experts_MK, weights):
    """Every token through every local expert, as two plain matmuls; gates zero the rest out."""
    gate_EDF, up_EDF, down_EFD = weights
    n = gate_EDF.shape[0]
    chosen_MKE = experts_MK[:, :, None] == jnp.arange(n)[None, None, :]
    gate_ME = jnp.sum(jnp.where(chosen_MKE, gates_MK[:, :, None], 0.0), axis=1)
    if x_MD.shape[0] < gate_EDF.shape[2]:
        # A decoding step: to copy its few rows to every expert is less than to transpose weights.
        x_EMD = jnp.broadcast_to(x_MD[None], (n, *x_MD.shape))
        h_EMF = jax.nn.silu(x_EMD @ gate_EDF) * (x_EMD @ up_EDF)
        h_EMF = h_EMF * gate_ME.T[:, :, None].astype(x_MD.dtype)
        return jnp.sum(h_EMF @ down_EFD, axis=0)
    h_MEF = jax.nn.silu(_side_by_side(x_MD, gate_EDF)) * _side_by_side(x_MD, up_EDF)
    h_MEF = h_MEF * gate_ME[:, :, None].astype(x_MD.dtype)
    return matmul(h_MEF.reshape(x_MD.shape[0], -1), down_EFD.reshape(-1, x_MD.shape[1]))


def _side_by_side(x_MD, w_EDF):
    """All experts' matrices as one wide one: [M, D] -> [M, E, F]."""
    e, d, f = w_EDF.shape
    return matmul(x_MD, w_EDF.transpose(1, 0, 2).reshape(d, e * f)).reshape(-1, e, f)


def experts_ragged(x_MD, gates_MK, experts_MK, weights):
    """Only the chosen pairs: sort (token, choice) pairs by expert, multiply by group, unsort."""
    gate_EDF, up_EDF, down_EFD = weights
    n, (m, k) = gate_EDF.shape[0], experts_MK.shape
    is_local = (experts_MK >= 0) & (experts_MK < n)
    # Pairs of other devices' experts sort to the end, past the last group.
    expert = jnp.where(is_local, experts_MK, n).reshape(-1)
    order = jnp.argsort(expert, stable=True)
    sizes_E = jnp.sum(expert[:, None] == jnp.arange(n)[None, :], axis=0)
    rows = x_MD[order // k]
    h = jax.nn.silu(grouped_matmul(rows, gate_EDF, sizes_E))
    h = grouped_matmul(h * grouped_matmul(rows, up_EDF, sizes_E), down_EFD, sizes_E)
    # Unsort by gathering: a scatter-add would sum in no fixed order on a GPU.
    pairs_MKD = h[jnp.argsort(order)].reshape(m, k, -1)
    gate_MK = jnp.where(is_local, gates_MK, 0.0)
    pairs_MKD = jnp.where(is_local[:, :, None], pairs_MKD, 0)
    return jnp.sum(pairs_MKD * gate_MK[:, :, None].astype(x_MD.dtype), axis=1)


def experts_blocked(x_MD, gates_MK, experts_MK, weights):
    """Only the chosen pairs, in blocks of one expert each: two batched matmuls and no `ragged_dot`,
    which XLA:CPU runs at a fifth of this speed. Copies an expert's matrices for each of its blocks.

    P pairs (token, choice)  B blocks  R rows of a block
    """
    n, (m, k) = weights[0].shape[0], experts_MK.shape
    is_local_MK = (experts_MK >= 0) & (experts_MK < n)
    expert_P = jnp.where(is_local_MK, experts_MK, n).reshape(-1)
    size = _block_size(m * k, n)
    blocks = -(-m * k // size) + n  # of each expert the last may be partly filled
    hit_PE = expert_P[:, None] == jnp.arange(n)[None, :]
    end_E = jnp.cumsum(-(-jnp.sum(hit_PE, axis=0) // size))  # in blocks
    expert_B = jnp.sum(jnp.arange(blocks)[:, None] >= end_E[None, :], axis=1)
    own_BE = jax.nn.one_hot(expert_B, n, dtype=x_MD.dtype)  # zeros past the last block
    gate_BDF, up_BDF, down_BFD = (jnp.einsum("be,eio->bio", own_BE, w) for w in weights)

    # A pair's slot: its expert's first block, and how many pairs of that expert come before it.
    first_E = size * jnp.sum(expert_B[:, None] < jnp.arange(n)[None, :], axis=0)
    slot_PE = first_E[None, :] + jnp.cumsum(hit_PE, axis=0) - 1
    nowhere = blocks * size
    slot_P = jnp.where(hit_PE.any(axis=1), jnp.sum(jnp.where(hit_PE, slot_PE, 0), axis=1), nowhere)
    pair_S = jnp.full(nowhere, m * k).at[slot_P].set(jnp.arange(m * k), mode="drop")

    x_BRD = _move(jnp.repeat(x_MD, k, axis=0), pair_S, slot_P).reshape(blocks, size, -1)
    y_BRD = (jax.nn.silu(x_BRD @ gate_BDF) * (x_BRD @ up_BDF)) @ down_BFD
    pairs_MKD = _move(y_BRD.reshape(nowhere, -1), slot_P, pair_S).reshape(m, k, -1)
    return jnp.sum(pairs_MKD * gates_MK[:, :, None].astype(x_MD.dtype), axis=1)


def _block_size(pairs: int, experts: int) -> int:
    """Half of what an expert has on average, as a power of two: few blocks, little padding."""
    return 2 ** min(7, max(3, (pairs // (2 * experts)).bit_length() - 1))


@jax.custom_vjp
def _move(rows, source, target):
    """rows[source], zeros where source is past the end. `target` is the inverse of `source`, so
    that the gradient is a gather too, where JAX would scatter."""
    return rows.at[source].get(mode="fill", fill_value=0)


_move.defvjp(
    lambda rows, source, target: (_move(rows, source, target), (source, target)),
    lambda saved, d: (_move(d, saved[1], saved[0]), None, None),
)

_EXPERTS = {"dense": experts_dense, "ragged": experts_ragged, "blocked": experts_blocked}


def _balance_loss(logits_BTE, valid_BT, r: RouterConfig) -> jax.Array:
    """DeepSeek-V3 eq. 17-20: sum over experts of f_i P_i, a row. f carries no gradient.

    As printed there, f counts the best of the bare scores: no selection bias, no group limit.
    """
    scores = jax.nn.sigmoid(logits_BTE) if r.scoring == "sigmoid" else jax.nn.softmax(logits_BTE)
    share = scores / (jnp.sum(scores, axis=-1, keepdims=True) + 1e-20)
    valid = valid_BT.astype(jnp.float32)
    tokens_B1 = jnp.maximum(jnp.sum(valid, axis=1), 1.0)[:, None]
    best_BTK = jax.lax.top_k(logits_BTE, r.active)[1]
    chosen = jnp.sum(jax.nn.one_hot(best_BTK, r.experts), axis=2)
    f_BE = jnp.einsum("bte,bt->be", chosen, valid) / tokens_B1
    p_BE = jnp.einsum("bte,bt->be", share, valid) / tokens_B1
    return jnp.sum(f_BE * (r.experts / r.active) * p_BE, axis=-1)


def updated_bias(bias_LE: jax.Array, load_LE: jax.Array, rate: float) -> jax.Array:
    """Auxiliary-loss-free balancing: overloaded experts become less likely, by `rate` a step
    (DeepSeek-V3, section 2.1.2)."""
    load = load_LE.astype(jnp.float32)
    return bias_LE + rate * jnp.sign(jnp.mean(load, axis=-1, keepdims=True) - load)
