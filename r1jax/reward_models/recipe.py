"""What a reward model is made from: the configuration of its run, and its examples."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from r1jax.architecture import ModelConfig, check_moves
from r1jax.checks import InputError, check, check_positive, check_seed
from r1jax.config import FolderConfig, OptimConfig, check_learns
from r1jax.data import countdown
from r1jax.data.templates import exchange
from r1jax.data.tokenizer import Tokenizer
from r1jax.reward_models import made, pairs
from r1jax.reward_models.losses import Example, Kind
from r1jax.reward_models.model import Reads, part_read, row_of
from r1jax.reward_models.pairs import Labelled, Pair, balance_weights

Template = Callable[[str], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelConfig(FolderConfig):
    """A complete run."""

    model: ModelConfig
    optim: OptimConfig
    kind: Kind = "pairwise"
    reads: Reads = "summary"  # what is read of a reply, in training and in use
    data: str = ""  # jsonl of pairs or of labelled replies; empty: made from countdown problems
    tokenizer: str = ""  # tokenizer.json; empty: the embedded words
    base: str = "embedded"  # embedded | random | an R1-Zero run's folder | a .safetensors file
    mesh: str = "1"  # FSDPxEXPERT, such as 8x8
    out: str = "runs/reward_model"  # the run's folder
    seed: int = 0
    epochs: int = 1
    batch: int = 256  # pairs, or labelled replies, an update
    length: int = 8192  # tokens of prompt and reply; longer ones are left out of training
    balance: bool = True  # weigh pairs so that length does not tell which one is chosen
    min_gap: float = 1.0  # judges must prefer one reply by more than this, positions averaged
    heldout_share: float = 0.05  # of the prompts
    heldout_most: int = 1024  # examples in an evaluation
    evaluate_every: int = 50  # updates between evaluations
    checkpoint_every: int = 50  # updates
    made: int = 5120  # examples, where `data` is empty
    made_longer: float = 0.9  # share of the pairs made whose chosen reply is the longer one
    made_mistaken: float = 0.2  # share of the pairs made whose chosen reply is the bad one

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "epochs", "batch", "length", "heldout_most", "evaluate_every", "made")
        check(
            self.length <= self.model.context,
            f"RewardModelConfig.length={self.length} exceeds ModelConfig.context="
            f"{self.model.context}",
        )
        check_moves(self.model, self.optim.lr)
        check_learns(self.optim)
        check_seed(self.seed, "RewardModelConfig.seed")
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
        f"{cfg.data or f'--made={cfg.made}'}: {len(trained)} examples to train on and "
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
