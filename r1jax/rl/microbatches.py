"""What is computed of packed rows, a micro-batch at a time: only of those that hold a reply.

M updates  A micro-batches  B rows at once  T tokens
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax import optim, sharding
from r1jax.config import OptimConfig
from r1jax.model.moe import RouterStats
from r1jax.rl.types import Rollout, Rows


def accumulate(params, specs, rows_AB, filled, loss_fn):
    """Gradient, loss, metric sums and expert loads of one update, over its micro-batches, of
    `loss_fn(params, micro-batch) -> (loss, (sums, load_LE))`. The sum is float32, whatever the
    parameters are: small parts would be lost in a bfloat16 one. It lies where the parameters do
    (`specs`), so that a mesh reduces and scatters what each micro-batch adds."""

    def micro(rows):
        (loss, (sums, load_LE)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, rows)
        return sharding.constrain_like(optim.float32(grads), specs), loss, sums, load_LE

    def add(so_far, rows, _):
        return jax.tree.map(jnp.add, so_far, micro(rows))

    shapes = jax.eval_shape(micro, jax.tree.map(lambda a: a[0], rows_AB))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return _over_filled(rows_AB, filled, add, zeros)


def score(rollout: Rollout, of_rows: Callable[[Rows], jax.Array]) -> jax.Array:
    """float32 [M, A, B, T]: what `of_rows` says of all tokens; 0 of micro-batches without any."""

    def of_update(_, xs):
        rows_AB, filled = xs

        def write(found_ABT, rows, number):
            return jax.lax.dynamic_update_index_in_dim(found_ABT, of_rows(rows), number, 0)

        start = jnp.zeros(rows_AB.tokens_BT.shape, jnp.float32)
        return None, _over_filled(rows_AB, filled, write, start)

    return jax.lax.scan(of_update, None, (rollout.rows, rollout.filled_M))[1]


def with_balance(loss, stats: RouterStats | None, rows: Rows, share, cfg: OptimConfig):
    """A micro-batch's loss, and V3's sequence-wise balance loss (arXiv 2412.19437, eq. 17): taken
    of rows, each of as many sequences as were packed into it, and weighed by its tokens, of which
    an update has 1 / `share`. And the tokens of each expert."""
    if stats is None:
        return loss, None
    tokens_B = jnp.sum(rows.segments_BT > 0, axis=1)
    balance = jnp.sum(jnp.sum(stats.balance_B, axis=0) * tokens_B) * share  # over layers and rows
    return loss + cfg.balance_alpha * balance, stats.load_E


def _over_filled(rows_AB, filled, add, start):
    """start, with `add(total, rows, number)` of each micro-batch that holds a reply."""

    def body(i, so_far):
        rows = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), rows_AB)
        rows = jax.tree.map(
            lambda a: sharding.constrain(a, "batch", "time", *(None,) * (a.ndim - 2)), rows
        )
        return add(so_far, rows, i)

    return jax.lax.fori_loop(0, filled, body, start)
