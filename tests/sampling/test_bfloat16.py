"""The sampler and the trainer in bfloat16, on the embedded base: the ratio that the update sees
before it has moved is noise, and that noise is small."""

import dataclasses

import jax
import numpy as np

from r1jax.base import EMBEDDED, load_weights
from r1jax.config import RLConfig, SamplingConfig
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tokenizer import Tokenizer
from r1jax.presets import r1_zero_tiny
from r1jax.rl.grpo import row_log_probs
from r1jax.rl.types import layout_of, make_rollout
from r1jax.sampling.engine import Engine, Request
from r1jax.sharding import make_mesh

SAMPLING = SamplingConfig(max_prompt=12, max_tokens=100, slots=64, refill=64)
PROMPTS = ("use 9 7 3 1 to make 4", "puzzle 8 6 5 2 to make 9", "use 5 4 2 1 to make 0")


def test_log_probs_of_sampler_and_trainer_agree_on_average():
    model = dataclasses.replace(r1_zero_tiny().model, dtype="bfloat16")
    weights = load_weights(EMBEDDED, model)
    tokenizer = Tokenizer.words(VOCABULARY)
    prompts = [tokenizer.encode(f"{PROMPTS[q % 3]} <think>") for q in range(16)]
    requests = [Request(prompts[q], q, i) for q in range(16) for i in range(4)]
    engine = Engine(model, SAMPLING, make_mesh("1"), [tokenizer.eos_id])
    completions, _ = engine.generate(weights, requests, jax.random.key(0))
    run = dataclasses.replace(
        r1_zero_tiny(),
        sampling=SAMPLING,
        rl=RLConfig(questions=16, group=4, minibatches=1, rows=64),
    )
    n, layout = len(requests), layout_of(run, 1)
    rng = np.random.default_rng(0)
    prompted = [x.prompt for x in requests]
    r = make_rollout(prompted, completions, [0] * n, [True] * n, layout, rng)
    rows = jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), r.rows)
    scored = jax.jit(lambda weights, rows: row_log_probs(weights, rows, model, 1.0)[0])
    reply = rows.reply_BT
    difference = np.abs(np.asarray(scored(weights, rows)) - rows.old_logp_BT)[reply]
    assert reply.sum() > 1000
    assert difference.mean() < 1e-3, f"mean {difference.mean():.2g} over {reply.sum()} tokens"
    assert difference.mean() > 1e-6  # it was computed in bfloat16
