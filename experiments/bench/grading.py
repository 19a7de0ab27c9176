"""How fast replies are graded, and how long a step waits for it.

    python -m experiments.bench.grading --workers=4

Prints grades a second by what an answer is checked with: numbers and countdown expressions at
once, formulas in worker processes, programs in sandboxes (one process for standard input, two for
asserts); and the share of the main job's rollout that is spent waiting for grades.
"""

import dataclasses
import random
import time
from collections.abc import Callable

import jax
import numpy as np

from experiments import cli
from r1jax import sharding
from r1jax.base import EMBEDDED, load_weights
from r1jax.checks import check, check_positive
from r1jax.data.problems import Problem, Tests
from r1jax.data.tasks import make_task
from r1jax.presets import RUNS
from r1jax.rewards.grading import Grader
from r1jax.rl.loop import Trainer, new_grader

Case = tuple[Problem, str]  # and a right answer to it

ADD = "def add(a, b):\n    return a + b\n"
SUM = "print(sum(map(int, input().split())))"


def countdown(i: int, rng: random.Random) -> Case:
    a, b, c = rng.choices(range(1, 1000), k=3)
    return Problem(f"{i}", "countdown", "", str(a + b - c), (a, b, c)), f"{a} + {b} - {c}"


def number(i: int, rng: random.Random) -> Case:
    return Problem(f"{i}", "math", "", str(1000 + i)), f"{1000 + i:,}"


def fraction(i: int, rng: random.Random) -> Case:
    a, b = rng.randint(1, 999), rng.randint(2, 999)
    return Problem(f"{i}", "math", "", rf"\frac{{{a}}}{{{b}}}"), f"{2 * a}/{2 * b} units"


def formula(i: int, rng: random.Random) -> Case:
    """What only sympy can tell."""
    a, b = rng.randint(2, 999), rng.randint(2, 999)
    return Problem(f"{i}", "math", "", rf"(x+{a})(x-{b})"), f"x^2 + {a - b}x - {a * b}"


def asserts(i: int, rng: random.Random) -> Case:
    tests = Tests(code=f"assert add({i}, 1) == {i + 1}\nassert add(-1, 1) == 0", function="add")
    return Problem(f"{i}", "code", "", tests=tests), f"```python\n{ADD}```"


def stdio(i: int, rng: random.Random) -> Case:
    return (
        Problem(f"{i}", "code", "", tests=Tests(stdio=((f"{i} 1\n", f"{i + 1}\n"),))),
        f"```python\n{SUM}\n```",
    )


# What is graded, how many of them, and what they are.
CASES: dict[Callable[[int, random.Random], Case], tuple[int, str]] = {
    countdown: (20_000, "countdown expressions"),
    number: (20_000, "numbers"),
    fraction: (5_000, "fractions with units"),
    formula: (500, "polynomials"),
    asserts: (200, "programs, asserts"),
    stdio: (200, "programs, standard input"),
}


def speed(grader: Grader) -> None:
    for make, (count, name) in CASES.items():
        rng = random.Random(0)
        problems, answers = zip(*(make(i, rng) for i in range(count)), strict=True)
        replies = [f"<think> so </think> <answer> {answer} </answer>" for answer in answers]
        grader.grade(problems[:2], replies[:2])  # starts what it needs
        started = time.perf_counter()
        grades = grader.grade(problems, replies)
        took = time.perf_counter() - started
        right = sum(grade.outcome == "correct" for grade in grades)
        check(right == count, f"{name}: {count - right} of {count} right answers were not accepted")
        slowest = max(grade.seconds for grade in grades)
        print(f"  {name:26} {count / took:10,.0f} a second   slowest {1000 * slowest:7.1f} ms")


def waiting(rollouts: int) -> None:
    """The share of the rollouts' wall time that is spent waiting for grades."""
    cfg = dataclasses.replace(RUNS["tiny"](), mesh="1")
    mesh, task = sharding.make_mesh("1"), make_task(cfg)
    with new_grader(cfg) as grader, jax.set_mesh(mesh):
        trainer = Trainer(cfg, task, mesh, grader)
        weights = load_weights(EMBEDDED, cfg.model)
        trainer.rollout(weights, 0, 0)  # compiles
        seconds = [trainer.rollout(weights, step, 0)[1] for step in range(rollouts)]
    reward, rollout = (
        np.array([s[f"time/{part}"] for s in seconds]) for part in ("reward", "rollout")
    )
    shares = reward / (reward + rollout)
    print(
        f"  {rollouts} rollouts of {cfg.rl.questions} x {cfg.rl.group}: "
        f"{1000 * rollout.mean():.0f} ms to draw, {1000 * reward.mean():.1f} ms waiting: "
        f"{shares.mean():.1%} (at most {shares.max():.1%})"
    )


@dataclasses.dataclass(frozen=True)
class GradingConfig:
    workers: int = 2  # processes that check formulas and programs

    def __post_init__(self):
        check_positive(self, "workers")


def main(args: list[str]) -> None:
    cfg = cli.parse(GradingConfig, GradingConfig(), args, __doc__ or "")
    print(f"grades, {cfg.workers} workers:")
    with Grader({"accuracy": 1.0, "format": 1.0}, workers=cfg.workers) as grader:
        speed(grader)
    print("waiting for grades in the main job:")
    waiting(20)


if __name__ == "__main__":
    cli.run(main)
