"""From the engine to the grader: which text is graded, and as what."""

import jax
import numpy as np

from r1jax.config import RewardConfig
from r1jax.data.countdown import total, ways
from r1jax.data.tasks import make_task
from r1jax.presets import RUNS
from r1jax.rewards.components import Component, only
from r1jax.rewards.grading import Grader
from r1jax.rewards.own import components_of
from r1jax.rl.rollout import draw
from r1jax.sampling.engine import Completion

CFG = RUNS["tiny"]()
TASK = make_task(CFG)


def right_answer(problem):
    order = ways(len(problem.numbers))
    way = next(way for way in order if total(problem.numbers, way) == int(problem.answer))
    rest = [f"{sign} {n}" for sign, n in zip(way, problem.numbers[1:], strict=True)]
    return " ".join([str(problem.numbers[0]), *rest])


class Engine:
    """Stands in for the engine: one reply that ends, and the same reply cut."""

    def __init__(self, tokens, truncated):
        self.tokens, self.truncated = tokens, truncated

    def generate(self, weights, requests, key):
        tokens = np.array(self.tokens, np.int32)
        logps = np.zeros(len(tokens), np.float32)
        return [Completion(tokens, logps, cut) for cut in self.truncated], None


def drawn(text, cfg, components, truncated):
    problem = TASK.heldout[0]
    tokens = TASK.tokenizer.encode(text)
    with Grader(cfg.weights, components=components) as grader:
        asked = [(0, problem)]
        result = draw(
            Engine(tokens, truncated), grader, TASK, None, asked, len(truncated), jax.random.key(0)
        )
        samples, _ = result()
    return samples


def test_a_cut_reply_is_graded_as_cut_and_on_what_it_wrote():
    """Mutation: graded like any other, or on no text at all."""
    answer = right_answer(TASK.heldout[0])
    loop = "use 1 + 2 " * 40 + f"</think> <answer> {answer} </answer>"
    cfg = RewardConfig(repetition=1.0)
    whole, cut = drawn(loop, cfg, components_of(cfg), [False, True])
    assert whole.text == cut.text and (whole.grade.accuracy, whole.grade.format) == (1, 1)
    assert cut.grade.answer is None
    assert cut.grade.outcome == "unparseable" and cut.grade.format == 0
    assert cut.grade.components["repetition"] == whole.grade.components["repetition"] < -0.5


def test_models_that_run_together_see_every_reply_and_that_it_was_cut():
    seen = []

    def score(batch):
        seen.append([(c.problem.id, c.reply, c.truncated, c.outcome) for c in batch])
        return [0.5] * len(batch)

    cfg = RewardConfig(models="helpful=somewhere:2")
    components = components_of(cfg, {"helpful": only([], Component(score, "together"))})
    samples = drawn("use 1 + 2", cfg, components, [False, True])
    problem = TASK.heldout[0].id
    (batch,) = seen
    assert [one[:3] for one in batch] == [
        (problem, samples[0].text, False),
        (problem, samples[1].text, True),
    ]
    assert batch[1][3] == "unparseable"
    assert [s.grade.components["helpful"] for s in samples] == [0.5, 0.5]
    assert samples[1].grade.reward == 1.0
