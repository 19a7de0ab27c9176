"""Drawing replies and grading them: the same for training and for evaluation."""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import jax
import numpy as np

from r1jax.analysis.reflection import count_terms, has_thoughts, reflection_metrics
from r1jax.data.problems import Problem
from r1jax.data.tasks import Task
from r1jax.model.params import Weights
from r1jax.rewards.components import Outcome
from r1jax.rewards.grading import Grade, Grader
from r1jax.rewards.shares import grade_shares
from r1jax.sampling.engine import Completion, Request
from r1jax.sampling.lanes import Lanes


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One reply: what was asked, what was drawn, what it earned, and its reflective terms."""

    problem: Problem
    number: int  # among the replies to this problem
    prompt: list[int]
    completion: Completion
    grade: Grade
    terms: dict[str, int]
    read: Callable[[Sequence[int]], str] = dataclasses.field(repr=False)

    @functools.cached_property
    def text(self) -> str:
        """Made where it is asked for: a process needs few of the replies that others graded."""
        return self.read(self.completion.tokens.tolist())

    def paid(self, grade: Grade) -> "Sample":
        """With another grade."""
        return self if grade is self.grade else dataclasses.replace(self, grade=grade)

    @property
    def reflective_terms(self) -> int:
        return sum(self.terms.values())

    @property
    def graded(self) -> bool:
        """Whether no grader failed: else its reward says nothing about the reply."""
        return self.grade.graded

    @property
    def correct(self) -> bool:
        return self.grade.outcome == "correct"

    def row(self, step: int, split: str, task: Task) -> dict:
        """As a line of samples.jsonl."""
        return {
            "step": step,
            "split": split,
            "problem_id": self.problem.id,
            "sample": self.number,
            "prompt": task.tokenizer.decode(self.prompt),
            "text": self.text,
            "tokens": len(self.completion.tokens),
            "truncated": self.completion.truncated,
            "outcome": self.grade.outcome,
            "reward": self.grade.reward,
            "components": self.grade.components,
            "reflective_terms": self.reflective_terms,
        }


NO_BIAS: Mapping[int, float] = {}
Drawn = tuple[list[Sample], dict[str, float]]  # graded replies, and seconds by what they went on


def draw(
    engine: Lanes,
    grader: Grader,
    task: Task,
    weights: Weights,
    questions: Sequence[tuple[int, Problem]],
    group: int,
    key: jax.Array,
    temperature: float | None = None,
    bias: Mapping[int, float] = NO_BIAS,
    routing: bool = False,
) -> Callable[[], Drawn]:
    """Draws `group` replies to each (question number, problem). Returns while they are graded; the
    result waits for the grades, and gives the samples in order and the seconds that drawing and
    waiting took.

    A question's number is where its randomness comes from: its place in the endless stream of
    training problems, or among the held-out ones. temperature: None is the engine's. bias: added to
    the logits of these tokens. routing: replies say which experts their tokens went to. Every
    process must call this, and its result, in the same order.
    """
    started = time.perf_counter()
    prompts = {number: task.prompt(problem) for number, problem in questions}
    wanted = [(q, problem, i) for q, problem in questions for i in range(group)]
    how: dict[str, Any] = {"temperature": temperature, "bias": bias, "routing": routing}
    requests = [Request(prompts[q], q, i, **how) for q, _, i in wanted]
    completions, _ = engine.generate(weights, requests, key)
    drawn = time.perf_counter()
    grading = grade_shares(
        grader,
        [problem for _, problem, _ in wanted],
        lambda i: task.text(completions[i].tokens.tolist()),
        [len(c.tokens) for c in completions],
        [bool(c.truncated) for c in completions],
        count_terms,
    )
    submitted = time.perf_counter()

    def finish() -> Drawn:
        waiting = time.perf_counter()
        samples = [
            Sample(problem, i, prompts[q], completion, grade, terms, task.text)
            for (q, problem, i), completion, (grade, terms) in zip(
                wanted, completions, grading(), strict=True
            )
        ]
        reward = submitted - drawn + time.perf_counter() - waiting
        return samples, {"time/rollout": drawn - started, "time/reward": reward}

    return finish


def sample_metrics(samples: Sequence[Sample]) -> dict[str, float | None]:
    """Reward by component (of replies whose grader did not fail), how many replies came to each
    outcome, lengths in tokens, and reflection, over some replies."""
    length = np.array([len(s.completion.tokens) for s in samples])
    correct = np.array([s.correct for s in samples])

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if values.size else None

    graded = [s.grade.components for s in samples if s.graded]
    components = {
        f"reward/{name}": mean(np.array([of_one[name] for of_one in graded]))
        for name in samples[0].grade.components
    }
    outcomes = Counter(s.grade.outcome for s in samples)
    return {
        **components,
        **{f"outcome/{name}": float(outcomes[name]) for name in get_args(Outcome)},
        "reward/unparseable": mean(np.array([s.grade.outcome == "unparseable" for s in samples])),
        "reward/grader_failed": mean(np.array([s.grade.outcome == "failed" for s in samples])),
        "length/mean": mean(length),
        "length/correct": mean(length[correct]),
        "length/incorrect": mean(length[~correct]),
        "length/truncated": mean(np.array([s.completion.truncated for s in samples])),
        **_reflection(samples, length.tolist()),
    }


def by_source(
    samples: Sequence[Sample], sources: Sequence[str], prefix: str = ""
) -> dict[str, float | None]:
    """Accuracy and length of the replies to the problems of each source; None where there are
    none."""
    found: dict[str, float | None] = {}
    for source in sources:
        some = [s for s in samples if s.problem.source == source]
        right, tokens = [s.correct for s in some], [len(s.completion.tokens) for s in some]
        found[f"{prefix}accuracy/{source}"] = float(np.mean(right)) if some else None
        found[f"{prefix}length/{source}"] = float(np.mean(tokens)) if some else None
    return found


def _reflection(samples: Sequence[Sample], length: list[int]) -> dict[str, float]:
    """Of replies that have thoughts; of a mere text, reflective terms mean nothing."""
    if not any(has_thoughts(s.problem.kind) for s in samples):
        return {}
    return reflection_metrics([s.terms for s in samples], length)
