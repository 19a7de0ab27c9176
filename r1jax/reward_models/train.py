"""A reward model: the recipe it is made by, and the run's folder that it is kept in.

    with Grader({"accuracy": 1, "helpful": 0.5}, components=COMPONENTS | {
        "helpful": load_reward_model("runs/reward_model", mesh).component()}) as grader: ...

B examples  K replies of one  T tokens
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import optim, sharding
from r1jax.checkpoint import Checkpoints, abstract_like
from r1jax.config import (
    InputError,
    ModelConfig,
    OptimConfig,
    check,
    check_positive,
    load_config,
    save_config,
)
from r1jax.data import countdown
from r1jax.data.templates import exchange
from r1jax.data.tokenizer import Tokenizer
from r1jax.metrics import MetricsLog, Progress
from r1jax.model.params import Weights, weight_specs
from r1jax.optim import TrainState
from r1jax.reward_models import made, pairs
from r1jax.reward_models.losses import LOSSES, Example, Kind, make_batch, preference_step
from r1jax.reward_models.model import (
    Reads,
    RewardModel,
    RewardWeights,
    part_read,
    reward_specs,
    row_of,
    score_rows,
    trunk,
    with_head,
)
from r1jax.reward_models.pairs import Labelled, Pair, balance_weights

Template = Callable[[str], str]
# Of the updates: absent from the line of the first evaluation.
UPDATE_KEYS = (
    "loss", "preference", "accuracy", "margin", "reward/mean", "length/correlation", "grad_norm",
    "lr", "router/max_load",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RewardModelConfig:
    """A complete run."""

    model: ModelConfig
    optim: OptimConfig
    kind: Kind = "pairwise"
    reads: Reads = "summary"  # what is read of a reply, in training and in use
    data: str = ""  # jsonl of pairs or of labelled replies; empty: made from countdown problems
    tokenizer: str = ""  # tokenizer.json; empty: the embedded words
    base: str = "embedded"  # embedded | random | an R1-Zero run's folder | a .safetensors file
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8
    out: str = "runs/reward_model"
    resume: bool = False
    seed: int = 0
    epochs: int = 1
    batch: int = 256  # pairs, or labelled replies, an update
    length: int = 8192  # tokens of prompt and reply; longer ones are left out of training
    balance: bool = True  # weigh pairs so that length does not tell which one is chosen
    min_gap: float = 1.0  # judges must prefer one reply by more than this, positions averaged
    heldout_share: float = 0.05  # of the prompts
    heldout_most: int = 1024  # examples in an evaluation
    evaluate_every: int = 50  # updates between evaluations, each followed by a checkpoint
    made: int = 5120  # examples, where `data` is empty
    made_longer: float = 0.9  # share of the pairs made whose chosen reply is the longer one
    made_mistaken: float = 0.2  # share of the pairs made whose chosen reply is the bad one

    def __post_init__(self):
        check_positive(self, "epochs", "batch", "length", "heldout_most", "evaluate_every", "made")
        check(
            self.length <= self.model.context,
            f"RewardModelConfig.length={self.length} exceeds ModelConfig.context="
            f"{self.model.context}",
        )
        check(self.min_gap >= 0, f"RewardModelConfig.min_gap must not be negative: {self.min_gap}")
        for field in ("heldout_share", "made_longer", "made_mistaken"):
            value = getattr(self, field)
            check(0 < value < 1, f"RewardModelConfig.{field} must lie in (0, 1), got {value}")


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples as token rows, and in one line what became of those given."""

    train: Sequence[Example]
    heldout: Sequence[Example]
    said: str


def reading(cfg: RewardModelConfig) -> tuple[Tokenizer, Template]:
    """The tokenizer, and what stands before a reply: the bare question for the embedded words."""
    if cfg.tokenizer:
        return Tokenizer.load(cfg.tokenizer), exchange
    return Tokenizer.words(countdown.VOCABULARY), lambda prompt: prompt


def read_data(cfg: RewardModelConfig) -> Data:
    """The examples that cfg names. Raises InputError that names the file and line at fault, or if
    too few are left."""
    counts: Counter[str] = Counter()
    train: Sequence[Pair | Labelled]
    heldout: Sequence[Pair | Labelled]
    if cfg.data and cfg.kind == "pairwise":
        judged, counts = pairs.judged(pairs.read_pairs(cfg.data), cfg.min_gap)
        train, heldout = pairs.split(judged, cfg.heldout_share)
    elif cfg.data:
        labelled = pairs.read_labelled(cfg.data)
        train, heldout = pairs.split(labelled, cfg.heldout_share)
    elif cfg.kind == "pairwise":
        train, heldout = made.preferences(
            cfg.made, cfg.made_longer, cfg.made_mistaken, cfg.heldout_share, cfg.seed
        )
    else:
        train, heldout = made.labelled(cfg.made, cfg.heldout_share, cfg.seed)
    trained, tested = (_encoded(part, cfg, counts) for part in (train, heldout))
    if cfg.kind == "pairwise" and cfg.balance and trained:
        weights = balance_weights(np.array([_longer(example) for example in trained]))
        trained = [e._replace(value=float(w)) for e, w in zip(trained, weights, strict=True)]
        counts["without weight (length balance)"] = int(np.sum(weights == 0))
    check(
        len(trained) >= cfg.batch and bool(tested),
        f"{cfg.data or 'RewardModelConfig.made'}: {len(trained)} examples to train on and "
        f"{len(tested)} held out are too few for a batch of {cfg.batch}" + _listed(counts),
    )
    said = f"{len(trained):,} examples, {len(tested):,} held out" + _listed(counts)
    return Data(trained, tested[: cfg.heldout_most], said)


def _listed(counts: Counter[str]) -> str:
    return "".join(f"; {n:,} {what}" for what, n in counts.items() if n)


def _encoded(
    examples: Sequence[Pair | Labelled], cfg: RewardModelConfig, counts: Counter[str]
) -> list[Example]:
    """Token rows of those that can be read; the others are counted."""
    tokenizer, template = reading(cfg)
    found = []
    for example in examples:
        texts = [part_read(reply, cfg.reads) for reply in example.replies]
        if None in texts:
            counts["without a summary"] += 1
            continue
        try:
            rows = [row_of(tokenizer, template, example.prompt, text or "") for text in texts]
        except InputError as error:
            raise InputError(f"{example.where}: {error}") from None
        if max(len(start) + len(reply) for start, reply in rows) > cfg.length:
            counts[f"of more than {cfg.length:,} tokens"] += 1
            continue
        value = float(example.safe) if isinstance(example, Labelled) else 1.0
        arrays = (np.array([*start, *reply], np.int32) for start, reply in rows)
        found.append(Example(tuple(arrays), value))
    return found


def _longer(example: Example) -> int:
    """Tokens of the chosen row minus those of the rejected one."""
    chosen, rejected = example.rows
    return len(chosen) - len(rejected)


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
) -> Path:
    """Runs cfg from `base()` weights, or from cfg.out's newest checkpoint with cfg.resume.

    Returns cfg.out as a path. Raises InputError for an out folder that holds another run, a
    checkpoint of another model, a batch that does not divide over the mesh, and a loss that is
    not finite.
    """
    check(
        cfg.batch % mesh.size == 0,
        f"--mesh={cfg.mesh}: a batch of {cfg.batch} does not divide over {mesh.size} devices",
    )
    out, steps = Path(cfg.out), updates(cfg, len(data.train))
    log_folder = out / f"process_{jax.process_index()}" if jax.process_index() else out
    with Checkpoints(out / "checkpoints") as checkpoints, jax.set_mesh(mesh):
        first, state = 0, None
        newest = checkpoints.newest()
        if newest is not None:
            check(cfg.resume, f"{out} already holds a run: resume it or choose another folder")
            first, state, _ = checkpoints.restore(abstract_state(cfg, mesh), trunk(cfg.model))
            say(f"resumed from update {first}")
        with (
            MetricsLog(log_folder, resume_from=first if cfg.resume else None) as log,
            Progress(steps) as progress,
        ):
            save_config(dataclasses.replace(cfg, resume=False), log_folder / "config.json")
            state = state or first_state(cfg, base(), mesh)
            heldout = evaluate(cfg, state.weights, data.heldout, mesh)
            if first == 0:
                log.log(0, dict.fromkeys(UPDATE_KEYS) | heldout)
            progress.update(first, heldout)
            for step in range(first, steps):
                batch = make_batch(batch_of(cfg, data.train, step), cfg.length)
                where = jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)
                state, update = preference_step(
                    state,
                    sharding.place(batch, where),
                    kind=cfg.kind,
                    model=cfg.model,
                    cfg=cfg.optim,
                )
                metrics: dict[str, float | None] = {k: float(v) for k, v in update.items()}
                check(math.isfinite(update["loss"]), f"update {step + 1}: the loss is not finite")
                if due := (step + 1) % cfg.evaluate_every == 0 or step + 1 == steps:
                    heldout = evaluate(cfg, state.weights, data.heldout, mesh)
                    note = {"center": heldout["heldout/reward/mean"]}
                    checkpoints.save(step + 1, state, trunk(cfg.model), note)
                log.log(step + 1, metrics | (heldout if due else dict.fromkeys(heldout)))
                progress.update(step + 1, metrics | (heldout if due else {}))
    return out


def updates(cfg: RewardModelConfig, examples: int) -> int:
    """How many full batches the epochs have; the rest of the last one is left out."""
    return cfg.epochs * examples // cfg.batch


def first_state(cfg: RewardModelConfig, weights: Weights, mesh: Mesh) -> TrainState:
    """A language model's weights, which must not be used again, with a new head."""
    weights = weights.replace(
        params=weights.params.replace(head_DV=None, mtp=()),
        router_bias_LE=weights.router_bias_LE[: cfg.model.moe_layers],
    )
    placed = sharding.place(weights, sharding.shardings(weight_specs(trunk(cfg.model)), mesh))
    return jax.jit(_around(cfg), out_shardings=_placed(cfg, mesh), donate_argnums=0)(placed)


def _around(cfg: RewardModelConfig) -> Callable[[Weights], TrainState]:
    def create(weights: Weights) -> TrainState:
        dtype = jnp.dtype(cfg.model.param_dtype)
        key = jax.random.fold_in(jax.random.key(cfg.seed), 1)
        head_D = sharding.init(reward_specs(cfg.model).params.head_D, key, dtype)
        return optim.new_state(with_head(weights, head_D), cfg.optim)

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

    Raises InputError if the folder holds no run, or none that was saved.
    """
    folder = Path(folder)
    cfg = load_config(RewardModelConfig, folder / "config.json")
    check((folder / "checkpoints").is_dir(), f"{folder}: no checkpoints in this folder")
    with Checkpoints(folder / "checkpoints") as checkpoints:
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
