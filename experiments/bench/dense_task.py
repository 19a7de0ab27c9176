"""What `experiments.bench.dense` asks of everybody: a model's sizes, how many replies of how many
tokens, and texts whose words are a vocabulary's numbers."""

import numpy as np

from r1jax.architecture import GQAConfig, ModelConfig, RopeConfig

QUESTIONS, GROUP, PROMPT, REPLY, VOCAB = 8, 8, 32, 96, 4096
END, PAD = 0, 1  # tokens that no prompt has
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


def random_prompts(rng: np.random.Generator, count: int) -> list[list[int]]:
    return rng.integers(2, VOCAB, (count, PROMPT)).tolist()


def text(tokens: list[int]) -> str:
    return " ".join(f"w{n}" for n in tokens)
