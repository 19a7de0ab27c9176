"""Which experts each token goes to, and with what weight (DeepSeek-V3 2412.19437, section 2.1.2).

Three functions of one signature: `route_reference` is the obviously right one in plain jnp,
`route_pallas` the TPU kernel, and `route` takes the kernel where the program is compiled for TPU
and the reference elsewhere.

N tokens, E experts, K experts chosen a token, G groups of S = E / G experts, T tokens a block.
The kernels put tokens on the lanes (the last axis) and experts before them: then every reduction
over experts is elementwise between registers, splitting E into G and S moves no data, and the
narrow outputs are stored as (K, N) rather than (N, K) with K padded to 128 lanes.

Experts may be given, as a sampler recorded them (routing replay: Group Sequence Policy
Optimization, arXiv 2507.18071; of the rollout, arXiv 2510.11370). They take the place of the choice
alone: gates are still of the token's own scores, and carry gradients as ever.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.experimental import pallas as pl

from r1jax.architecture import RouterConfig

BLOCK = 256  # tokens a grid step: 256 KiB of scores at V3's 256 experts
# Keeps renormalised gates finite when every chosen score underflows. DeepSeek's code has 1e-20,
# of which float32 cannot hold the squared inverse that is in the gradient.
EPSILON = 1e-18


class Routing(struct.PyTreeNode):
    """Each token's experts, by descending biased score or as they were given, and how many tokens
    each expert got."""

    gates_NK: jax.Array  # float32
    experts_NK: jax.Array  # int32
    load_E: jax.Array  # int32, so exact at any batch size; counts valid tokens only
    #: Where experts may be given: bool, whether the token itself would have chosen others.
    differs_N: jax.Array | None = None


def route(logits_NE, bias_E, valid_N, cfg: RouterConfig, given_NK=None) -> Routing:
    """`route_pallas` on TPU, `route_reference` elsewhere; what is computed is told there.

    The choice falls when the program is lowered, not when it is traced, so compiling ahead of
    time for a TPU topology on a CPU host takes the kernels too. Where tokens are sharded, call it
    inside a shard_map (XLA does not partition kernels) and sum `load_E` over the mesh.
    """

    def reference(logits_NE, bias_E, valid_N, given_NK):
        return route_reference(logits_NE, bias_E, valid_N, cfg, given_NK)

    forward = partial(
        jax.lax.platform_dependent,
        tpu=partial(_forward_pallas, cfg=cfg),
        default=reference,
    )
    backward = partial(
        jax.lax.platform_dependent,
        tpu=partial(_backward_pallas, cfg=cfg),
        default=partial(_backward_reference, cfg=cfg),
    )
    return _with_gradient(forward, backward)(logits_NE, bias_E, valid_N, given_NK)


def route_reference(logits_NE, bias_E, valid_N, cfg: RouterConfig, given_NK=None) -> Routing:
    """The routing pass of DeepSeek-V3 (sigmoid scores) and V2 (softmax), one step a line.

    A token takes the experts of highest score + bias among those of its cfg.group_limit best
    groups; its gates are the scores without the bias. A group is worth the sum of its two best
    biased scores in V3 (`noaux_tc`) and its best one in V2 (`group_limited_greedy`). Of equals
    the first wins.

    Args:
      logits_NE: any float type, scored in float32. Gradients reach it through the gates alone.
      bias_E: the load-balancing bias; the training step moves it, so it gets no gradient.
      valid_N: bool, false where a token is padding, which `load_E` leaves out.
      given_NK: int32, experts to be taken instead; a token whose first one is -1 chooses itself.
    """
    scores_NE = _scores(logits_NE.astype(jnp.float32), cfg, axis=1)
    biased_NE = jax.lax.stop_gradient(scores_NE + bias_E.astype(jnp.float32)[None, :])
    biased_NGS = biased_NE.reshape(-1, cfg.groups, cfg.experts // cfg.groups)
    group_NG = jax.lax.top_k(biased_NGS, _best_per_group(cfg))[0].sum(axis=2)
    kept_NL = jax.lax.top_k(group_NG, cfg.group_limit)[1]
    kept_NG = jax.nn.one_hot(kept_NL, cfg.groups, dtype=jnp.bool_).any(axis=1)
    # -inf, not 0: where biases are negative, a 0 would beat the experts of the groups kept.
    masked_NGS = jnp.where(kept_NG[:, :, None], biased_NGS, -jnp.inf)
    experts_NK = jax.lax.top_k(masked_NGS.reshape(biased_NE.shape), cfg.active)[1]
    differs_N = None
    if given_NK is not None:
        own_NK, experts_NK = experts_NK, jnp.where(given_NK[:, :1] < 0, experts_NK, given_NK)
        differs_N = jnp.any(jnp.sort(own_NK, axis=1) != jnp.sort(experts_NK, axis=1), axis=1)

    valid_NK = jnp.broadcast_to(valid_N[:, None], experts_NK.shape)
    load_E = jnp.zeros(cfg.experts, jnp.int32).at[experts_NK].add(valid_NK.astype(jnp.int32))
    return Routing(_gates(scores_NE, experts_NK, cfg), experts_NK, load_E, differs_N)


def route_pallas(
    logits_NE,
    bias_E,
    valid_N,
    cfg: RouterConfig,
    given_NK=None,
    *,
    block: int = BLOCK,
    interpret: bool = False,
) -> Routing:
    """`route_reference` as one pass over the logits on TPU, and one more for the gradient.

    Args:
      block: tokens a grid step, a multiple of 128.
      interpret: run the kernels as ordinary JAX, on any device; for tests.
    """
    options: dict[str, Any] = {"cfg": cfg, "block": block, "interpret": interpret}
    forward, backward = partial(_forward_pallas, **options), partial(_backward_pallas, **options)
    return _with_gradient(forward, backward)(logits_NE, bias_E, valid_N, given_NK)


def _with_gradient(forward, backward):
    """`forward`, whose gates pull back to the logits by backward(logits, experts, d_gates)."""

    @jax.custom_vjp
    def differentiable(logits_NE, *others):
        return forward(logits_NE, *others)

    def save(logits_NE, *others):
        routing = forward(logits_NE, *others)
        return routing, (logits_NE, routing.experts_NK)

    def pull_back(saved, d_routing):
        return backward(*saved, d_routing.gates_NK), None, None, None

    differentiable.defvjp(save, pull_back)
    return lambda logits_NE, bias_E, *others: differentiable(
        *_varying_alike(logits_NE.astype(jnp.float32), bias_E.astype(jnp.float32), *others)
    )


def _varying_alike(*arrays):
    """Marks arrays as varying over the mesh axes that any of them varies over.

    Inside a shard_map that checks this, a kernel must declare it for its outputs, and both
    backends of `route` must agree: with inputs alike, outputs are like any input.
    """

    def varying(x):
        return jax.typeof(x).manual_axis_type.varying

    axes = frozenset[str]().union(*map(varying, jax.tree.leaves(arrays)))
    return jax.tree.map(lambda x: jax.lax.pcast(x, tuple(axes - varying(x)), to="varying"), arrays)


def _scores(logits, cfg: RouterConfig, axis: int | tuple[int, ...]):
    return jax.nn.sigmoid(logits) if cfg.scoring == "sigmoid" else jax.nn.softmax(logits, axis)


def _best_per_group(cfg: RouterConfig) -> int:
    """How many of a group's best experts its score sums."""
    return min(2, cfg.experts // cfg.groups) if cfg.scoring == "sigmoid" else 1


def _gates(scores_NE, experts_NK, cfg: RouterConfig):
    gates_NK = jnp.take_along_axis(scores_NE, experts_NK, axis=1)
    if cfg.renormalize:
        gates_NK /= gates_NK.sum(axis=1, keepdims=True) + EPSILON
    return gates_NK * cfg.scale


def _backward_reference(logits_NE, experts_NK, d_gates_NK, cfg: RouterConfig):
    def gates_of(logits_NE):
        return _gates(_scores(logits_NE, cfg, axis=1), experts_NK, cfg)

    return jax.vjp(gates_of, logits_NE)[1](d_gates_NK)[0]


def _forward_pallas(
    logits_NE, bias_E, valid_N, given_NK, cfg, block=BLOCK, interpret=False
) -> Routing:
    N = len(logits_NE)
    G, S, K = cfg.groups, cfg.experts // cfg.groups, cfg.active
    steps = pl.cdiv(N, block)
    # The last block may reach past N, where the logits are undefined: `valid` hides them.
    valid_1N = jnp.pad(valid_N.astype(jnp.float32), (0, steps * block - N))[None, :]
    tokens_KT = pl.BlockSpec((K, block), lambda i: (0, i))
    tokens_1T = pl.BlockSpec((1, block), lambda i: (0, i))
    given = [] if given_NK is None else [given_NK.T]
    gates_KN, experts_KN, load_GS1, *differs_1N = pl.pallas_call(
        partial(_forward_kernel, cfg=cfg, given=bool(given)),
        grid=(steps,),
        in_specs=[
            pl.BlockSpec((G, S, block), lambda i: (0, 0, i)),
            pl.BlockSpec((G, S, 1), lambda i: (0, 0, 0)),
            tokens_1T,
            *[tokens_KT for _ in given],
        ],
        out_specs=[
            tokens_KT,
            tokens_KT,
            pl.BlockSpec((G, S, 1), lambda i: (0, 0, 0)),  # one block, summed into at each step
            *[tokens_1T for _ in given],
        ],
        out_shape=[
            _like(logits_NE, (K, N), jnp.float32),
            _like(logits_NE, (K, N), jnp.int32),
            _like(logits_NE, (G, S, 1), jnp.int32),
            *[_like(logits_NE, (1, N), jnp.int32) for _ in given],
        ],
        interpret=interpret,
        name="route",
    )(logits_NE.T.reshape(G, S, N), bias_E.reshape(G, S, 1), valid_1N, *given)
    differs_N = differs_1N[0][0] > 0 if given else None
    return Routing(gates_KN.T, experts_KN.T, load_GS1.reshape(-1), differs_N)


def _forward_kernel(logits_GST, bias_GS1, valid_1T, *refs, cfg: RouterConfig, given: bool):
    """refs: given_KT if experts are given; then the outputs."""
    given_KT, differs_1T = (refs[0], refs[-1]) if given else (None, None)
    gates_KT, experts_KT, load_GS1 = refs[given : given + 3]
    scores_GST = _scores(logits_GST[...], cfg, axis=(0, 1))
    biased_GST = scores_GST + bias_GS1[...]
    if cfg.group_limit < cfg.groups:
        biased_GST += jnp.where(_group_rank(biased_GST, cfg) < cfg.group_limit, 0.0, -jnp.inf)

    index_GST = _expert_index(scores_GST.shape)
    chosen_GST = own_GST = jnp.zeros_like(scores_GST)
    gates_11T = []
    for k in range(cfg.active):
        expert_11T = _first_largest(biased_GST, index_GST, axis=(0, 1))
        hit_GST = index_GST == expert_11T
        biased_GST = jnp.where(hit_GST, -jnp.inf, biased_GST)
        if given_KT is not None:
            own_GST += hit_GST.astype(jnp.float32)
            given_11T = given_KT[k : k + 1, :][None]
            expert_11T = jnp.where(given_KT[:1, :][None] < 0, expert_11T, given_11T)
            hit_GST = index_GST == expert_11T
        experts_KT[k : k + 1, :] = expert_11T[0]
        gates_11T.append(jnp.where(hit_GST, scores_GST, 0.0).sum(axis=(0, 1), keepdims=True))
        chosen_GST += hit_GST.astype(jnp.float32)
    if differs_1T is not None:
        apart_GST = jnp.abs(chosen_GST - own_GST)
        differs_1T[...] = apart_GST.max(axis=(0, 1), keepdims=True)[0].astype(jnp.int32)

    total_11T = sum(gates_11T) + EPSILON if cfg.renormalize else 1.0
    for k, gate_11T in enumerate(gates_11T):
        gates_KT[k : k + 1, :] = (gate_11T / total_11T * cfg.scale)[0]

    @pl.when(pl.program_id(0) == 0)
    def _():
        load_GS1[...] = jnp.zeros_like(load_GS1)

    # A float sum, which a block's few hundred tokens keep exact, added up over blocks as integers.
    load_GS1[...] += (chosen_GST * valid_1T[...][None]).sum(axis=2, keepdims=True).astype(jnp.int32)


def _group_rank(biased_GST, cfg: RouterConfig):
    """Each group's place (G, 1, T) by score, 0 for the best: the number of groups ahead of it."""
    score_G1T = biased_GST.max(axis=1, keepdims=True)
    if _best_per_group(cfg) == 2:
        index_GST = jax.lax.broadcasted_iota(jnp.int32, biased_GST.shape, 1)
        first_G1T = _first_largest(biased_GST, index_GST, axis=(1,))
        others_GST = jnp.where(index_GST == first_G1T, -jnp.inf, biased_GST)
        score_G1T += others_GST.max(axis=1, keepdims=True)
    group_G1T = jax.lax.broadcasted_iota(jnp.int32, score_G1T.shape, 0)
    rank_G1T = jnp.zeros_like(group_G1T)
    for g in range(cfg.groups):
        rival_11T = score_G1T[g : g + 1]
        ahead_G1T = (rival_11T > score_G1T) | ((rival_11T == score_G1T) & (g < group_G1T))
        rank_G1T += ahead_G1T.astype(jnp.int32)
    return rank_G1T


def _first_largest(x, index, axis):
    """The index along axis (kept, as 1) of the first of the largest x.

    In range even where x is NaN: a diverged run must end in a NaN loss, not in a kernel that
    reads out of bounds.
    """
    last = math.prod(x.shape[a] for a in axis) - 1
    is_largest = x == x.max(axis=axis, keepdims=True)
    return jnp.where(is_largest, index, last).min(axis=axis, keepdims=True)


def _expert_index(shape_GST):
    group_GST, place_GST = (jax.lax.broadcasted_iota(jnp.int32, shape_GST, i) for i in (0, 1))
    return group_GST * shape_GST[1] + place_GST


def _backward_pallas(logits_NE, experts_NK, d_gates_NK, cfg, block=BLOCK, interpret=False):
    N = len(logits_NE)
    G, S, K = cfg.groups, cfg.experts // cfg.groups, cfg.active
    tokens_GST = pl.BlockSpec((G, S, block), lambda i: (0, 0, i))
    tokens_KT = pl.BlockSpec((K, block), lambda i: (0, i))
    d_logits_GSN = pl.pallas_call(
        partial(_backward_kernel, cfg=cfg),
        grid=(pl.cdiv(N, block),),
        in_specs=[tokens_GST, tokens_KT, tokens_KT],
        out_specs=tokens_GST,
        out_shape=_like(logits_NE, (G, S, N), jnp.float32),
        interpret=interpret,
        name="route_backward",
    )(logits_NE.T.reshape(G, S, N), experts_NK.T, d_gates_NK.T)
    return d_logits_GSN.reshape(G * S, N).T


def _backward_kernel(logits_GST, experts_KT, d_gates_KT, d_logits_GST, *, cfg: RouterConfig):
    """With p the scores, D the sum of the chosen: dp = (dg - sum(dg p) / D) / D on the chosen."""
    scores_GST = _scores(logits_GST[...], cfg, axis=(0, 1))
    index_GST = _expert_index(scores_GST.shape)
    chosen_GST = d_scores_GST = jnp.zeros_like(scores_GST)
    for k in range(cfg.active):
        hit_GST = index_GST == experts_KT[k : k + 1, :][None]
        chosen_GST += hit_GST.astype(jnp.float32)
        d_scores_GST = jnp.where(hit_GST, d_gates_KT[k : k + 1, :][None], d_scores_GST)
    d_scores_GST *= cfg.scale

    over_experts = partial(jnp.sum, axis=(0, 1), keepdims=True)
    if cfg.renormalize:
        total_11T = over_experts(chosen_GST * scores_GST) + EPSILON
        shared_11T = over_experts(d_scores_GST * scores_GST) / total_11T
        d_scores_GST = chosen_GST * (d_scores_GST - shared_11T) / total_11T
    if cfg.scoring == "softmax":
        d_logits_GST[...] = scores_GST * (d_scores_GST - over_experts(d_scores_GST * scores_GST))
    else:
        d_logits_GST[...] = d_scores_GST * scores_GST * (1.0 - scores_GST)


def _like(x, shape, dtype):
    """An output's type, varying over the mesh axes that x varies over (see _varying_alike)."""
    varying = jax.typeof(x).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying)
