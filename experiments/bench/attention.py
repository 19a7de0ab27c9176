"""What attention costs here, as ratios within one run: in blocks beside the scores as a whole.

    python -m experiments.bench.attention
    python -m experiments.bench.attention --tokens=1024,8192 --dtype=bfloat16
    python -m experiments.bench.attention --long=32768     # and a model of two layers on so many

Forward and backward of one row, in turns; memory is what the compiler allots beside arguments and
results.
"""

import dataclasses
import resource
import statistics
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from r1jax import sharding
from r1jax.architecture import GQAConfig, ModelConfig, RopeConfig
from r1jax.checks import check
from r1jax.kernels.blockwise import blockwise
from r1jax.model.attend import plain
from r1jax.model.head import log_probs
from r1jax.model.params import Weights
from r1jax.model.transformer import forward
from r1jax.model.zigzag import own_tokens
from r1jax.optim import random_weights

FORMS = {"plain": plain, "blockwise": blockwise}
MODEL = ModelConfig(
    vocab=4096,
    d_model=128,
    layers=2,
    dense_layers=2,
    dense_ffn=512,
    attention=GQAConfig(heads=2, kv_heads=2, head_dim=32),
    rope=RopeConfig(interleaved=False),
    tied_head=True,
    remat="full",
    logits_chunk=512,
    attention_impl="blockwise",
)


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    tokens: str = "512,1024,2048,4096"
    heads: int = 4
    head_dim: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    turns: int = 5
    long: int = 0  # tokens of a row of the model; 0: it is not run

    @property
    def lengths(self) -> list[int]:
        parts = self.tokens.split(",")
        check(
            all(part.isdigit() and int(part) for part in parts),
            f"--tokens={self.tokens}: expected numbers such as 1024,4096",
        )
        return [int(part) for part in parts]


def compare(cfg: AttentionConfig, tokens: int) -> str:
    """A line of the table."""
    rng = np.random.default_rng(0)
    shape = 1, tokens, cfg.heads, cfg.head_dim
    qkv = tuple(jnp.asarray(rng.normal(size=shape), cfg.dtype) for _ in range(3))
    seen = own_tokens(jnp.ones((1, tokens), jnp.int32))

    def program(form):
        def loss(q, k, v):
            return jnp.sum(form(q, k, v, seen, cfg.head_dim**-0.5).astype(jnp.float32) ** 2)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*qkv).compile()

    programs = {name: program(form) for name, form in FORMS.items()}
    took: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(cfg.turns + 1):
        for name, run in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(run(*qkv))
            if turn:
                took[name].append(time.perf_counter() - started)
    seconds = [statistics.median(took[name]) for name in FORMS]
    mebibytes = [_temporary(run) / 2**20 for run in programs.values()]
    ratios = (b / a for a, b in (seconds, mebibytes))
    return f"{tokens:6}  {{:9.4f}} {{:9.4f}}  {{:9.1f}} {{:9.1f}}  {{:6.2f}} {{:7.3f}}".format(
        *seconds, *mebibytes, *ratios
    )


def _temporary(compiled) -> int:
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def on_a_long_row(tokens: int) -> str:
    """Forward and backward of MODEL, whose loss is the mean log-probability."""
    weights = random_weights(MODEL, sharding.make_mesh("1"), jax.random.key(0))
    tokens_BT = jax.random.randint(jax.random.key(1), (1, tokens), 0, MODEL.vocab)

    def loss(params):
        hidden_BTD = forward(Weights(params, None), tokens_BT, MODEL).hidden_BTD
        return jnp.mean(log_probs(params, hidden_BTD[:, :-1], tokens_BT[:, 1:], MODEL)[0])

    run = jax.jit(jax.value_and_grad(loss)).lower(weights.params).compile()
    started = time.perf_counter()
    value, _ = jax.block_until_ready(run(weights.params))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{tokens:,} tokens through {MODEL.layers} layers and back: {seconds:.1f} s, temporaries "
        f"{_temporary(run) / 2**30:.2f} GiB, the process at its peak {peak:.2f} GiB; mean log-prob "
        f"{value:.3f}"
    )


def main(args: list[str]) -> None:
    cfg = cli.parse(AttentionConfig, AttentionConfig(), args, __doc__ or "")
    if cfg.long:  # first, since a process's peak does not come down
        print(on_a_long_row(cfg.long), flush=True)
    print("tokens      plain  blockwise s    plain  blockwise MiB   ratio: s     MiB")
    for tokens in cfg.lengths:
        print(compare(cfg, tokens), flush=True)


if __name__ == "__main__":
    cli.run(main)
