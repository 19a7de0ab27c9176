"""The same small models here and in Transformers, in one process: needs the parity extra.

    python -m experiments.bench.transformers
    python -m experiments.bench.transformers --widths=256 --layers=4 --rows=32 --reply=128

Decoding is greedy, through the rollout engine here and `generate` with its cache there; its rate is
of the tokens after the first. Prefill runs the prompts into a cache up to the first token's logits.
A training step is forward, backward, clipping and AdamW. Everything is float32 on the CPU, torch
with all its threads; the two take turns, and medians are compared.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from r1jax import hub, optim, sharding
from r1jax.architecture import GQAConfig, MLAConfig, ModelConfig, RopeConfig, RouterConfig
from r1jax.checks import check
from r1jax.config import OptimConfig, SamplingConfig
from r1jax.data.packing import Batch
from r1jax.model.cache import init_cache
from r1jax.model.head import unembed
from r1jax.model.params import weight_specs
from r1jax.model.transformer import forward
from r1jax.sampling.engine import Engine, Request
from r1jax.sft import sft_step

try:
    import torch
    import transformers
except ImportError:  # which `main` says
    torch = transformers = None  # type: ignore[assignment]

ROUNDS = 5
LR = 1e-4


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The first width is of this project's own embedded models, where calling an operation costs
    more than it does; the other one where it is the multiplications that count."""

    widths: tuple[int, ...] = (64, 256)  # d_model
    layers: int = 6
    rows: int = 16
    prompt: int = 64  # tokens
    reply: int = 64  # tokens
    trained: int = 128  # tokens of a row of a training step


def models(width: int, layers: int) -> dict[str, ModelConfig]:
    """Both families in miniature, d_model = `width`.

    On a CPU, unrolled layers are the faster choice; and every token through every expert, but for
    the many tokens of a training step.
    """
    heads = width // 32
    dense = ModelConfig(
        vocab=8 * width,
        d_model=width,
        layers=layers,
        dense_layers=layers,
        dense_ffn=2 * width,
        attention=GQAConfig(heads=heads, kv_heads=heads // 2, head_dim=32, qkv_bias=True),
        rope=RopeConfig(interleaved=False),
        context=512,
        scan_layers=False,
    )
    latent = MLAConfig(
        heads=heads, q_lora=width // 2, kv_lora=width // 4, nope_dim=32, rope_dim=16, v_dim=32
    )
    moe = dataclasses.replace(
        dense,
        attention=latent,
        dense_layers=1,
        expert_ffn=width // 2,
        shared_experts=1,
        router=RouterConfig(experts=16, active=4, groups=4, group_limit=2, scale=2.5),
        rope=RopeConfig(factor=40.0, original_context=128),
        experts_multiply="dense",
    )
    return {"DeepSeek-V3": moe, "Qwen2": dense}


def compare(sizes: Sizes) -> None:
    """Prints tokens/s of both, and ratios, for each model."""
    rows, prompt, reply, trained = sizes.rows, sizes.prompt, sizes.reply, sizes.trained
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name, model in (
        item for width in sizes.widths for item in models(width, sizes.layers).items()
    ):
        mesh = sharding.make_mesh("1")
        weights = optim.random_weights(model, mesh, jax.random.key(0))
        with tempfile.TemporaryDirectory() as folder:
            saved = hub.save_model(weights, model, Path(folder) / "model", dtype="float32")
            theirs = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
        parameters = sharding.count(weight_specs(model))
        print(
            f"{name}: {parameters:,} parameters, {model.layers} layers of {model.d_model}, "
            f"batch {rows}, prompt {prompt}, reply {reply}, training rows of {trained}; "
            f"{torch.get_num_threads()} threads, Transformers {transformers.__version__}"
        )
        tokens = np.random.default_rng(0).integers(0, model.vocab, (rows, max(prompt, trained)))
        read, learned = tokens[:, :prompt], tokens[:, :trained]
        here, there = _Here(model, weights, read, learned), _There(theirs, read, learned)
        sides = (here, there)
        times = _turns(*(side.replies(n) for n in (1, reply) for side in sides))
        _report("decode", rows * (reply - 1), [times[2] - times[0], times[3] - times[1]])
        _report("prefill", rows * prompt, _turns(here.prefill, there.prefill))
        _report("training step", rows * trained, _turns(here.train, there.train))


def _turns(*runs: Callable[[], object]) -> list[float]:
    """Median seconds of each, after one that compiles, all taking turns."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(ROUNDS + 1):
        for run, took in zip(runs, times, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                took.append(time.perf_counter() - started)
    return [statistics.median(took) for took in times]


def _report(what: str, tokens: int, seconds: list[float]) -> None:
    here, there = seconds
    print(
        f"  {what:13} {here:7.3f} s, Transformers {there:7.3f} s: {there / here:.1f}x "
        f"({tokens / here:,.0f} and {tokens / there:,.0f} tokens/s)"
    )


class _Here:
    def __init__(self, model: ModelConfig, weights, read_BP: np.ndarray, learned_BT: np.ndarray):
        self.model, self.weights, self.read_BP = model, weights, read_BP
        ones, (rows, prompt) = np.ones_like(learned_BT), read_BP.shape
        self.batch = Batch(
            tokens_BT=learned_BT,
            segments_BT=ones,
            positions_BT=np.broadcast_to(np.arange(ones.shape[1]), ones.shape),
            trained_BT=ones > 0,
        )
        self.optim = OptimConfig(lr=LR, bias_rate=0.0, balance_alpha=0.0)
        self.state = optim.new_state(jax.tree.map(jnp.copy, weights), self.optim)

        def prefill(weights, tokens):
            out = forward(weights, tokens, model, cache=init_cache(model, rows, prompt))
            return unembed(weights.params, out.hidden_BTD[:, -1], model), out.cache

        self._prefill = jax.jit(prefill)

    def replies(self, length: int) -> Callable[[], object]:
        rows, prompt = self.read_BP.shape
        cfg = SamplingConfig(
            temperature=0.0, max_prompt=prompt, max_tokens=length, slots=rows, refill=rows
        )
        engine = Engine(self.model, cfg, sharding.make_mesh("1"), stop=[])
        requests = [Request(row, i, 0) for i, row in enumerate(self.read_BP)]
        return lambda: engine.generate(self.weights, requests, jax.random.key(0))[0][0].tokens

    def prefill(self):
        return self._prefill(self.weights, self.read_BP)

    def train(self):
        model = dataclasses.replace(self.model, experts_multiply="blocked")
        self.state, metrics = sft_step(self.state, self.batch, model=model, cfg=self.optim)
        return metrics


class _There:
    def __init__(self, model, read_BP: np.ndarray, learned_BT: np.ndarray):
        self.model = model
        self.read, self.learned = torch.tensor(read_BP), torch.tensor(learned_BT)
        self.adam = torch.optim.AdamW(
            model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    def replies(self, length: int) -> Callable[[], object]:
        mask = torch.ones_like(self.read)

        def run():
            self.model.eval()
            with torch.no_grad():
                self.model.generate(
                    self.read,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=length,
                    min_new_tokens=length,
                    pad_token_id=0,
                )

        return run

    def prefill(self):
        self.model.eval()
        with torch.no_grad():
            self.model(self.read, use_cache=True, logits_to_keep=1)

    def train(self):
        self.model.train()
        self.model(self.learned, labels=self.learned).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad()


def main(args: list[str]) -> None:
    sizes = cli.parse(Sizes, Sizes(), args, __doc__ or "")
    found = torch is not None and transformers is not None
    check(found, "torch and Transformers are not installed: pip install -e '.[parity]'")
    compare(sizes)


if __name__ == "__main__":
    cli.run(main)
