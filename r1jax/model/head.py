"""From hidden states to logits, and to the log-probabilities of given tokens.

B batch  T time  D d_model  V vocabulary  M rows of several devices
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P

from r1jax.architecture import ModelConfig
from r1jax.model.layers import rms_norm
from r1jax.model.matrices import Matrix, dense, multiply32, transposed
from r1jax.model.params import Params
from r1jax.sharding import CONTEXT, RULES, current_mesh, partition, rows_over


def unembed(params: Params, hidden: jax.Array, cfg: ModelConfig) -> jax.Array:
    """Final norm and head: [..., D] -> logits [..., V], float32 in their sums and as they are."""
    return _logits(_head(params), params.norm_D, hidden, cfg)


def log_probs(
    params: Params,
    hidden_BTD: jax.Array,
    targets_BT: jax.Array,
    cfg: ModelConfig,
    temperature: jax.Array | float = 1.0,
    norm: jax.Array | None = None,
    bias_V: jax.Array | np.ndarray | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target, and the entropy it was drawn from, both [B, T] in nats.

    The distribution is softmax((logits + bias) / temperature) over the whole vocabulary. Logits
    are made of cfg.logits_chunk tokens of a row at a time, and again for the gradient.

    On a mesh the vocabulary stays split over its axis, among whose devices tokens are gathered
    instead, as they are among experts; over the other axes the head is gathered once for all
    chunks, and its gradient reduced and scattered once. Chunks are of a device's part of a row.
    """
    chex.assert_equal_shape_prefix([hidden_BTD, targets_BT], 2)
    head_DV, norm_D = _head(params), params.norm_D if norm is None else norm
    bias_V = jnp.zeros(cfg.vocab) if bias_V is None else jnp.asarray(bias_V)
    args = head_DV, norm_D, bias_V, hidden_BTD, targets_BT

    mesh = current_mesh()
    if mesh is None or len(targets_BT) % rows_over(mesh):
        return _chunked(*args, cfg, temperature, ())
    if isinstance(head_DV, Matrix):
        head_DV = dense(head_DV, hidden_BTD.dtype)
        args = head_DV, *args[1:]
    (t, apart), over = (targets_BT.shape[1], mesh.shape[CONTEXT]), (*RULES["batch"], *RULES["time"])
    if more := -t % apart:
        hidden_BTD = jnp.pad(hidden_BTD, ((0, 0), (0, more), (0, 0)))
        targets_BT = jnp.pad(targets_BT, ((0, 0), (0, more)))
    lies = partition(head_DV.shape, ("embed", "vocab"), mesh)
    embed, vocab = (() if a is None else (a,) if isinstance(a, str) else a for a in lies)

    def on_device(head_DV, norm_D, bias_V, hidden_BTD, targets_BT):
        head = _gathered(head_DV, embed, hidden_BTD.dtype)
        # Sums over devices, of the gradients of what they share, are made here and not in a loop.
        own = (
            _own(head, over, (*embed, *vocab)),
            _own(norm_D, over, ()),
            _own(bias_V, over, vocab),
        )
        return _chunked(*own, hidden_BTD, targets_BT, cfg, temperature, vocab)

    rows, none = P(RULES["batch"], RULES["time"]), P()
    specs = lies, none, P(vocab), rows, rows
    scored = jax.shard_map(on_device, in_specs=specs, out_specs=(rows, rows))
    logp, entropy = scored(head_DV, norm_D, bias_V, hidden_BTD, targets_BT)
    return (logp[:, :t], entropy[:, :t]) if more else (logp, entropy)


def _head(params: Params) -> jax.Array:
    return transposed(params.embed_VD) if params.head_DV is None else params.head_DV


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(head_DV: jax.Array, axes: tuple[str, ...], dtype) -> jax.Array:
    """All of d_model: sent in the type that is multiplied, which is half the bytes of masters in
    float32. The gradient is summed in theirs, over chunks and devices. (In bfloat16, libtpu 0.0.42
    does not survive its being added up over micro-batches.)"""
    sent = jax.lax.all_gather(head_DV.astype(dtype), axes, axis=0, tiled=True)
    return sent.astype(head_DV.dtype)


_gathered.defvjp(
    lambda head_DV, axes, dtype: (_gathered(head_DV, axes, dtype), None),
    lambda axes, dtype, _, d: (
        jax.lax.psum_scatter(d, axes, scatter_dimension=0, tiled=True) if axes else d,
    ),
)


def _own(x: jax.Array, over: tuple[str, ...], already: tuple[str, ...]) -> jax.Array:
    """Typed as each device's own over all axes, where it is so over some."""
    missing = tuple(name for name in over if name not in already)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def _chunked(head_DV, norm_D, bias_V, hidden_BTD, targets_BT, cfg, temperature, across):
    """Of a device's rows, and its part of a vocabulary that is split over the axes `across`."""
    score = functools.partial(_scored, head_DV, norm_D, bias_V, cfg, temperature, across)
    t, size = hidden_BTD.shape[1], cfg.logits_chunk
    if size == 0 or t <= size:
        return score(hidden_BTD, targets_BT)
    n = -(-t // size)
    pad = n * size - t
    hidden = jnp.pad(hidden_BTD, ((0, 0), (0, pad), (0, 0)))
    targets = jnp.pad(targets_BT, ((0, 0), (0, pad)))
    chunks = tuple(rearrange(a, "b (n s) ... -> n b s ...", n=n) for a in (hidden, targets))
    logp, entropy = jax.lax.map(lambda xs: jax.checkpoint(score)(*xs), chunks)
    logp, entropy = (rearrange(a, "n b s -> b (n s)")[:, :t] for a in (logp, entropy))
    return logp, entropy


def _scored(head_DV, norm_D, bias_V, cfg, temperature, across, hidden, targets):
    """M rows, those of all devices that share the vocabulary, by this one's V tokens."""
    first = 0
    if across:
        hidden, targets = (jax.lax.all_gather(a, across, tiled=True) for a in (hidden, targets))
        first = jax.lax.axis_index(across) * bias_V.size
    logits_MTV = (_logits(head_DV, norm_D, hidden, cfg) + bias_V[None, None]) / temperature
    largest = jax.lax.stop_gradient(jnp.max(logits_MTV, axis=-1, keepdims=True))
    largest = jax.lax.pmax(largest, across) if across else largest
    logits_MTV = logits_MTV - largest
    token_V = first + jnp.arange(bias_V.size)
    is_target = targets[..., None] == token_V[None, None]
    weight = jnp.exp(logits_MTV)
    sums = (
        jnp.sum(weight, axis=-1),
        jnp.sum(weight * logits_MTV, axis=-1),
        jnp.sum(jnp.where(is_target, logits_MTV, 0.0), axis=-1),
    )
    if across:  # each device's own rows
        sums = tuple(jax.lax.psum_scatter(a, across, tiled=True) for a in sums)
    total, weighted, target = sums
    return target - jnp.log(total), jnp.log(total) - weighted / total


def _logits(head_DV, norm_D, hidden, cfg: ModelConfig) -> jax.Array:
    h = rms_norm(hidden, norm_D, cfg.norm_eps)
    return multiply32(h, head_DV)
