"""How a reward model is trained, and read back from its run's folder.

    with Grader({"accuracy": 1, "helpful": 0.5}, components=COMPONENTS | {
        "helpful": load_reward_model("runs/reward_model", mesh).component()}) as grader: ...

B examples  K replies of one  T tokens
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import optim, sharding, stored
from r1jax.checkpoint import Checkpoints, abstract_like
from r1jax.checks import check
from r1jax.config_file import load_config
from r1jax.files import read_object
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import keep_weights
from r1jax.optim import TrainState
from r1jax.reward_models.losses import LOSSES, Example, make_batch, preference_step
from r1jax.reward_models.model import (
    RewardModel,
    RewardWeights,
    reward_specs,
    score_rows,
    trunk,
    with_head,
)
from r1jax.reward_models.recipe import Data, RewardModelConfig, reading
from r1jax.run import Run

# Of the updates: absent from the line of the first evaluation.
UPDATE_KEYS = (
    "loss", "preference", "accuracy", "margin", "reward/mean", "length/correlation", "grad_norm",
    "lr", "router/max_load",
)  # fmt: skip


def batch_of(cfg: RewardModelConfig, train: Sequence[Example], step: int) -> list[Example]:
    """Those of update `step`: every example once an epoch, in an order of its own each epoch."""
    order = {
        epoch: np.random.default_rng((cfg.seed, epoch)).permutation(len(train))
        for epoch in {i // len(train) for i in (step * cfg.batch, (step + 1) * cfg.batch - 1)}
    }
    places = (divmod(step * cfg.batch + i, len(train)) for i in range(cfg.batch))
    return [train[order[epoch][i]] for epoch, i in places]


def evaluate(
    cfg: RewardModelConfig, weights: RewardWeights, heldout: Sequence[Example], mesh: Mesh
) -> dict[str, float | None]:
    """Held-out metrics, unweighted; of pairs, accuracy where the chosen reply is the longer one
    and where it is the shorter one, apart (None where there is no such pair)."""
    rows = [row for example in heldout for row in example.rows]
    batch = cfg.batch * len(heldout[0].rows)
    score = score_rows(weights, rows, cfg.model, mesh, batch, cfg.length)
    reward_BK = score.reshape(len(heldout), -1)
    length_BK = np.array([len(row) for row in rows]).reshape(reward_BK.shape)
    value_B = jnp.array([example.value for example in heldout])
    loss, metrics = LOSSES[cfg.kind](jnp.asarray(reward_BK), jnp.asarray(length_BK), value_B)
    found: dict[str, float | None] = {
        f"heldout/{name}": float(value) for name, value in {"loss": loss, **metrics}.items()
    }
    if cfg.kind == "pairwise":
        right_B = reward_BK[:, 0] > reward_BK[:, 1]
        longer_B = length_BK[:, 0] - length_BK[:, 1]
        for name, which in {"longer": longer_B > 0, "shorter": longer_B < 0}.items():
            key = f"heldout/accuracy/chosen_{name}"
            found[key] = float(np.mean(right_B[which])) if which.any() else None
    return found


def train(
    cfg: RewardModelConfig,
    data: Data,
    mesh: Mesh,
    base: Callable[[], Weights],
    say: Callable[[str], None] = print,
    preset: str = "",
) -> Run:
    """Runs cfg from `base()` weights, or from cfg.out's newest checkpoint with cfg.resume. `preset`
    is what cfg was made from, for run.json.

    A step is an update. Returns the run, ended or stopped by a signal. Raises InputError as Run
    does, and for a batch that does not divide over the mesh.
    """
    mesh = sharding.by_rows(mesh)  # rows are short
    check(
        cfg.batch % mesh.size == 0,
        f"--mesh={cfg.mesh}: a batch of {cfg.batch} does not divide over {mesh.size} devices",
    )
    run = Run(cfg, trunk(cfg.model), updates(cfg, len(data.train)), say, preset)
    with run, jax.set_mesh(mesh):
        restored = run.restore(abstract_state(cfg, mesh))
        state = restored[0] if restored else first_state(cfg, base(), mesh)

        @functools.lru_cache(maxsize=1)  # a checkpoint's is the next line's
        def heldout_at(_: int) -> dict[str, float | None]:
            return evaluate(cfg, state.weights, data.heldout, mesh)

        absent = dict.fromkeys(heldout_at(run.first))
        for step in run.steps():
            heldout = absent if step % cfg.evaluate_every else heldout_at(step)
            batch = make_batch(batch_of(cfg, data.train, step), cfg.length)
            where = jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)
            state, metrics = preference_step(
                state, sharding.place(batch, where), kind=cfg.kind, model=cfg.model, cfg=cfg.optim
            )
            run.log(step, metrics | heldout, batch=batch)
            run.end_step(
                state, metrics, batch, lambda: {"center": heldout_at(run.at)["heldout/reward/mean"]}
            )
        if run.stopped is None:
            run.log(run.total, dict.fromkeys(UPDATE_KEYS) | heldout_at(run.total))
    return run


def updates(cfg: RewardModelConfig, examples: int) -> int:
    """How many full batches the epochs have; the rest of the last one is left out."""
    return cfg.epochs * examples // cfg.batch


def first_state(cfg: RewardModelConfig, weights: Weights, mesh: Mesh) -> TrainState:
    """A language model's weights, which must not be used again, with a new head."""
    bias = weights.router_bias_LE  # None: a trunk that routes nothing
    weights = weights.replace(
        params=weights.params.replace(head_DV=None, mtp=()),
        router_bias_LE=None if bias is None else bias[: cfg.model.moe_layers],
    )
    placed = sharding.place(weights, sharding.shardings(weight_specs(trunk(cfg.model)), mesh))
    return jax.jit(_around(cfg), out_shardings=_placed(cfg, mesh), donate_argnums=0)(placed)


def _around(cfg: RewardModelConfig) -> Callable[[Weights], TrainState]:
    def create(weights: Weights) -> TrainState:
        dtype = jnp.dtype(cfg.model.param_dtype)
        key = jax.random.fold_in(jax.random.key(cfg.seed), 1)
        head_D = sharding.init(reward_specs(cfg.model).params.head_D, key, dtype)
        declared = keep_weights(weights, trunk(cfg.model))
        return optim.new_state(with_head(declared, head_D), cfg.optim)

    return create


def _placed(cfg: RewardModelConfig, mesh: Mesh) -> TrainState:
    return optim.shardings_around(reward_specs(cfg.model), cfg.optim, mesh)


def abstract_state(cfg: RewardModelConfig, mesh: Mesh) -> TrainState:
    """Shapes and shardings of the state; allocates nothing."""
    weights = jax.eval_shape(lambda: optim.init_weights(trunk(cfg.model), jax.random.key(0)))
    return abstract_like(jax.eval_shape(_around(cfg), weights), _placed(cfg, mesh))


def load_reward_model(
    folder: str | Path, mesh: Mesh, batch: int = 64, length: int = 0
) -> RewardModel:
    """The newest model of a run, to score with: `batch` rows at a time, of `length` tokens (0: as
    many as in training; R1's had no limit in use).

    Raises InputError if the folder holds no run of a reward model, or none that was saved.
    """
    folder = Path(folder)
    values = read_object(folder / "config.json")
    check(
        values is None or "reads" in values,
        f"{folder}: its config.json is of something else than a run of experiments.reward_model",
    )
    cfg = load_config(RewardModelConfig, folder / "config.json")
    held = stored.of(folder)
    check(bool(stored.steps(held)), f"{folder}: no checkpoints in this folder")
    with Checkpoints(held) as checkpoints:
        _, state, note = checkpoints.restore(abstract_state(cfg, mesh), trunk(cfg.model))
    tokenizer, template = reading(cfg)
    return RewardModel(
        state.weights,
        cfg.model,
        tokenizer,
        template,
        mesh,
        cfg.reads,
        note["center"] if cfg.kind == "pairwise" else 0.0,
        batch,
        length or cfg.length,
    )
