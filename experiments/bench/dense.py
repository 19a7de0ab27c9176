"""One GRPO step of a small dense model, here and in TRL, in one process: needs `pip install trl`
beside the parity extra; without it, this project alone.

    python -m experiments.bench.dense

A model of Qwen2's form (4 x 256, 4 heads, 2 key-value heads, feed-forward 1,024, vocabulary 4,096,
tied), float32, on the CPU. A step draws 8 replies to each of 8 prompts of 32 tokens, gives random
rewards, and takes one update without a KL term. Once all replies are of 96 tokens; once they end
at random, where a bias of the end token's logit makes them a third as long on average. The two
take turns, and medians are compared.
"""

import dataclasses
import importlib.util
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import cli
from r1jax import hub, optim, sharding
from r1jax.architecture import GQAConfig, ModelConfig, RopeConfig
from r1jax.config import OptimConfig, RLConfig, RunConfig, SamplingConfig
from r1jax.rl.biases import bias_vector
from r1jax.rl.grpo import grpo_step
from r1jax.rl.hyper import hyper_of, static_of
from r1jax.rl.loop import new_policy
from r1jax.rl.types import layout_of, make_rollout
from r1jax.sampling.engine import Request
from r1jax.sampling.lanes import Lanes

QUESTIONS, GROUP, PROMPT, REPLY, VOCAB = 8, 8, 32, 96, 4096
END = 0  # the token
# e^4.87 of 4,095 + e^4.87: a token is the end with probability 1/32 where all logits are equal.
LONG_TAIL = {END: float(np.log((VOCAB - 1) / 31))}
LR = 1e-5

MODEL = ModelConfig(
    vocab=VOCAB,
    d_model=256,
    layers=4,
    dense_layers=4,
    dense_ffn=1024,
    attention=GQAConfig(heads=4, kv_heads=2, head_dim=64, qkv_bias=True),
    rope=RopeConfig(interleaved=False),
    context=256,
    tied_head=True,
    scan_layers=False,
)


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    rows: int = 16  # computed at once
    row_tokens: int = 0  # 0: as long as the longest prompt with its reply
    turns: int = 5


def here(weights, asked: DenseConfig, bias: dict[int, float]) -> Callable[[], float]:
    """A step; the mean length of its replies."""
    cfg = RunConfig(
        model=MODEL,
        rl=RLConfig(
            questions=QUESTIONS,
            group=GROUP,
            minibatches=1,
            kl_coef=0.0,
            rows=asked.rows,
            row_tokens=asked.row_tokens,
        ),
        sampling=SamplingConfig(max_prompt=PROMPT, max_tokens=REPLY, slots=QUESTIONS * GROUP),
        optim=OptimConfig(lr=LR),
    )
    mesh, rng = sharding.make_mesh("1"), np.random.default_rng(0)
    engine = Lanes(cfg.model, cfg.sampling, mesh, [END] if bias else [])
    hyper = hyper_of(cfg, bias_vector(bias, VOCAB))
    held = [new_policy(cfg, weights, mesh)]
    layout, turn = layout_of(cfg, 1), iter(range(10**6))

    def step() -> float:
        prompts = rng.integers(1, VOCAB, (QUESTIONS, PROMPT)).tolist()
        asked = [Request(p, i, k, bias=bias) for i, p in enumerate(prompts) for k in range(GROUP)]
        completions, _ = engine.generate(held[0].train.weights, asked, jax.random.key(next(turn)))
        rewards = rng.random(len(asked)).tolist()
        rollout = make_rollout(
            [list(r.prompt) for r in asked], completions, rewards, [True] * len(asked), layout, rng
        )
        held[0], metrics = grpo_step(held[0], rollout, hyper, **static_of(cfg))
        jax.block_until_ready(metrics)
        return float(np.mean([len(c.tokens) for c in completions]))

    return step


class There:
    """TRL's trainer, of which every step is timed from within."""

    def __init__(self, folder: Path, bias: dict[int, float], steps: int):
        import datasets
        import tokenizers
        import torch
        import transformers
        import trl

        words = {f"w{i}": i for i in range(VOCAB)}
        core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w1"))
        core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=core, eos_token="w0", pad_token="w0"
        )
        rng = np.random.default_rng(0)
        prompts = [
            " ".join(f"w{n}" for n in rng.integers(1, VOCAB, PROMPT))
            for _ in range(QUESTIONS * steps)
        ]
        self.lengths: list[float] = []

        def reward(completion_ids, **_: Any) -> list[float]:
            self.lengths.append(float(np.mean([len(c) for c in completion_ids])))
            return rng.random(len(completion_ids)).tolist()

        ends: dict[str, Any] = {"min_new_tokens": REPLY, "eos_token_id": END}
        if bias:
            ends = {"sequence_bias": {(END,): bias[END]}, "eos_token_id": END}
        self.trainer = trl.GRPOTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=reward,
            args=trl.GRPOConfig(
                output_dir=str(folder / "trl"),
                per_device_train_batch_size=QUESTIONS * GROUP,
                num_generations=GROUP,
                max_completion_length=REPLY,
                max_steps=steps,
                learning_rate=LR,
                beta=0.0,
                temperature=1.0,
                top_k=0,
                generation_kwargs=ends,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
        )

    def steps(self, between: Callable[[], None]) -> list[float]:
        """Seconds of each; `between` is called after each of them, and not counted."""
        import transformers

        took: list[float] = []

        class Clock(transformers.TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.started = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                took.append(time.perf_counter() - self.started)
                between()

        self.trainer.add_callback(Clock())
        self.trainer.train()
        return took


def main(args: list[str]) -> None:
    asked = cli.parse(DenseConfig, DenseConfig(), args, __doc__ or "")
    compared = bool(importlib.util.find_spec("trl"))
    if not compared:
        print("TRL: not installed; pip install trl and -e '.[parity]' to compare with it")
    weights = optim.random_weights(MODEL, sharding.make_mesh("1"), jax.random.key(0))
    for name, bias in (("all of 96 tokens", {}), ("a third as long", LONG_TAIL)):
        ours: list[float] = []
        lengths: list[float] = []
        step = here(jax.tree.map(np.asarray, weights), asked, bias)

        def turn(step=step, ours=ours, lengths=lengths) -> None:
            started = time.perf_counter()
            lengths.append(step())
            ours.append(time.perf_counter() - started)

        line = ""
        if compared:
            logging.disable(logging.WARNING)
            with tempfile.TemporaryDirectory() as folder:
                saved = hub.save_model(weights, MODEL, Path(folder) / "model", dtype="float32")
                there = There(saved, bias, asked.turns + 1)
                theirs = statistics.median(there.steps(turn)[1:])
            line = f"; TRL {theirs:.2f} s for {np.mean(there.lengths[1:]):.0f} tokens"
        else:
            for _ in range(asked.turns + 1):
                turn()
        mine = statistics.median(ours[1:])
        ratio = f": {theirs / mine:.1f}x" if compared else ""
        print(f"{name}: {mine:.2f} s a step of {np.mean(lengths[1:]):.0f} tokens{line}{ratio}")


if __name__ == "__main__":
    cli.run(main)
