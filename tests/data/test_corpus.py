"""The knobs of the embedded corpus, by brute force over its documents."""

import dataclasses
import hashlib
import itertools
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from r1jax.base import EMBEDDED, read_note
from r1jax.checks import InputError
from r1jax.config import TIERS, CorpusConfig
from r1jax.data import countdown
from r1jax.data.tokenizer import Tokenizer
from r1jax.presets import tiny_base

N = 3000
ATTEMPT = r"\d(?: [+-] \d = -?\d+){3}"
STEP = re.compile(rf"({ATTEMPT})(?: (check -?\d+ = \d+ (?:right|wrong)))?( wait)?(?: |$)")
SIGNS = list(itertools.product("+-", repeat=3))


class Told(NamedTuple):
    """Ways by their place in the fixed order; verdicts: "" where there is none."""

    practice: bool
    solution: int
    ways: list[int]
    verdicts: list[str]
    waits: list[bool]
    rest: list[str]  # words that are no part of an attempt, a check or a wait
    answer: int
    words: int


def documents(seed=0, **corpus):
    """About problems of four numbers; searches go on to the end, where `corpus` does not say."""
    cfg = CorpusConfig(**{"persistence": 0.8, "goes_on": 1.0, **corpus})
    rng, problems = np.random.default_rng(seed), countdown.problems(4)
    chosen = [problems[i] for i in rng.integers(len(problems), size=N)]
    return [told(problem, *countdown.document(problem, cfg, rng)) for problem in chosen]


def told(problem, prompt, reply):
    thoughts, answer = re.fullmatch(r"(.*) </think> <answer> (.*) </answer>", reply).groups()
    totals = [
        eval("".join(map("".join, zip(("", *signs), map(str, problem.numbers), strict=True))))
        for signs in SIGNS
    ]
    target = int(problem.answer)
    ways, verdicts, waits = [], [], []
    for shown, check, wait in STEP.findall(thoughts):
        ways.append(SIGNS.index(tuple(re.findall(r"([+-]) \d", shown))))
        assert shown.endswith(f" = {totals[ways[-1]]}")
        verdicts.append(check.rpartition(" ")[2])
        if check:
            assert check.startswith(f"check {totals[ways[-1]]} = {target} ")
        waits.append(bool(wait))
    return Told(
        prompt.startswith("puzzle"),
        totals.index(target),
        ways,
        verdicts,
        waits,
        STEP.sub("", thoughts).split(),
        SIGNS.index(tuple(re.findall(r"([+-]) \d", answer))),
        len(thoughts.split()),
    )


def near(found, of, share):
    """Within four standard deviations of the count."""
    return abs(found - share * of) <= 4 * (share * (1 - share) * of) ** 0.5


def in_order(ways):
    return all((a + 1) % 8 == b for a, b in itertools.pairwise(ways))


def test_at_rest_knobs_draw_nothing():
    """Documents as they were before there were knobs."""
    drawn = hashlib.sha256()
    problems = countdown.problems(4)
    whole = CorpusConfig(persistence=0.8, goes_on=1.0)
    for cfg in whole, dataclasses.replace(whole, reflective=0.5, persistence=0.6):
        rng = np.random.default_rng(7)
        for i in rng.integers(len(problems), size=4000):
            drawn.update(repr(countdown.document(problems[i], cfg, rng)).encode())
    want = "f9481a5cad98c44773f1a211b0debd4ca422b3f1856f0575b8d9d194175168c7"
    assert drawn.hexdigest() == want


def test_each_knob_makes_another_recipe():
    knobs = {
        "tiers": "4,5",
        "depth": 2,
        "goes_on": 1.0,
        "verdicts": 0.5,
        "wrong_answers": 0.5,
        "filler": 0.5,
    }
    recipes = [CorpusConfig(), CorpusConfig(apart=True)]
    recipes += [CorpusConfig(**{name: value}) for name, value in knobs.items()]
    assert len({tiny_base(corpus).digest() for corpus in recipes}) == len(recipes)
    assert read_note(EMBEDDED)["recipe"]["corpus"] == dataclasses.asdict(CorpusConfig())


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 20])
def test_no_trace_is_deeper_than_depth_and_at_depth_it_gives_up(depth):
    docs = documents(depth=depth, practice=1.0)
    for doc in docs:
        assert len(doc.ways) <= min(depth, 8) and in_order(doc.ways) and not doc.rest
        found = doc.solution in doc.ways
        assert doc.verdicts == ["wrong"] * (len(doc.ways) - 1) + ["right" if found else "wrong"]
        assert doc.waits == [True] * (len(doc.ways) - 1) + [False]
        assert found or len(doc.ways) == min(depth, 8)
        assert doc.answer == doc.ways[-1]
    assert max(len(doc.ways) for doc in docs) == min(depth, 8)
    assert near(sum(doc.solution in doc.ways for doc in docs), N, min(depth, 8) / 8)


@pytest.mark.parametrize("practice, persistence", [(1.0, 0.8), (0.0, 1.0), (0.0, 0.6)])
def test_a_search_goes_on_as_often_as_told(practice, persistence):
    shape = {"reflective": 1.0, "practice": practice, "persistence": persistence}
    docs = documents(goes_on=0.5, **shape)
    wrong = [
        waits for d in docs for v, waits in zip(d.verdicts, d.waits, strict=True) if v[0] == "w"
    ]
    want = 0.5 * (1 if practice else persistence)
    assert len(wrong) > N and near(sum(wrong), len(wrong), want)
    assert max(len(doc.ways) for doc in docs) > 4


@pytest.mark.parametrize("verdicts", [0.0, 0.5, 0.9])
def test_verdicts_are_right_as_often_as_told(verdicts):
    docs = documents(practice=1.0, verdicts=verdicts)
    judged = [
        (verdict == "right") == (way == doc.solution)
        for doc in docs for way, verdict in zip(doc.ways, doc.verdicts, strict=True)
    ]  # fmt: skip
    assert near(sum(judged), len(judged), verdicts)
    for doc in docs:  # and a trace believes them
        assert in_order(doc.ways) and len(doc.ways) <= 8
        assert "right" not in doc.verdicts[:-1]
        assert doc.verdicts[-1] == "right" or len(doc.ways) == 8
        assert doc.waits == [True] * (len(doc.ways) - 1) + [False]


def test_wrong_answers_have_right_behaviours_and_the_same_lengths():
    docs, others = (documents(practice=1.0, wrong_answers=share) for share in (1.0, 0.0))
    for doc in docs:
        assert doc.solution not in doc.ways and doc.answer == doc.ways[-1]
        assert set(doc.verdicts) == {"wrong"} and in_order(doc.ways) and not doc.rest
        assert doc.waits == [True] * (len(doc.ways) - 1) + [False]
    lengths = [Counter(min(len(doc.ways), 7) for doc in some) for some in (docs, others)]
    for attempts in range(1, 7):
        assert all(near(found[attempts], N, 1 / 8) for found in lengths)
    # Where the solution lies is told by no more than that it was not tried.
    last = Counter((doc.solution - doc.answer) % 8 for doc in docs if len(doc.ways) == 1)
    assert set(last) == set(range(1, 8))
    mixed = documents(practice=1.0, wrong_answers=0.25)
    assert near(sum(doc.answer != doc.solution for doc in mixed), N, 0.25)


def test_filler_is_as_long_as_what_it_stands_for_and_says_nothing():
    docs, others = (documents(practice=1.0, filler=share) for share in (1.0, 0.0))
    for doc in docs:
        assert len(doc.ways) == 1 and doc.verdicts == [""] and doc.waits == [False]
        assert set(doc.rest) == {countdown.FILLER} and doc.answer == doc.ways[0]
    lengths, wanted = ({doc.words for doc in some} for some in (docs, others))
    assert lengths == wanted and len(wanted) == 8
    words = [np.mean([doc.words for doc in some]) for some in (docs, others)]
    assert words[0] == pytest.approx(words[1], rel=0.05)
    mixed = documents(practice=1.0, filler=0.25)
    assert near(sum(countdown.FILLER in doc.rest for doc in mixed), N, 0.25)


@pytest.mark.parametrize("depth", [0, 3])
def test_apart_never_shows_a_check_and_a_retry_in_one_document(depth):
    docs = documents(practice=1.0, apart=True, depth=depth)
    checks = [doc for doc in docs if any(doc.verdicts)]
    retries = [doc for doc in docs if any(doc.waits)]
    assert len(checks) + len(retries) == N and not any(any(doc.waits) for doc in checks)
    assert near(len(checks), N, 0.5)
    for doc in checks:
        assert doc.verdicts == ["right" if doc.ways[0] == doc.solution else "wrong"]
    most = depth or 8
    for doc in retries:
        assert in_order(doc.ways) and doc.waits == [True] * (len(doc.ways) - 1) + [False]
    found = Counter(len(doc.ways) for doc in retries)
    assert set(found) == set(range(2, most + 1))
    # It does not stop at the solution: that would be a check that is not said.
    stops = [doc.ways[-1] == doc.solution for doc in retries]
    assert near(sum(stops), len(stops), 1 / 8)


KNOBS = [
    {"depth": 2}, {"goes_on": 0.5}, {"verdicts": 0.5}, {"wrong_answers": 1.0}, {"filler": 1.0},
    {"apart": True}, {"depth": 2, "goes_on": 0.5, "filler": 0.5}, {"verdicts": 0.5, "apart": True},
]  # fmt: skip


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_every_document_is_of_the_vocabulary_and_no_longer_than_a_row(knobs):
    tokenizer, rng = Tokenizer.words(countdown.VOCABULARY), np.random.default_rng(1)
    cfg = CorpusConfig(**{"practice": 0.5, "reflective": 0.5, "goes_on": 1.0, **knobs})
    for problem in [p for tier in TIERS for p in countdown.problems(tier)[:: 7 * tier]]:
        prompt, reply = countdown.document(problem, cfg, rng)
        assert len(tokenizer.encode(f"{prompt} {reply}")) < tiny_base().length
    linear = documents(practice=0.0, reflective=0.0, **knobs)
    assert linear == documents(practice=0.0, reflective=0.0)  # knobs are of reflective traces


def test_a_document_is_a_function_of_problem_configuration_and_draws():
    cfg = CorpusConfig(practice=0.5, goes_on=0.6, verdicts=0.8, filler=0.3)
    problem = countdown.problems(4)[100]
    drawn = [
        [countdown.document(problem, cfg, rng) for _ in range(50)]
        for rng in (np.random.default_rng(3), np.random.default_rng(3))
    ]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 10


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"depth": -1}, "CorpusConfig.depth must not be negative"),
        ({"goes_on": 1.1}, r"CorpusConfig.goes_on must lie in \[0, 1\], got 1.1"),
        ({"filler": -0.1}, "CorpusConfig.filler must lie in"),
        ({"wrong_answers": 0.5, "verdicts": 0.9}, "CorpusConfig.wrong_answers"),
        ({"wrong_answers": 0.5, "apart": True}, "CorpusConfig.wrong_answers"),
        ({"apart": True, "depth": 1}, "CorpusConfig.apart"),
    ],
)
def test_bad_knobs_are_one_line(fields, message):
    with pytest.raises(InputError, match=message) as refusal:
        CorpusConfig(**fields)
    assert "\n" not in str(refusal.value)
