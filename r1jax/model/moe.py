"""Mixture of experts with truly sharded, dropless experts (DeepSeek-V3, section 2.1.2).

Every device owns E / (expert axis) experts for good. How a device multiplies (`experts`) and how
tokens reach the device of an expert (`travel`) are two choices of the configuration, and none of
them changes what is computed: no capacity limit, no dropped token.

B batch  T time  N = B T tokens on a device  D d_model  E experts  K experts a token
F expert FFN width
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.architecture import ModelConfig, RouterConfig
from r1jax.checks import check
from r1jax.kernels.routing import route
from r1jax.model import experts as multiplying
from r1jax.model import travel as travelling
from r1jax.model.matrices import dense, swiglu
from r1jax.model.params import MoE
from r1jax.sharding import AXES, CONTEXT, EXPERT, RULES, current_mesh, rows_over


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

    mesh = current_mesh()
    if mesh is not None:
        b, e, over = x_BTD.shape[0], cfg.router.experts, mesh.shape[EXPERT]
        by = rows_over(mesh)
        check(b % by == 0, f"--mesh: a batch of {b} does not divide over {by} devices")
        check(e % over == 0, f"--mesh: RouterConfig.experts={e} does not divide over its {over}")
        rows, tokens = P(RULES["batch"]), P(RULES["batch"], RULES["time"])
        # check_vma: the kernels of others do not say over which axes their outputs vary.
        local = jax.shard_map(
            functools.partial(local, mesh=mesh),
            in_specs=(tokens, tokens, tokens, P(), (P(EXPERT), P(EXPERT), P(EXPERT)), tokens),
            out_specs=(tokens, (P(), rows, tokens, tokens)),
            check_vma=False,
        )
    routed_BTD, stats = local(x_BTD, logits_BTE, valid_BT, bias_E, experts, given_BTK)
    out = routed_BTD if p.shared is None else routed_BTD + swiglu(x_BTD, p.shared)
    return out, RouterStats(*stats)


def _routed(x_BTD, logits_BTE, valid_BT, bias_E, experts, given_BTK, *, cfg, mesh=None):
    """The routed part, as one device sees it, of a mesh or alone. Returns (out_BTD, the fields of
    RouterStats)."""
    b, t, d = x_BTD.shape
    x_ND = x_BTD.reshape(b * t, d)
    given_NK = None if given_BTK is None else given_BTK.reshape(b * t, -1)
    logits_NE = logits_BTE.reshape(b * t, -1)
    routing = route(logits_NE, bias_E, valid_BT.reshape(-1), cfg.router, given_NK)
    args = x_ND, routing.gates_NK, routing.experts_NK, experts
    multiply, load_E = multiplying.of(cfg), routing.load_E
    if mesh is None:
        out_ND = multiply(*args, routing.experts_NK.size)
    else:
        out_ND = travelling.of(cfg, mesh)(*args, multiply)
        # Global counts: a sign taken of each device's own would let the biases drift apart.
        load_E = jax.lax.psum(load_E, AXES)
    stats = (
        load_E,
        _balance_loss(logits_BTE, valid_BT, cfg.router, (CONTEXT,) if mesh else ()),
        routing.experts_NK.reshape(b, t, -1),
        None if routing.differs_N is None else routing.differs_N.reshape(b, t),
    )
    return out_ND.reshape(b, t, d), stats


def _balance_loss(logits_BTE, valid_BT, r: RouterConfig, apart: tuple[str, ...]) -> jax.Array:
    """DeepSeek-V3 eq. 17-20: sum over experts of f_i P_i, a row. f carries no gradient. apart: mesh
    axes that a row's tokens are split over.

    As printed there, f counts the best of the bare scores: no selection bias, no group limit.
    """
    scores = jax.nn.sigmoid(logits_BTE) if r.scoring == "sigmoid" else jax.nn.softmax(logits_BTE)
    share = scores / (jnp.sum(scores, axis=-1, keepdims=True) + 1e-20)
    valid = valid_BT.astype(jnp.float32)

    def of_row(x):
        return jax.lax.psum(x, apart) if apart else x

    tokens_B1 = jnp.maximum(of_row(jnp.sum(valid, axis=1)), 1.0)[:, None]
    best_BTK = jax.lax.top_k(logits_BTE, r.active)[1]
    chosen = jnp.sum(jax.nn.one_hot(best_BTK, r.experts), axis=2)
    f_BE = of_row(jnp.einsum("bte,bt->be", chosen, valid)) / tokens_B1
    p_BE = of_row(jnp.einsum("bte,bt->be", share, valid)) / tokens_B1
    return jnp.sum(f_BE * (r.experts / r.active) * p_BE, axis=-1)


def updated_bias(bias_LE: jax.Array, load_LE: jax.Array, rate: float) -> jax.Array:
    """Auxiliary-loss-free balancing: overloaded experts become less likely, by `rate` a step
    (DeepSeek-V3, section 2.1.2)."""
    load = load_LE.astype(jnp.float32)
    return bias_LE + rate * jnp.sign(jnp.mean(load, axis=-1, keepdims=True) - load)
