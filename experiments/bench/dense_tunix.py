"""Tunix's steps of what `experiments.bench.dense` compares, timed where it asks for prompts."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench.dense_task import (
    END,
    GROUP,
    LR,
    MODEL,
    PAD,
    PROMPT,
    QUESTIONS,
    REPLY,
    VOCAB,
    random_prompts,
    text,
)
from r1jax.architecture import GQAConfig


class Words:
    """The texts' tokenizer."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def decode(self, ids: list[int], **_: Any) -> str:
        return text(ids)

    def bos_id(self) -> int:
        return END

    def eos_id(self) -> int:
        return END

    def pad_id(self) -> int:
        return PAD


class Tunix:
    """A trainer of the model in `folder`; `lengths`: mean tokens of a reply, of each step."""

    def __init__(self, folder: Path, bias: dict[int, float], steps: int):
        import optax
        from flax import nnx
        from tunix.models.qwen2 import model as qwen2
        from tunix.models.qwen2 import params
        from tunix.rl import rl_cluster
        from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
        from tunix.rl.rollout.base_rollout import RolloutConfig

        shape = MODEL.attention
        assert isinstance(shape, GQAConfig)
        mesh = jax.make_mesh(
            (1, 1), ("fsdp", "tp"), (jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:1]
        )
        sizes = qwen2.ModelConfig(
            num_layers=MODEL.layers,
            vocab_size=VOCAB,
            embed_dim=MODEL.d_model,
            hidden_dim=MODEL.dense_ffn,
            num_heads=shape.heads,
            head_dim=shape.head_dim,
            num_kv_heads=shape.kv_heads,
            rope_theta=int(MODEL.rope.theta),
            norm_eps=MODEL.norm_eps,
            use_tied_embedding=True,
        )
        # It has no bias of logits: a model that adds one.
        added = np.zeros(VOCAB, np.float32)
        for token, amount in bias.items():
            added[token] = amount

        class Biased(qwen2.Qwen2):
            def __call__(self, *args: Any, **kwargs: Any):
                logits, cache = super().__call__(*args, **kwargs)
                return logits + added, cache

        actor = params.create_model_from_safe_tensors(str(folder), sizes, mesh)
        if bias:
            _, state = nnx.split(actor)
            biased = nnx.eval_shape(lambda: Biased(sizes, rngs=nnx.Rngs(0)))
            actor = nnx.merge(nnx.graphdef(biased), state)
        self.batches = [
            {"prompts": np.array([text(tokens) for tokens in random_prompts(rng, QUESTIONS)])}
            for rng in map(np.random.default_rng, range(steps))
        ]
        self.lengths: list[float] = []
        rng = np.random.default_rng(0)

        def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
            self.lengths.append(float(np.mean([len(c.split()) for c in completions])))
            return rng.random(len(prompts)).tolist()

        role = rl_cluster.Role
        self.cluster = rl_cluster.RLCluster(
            actor=actor,
            tokenizer=Words(),
            cluster_config=rl_cluster.ClusterConfig(
                role_to_mesh={role.ACTOR: mesh, role.REFERENCE: mesh, role.ROLLOUT: mesh},
                training_config=rl_cluster.RLTrainingConfig(
                    actor_optimizer=optax.adamw(LR),
                    eval_every_n_steps=steps + 1,
                    max_steps=steps,
                ),
                rollout_config=RolloutConfig(
                    max_tokens_to_generate=REPLY,
                    max_prompt_length=PROMPT,
                    kv_cache_size=PROMPT + REPLY,
                    temperature=1.0,
                    eos_tokens=[END if bias else VOCAB],  # the latter is none: all go on to the end
                ),
            ),
        )
        self.learner = GRPOLearner(
            rl_cluster=self.cluster,
            reward_fns=reward,
            algo_config=GRPOConfig(num_generations=GROUP, beta=0.0),
        )

    def steps(self, between: Callable[[], None]) -> list[float]:
        """Seconds of each; `between` is called after each of them, and not counted."""
        from flax import nnx

        took: list[float] = []
        started: list[float] = []

        def ended() -> None:
            jax.block_until_ready(nnx.state(self.cluster.actor_trainer.model))
            took.append(time.perf_counter() - started[-1])
            between()

        def asked() -> Iterator[dict[str, np.ndarray]]:
            for batch in self.batches:
                if started:
                    ended()
                started.append(time.perf_counter())
                yield batch
            ended()  # its loop asks once more

        self.learner.train(asked())
        if len(took) < len(self.batches):  # or ends by its own count
            ended()
        return took
