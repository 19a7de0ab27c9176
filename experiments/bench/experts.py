"""How evenly routing loads devices, which decides how much room their buffers want.

    python -m experiments.bench.experts

Of the embedded model on its corpus, and of a random model with the router of DeepSeek-V2-Lite (64
experts, 6 a token) and the group-limited one of V3 (256 experts, 8 a token) on tokens as frequent
as words are: what the fullest device gets, in times of the mean, where the experts are over so many
devices. Pairs of token and expert decide the buffer in which they are multiplied; rows (a token is
sent once to a device), in times of the most that balanced routing sends, the one that an all-to-all
receives into. Of several batches: the median, and the largest.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from r1jax import sharding
from r1jax.architecture import ModelConfig, RouterConfig
from r1jax.base import EMBEDDED, corpus_batch, load_weights
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tokenizer import Tokenizer
from r1jax.model.params import Weights, weight_specs
from r1jax.model.transformer import forward
from r1jax.model.travel import most_devices
from r1jax.presets import tiny_base
from r1jax.published import MODELS


def loads(experts_NK: np.ndarray, router: RouterConfig, devices: int) -> tuple[float, float]:
    """(pairs, rows) of the fullest of the devices, as above."""
    device_NK = experts_NK // (router.experts // devices)
    pairs = np.bincount(device_NK.reshape(-1), minlength=devices)
    rows = np.bincount(
        np.concatenate([np.unique(device_K) for device_K in device_NK]), minlength=devices
    )
    usual = len(device_NK) * most_devices(router, devices) / devices
    return pairs.max() / pairs.mean(), rows.max() / usual


def report(name: str, router: RouterConfig, batches: list[np.ndarray]) -> None:
    """batches: [L, N, K] each, of which every layer loads devices of its own."""
    layers = [experts_NK for batch in batches for experts_NK in batch]
    print(f"{name}: {len(layers)} layers and batches of {len(layers[0]):,} tokens")
    over = 2
    while over <= router.experts:
        found = np.array([loads(experts_NK, router, over) for experts_NK in layers])
        middle, most = np.median(found, axis=0), found.max(axis=0)
        print(
            f"  {over:3} devices: pairs {middle[0]:.2f} ({most[0]:.2f})  "
            f"rows {middle[1]:.2f} ({most[1]:.2f})"
        )
        over *= 2


def routed(weights: Weights, cfg: ModelConfig, tokens_BT, segments_BT=None) -> np.ndarray:
    """The experts of each layer's valid tokens, [L, N, K]."""
    run = jax.jit(forward, static_argnames="cfg")
    out = run(weights, jnp.asarray(tokens_BT), cfg, segments_BT=segments_BT)
    experts_LBTK = np.asarray(out.stats.experts_BTK)
    valid_BT = np.ones(tokens_BT.shape, bool) if segments_BT is None else segments_BT > 0
    return experts_LBTK[:, valid_BT]


def shaped(name: str, d_model: int = 512) -> ModelConfig:
    """Few and narrow layers with the router of a published model."""
    model = MODELS[name]()
    return dataclasses.replace(
        model,
        vocab=8192,
        d_model=d_model,
        layers=4,
        dense_layers=1,
        dense_ffn=1024,
        expert_ffn=64,
        mtp_depth=0,
        attention=dataclasses.replace(model.attention, heads=4),
        dtype="float32",
        param_dtype="float32",
        experts_multiply="grouped",
    )


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    batches: int = 4
    rows: int = 8
    length: int = 512  # tokens a row
    seed: int = 0


def main(args: list[str]) -> None:
    cfg = cli.parse(ExpertsConfig, ExpertsConfig(), args, __doc__ or "")
    recipe, tokenizer = tiny_base(), Tokenizer.words(VOCABULARY)
    model = recipe.model
    weights = load_weights(EMBEDDED, model)
    batches = [corpus_batch(recipe, tokenizer, step) for step in range(cfg.batches)]
    found = [routed(weights, model, b.tokens_BT, np.asarray(b.segments_BT)) for b in batches]
    least = min(a.shape[1] for a in found)
    assert model.router is not None
    report("embedded", model.router, [a[:, :least] for a in found])
    rng = np.random.default_rng(cfg.seed)
    for name in ("deepseek-v2-lite", "deepseek-v3"):
        model = shaped(name)
        weights = sharding.init(weight_specs(model), jax.random.key(cfg.seed))
        often = 1 / (np.arange(model.vocab) + 2.7)  # Zipf's law, as Mandelbrot has it
        shape = cfg.rows, cfg.length
        found = [
            routed(weights, model, rng.choice(model.vocab, shape, p=often / often.sum()))
            for _ in range(cfg.batches)
        ]
        assert model.router is not None
        report(f"random, routed as {name}", model.router, found)


if __name__ == "__main__":
    cli.run(main)
