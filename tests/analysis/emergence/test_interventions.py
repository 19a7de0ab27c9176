"""Conditions drawn from a tiny model whose replies are made of the embedded words: `tiny_run`."""

import sys
from collections import Counter
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
import tiny_run

from r1jax.analysis.emergence import bans
from r1jax.analysis.emergence.intervened import Outcomes, head, line
from r1jax.analysis.emergence.interventions import (
    CONDITIONS,
    Battery,
    Draws,
    Reply,
    chosen,
    words_of,
)
from r1jax.checks import InputError
from r1jax.config import SamplingConfig
from r1jax.data.conversation import make_conversation
from r1jax.data.countdown import VOCABULARY, problems
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards.grading import Grade
from r1jax.sampling.lanes import Lanes
from r1jax.sharding import make_mesh

LIMIT, SAMPLES = 20, 4
WORDS = make_conversation(Tokenizer.words(VOCABULARY), "")
ASKED = problems(4)[::300]
CHECK, WAIT, TO, CLOSE, EOS = (VOCABULARY.index(w) for w in ("check", "wait", "to", "</think>",
                                                             "<eos>"))  # fmt: skip


@pytest.fixture(scope="module")
def draws():
    sampling = SamplingConfig(max_prompt=9 + LIMIT, max_tokens=LIMIT, slots=16, refill=8)
    model = tiny_run.CONFIG.model
    roomy = tiny_run.small.config(vocab=model.vocab, expert_ffn=11, context=64)
    engine = Lanes(roomy, sampling, make_mesh("1"), [EOS], biases=64)
    prompts = [WORDS.prompt_ids(problem.prompt) for problem in ASKED]
    assert max(map(len, prompts)) <= 9
    return Draws(engine, tiny_run.weights(), prompts, SAMPLES, LIMIT, jax.random.key(0))


@pytest.fixture(scope="module")
def battery(draws):
    words = words_of(WORDS, CONDITIONS, "x")
    return Battery(draws, ASKED, WORDS, words, seed=0)


@pytest.fixture(scope="module")
def found(battery):
    return dict(battery.draw(CONDITIONS))


def test_all_conditions_are_drawn_in_order_for_all_replies(found):
    assert tuple(found) == CONDITIONS
    assert {len(replies) for replies in found.values()} == {len(ASKED) * SAMPLES}
    assert all(len(r.tokens) <= LIMIT for replies in found.values() for r in replies)


def test_a_reply_goes_on_from_its_own_beginning_as_it_did(draws, found):
    """So what an edit changes is its own doing: every position keeps its key."""
    none = found["none"]
    again = draws.go_on({i: r.tokens[: len(r.tokens) // 2] for i, r in enumerate(none)})
    assert [again[i].tokens for i in range(len(none))] == [r.tokens for r in none]
    assert [again[i].truncated for i in range(len(none))] == [r.truncated for r in none]
    assert len({tuple(r.tokens) for r in none}) > 8


def test_what_is_banned_is_never_drawn_and_the_rest_stays_as_it_was(battery, found):
    banned = {VOCABULARY.index(w) for w in ("check", "wait", "right", "wrong")}
    assert set(battery.words.banned) == banned
    for name, ids in (("ban", banned), ("ban_wait", {WAIT})):
        for reply, before in zip(found[name], found["none"], strict=True):
            assert not ids & set(reply.tokens)
            assert reply.touched == (reply.tokens != before.tokens)
            if not ids & set(before.tokens):
                assert not reply.touched
    assert {CHECK, WAIT} < {t for r in found["none"] for t in r.tokens}


def test_a_placebo_changes_no_reply_in_which_its_words_were_not_drawn(battery, found):
    words = {VOCABULARY[t] for t in battery.placebo}
    assert words == {"use", "puzzle", "to", "make"}  # no sign, number or tag
    pairs = list(zip(found["placebo"], found["none"], strict=True))
    same = [a.tokens == b.tokens for a, b in pairs]
    assert same == [not set(battery.placebo) & set(b.tokens) for _, b in pairs]
    assert [a.touched for a, _ in pairs] == [not one for one in same] and sum(same) > len(same) / 2


def test_more_tokens_than_usual_can_be_banned(draws):
    most = range(len(VOCABULARY) - 50, len(VOCABULARY))
    drawn = {t for reply in draws.free(dict.fromkeys(most, bans.BANNED)) for t in reply.tokens}
    assert not drawn & set(most)


def stop_of(reply: Reply) -> int | None:
    if CLOSE in reply.tokens:
        return reply.tokens.index(CLOSE)
    return None if reply.truncated else len(reply.tokens) - 1


@pytest.mark.parametrize("kind, forced", [("wait", WAIT), ("check", CHECK), ("neutral", TO)])
def test_a_word_stands_where_thinking_would_have_closed(found, kind, forced):
    """n times: each is put where the reply with one fewer closes."""
    once, twice, four = (found[f"force_{kind}_{n}"] for n in (1, 2, 4))
    for before, after in ((found["none"], once), (once, twice)):
        for a, b in zip(before, after, strict=True):
            at = stop_of(a)
            if at is None:
                assert a == b
                continue
            assert b.touched and b.tokens[: at + 1] == [*a.tokens[:at], forced]
    counts = [sum(r.tokens.count(forced) for r in some) for some in (once, twice, four)]
    assert counts == sorted(counts) and counts[0] < counts[2]


def test_with_nothing_forced_a_token_that_does_not_close_is_drawn(found):
    differ = 0
    for a, b in zip(found["none"], found["force_0_1"], strict=True):
        at = stop_of(a)
        if at is None:
            assert a == b
            continue
        assert b.tokens[:at] == a.tokens[:at] and b.tokens[at] not in (CLOSE, EOS)
        differ += CLOSE in b.tokens[at + 1 :]  # it may close later
    assert differ > 3


def test_a_wrong_attempt_is_put_first(draws, found):
    for i, reply in enumerate(found["inject_wrong"]):
        problem = ASKED[draws.pairs[i][0]]
        head, _, rest = WORDS.tokenizer.decode(reply.tokens).partition(" check ")
        total = int(head.split()[-1])
        assert head.startswith(f"{problem.numbers[0]} ") and reply.touched
        assert rest.startswith(f"{total} = {problem.answer}"[: len(rest)])
        assert total != int(problem.answer)
    heads = {tuple(r.tokens[:8]) for r in found["inject_wrong"][:SAMPLES]}
    assert len(heads) > 1  # of one question several attempts


def test_columns_are_means_of_questions_and_failed_graders_are_left_out():
    texts = ["1 - 1 = 0 check 0 = 1 wrong </think>", "check </think>", "1 </think>", "1 </think>"]
    replies = [Reply([*WORDS.tokenizer.encode(t), EOS], False, touched=i == 0)
               for i, t in enumerate(texts)]  # fmt: skip
    outcomes = iter(["correct", "incorrect", "failed", "correct"])

    def grade(asked, texts, truncated):
        return [Grade(next(outcomes), {"accuracy": 0.0}, 0.0) for _ in asked]

    found = Outcomes(ASKED[:2], WORDS, grade)
    found.add("none", replies)
    raw = found.object(model="x")
    assert raw["conditions"] == {"none": [0.5, 1.0]} and found.failed == 1
    assert raw["tokens"]["none"] == [7.5, 3.0] and raw["reflects"]["none"] == [0.5, 0.0]
    assert raw["touched"]["none"] == [0.5, 0.0] and raw["questions"] == [p.id for p in ASKED[:2]]
    assert "75.0%" in line("none", raw, "x") and len(line("none", raw, "x")) == len(head())
    failing = Outcomes(ASKED[:2], WORDS, lambda asked, *_: [Grade("failed", {}, 0.0)] * len(asked))
    failing.add("none", replies)
    with pytest.raises(InputError, match=r"0 of 2 questions have a graded reply.*4 graders failed"):
        failing.object()


def test_names_of_conditions():
    assert chosen("", "embedded") == list(CONDITIONS)
    assert "flip_verdict" not in chosen("", "chat")
    assert chosen("ban", "chat") == ["none", "ban"]
    assert chosen("force_wait, placebo", "chat") == ["none", "placebo", *(f"force_wait_{n}" for n in
                                                                          (1, 2, 4))]  # fmt: skip
    with pytest.raises(InputError, match=r"--conditions=plcebo: there are none.*mean placebo\?"):
        chosen("ban,plcebo", "embedded")
    with pytest.raises(InputError, match="--conditions=flip_verdict: for the embedded"):
        chosen("flip_verdict", "chat")


def test_a_vocabulary_without_the_terms_is_refused():
    vocab = ["<pad>", "<eos>", "a", "b", "wrong"]
    conversation = make_conversation(Tokenizer.words(vocab[:4]), "")
    with pytest.raises(InputError, match=r"tiny: no token .* reflective .*: leave out ban, plac"):
        words_of(conversation, ["ban"], "tiny")
    conversation = make_conversation(Tokenizer.words(vocab), "")
    with pytest.raises(InputError, match='tiny: no token of its vocabulary holds "wait"'):
        words_of(conversation, ["ban_wait"], "tiny")
    with pytest.raises(InputError, match="tiny: to force check: the word 'check' is not in"):
        words_of(conversation, ["force_check_1"], "tiny")
    with pytest.raises(InputError, match="tiny: to force neutral: the word 'hmm' is not in"):
        words_of(conversation, ["force_neutral_1"], "tiny", neutral="hmm")


def test_a_placebo_is_as_frequent_as_it_can_be_without_what_a_task_needs():
    vocab = ["<pad>", "<eos>", "wait", "check", "9", "x", "<answer>", "so", "then", "thus", "rare"]
    tokenizer = Tokenizer.words(vocab)
    drawn = Counter({"wait": 10, "check": 3, "9": 10, "x": 3, "<answer>": 10, "so": 8, "then": 4,
                     "thus": 1})  # fmt: skip
    drawn = Counter({vocab.index(w): n for w, n in drawn.items()})
    banned = [vocab.index("wait"), vocab.index("check")]
    placebo = bans.placebo_tokens(tokenizer, banned, drawn)
    assert [vocab[t] for t in placebo] == ["so", "then"]
    assert bans.share_of(placebo, drawn) == pytest.approx(12 / 49)
    assert len(bans.placebo_tokens(tokenizer, banned, Counter())) == 2


def test_every_item_of_a_published_vocabulary_that_holds_a_term_is_banned(data_dir):
    tokenizer = Tokenizer.load(data_dir / "tokenizers" / "deepseek_r1")
    found = bans.reflective_tokens(tokenizer, False, "x")
    for text in (" wait", "Wait", " Wait", "wait", " but", " However"):
        (token,) = tokenizer.encode(text)
        assert token in found[text.strip().lower()]
    others = {t for word in (" waiting", " button", " checked", " right") for t in
              tokenizer.encode(word)[:1]}  # fmt: skip
    banned = sorted({t for ids in found.values() for t in ids})
    assert not others & set(banned) and len(banned) > 32
    drawn = Counter({t: 5 for t in banned[:6]} | {t: 5 for t in tokenizer.encode(" so then 12")})
    placebo = bans.placebo_tokens(tokenizer, banned, drawn)
    assert len(placebo) == len(set(placebo)) == len(banned) and not set(placebo) & set(banned)
    texts = bans.shown(tokenizer, placebo)
    assert all(text.strip().isalpha() for text in texts) and {" so", " then"} <= set(texts)
