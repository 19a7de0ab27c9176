"""The optimizer and the state it trains, born sharded."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from r1jax import sharding
from r1jax.architecture import ModelConfig
from r1jax.config import OptimConfig
from r1jax.model.adapters import adapters_of, has_adapters, joined
from r1jax.model.moe import updated_bias
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import array_dtype, keep_weights, kept_specs

BY_LAYER = "grad_norm/"  # begins the names of `norms_by_layer` among the metrics of an update
STACKS = ("dense", "moe")  # of parameters


class TrainState(flax.struct.PyTreeNode):
    """The router's balance bias is part of `weights`, but not under the optimizer."""

    weights: Any  # Weights, or another node with `params` and `router_bias_LE` (RewardWeights)
    opt_state: Any
    step: Any  # scalar: updates made so far


def schedule(cfg: OptimConfig) -> optax.Schedule:
    """What a step's learning rate is of cfg.lr, by the updates made so far."""
    warm = optax.linear_schedule(0.0, 1.0, cfg.warmup)
    if cfg.schedule == "constant":
        after = optax.constant_schedule(1.0)
    else:
        after = optax.cosine_decay_schedule(1.0, cfg.steps - cfg.warmup, cfg.final)
    # Warm-up counts from 1: an update with rate 0 would be a step wasted.
    joined = optax.join_schedules([warm, after], [cfg.warmup])
    return (lambda count: joined(count + 1)) if cfg.warmup else after


def make_optimizer(cfg: OptimConfig) -> optax.GradientTransformation:
    """AdamW, but for the learning rate: `update` multiplies by it, so that it can be traced."""
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        _adam(cfg),
        optax.add_decayed_weights(cfg.weight_decay, _matrices),
    )


def _adam(cfg: OptimConfig) -> optax.GradientTransformation:
    """With moments that are kept in cfg.moments."""
    adam = optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2)
    if cfg.moments == "float32":
        return adam

    def cast(state, dtype):
        mu, nu = (jax.tree.map(lambda a: a.astype(dtype), m) for m in (state.mu, state.nu))
        return state._replace(mu=mu, nu=nu)

    def update(grads, state, params=None):
        updates, state = adam.update(grads, cast(state, jnp.float32), params)
        return updates, cast(state, cfg.moments)

    return optax.GradientTransformation(lambda params: cast(adam.init(params), cfg.moments), update)


def _matrices(params):
    """Weight decay pulls matrices, not norm scales and biases (which may carry a layer axis)."""

    def is_matrix(path, _) -> bool:
        return not any(kind in str(path[-1]) for kind in ("norm", "bias"))

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def float32(tree):
    """Gradients and their sums are float32 whatever the parameters are: bfloat16 would lose what
    is added to them, a hundredth of it at a time."""
    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


def trained(params, mtp: bool):
    """The parameters that an update moves, and that have moments: all, or, as in RL, all but those
    of the MTP modules, which it does not run; or adapters alone, where there are any."""
    if has_adapters(params):
        return adapters_of(params)
    return params if mtp else params.replace(mtp=())


def whole(part, params, mtp: bool):
    """All parameters: of those that are `trained` these, of the others those of `params`."""
    if has_adapters(params):
        return joined(part, params)
    return part if mtp else part.replace(mtp=params.mtp)


def state_shardings(
    model: ModelConfig, cfg: OptimConfig, mesh: Mesh, mtp: bool = True
) -> TrainState:
    """Where each array of a TrainState lives: moments beside their parameters."""
    return shardings_around(kept_specs(model), cfg, mesh, mtp)


def shardings_around(specs, cfg: OptimConfig, mesh: Mesh, mtp: bool = True) -> TrainState:
    """As `state_shardings`, for weights declared by `specs`."""
    placed = sharding.shardings(specs, mesh)
    tx = make_optimizer(cfg)
    opt_state = optax.tree_utils.tree_map_params(
        tx,
        lambda _, where: where,
        jax.eval_shape(tx.init, trained(sharding.abstract(specs.params), mtp)),
        trained(placed.params, mtp),
        transform_non_params=lambda _: sharding.replicated(mesh),
    )
    return TrainState(weights=placed, opt_state=opt_state, step=sharding.replicated(mesh))


def new_state(weights, cfg: OptimConfig, mtp: bool = True) -> TrainState:
    """A state at step 0 around given weights."""
    opt_state = make_optimizer(cfg).init(float32(trained(weights.params, mtp)))
    return TrainState(weights=weights, opt_state=opt_state, step=jnp.zeros((), jnp.int32))


def state_around(weights: Weights, model: ModelConfig, cfg: OptimConfig, mesh: Mesh) -> TrainState:
    """A state at step 0, on the mesh, around weights that must not be used again, in the types
    that the model declares."""
    placed, frozen = state_shardings(model, cfg, mesh), dataclasses.replace(model, lora=None)
    if model.lora is not None:
        weights = keep_weights(weights, frozen)
    create = jax.jit(
        lambda weights: new_state(keep_weights(weights, model), cfg),
        out_shardings=placed,
        donate_argnums=0,
    )
    return create(sharding.place(weights, sharding.shardings(kept_specs(frozen), mesh)))


def init_state(model: ModelConfig, cfg: OptimConfig, mesh: Mesh, key: jax.Array) -> TrainState:
    """A random model with its moments, each array created on the devices that hold it."""

    def create(key):
        return new_state(init_weights(model, key), cfg)

    return jax.jit(create, out_shardings=state_shardings(model, cfg, mesh))(key)


def random_weights(model: ModelConfig, mesh: Mesh, key: jax.Array) -> Weights:
    """A random model, born sharded."""
    placed = sharding.shardings(kept_specs(model), mesh)
    return jax.jit(lambda key: init_weights(model, key), out_shardings=placed)(key)


def init_weights(model: ModelConfig, key: jax.Array) -> Weights:
    return keep_weights(init_specs(weight_specs(model), model, key), model)


def init_specs(specs, model: ModelConfig, key: jax.Array):
    weights = sharding.init(specs, key, array_dtype(model))
    if weights.router_bias_LE is None:
        return weights
    # The bias moves by 0.001 a step: bfloat16 would lose that.
    return weights.replace(router_bias_LE=weights.router_bias_LE.astype(jnp.float32))


def to_save(state: TrainState) -> TrainState:
    """What a checkpoint has of a state: of weights with adapters these alone, since the frozen ones
    are where the run began."""
    if not has_adapters(state.weights.params):
        return state
    part = Weights(adapters_of(state.weights.params), None)
    return state.replace(weights=part)


def as_saved(saved: TrainState, begin: Callable[[], TrainState]) -> TrainState:
    """The state of which a checkpoint has what `to_save` says; the frozen weights are those that
    `begin()` has."""
    if not has_adapters(saved.weights.params):
        return saved
    weights = begin().weights
    params = joined(saved.weights.params, weights.params)
    return saved.replace(weights=weights.replace(params=params))


def descend(
    state: TrainState, loss_fn: Callable[[Any], tuple[jax.Array, tuple]], cfg: OptimConfig
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update along the gradient of `loss_fn(weights) -> (loss, (metrics, load_LE or None))`."""

    params = state.weights.params

    def of_part(part):
        return loss_fn(state.weights.replace(params=whole(part, params, mtp=True)))

    (loss, (metrics, load_LE)), grads = jax.value_and_grad(of_part, has_aux=True)(
        trained(params, mtp=True)
    )
    state, update_metrics = update(state, grads, load_LE, cfg)
    return state, {"loss": loss, **metrics, **update_metrics}


def norms_by_layer(grads) -> dict[str, jax.Array]:
    """The L2 norm of each part of a model, by its name, such as grad_norm/embed_VD; of `dense` and
    `moe`, whose arrays have a leading layer axis, one a layer: grad_norm/moe.0."""
    squares: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        stack = next((i for i, name in enumerate(names) if name in STACKS), None)
        part = ".".join(names[: 2 if stack is None else stack + 1])
        axes = range(0 if stack is None else 1, leaf.ndim)
        squares.setdefault(part, []).append(jnp.sum(jnp.square(leaf), axis=tuple(axes)))
    norms = {f"{BY_LAYER}{part}": jnp.sqrt(sum(several)) for part, several in squares.items()}
    return {
        f"{name}.{layer}" if norm.ndim else name: one
        for name, norm in norms.items()
        for layer, one in enumerate(jnp.atleast_1d(norm))
    }


def update(
    state: TrainState,
    grads,
    load_LE: jax.Array | None,
    cfg: OptimConfig,
    *,
    lr: jax.Array | float | None = None,
    mtp: bool = True,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One clipped AdamW update, and one step of the router's balance rule.

    lr: in place of cfg's own, at the schedule's peak; may be traced.
    mtp=False, as in RL: `grads` and the moments have no MTP modules, which stay as they are.
    """
    grads = float32(grads)
    rate = jnp.asarray((cfg.lr if lr is None else lr) * schedule(cfg)(state.step), jnp.float32)
    before = trained(state.weights.params, mtp)
    updates, opt_state = make_optimizer(cfg).update(grads, state.opt_state, before)
    after = optax.apply_updates(before, jax.tree.map(lambda u: -rate * u, updates))
    weights = state.weights.replace(params=whole(after, state.weights.params, mtp))
    if load_LE is not None and not has_adapters(weights.params):
        # RL does not run the MTP layers, whose biases come last: those without a load stay.
        ran, rest = jnp.split(weights.router_bias_LE, [load_LE.shape[0]])
        bias_LE = jnp.concatenate([updated_bias(ran, load_LE, cfg.bias_rate), rest])
        weights = weights.replace(router_bias_LE=bias_LE)
    metrics = {"grad_norm": optax.tree.norm(grads), **norms_by_layer(grads), "lr": rate}
    return TrainState(weights, opt_state, state.step + 1), metrics
