"""The embedded base model: the recipe it is made by, and the file it is kept in.

The package ships one, so that the main job needs no download and no pre-training. The same recipe
makes it again (`--base=train`), for any mixture of the corpus; what was made once is kept in the
user's cache under a hash of its recipe.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh

from r1jax import optim, processes, sharding
from r1jax.architecture import ModelConfig
from r1jax.checks import InputError, check_seed
from r1jax.config import CorpusConfig, FolderConfig, OptimConfig, Resume, check_learns, tiers_of
from r1jax.data import countdown
from r1jax.data.packing import Batch, first_fit, pack
from r1jax.data.tokenizer import Tokenizer
from r1jax.files import replaced
from r1jax.model.params import Weights, weight_specs
from r1jax.run import Run
from r1jax.sft import abstract_state, sft_step

EMBEDDED = Path(__file__).parent / "assets" / "base.safetensors"


@dataclasses.dataclass(frozen=True)
class BaseConfig:
    """All that decides what the base becomes."""

    model: ModelConfig
    corpus: CorpusConfig
    optim: OptimConfig
    seed: int = 0
    heldout_share: float = 0.125
    rows: int = 32  # a batch
    length: int = 176  # tokens a row; no document is longer
    fill: float = 0.88  # documents are drawn until they make this share of a batch

    def __post_init__(self):
        check_seed(self.seed, "BaseConfig.seed")
        check_learns(self.optim)

    def digest(self) -> str:
        values = dataclasses.asdict(self)
        silent = {  # what says nothing: there are no modules, no adapters, nothing is asked for
            "mtp_hidden": not self.model.mtp_depth,
            "lora": self.model.lora is None,
            "attention_impl": self.model.attention_impl == "auto",
        }
        for name in (name for name, is_silent in silent.items() if is_silent):
            del values["model"][name]
        if self.optim.moments == "float32":
            del values["optim"]["moments"]
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def user_cache() -> Path:
    """Where what can be made anew is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "r1jax"


def cached(cfg: BaseConfig) -> Path:
    """Where a base of this recipe is kept once made."""
    return user_cache() / f"base-{cfg.digest()}.safetensors"


def corpus_batch(cfg: BaseConfig, tokenizer: Tokenizer, step: int) -> Batch:
    """Batch `step` of the corpus: a pure function of the recipe and the step."""
    tiers = tiers_of(cfg.corpus.tiers, "CorpusConfig.tiers")
    train = [countdown.split(tier, cfg.heldout_share)[0] for tier in tiers]
    rng = np.random.default_rng((cfg.seed, step))
    documents: list[tuple[list[int], list[int]]] = []
    tokens = 0
    while tokens < cfg.fill * cfg.rows * cfg.length:
        tier = train[rng.integers(len(train))]
        prompt, reply = countdown.document(tier[rng.integers(len(tier))], cfg.corpus, rng)
        documents.append((tokenizer.encode(prompt), [*tokenizer.encode(reply), tokenizer.eos_id]))
        tokens += sum(map(len, documents[-1]))
    # First fit, since the shipped file was made so: other rows would make another base.
    batch, _ = pack(documents, cfg.rows, cfg.length, tokenizer.pad_id, first_fit)
    return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class _BaseRun(FolderConfig):
    """A base in the making: a folder that goes on from where it was stopped."""

    recipe: BaseConfig
    resume: Resume = "auto"
    checkpoint_every: int = 500
    log: str = ""


def train_base(cfg: BaseConfig, mesh: Mesh, out: str | Path) -> Weights:
    """Pre-trains for cfg.optim.steps steps in the folder `out`, from what it holds if it was
    stopped. Host arrays, the same in every process. Raises Stopped if a signal ends it again."""
    tokenizer, mesh = Tokenizer.words(countdown.VOCABULARY), sharding.by_rows(mesh)
    say = print if Path(out).exists() else lambda _: None
    with (
        Run(_BaseRun(recipe=cfg, out=str(out)), cfg.model, cfg.optim.steps, say) as run,
        jax.set_mesh(mesh),
    ):
        restored = run.restore({"train": abstract_state(cfg.model, cfg.optim, mesh)})
        if restored:
            state = restored[0]["train"]
        else:
            state = optim.init_state(cfg.model, cfg.optim, mesh, jax.random.key(cfg.seed))
        where = sharding.batch_sharding(mesh)
        for step in run.steps():
            batch = corpus_batch(cfg, tokenizer, step)
            on_devices = sharding.place(batch, jax.tree.map(lambda _: where, batch))
            state, metrics = sft_step(state, on_devices, model=cfg.model, cfg=cfg.optim)
            if step % 20 == 0 or step + 1 == run.total:
                run.log(step, metrics, batch=batch)
            run.end_step({"train": state}, metrics, batch)
        run.check_ended()
        everywhere = jax.tree.map(lambda _: sharding.replicated(mesh), state.weights)
        return jax.device_get(jax.jit(lambda w: w, out_shardings=everywhere)(state.weights))


def made(cfg: BaseConfig, mesh: Mesh, out: str | Path) -> Weights:
    """A base of this recipe: from the user's cache, or made now in the folder `out`, and kept. On a
    pod the first process's cache decides, and all get what it has. Raises as `train_base`."""
    path, first = cached(cfg), jax.process_index() == 0
    if not processes.from_first(np.array(path.exists())):
        weights = train_base(cfg, mesh, out)
        if first:
            save_weights(weights, path, {"recipe": dataclasses.asdict(cfg), "digest": cfg.digest()})
            shutil.rmtree(out)
    # Read back, since the file is rounded: a base just made and a base found are the same.
    return processes.from_first(load_weights(path, cfg.model) if first else _no_weights(cfg.model))


def _no_weights(model: ModelConfig) -> Weights:
    specs = weight_specs(model)
    return jax.tree.map(lambda s: np.zeros(s.shape, np.float32), specs, is_leaf=sharding.is_spec)


def save_weights(weights: Weights, path: Path, note: dict) -> None:
    """Writes weights as float16 (half the size, and the base is the same whether it was just
    made or read back) with `note` as metadata; never half a file."""
    arrays = {name: np.asarray(leaf, np.float16) for name, leaf in _named(weights)}
    # Biases move by 0.001 a step: kept whole.
    arrays["router_bias_LE"] = np.asarray(weights.router_bias_LE, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, shared=True) as partial:
        safetensors.numpy.save_file(arrays, partial, {"note": json.dumps(note)})


def load_weights(path: Path, model: ModelConfig) -> Weights:
    """Float32 host arrays. Raises InputError that names the file, and the tensor that is missing
    or has another shape than `model` gives it."""
    specs = weight_specs(model)
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: {error}") from error
    leaves = []
    for name, spec in _named(specs):
        if name not in arrays:
            raise InputError(f"{path}: weights of another model: {name} is missing")
        if arrays[name].shape != spec.shape:
            raise InputError(
                f"{path}: weights of another model: {name} has shape {arrays[name].shape}, this "
                f"model {spec.shape}"
            )
        leaves.append(arrays[name].astype(np.float32))
    return jax.tree.unflatten(jax.tree.structure(specs, is_leaf=sharding.is_spec), leaves)


def read_note(path: Path) -> dict:
    """What `save_weights` was told about the file."""
    with safetensors.safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["note"])


def _named(tree):
    """(name, leaf) of every leaf, such as ("params.moe.ffn.up_EDF", ...)."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=sharding.is_spec):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf
