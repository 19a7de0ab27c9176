"""What a token weighs whose sampler was not the trainer: short pure functions, chosen by name.

The sampler computes in other shapes, on other hardware or in coarser numbers than the trainer, so
that even before an update pi_trainer / pi_sampler is not 1. The ratio of the loss is then taken
against the trainer's own log-probs, scored again before the first update, and the surrogate of
each token is weighed by a function of c = pi_trainer / pi_sampler, without a gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax.config import CorrectionName


def truncated(ratio: jax.Array) -> jax.Array:
    """min(c, 2) (TIS: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", 2025; its cap of 2)."""
    return jnp.minimum(ratio, 2.0)


def masked(ratio: jax.Array) -> jax.Array:
    """c where it lies in [0.5, 5], else 0: what the two disagree on teaches nothing (IcePop, Ling
    Team, "Every Step Evolves", arXiv 2510.18855, with its bounds)."""
    return jnp.where((ratio >= 0.5) & (ratio <= 5.0), ratio, 0.0)


CORRECTIONS: dict[CorrectionName, Callable[[jax.Array], jax.Array]] = {
    "none": jnp.ones_like,
    "tis": truncated,
    "icepop": masked,
}
