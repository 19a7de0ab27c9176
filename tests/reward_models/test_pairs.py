"""Preference data: its files, what judges are made of, what length may say, made examples."""

import collections
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.checks import InputError
from r1jax.data import countdown
from r1jax.reward_models.made import labelled, preferences
from r1jax.reward_models.model import part_read
from r1jax.reward_models.pairs import (
    MAX_WEIGHT,
    Judgement,
    Pair,
    averaged_gap,
    balance_weights,
    judged,
    read_labelled,
    read_pairs,
    split,
)
from r1jax.rewards.countdown import check_countdown
from r1jax.rewards.format import extract_answer

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
LABEL = {"prompt": "p", "response": "a", "safe": False}


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def judgement(first, gap):
    return {"first": first, "gap": gap}


BOTH = [judgement("chosen", 2), judgement("rejected", -0.5)]


def test_pairs(tmp_path):
    path = write(tmp_path, PAIR, "", PAIR | {"judgements": BOTH})
    plain, judged_pair = read_pairs(path)
    assert plain == Pair("p", "a", "b", (), f"{path}:1")
    assert judged_pair.judgements == (Judgement("chosen", 2.0), Judgement("rejected", -0.5))
    assert judged_pair.where == f"{path}:3"


def test_labelled(tmp_path):
    path = write(tmp_path, LABEL, LABEL | {"safe": True})
    assert [(x.prompt, x.response, x.safe) for x in read_labelled(path)] == [
        ("p", "a", False),
        ("p", "a", True),
    ]


@pytest.mark.parametrize(
    "read, row, message",
    [
        (read_pairs, "{", "invalid JSON"),
        (read_pairs, "[]", "expected a JSON object"),
        (read_pairs, {"prompt": "p", "chosen": "a"}, 'missing field "rejected"'),
        (read_pairs, PAIR | {"chosen": 3}, 'field "chosen" must be of type str, got int'),
        (read_pairs, PAIR | {"prompt": " \n"}, 'field "prompt" is blank'),
        (read_pairs, PAIR | {"rejected": "a"}, '"chosen" and "rejected" are the same text'),
        (read_pairs, PAIR | {"judgements": {}}, 'field "judgements" must be of type list'),
        (read_pairs, PAIR | {"judgements": [3]}, '"judgements" must be a list of objects'),
        (read_pairs, PAIR | {"judgements": BOTH[:1]}, "none was shown the rejected reply first"),
        (read_pairs, PAIR | {"judgements": []}, "none was shown the chosen reply first"),
        (
            read_pairs,
            PAIR | {"judgements": [judgement("A", 1)]},
            'field "first" must be "chosen" or "rejected", got \'A\'',
        ),
        *(
            (read_pairs, PAIR | {"judgements": [judgement("chosen", gap)]}, '"gap" must be a num')
            for gap in (True, "2", None, float("nan"))
        ),
        (read_labelled, {"prompt": "p", "response": "a"}, 'missing field "safe"'),
        (read_labelled, LABEL | {"safe": 1}, 'field "safe" must be of type bool, got int'),
        (read_labelled, LABEL | {"response": ""}, 'field "response" is blank'),
    ],
)
def test_bad_lines(tmp_path, read, row, message):
    path = write(tmp_path, PAIR if read is read_pairs else LABEL, row)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)


finite = st.floats(-10, 10)


@given(finite, finite, st.integers(1, 5), st.integers(1, 5))
def test_what_judges_give_to_a_position_cancels(gap, bias, one_order, other_order):
    """A judge that adds `bias` to what it sees first, asked unequally often in each order."""
    seen = [Judgement("chosen", gap + bias)] * one_order
    seen += [Judgement("rejected", -gap + bias)] * other_order
    assert averaged_gap(seen) == pytest.approx(gap, abs=1e-9)


def test_judged_keeps_gaps_over_the_limit_and_turns_pairs_round():
    def pair(name, *gaps):  # the published four: two in each order, as preferences for `chosen`
        orders = ("chosen", "chosen", "rejected", "rejected")
        signed = zip(orders, gaps, strict=True)
        views = (Judgement(f, g if f == "chosen" else -g) for f, g in signed)
        return Pair(name, "good", "bad", tuple(views))

    pairs = [
        Pair("not judged", "good", "bad"),
        pair("clear", 2, 2, 1, 1),
        pair("at the limit", 1, 1, 1, 1),
        pair("position only", 3, 3, -3, -3),
        pair("the other way", -2, -2, -1, -1),
    ]
    kept, counts = judged(pairs, 1.0)
    assert [p.prompt for p in kept] == ["not judged", "clear", "the other way"]
    assert [(p.chosen, p.rejected) for p in kept] == [("good", "bad")] * 2 + [("bad", "good")]
    assert counts == {"kept": 2, "swapped": 1, "dropped": 2}


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=200))
def test_balanced_length_says_nothing_at_any_size(longer):
    """In each class of |difference|, from 2**k up to 2**(k + 1), both directions weigh the same."""
    longer = np.array(longer)
    sides = np.sign(longer)
    if 0 not in longer and not any(
        {1, -1} <= set(sides[(abs(longer) >= 2**k) & (abs(longer) < 2 ** (k + 1))])
        for k in range(6)
    ):
        with pytest.raises(InputError, match="length explains all preferences"):
            balance_weights(longer)
        return
    weight = balance_weights(longer)
    assert weight.min() >= 0 and weight.mean() == pytest.approx(1)
    scale = max(1.0, weight[longer == 0].max(initial=0))  # dropped classes make others heavier
    assert weight.max() <= MAX_WEIGHT * max(scale, weight.size / np.count_nonzero(weight))
    for k in range(6):
        here = (abs(longer) >= 2**k) & (abs(longer) < 2 ** (k + 1))
        total = weight[here & (longer > 0)].sum(), weight[here & (longer < 0)].sum()
        assert total[0] == pytest.approx(total[1])
    if len(set(longer)) == 1:
        assert (weight == 1).all()


def test_weights_of_a_common_imbalance_keep_every_pair():
    weight = balance_weights(np.array([5] * 90 + [-6] * 10))
    np.testing.assert_allclose(weight, [100 / 180] * 90 + [100 / 20] * 10)


def test_a_rare_direction_is_not_blown_up():
    weight = balance_weights(np.array([5] * 999 + [-5] + [20, -20] * 500))
    assert weight[999] == pytest.approx(weight[:999].sum())
    assert weight[999] / weight[-1] == pytest.approx(MAX_WEIGHT)


def test_split_is_by_prompt():
    pairs = [Pair(f"p{i % 10}", str(i), "x") for i in range(40)]
    train, heldout = split(pairs, 0.2)
    assert len(train) + len(heldout) == 40 and len(heldout) == 8
    assert not {p.prompt for p in train} & {p.prompt for p in heldout}


PROBLEMS = {p.prompt: p for p in countdown.problems(4)}


def is_right(prompt, reply) -> bool:
    problem = PROBLEMS[prompt]
    return bool(check_countdown(extract_answer(reply), problem.numbers, int(problem.answer)))


def test_made_pairs_are_as_their_judges_and_length_does_not_help_on_held_out_ones():
    n, longer, mistaken = 2000, 0.9, 0.2
    train, heldout = preferences(n, longer, mistaken, 0.125, seed=0)
    assert (len(train), len(heldout)) == (n, n // 4)
    for pairs, share_longer, share_wrong in (train, longer, mistaken), (heldout, 0.5, 0.0):
        right = np.array([[is_right(p.prompt, r) for r in p.replies] for p in pairs])
        assert (right.sum(axis=1) == 1).all()
        tolerance = 4 * (0.25 / len(pairs)) ** 0.5
        assert abs(np.mean(right[:, 1]) - share_wrong) <= tolerance * (share_wrong > 0)
        words = np.array([[len(r.split()) for r in p.replies] for p in pairs])
        assert (words[:, 0] != words[:, 1]).all()
        assert abs(np.mean(words[:, 0] > words[:, 1]) - share_longer) <= tolerance
    seen, unseen = ({PROBLEMS[p.prompt].numbers for p in pairs} for pairs in (train, heldout))
    assert not seen & unseen


def verdicts(text):
    return [word for word in text.split() if word in ("right", "wrong", "wait")]


def test_made_replies_differ_in_the_order_of_their_words_only():
    _, pairs = preferences(800, 0.5, 0.0, 0.125, seed=0)
    replies = [(is_right(p.prompt, r), part_read(r, "summary")) for p in pairs for r in p.replies]
    counts = collections.defaultdict(set)
    for right, summary in replies:
        said = verdicts(summary)
        assert said.count("right") == 1
        assert (said[-1] == "right") == right
        counts[right].add(tuple(sorted(said)))
    assert counts[True] == counts[False] and len(counts[True]) == 3


def test_made_labels_are_in_the_thought():
    train, heldout = labelled(400, 0.125, seed=0)
    assert 150 < sum(x.safe for x in train) < 250 and len(heldout) == 100
    for x in train + heldout:
        assert is_right(x.prompt, x.response) == x.safe
        assert verdicts(part_read(x.response, "summary")) == []
