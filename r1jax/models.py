"""A model as commands name it: a Hugging Face directory or an id on its Hub, the folder of a run,
or the embedded one; and the weights that a run begins with."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import jax
from jax.sharding import Mesh

from r1jax import checkpoint, hub, sharding, stored
from r1jax.architecture import UNROLLED, LoraConfig, ModelConfig, run_as
from r1jax.base import EMBEDDED, BaseConfig, load_weights, made, read_note
from r1jax.checks import check
from r1jax.config import ConversationName, RunConfig, SFTConfig
from r1jax.config_file import fields_of, from_values, load_config
from r1jax.data.conversation import Conversation, make_conversation
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tokenizer import Tokenizer
from r1jax.files import ends_of, read_object
from r1jax.hub.files import FROM_GGUF
from r1jax.model.adapters import joined, merged
from r1jax.model.params import Weights, weight_specs
from r1jax.model.quantise import keep_weights
from r1jax.optim import random_weights
from r1jax.presets import tiny_base
from r1jax.published import tiny


class _Trained(Protocol):
    """The configuration of a run that trains a model on a tokenizer's words."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def model(self) -> ModelConfig: ...

    @property
    def tokenizer(self) -> str: ...


Trained = TypeVar("Trained", bound=_Trained)


class _Adapting(_Trained, Protocol):
    @property
    def lora(self) -> LoraConfig: ...

    @property
    def base(self) -> str: ...


Adapting = TypeVar("Adapting", bound=_Adapting)
Computed = Literal["stored", "float32", "bfloat16"]  # what is computed in
Kept = Literal["stored", "bf16", "int8", "int4"]  # what weights are kept in; stored: as dtype says

LARGE = 100_000_000  # parameters, from which on training is to save memory


def to_train(model: ModelConfig) -> ModelConfig:
    """`model`, run as it is best trained: with float32 parameters, since small updates are lost in
    bfloat16 ones, and if it is large computing in bfloat16, keeping no activations within a layer,
    and few logits at a time."""
    scan = model.scan_layers or model.layers > UNROLLED
    model = dataclasses.replace(model, param_dtype="float32", scan_layers=scan)
    if sharding.count(weight_specs(model).params) < LARGE:
        return model
    return dataclasses.replace(model, dtype="bfloat16", remat="full", logits_chunk=128)


def with_lora(cfg: Adapting) -> Adapting:
    """`cfg`, whose model has the adapters that its `lora` says, beside weights that are kept as it
    says. Raises InputError for a base that is made anew, and for a run that began beside another
    state of it."""
    lora = cfg.lora
    if not lora.rank:
        return cfg
    check(
        cfg.base not in ("train", "random"),
        f"--lora.rank with --base={cfg.base}: adapters stand beside a model that exists",
    )
    began = cfg.model.lora or lora
    lora = dataclasses.replace(lora, beside=began.beside or state_of(cfg.base))
    check_beside(lora, cfg.base)
    return dataclasses.replace(cfg, model=adapted(cfg.model, lora))


def adapted(model: ModelConfig, lora: LoraConfig) -> ModelConfig:
    """`model` with these adapters, if there are any, beside weights that are kept as they say."""
    if not lora.rank:
        return model
    kept = drawn_as(dataclasses.replace(model, param_dtype=model.dtype), "stored", lora.weights)
    return dataclasses.replace(kept, lora=lora)


def state_of(base: str) -> str:
    """Tells one state of what `first_weights` calls `base` from another."""
    path = Path(base)
    return ends_of(path) if path.is_file() else open_model(base).state()


def check_beside(lora: LoraConfig, base: str) -> None:
    now = state_of(base)
    check(
        lora.beside in ("", now),
        f"{base}: adapters were trained beside it at {lora.beside}, and it is at {now} now: they "
        "mean nothing there",
    )


def drawn_as(model: ModelConfig, dtype: Computed, weights: Kept) -> ModelConfig:
    """`model`, to draw replies: computing in `dtype`, its weights kept as `weights` says. Raises
    InputError for bf16 weights that are to be computed with in float32."""
    check(
        weights != "bf16" or dtype != "float32",
        "--weights=bf16 computes in bfloat16: leave out --dtype=float32",
    )
    computed = "bfloat16" if weights == "bf16" else model.dtype if dtype == "stored" else dtype
    if weights in ("int8", "int4"):
        kept: Any = weights
    else:
        as_is = dtype == weights == "stored" or (weights == "stored" and _is_quantised(model))
        kept = model.param_dtype if as_is else computed
    return dataclasses.replace(model, dtype=computed, param_dtype=kept)


def _is_quantised(model: ModelConfig) -> bool:
    return model.param_dtype not in ("float32", "bfloat16")


def size(model: ModelConfig) -> str:
    """How many parameters it has, and what it does to save memory."""
    saves = {
        f"computing in {model.dtype}": model.dtype != model.param_dtype,
        f"rematerialisation {model.remat}": model.remat != "none",
        f"logits of {model.logits_chunk} positions at a time": model.logits_chunk > 0,
    }
    count = f"{sharding.count(weight_specs(model).params):,} parameters"
    return ", ".join([count, *(said for said, does in saves.items() if does)])


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """base: what a run that begins from it calls it: as it was named, with the commit if it is from
    the Hub. config: as it is stored. weights: reads them for a config of the same shape, in its
    param_dtype. files: where the tokenizer is; empty for the
    embedded one. conversation_name: the one that its run was told to have. adapters: of a run that
    trained some: its model, these alone, and what they stand beside. `weights` has them added."""

    path: Path
    base: str
    config: ModelConfig
    weights: Callable[[ModelConfig, Mesh], Weights]
    files: str
    conversation_name: ConversationName = "auto"
    adapters: Callable[[Mesh], tuple[ModelConfig, Weights, str]] | None = None

    def conversation(
        self, wanted: ConversationName = "auto", otherwise: Literal["plain", "r1_zero"] = "plain"
    ) -> Conversation:
        """As `make_conversation`; where `wanted` is auto, the one that its run was told to have."""
        name = self.conversation_name if wanted == "auto" else wanted
        return make_conversation(self.tokenizer(), self.files, name, otherwise)

    def state(self) -> str:
        """Tells one state of a folder from another: a run that was trained on is another model."""
        if not self.path.is_dir():
            return self.base
        if steps := stored.steps(stored.of(self.path)):
            return f"step {steps[-1]}"
        files = sorted((*self.path.glob("*.safetensors"), *self.path.glob("*.gguf")))
        return ", ".join(f"{file.name} {ends_of(file)}" for file in files)

    def tokenizer(self) -> Tokenizer:
        """Raises InputError if it has tokens that the model does not know."""
        if not self.files:
            return Tokenizer.words(VOCABULARY)
        tokenizer, vocab = Tokenizer.load(self.files), self.config.vocab
        check(
            tokenizer.vocab_size <= vocab,
            f"{self.files}: a tokenizer that does not match the model: it has "
            f"{tokenizer.vocab_size:,} tokens, the model's vocabulary {vocab:,}",
        )
        return tokenizer


def open_model(name: str | Path) -> OnDisk:
    """A folder, an id on the Hub (`org/name` or `org/name@revision`), which is fetched first, or
    "embedded".

    Of a folder it reads what is small; raises InputError that names the file and what is wrong.
    """
    check(bool(str(name)), "the model's name is empty: a folder, org/name on the Hub, or embedded")
    if str(name) == "embedded":

        def weights_of(model: ModelConfig, mesh: Mesh) -> Weights:
            return keep_weights(load_weights(EMBEDDED, model), model)

        return OnDisk(EMBEDDED, "embedded", tiny(), weights_of, "")
    if hub.is_hub_id(name):
        path = hub.fetch(str(name))
        base = hub.pinned(str(name), path)
    else:
        path, base = Path(name), str(name)
    check(path.suffix != ".gguf", f"{name}: a file: {FROM_GGUF}")
    check(path.is_dir(), f"{name}: no such directory, and not a Hub id (org/name)")
    check(
        (path / "config.json").is_file(),
        f"{name}: neither a run's folder nor a Hugging Face directory: it has no config.json",
    )
    values = read_object(path / "config.json") or {}
    if not isinstance(values.get("model"), dict):
        config = hub.read_config(path)
        weights = partial(hub.load_weights, path)
        return OnDisk(path, base, config, weights, str(path))
    run: RunConfig | SFTConfig = (
        load_config(RunConfig, path / "config.json")
        if "rl" in values
        else load_config(SFTConfig, path / "config.json")
    )

    merged_model = dataclasses.replace(run.model, lora=None)
    if run.model.lora is not None and _is_quantised(run.model):
        merged_model = dataclasses.replace(merged_model, param_dtype=run.model.dtype)

    def of_run(model: ModelConfig, mesh: Mesh) -> Weights:
        kept, lora = run.model.param_dtype, run.model.lora
        stored = dataclasses.replace(model, param_dtype=kept, lora=lora)
        if lora is not None:
            check_beside(lora, run.base)
        found = checkpoint.load_weights(path, stored, mesh)
        if lora is not None:  # beside what the run began from
            began = first_weights(run.base, dataclasses.replace(stored, lora=None), mesh)
            began = keep_weights(began, stored)
            found = merged(began.replace(params=joined(found.params, began.params)))
        return found if stored == model else keep_weights(found, model)

    def adapters(mesh: Mesh) -> tuple[ModelConfig, Weights, str]:
        return run.model, checkpoint.load_weights(path, run.model, mesh), run.base

    own = None if run.model.lora is None else adapters
    return OnDisk(path, base, merged_model, of_run, run.tokenizer, run.conversation, own)


def began_from(base: str, name: str) -> bool:
    """Whether a run whose configuration has this `base` began from what --model=`name` means."""
    return name == base or hub.names_pin(name, base)


def from_model(cfg: RunConfig, folder: str, resumes: bool) -> RunConfig:
    """`cfg`, from the weights, the model and the tokenizer of a directory on disk or of the Hub.

    How the model runs stays as cfg says, but for the type that it computes in, and what `to_train`
    does. Raises InputError if cfg is that of a run to be resumed, which began from another.
    """
    again = resumes and cfg.base not in ("embedded", "train", "random")
    check(
        not again or began_from(cfg.base, folder),
        f"--model={folder}: the run to be resumed began from {cfg.base}",
    )
    if again:
        return cfg
    source = open_model(folder)
    model = dataclasses.replace(run_as(source.config, cfg.model), dtype=source.config.dtype)
    asks = source.conversation_name if cfg.conversation == "auto" else cfg.conversation
    return dataclasses.replace(
        cfg, model=to_train(model), base=source.base, tokenizer=source.files, conversation=asks
    )


def tuned_from(cfg: SFTConfig, folder: str) -> SFTConfig:
    """`cfg`, from the weights, the model, the tokenizer and the conversation of a directory on disk
    or of the Hub."""
    source = open_model(folder)
    asks = source.conversation_name if cfg.conversation == "auto" else cfg.conversation
    model, base = to_train(source.config), source.base
    return dataclasses.replace(
        cfg, model=model, base=base, tokenizer=source.files, conversation=asks
    )


def with_vocab(cfg: Trained, vocab: int) -> Trained:
    """`cfg` with the tokenizer's vocabulary where its model has none of its own (vocab=0). Raises
    InputError if the tokenizer has tokens that the model does not know."""
    model = cfg.model if cfg.model.vocab else dataclasses.replace(cfg.model, vocab=vocab)
    check(
        model.vocab >= vocab,
        f"tokenizer {cfg.tokenizer or '(embedded)'} has {vocab} tokens, but model.vocab is "
        f"{model.vocab}: pass another --tokenizer or --model.vocab={vocab}",
    )
    return dataclasses.replace(cfg, model=model)


def _otherwise(recipe: BaseConfig) -> list[str]:
    """What the shipped base was made with where `recipe` says otherwise: "FIELD=VALUE, not VALUE",
    by the names that a run's configuration has for them."""
    note = read_note(EMBEDDED)
    if note["digest"] == recipe.digest():
        return []
    before = fields_of(from_values(BaseConfig, note["recipe"]))
    return [
        f"--{name.replace('_', '-')}={before.get(name)}, not {value}"
        for name, value in fields_of(recipe).items()
        if before.get(name) != value
    ]


def first_weights(
    base: str,
    model: ModelConfig,
    mesh: Mesh,
    seed: int = 0,
    recipe: BaseConfig | None = None,
    making: str | Path = "runs/base",
) -> Weights:
    """The weights that a run of `model` begins with; `base` names them.

    embedded: those that the package ships, if `recipe` (or the shipped recipe, for this model) is
    what made them. train: made by `recipe` in the folder `making`, or from the user's cache.
    random: of this seed. Else a .safetensors file, a run's folder, a Hugging Face directory or an
    id on its Hub. Raises InputError that names --base, and Stopped if a signal ends the making.
    """
    recipe = recipe or tiny_base(model=model)
    if base == "train":
        return made(recipe, mesh, making)
    if base == "random":
        return random_weights(model, mesh, jax.random.key(seed))
    if base == "embedded":
        others = _otherwise(recipe)
        check(
            not others,
            f"the embedded base was made with {', '.join(others)}: pass --base=train to make this "
            "one",
        )
        return load_weights(EMBEDDED, model)
    if Path(base).is_file():
        return load_weights(Path(base), model)
    check(
        Path(base).is_dir() or hub.is_hub_id(base),
        f"--base={base}: neither embedded, train or random, nor a file, a folder or a Hub id",
    )
    return open_model(base).weights(model, mesh)
