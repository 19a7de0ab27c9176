"""What of a run's settings is an argument of its compiled step, and what is compiled into it.

A number that a sweep tries, such as a learning rate, is traced: two runs that differ in nothing
else share one compiled program. What changes the program (the algorithm, a schedule's form, whether
there is a reference at all) is static.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import numpy as np

from r1jax.config import RunConfig
from r1jax.rl.algorithms import CriticSettings, critic_settings, settings

Scalar = jax.Array | float


class Hyper(flax.struct.PyTreeNode):
    """Traced. Under `jax.vmap` each may have a leading axis, a value for each member."""

    lr: Scalar  # at the schedule's peak
    clip_low: Scalar
    clip_high: Scalar
    kl_coef: Scalar  # without meaning where the state holds no reference
    reference_every: Scalar  # updates
    temperature: Scalar  # of the sampler, whose distribution is what is trained
    budget: Scalar  # tokens that a reply may have
    bias_V: jax.Array | np.ndarray | None = None  # added to logits (`rl/biases.py`)
    critic: CriticSettings | None = None  # of an algorithm that has one


def hyper_of(cfg: RunConfig, bias_V: np.ndarray | None = None) -> Hyper:
    return Hyper(
        lr=cfg.optim.lr,
        **settings(cfg.rl)._asdict(),
        reference_every=cfg.rl.reference_every,
        temperature=cfg.sampling.temperature,
        budget=cfg.sampling.max_tokens,
        bias_V=bias_V,
        critic=critic_settings(cfg.rl, cfg.optim.lr),
    )


def static_of(cfg: RunConfig) -> dict[str, Any]:
    """The static arguments of `grpo_step`."""
    return {
        "model": cfg.model,
        "algorithm": cfg.rl.algorithm,
        "correction": cfg.rl.correction,
        "optim_cfg": dataclasses.replace(cfg.optim, lr=1.0),
    }
