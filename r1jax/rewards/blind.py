"""Rewards that say nothing about answers: controls of what rewards that do are said to cause.

    random    a coin's 1 or 0 for each reply (Spurious Rewards, arXiv 2506.10947)
    shuffled  a group's own rewards, dealt out anew among its replies: as many of each, so that
              means, deviations and the sizes of advantages are those of a run that is paid

What was paid is a component of the grade, named as the control; the others are logged as ever.
Held-out replies train nothing, and keep their rewards.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from r1jax.config import RewardConfig
from r1jax.rewards.grading import Grade


def blinded(
    grades: Sequence[Grade], cfg: RewardConfig, group: int, rng: np.random.Generator
) -> list[Grade]:
    """Grades of a rollout, `group` replies a question in order, as cfg.control pays them.

    rng: of the run's seed and the step: reply i of a step gets the same in every process, and
    again in a run that is resumed. Replies that are not graded stay so, and are dealt nothing.
    """
    if cfg.control == "none":
        return list(grades)
    reward_N = np.array([grade.reward for grade in grades])
    if cfg.control == "random":
        paid_N = (rng.random(len(grades)) < cfg.random_share).astype(float)
    else:
        paid_N = reward_N.copy()
        for start in range(0, len(grades), group):
            mine = [i for i in range(start, start + group) if grades[i].graded]
            paid_N[mine] = rng.permutation(reward_N[mine])
    return [
        dataclasses.replace(grade, reward=paid, components=grade.components | {cfg.control: paid})
        for grade, paid in zip(grades, paid_N.tolist(), strict=True)
    ]
