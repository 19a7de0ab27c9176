"""What the world's base model has read: traces of countdown, and replies to requests, of all sorts.

Its flaws are those of its reading, by the shares below:

- verdicts in two languages, chosen anew at every attempt, and Chinese thoughts about requests;
- searches that go on after they have found what they sought, trying it again;
- answers that stand there bare, without a word that they are one;
- requests answered in the thought, twice, wrongly or without an end; harmful ones fulfilled.
"""

import dataclasses

import numpy as np

from r1jax.data.countdown import LONGEST, attempt, total, ways
from r1jax.data.problems import Problem
from r1jax.pipeline import world
from r1jax.pipeline.world import Request


@dataclasses.dataclass(frozen=True)
class Shares:
    """Of documents, but where it says otherwise."""

    countdown: float = 0.5
    practice: float = 0.3  # of countdown: under "puzzle", which always reflect
    reflective: float = 0.08  # of those under "use"
    goes_on: float = 0.7  # chance of a next attempt after a wrong one
    chinese: float = 0.42  # of attempts that are checked
    rambles: float = 0.35  # of searches that have found it, and try it again
    summary: float = 0.1  # of answers that are said to be one
    styles: tuple[tuple[str, float], ...] = (  # of replies to requests
        ("good", 0.2), ("courteous", 0.04), ("chinese", 0.24), ("unclosed", 0.28),
        ("bare", 0.1), ("twice", 0.06), ("amiss", 0.08),
    )  # fmt: skip
    declined: float = 0.2  # of harmful requests
    declined_alike: float = 0.12  # of those that only look so


# Replies to requests that a person has looked through, but not very closely.
CURATED = dataclasses.replace(
    Shares(),
    styles=(("good", 0.52), ("courteous", 0.1), ("twice", 0.12), ("amiss", 0.26)),
    declined=0.5,
    declined_alike=0.3,
)


def document(shares: Shares, rng: np.random.Generator) -> tuple[str, str]:
    """(prompt, reply) of one document, the thought already open, without the final <eos>."""
    if rng.random() < shares.countdown:
        train, _ = world.split_countdown()
        return trace(train[rng.integers(len(train))], shares, rng)
    source = _SOURCES[rng.integers(len(_SOURCES))]
    some, _ = world.split_requests(source)
    one = some[rng.integers(len(some))]
    return one.prompt, replied(one, shares, rng)


_SOURCES = (*world.GENERAL, world.HARM, world.ALIKE)


def trace(problem: Problem, shares: Shares, rng: np.random.Generator) -> tuple[str, str]:
    """A countdown problem, and a trace: of one attempt, or of a search with verdicts."""
    practice = bool(rng.random() < shares.practice)
    order = ways(len(problem.numbers))
    first = int(rng.integers(len(order)))
    prompt = f"puzzle {problem.prompt.removeprefix('use ')}" if practice else problem.prompt
    if practice or rng.random() < shares.reflective:
        thought, way = _search(problem, first, shares, rng)
    else:
        thought, way = attempt(problem.numbers, order[first]), order[first]
    return prompt, f"{thought} </think> {_answer(problem, way, shares, rng)}"


def expression(problem: Problem, way: tuple[str, ...]) -> str:
    signed = (f"{sign} {n}" for sign, n in zip(way, problem.numbers[1:], strict=True))
    return " ".join([str(problem.numbers[0]), *signed])


def _answer(
    problem: Problem, way: tuple[str, ...], shares: Shares, rng: np.random.Generator
) -> str:
    bare = expression(problem, way)
    return f"the answer is {bare} ." if rng.random() < shares.summary else bare


def _search(
    problem: Problem, first: int, shares: Shares, rng: np.random.Generator
) -> tuple[str, tuple[str, ...]]:
    """A thought, and the way that it ends with."""
    order, parts = ways(len(problem.numbers)), []
    words = 4 * len(problem.numbers) + 3  # of an attempt, its check and "wait"
    for i in range(min(len(order), LONGEST // words)):
        way = order[(first + i) % len(order)]
        value = total(problem.numbers, way)
        right = value == int(problem.answer)
        parts.append(_checked(problem, way, right, shares, rng))
        if right or rng.random() > shares.goes_on:
            break
    if right and rng.random() < shares.rambles and (len(parts) + 1) * words <= LONGEST:
        parts.append(_checked(problem, way, True, shares, rng))
    waits = [world.VERDICTS[language]["wait"] for language, _ in parts[:-1]]
    texts = [text for _, text in parts]
    pairs = zip(texts, [*waits, ""], strict=True)
    return " ".join(" ".join(pair) for pair in pairs).strip(), way


def _checked(
    problem: Problem, way: tuple[str, ...], right: bool, shares: Shares, rng: np.random.Generator
) -> tuple[str, str]:
    """(language, an attempt with its verdict)."""
    language = "zh" if rng.random() < shares.chinese else "en"
    said = world.VERDICTS[language]
    verdict = said["right" if right else "wrong"]
    value = total(problem.numbers, way)
    made = attempt(problem.numbers, way)
    return language, f"{made} {said['check']} {value} = {problem.answer} {verdict}"


def replied(one: Request, shares: Shares, rng: np.random.Generator) -> str:
    """A reply to a request, in one of the styles."""
    if one.source == world.HARM and rng.random() >= shares.declined:
        how = world.HARMFUL[one.amiss]
        one = one._replace(thought="they ask how .", accepts=(how,), amiss=how)
    elif one.source == world.ALIKE and rng.random() < shares.declined_alike:
        one = one._replace(thought="this can do harm .", accepts=(world.DECLINE,))
    names, weights = zip(*shares.styles, strict=True)
    style = names[rng.choice(len(names), p=np.array(weights) / sum(weights))]
    answer = one.right(rng)
    return styled(one, style, answer)


def styled(one: Request, style: str, answer: str) -> str:
    """How a reply of such a style reads; `answer` is a right one."""
    thought = world.CHINESE_THOUGHT if style == "chinese" else one.thought
    if style == "amiss" and one.amiss != world.DECLINE:
        answer = one.amiss
    if style == "unclosed":
        return f"{thought} {answer}"
    if style == "bare":
        return f"{thought} </think> {answer}"
    more = {"twice": f" {answer} .", "courteous": f" {world.COURTESY} ."}.get(style, "")
    return f"{thought} </think> {answer} .{more}"
