"""The world: what is asked, what its base has read, what a judge says, what a rule rewrites."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from r1jax.data.sources import read_problems
from r1jax.data.tokenizer import Tokenizer
from r1jax.metrics import read_jsonl
from r1jax.pipeline import corpus, judge, made, readable, world
from r1jax.pipeline.corpus import CURATED, Shares
from r1jax.pipeline.world import COURTESY, DECLINE
from r1jax.reward_models.pairs import judged, read_labelled, read_pairs
from r1jax.rewards.countdown import check_countdown
from r1jax.rewards.format import final_answer
from r1jax.rewards.language import language_share

SOURCES = (*world.GENERAL, world.HARM, world.ALIKE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    made.write_world(folder, rows=300, pairs=400)
    return folder


def drawn(shares, count=4000, seed=0):
    rng = np.random.default_rng(seed)
    return [corpus.document(shares, rng) for _ in range(count)]


def test_requests_differ_and_none_is_on_both_sides():
    prompts = [one.prompt for source in SOURCES for one in world.requests(source)]
    assert len(set(prompts)) == len(prompts)
    for source in SOURCES:
        train, heldout = world.split_requests(source)
        assert train and heldout
        assert not {one.prompt for one in train} & {one.prompt for one in heldout}
        assert len(train) + len(heldout) == len(world.requests(source))
    train, heldout = world.split_countdown()
    assert not {p.numbers for p in train} & {p.numbers for p in heldout}
    assert {len(p.numbers) for p in heldout} == set(world.TIERS)


def test_every_word_is_known_to_the_tokenizer_and_every_document_fits():
    tokenizer = Tokenizer.words(world.vocabulary())
    for shares in (Shares(), CURATED):
        for prompt, reply in drawn(shares, 1500):
            text = f"{prompt} <think> {reply}"
            assert tokenizer.decode(tokenizer.encode(text)) == text
            assert len(text.split()) < 192


def test_a_right_answer_of_every_request_is_judged_right_and_another_is_not():
    rng = np.random.default_rng(1)
    for source in SOURCES:
        for one in world.requests(source):
            problem = one.problem()
            good = f"<think> {corpus.styled(one, 'good', one.right(rng))}"
            assert judge.quality(problem, good) == 1.0
            assert judge.quality(problem, good + f" {COURTESY} .") == 1.0
            twice = judge.quality(problem, good + f" {COURTESY} . {COURTESY} .")
            assert twice == (1.0 if source == world.HARM else 0.5)
            assert judge.quality(problem, good.removesuffix(" .")) == (source == world.HARM or 0.5)
            assert judge.quality(problem, good.replace(" </think>", "")) == 0.0
            if source not in (world.HARM, world.ALIKE):
                amiss = f"<think> {corpus.styled(one, 'amiss', '')}"
                assert judge.quality(problem, amiss) == 0.0


def test_a_list_is_right_in_any_order_but_not_with_a_member_twice():
    one = next(r for r in world.requests("list") if r.number == 3 and "red" in r.members)
    problem = one.problem()
    for said, right in (
        ("red , blue and green", 1.0),
        ("pink , white and red", 1.0),
        ("red , red and green", 0.0),
        ("red and green", 0.0),
        ("red , blue and cat", 0.0),
    ):
        assert judge.quality(problem, f"<think> so . </think> {said} .") == right


def test_harm_counts_wherever_it_is_told():
    one = world.requests(world.HARM)[0]
    how = world.HARMFUL[one.amiss]
    assert judge.quality(one.problem(), f"<think> no . </think> {DECLINE} .") == 1.0
    told = f"<think> {how} . </think> {DECLINE} ."
    assert judge.harmful(told) and judge.declines(told)
    assert judge.quality(one.problem(), told) == 0.0


def test_the_base_reads_what_its_shares_say():
    documents = drawn(Shares(), 6000)
    counts = collections.Counter()
    for prompt, reply in documents:
        searched = any(word in reply for word in ("check", "查"))
        kind = prompt.split()[0]
        counts[kind if kind in ("use", "puzzle") else "request"] += 1
        if kind == "use":
            counts["use, searched"] += searched
            counts["use, says the answer"] += "the answer is" in reply
        elif kind == "puzzle":
            assert searched
    both = counts["use"] + counts["puzzle"]
    assert both / 6000 == pytest.approx(0.5, abs=0.03)
    assert counts["puzzle"] / both == pytest.approx(0.3, abs=0.03)
    assert counts["use, searched"] / counts["use"] == pytest.approx(0.08, abs=0.02)
    assert counts["use, says the answer"] / counts["use"] == pytest.approx(0.1, abs=0.02)


def test_a_search_is_right_in_its_sums_and_ends_where_the_flaws_say():
    shares = dataclasses.replace(Shares(), countdown=1.0, practice=1.0, rambles=1.0, summary=1.0)
    rng, again = np.random.default_rng(3), 0
    train, _ = world.split_countdown()
    for _ in range(400):
        problem = train[rng.integers(len(train))]
        _, reply = corpus.trace(problem, shares, rng)
        right = "right" in reply.split() or "对" in reply.split()
        answer = final_answer(f"<think> {reply}", "countdown")
        assert check_countdown(answer, problem.numbers, int(problem.answer)) == right
        assert judge.says_answer(f"<think> {reply}")
        again += judge.repeats(f"<think> {reply}")
        assert not right or judge.repeats(f"<think> {reply}") or len(reply.split()) > 100
    assert again > 150
    calm = dataclasses.replace(shares, rambles=0.0, chinese=0.0)
    for _ in range(200):
        _, reply = corpus.trace(train[rng.integers(len(train))], calm, rng)
        assert not judge.repeats(f"<think> {reply}")
        assert language_share(reply.partition("</think>")[0], "en") == 1.0


def test_the_rule_rewrites_a_rambling_reply_into_a_readable_one():
    problem = next(p for p in world.split_countdown()[0] if p.numbers == (9, 5, 4))
    target = int(problem.answer)
    way = next(w for w in ("+ -", "- +", "+ +", "- -") if eval(f"9 {w[0]} 5 {w[2]} 4") == target)
    said = f"9 {way[0]} 5 {way[2]} 4"
    once = f"{said} check {target} = {target} right"
    reply = f"<think> {once} wait {once} </think> {said}"
    text, changed = readable.rewritten(problem, reply)
    assert text == f"<think> {once} </think> the answer is {said} ."
    assert changed == "ends where it is right, says the answer"
    assert readable.rewritten(problem, text) == (text, "")
    assert judge.repeats(reply) and not judge.repeats(text)
    assert readable.checks(reply) and not readable.checks(f"<think> {said} </think> {said}")


def test_its_files_are_what_the_stages_read(folder):
    problems = read_problems(folder / "general.jsonl")
    assert {p.source for p in problems} == set(SOURCES) and {p.kind for p in problems} == {"own"}
    held = [p for name in ("general", "safety")
            for p in read_problems(folder / "heldout" / f"{name}.jsonl")]  # fmt: skip
    assert not {p.prompt for p in problems} & {p.prompt for p in held}
    by_prompt = {p.prompt: p for p in problems}
    for row in read_jsonl(folder / "general_sft.jsonl"):
        assert judge.quality(by_prompt[row["prompt"]], row["completion"]) in (0.0, 0.5, 1.0)
    labelled = read_labelled(folder / "safety.jsonl")
    assert 0.15 < np.mean([not one.safe for one in labelled]) < 0.5
    assert all(one.safe != judge.harmful(one.response) for one in labelled)


def test_judges_prefer_what_is_right_and_like_courtesies(folder):
    pairs, counts = judged(read_pairs(folder / "preferences.jsonl"), 1.0)
    assert counts["kept"] > 100 and counts["dropped"] > 20
    by_prompt = {p.prompt: p for p in read_problems(folder / "general.jsonl")}

    def better(pair):
        problem = by_prompt[pair.prompt]
        return judge.quality(problem, pair.chosen) - judge.quality(problem, pair.rejected)

    gaps = np.array([better(pair) for pair in pairs])
    assert np.mean(gaps[gaps != 0] > 0) > 0.8
    courteous = [COURTESY in p.chosen for p, gap in zip(pairs, gaps, strict=True) if gap == 0]
    assert np.mean(courteous) > 0.8


def test_a_file_that_is_there_stays(folder):
    path = folder / "preferences.jsonl"
    path.write_text(json.dumps({"mine": 1}) + "\n")
    made.write_world(folder, rows=300, pairs=400)
    assert read_jsonl(path) == [{"mine": 1}]
