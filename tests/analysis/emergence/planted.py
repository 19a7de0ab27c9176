"""Logs with a planted truth: the share of reflective replies at each step, what they do, and what
a ban does."""

import hand_made
import numpy as np

from r1jax.analysis.emergence.logs import Log

# What a reflective reply is, by kind: (text, how often).
KINDS = {
    "effective": ((hand_made.CORRECTS, 0.6), (hand_made.CONFIRMS, 0.3), (hand_made.BREAKS, 0.1)),
    "confirmatory": ((hand_made.CONFIRMS, 0.97), (hand_made.REPEATS, 0.03)),
    "superficial": ((hand_made.REPEATS, 0.6), (hand_made.CONFIRMS, 0.3), (hand_made.BREAKS, 0.1)),
    "harmful": ((hand_made.BREAKS, 0.6), (hand_made.CONFIRMS, 0.4)),
}
BAN = {"effective": -0.25, "confirmatory": 0.0, "superficial": 0.0, "harmful": 0.15}


def log(
    share_T,
    seed=0,
    kind="effective",
    name="run",
    questions=8,
    group=8,
    alike=0.1,
    heldout=60,
    **fields,
):
    """Replies of `questions` x `group` a step, the questions' shares from a beta distribution with
    the correlation `alike`; and `heldout` questions, 4 replies each, at both ends."""
    rng = np.random.default_rng(seed)
    texts, chances = zip(*KINDS[kind], strict=True)

    def draw(share, step, question, count, split):
        s = 1 / alike - 1
        p = rng.beta(max(share * s, 1e-9), max((1 - share) * s, 1e-9)) if 0 < share < 1 else share
        for reflects, which, luck in zip(
            rng.random(count) < p, rng.choice(len(texts), count, p=chances), rng.random(count),
            strict=True,
        ):  # fmt: skip
            guess = hand_made.GUESS_RIGHT if luck < 0.12 else hand_made.GUESS_WRONG
            text = texts[which] if reflects else guess
            yield hand_made.reply(text, step, question, split=split)

    replies, last = [], len(share_T) - 1
    for step, share in enumerate(share_T):
        for q in range(questions):
            replies += draw(share, step, f"t{step}-{q}", group, "train")
        if step in (0, last):
            for q in range(heldout):
                replies += draw(share, step, f"h{q}", 4, "heldout")
    return Log(name, tuple(replies), whole=True, member={"seed": seed, "base_seed": seed}, **fields)


def intervention(kind, seed=0, questions=200, samples=4):
    """As intervention.json has it: the planted effect of a ban, none of the placebo."""
    rng = np.random.default_rng(seed)
    chance_Q = np.clip(rng.beta(3, 2, questions), 0.3, 0.8)
    found = {}
    for name, effect in (("none", 0.0), ("ban", BAN[kind]), ("placebo", 0.0)):
        shared = rng.random((questions, samples)) if name == "none" else shared  # noqa: F821
        again = rng.random((questions, samples)) < 0.05  # a condition changes some replies anyway
        luck = np.where(again, rng.random((questions, samples)), shared)
        found[name] = (luck < np.clip(chance_Q + effect, 0, 1)[:, None]).mean(1).tolist()
    return {
        "questions": [str(q) for q in range(questions)],
        "samples": samples,
        "conditions": found,
    }
