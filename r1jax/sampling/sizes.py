"""The sizes that the engine is compiled for: few, and near to what is needed."""

import dataclasses

from r1jax.config import SamplingConfig

SLOTS, REFILL = 64, 16  # replies decoded side by side, where there are more than that
ROUND = 32  # prompts are padded to a multiple, so that a chat compiles for few lengths


def sized(sampling: SamplingConfig, longest: int, replies: int, context: int) -> SamplingConfig:
    """Where prompts are asked once and are not a run's: `sampling` for so many replies to prompts
    of at most `longest` tokens, which is less than the model's context. Its max_tokens are fewer
    where the context leaves no more."""
    max_tokens = min(sampling.max_tokens, context - longest)
    few = replies <= SLOTS
    return dataclasses.replace(
        sampling,
        max_prompt=min(-(-longest // ROUND) * ROUND, context - max_tokens),
        max_tokens=max_tokens,
        slots=replies if few else SLOTS,
        refill=replies if few else REFILL,
    )


def ladder(wanted: int, least: int, most: int) -> int:
    """The power of two that holds `wanted`, at least `least`; `most` where it is not far off."""
    size = max(least, 1 << max(0, wanted - 1).bit_length())
    return most if 3 * size >= 2 * most else size
