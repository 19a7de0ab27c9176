"""Where replies are cut, and what is put there."""

import pytest

from r1jax.analysis.emergence import edits
from r1jax.data.conversation import make_conversation
from r1jax.data.countdown import VOCABULARY, problems
from r1jax.data.problems import Problem
from r1jax.data.tokenizer import Tokenizer

WORDS = make_conversation(Tokenizer.words(VOCABULARY), "")
PROBLEM = next(p for p in problems(4) if p.id == "9-5-4-2=8")
FIRST = "9 + 5 = 14 - 4 = 10 + 2 = 12"
SECOND = "9 + 5 = 14 - 4 = 10 - 2 = 8"
ANSWER = "</think> <answer> 9 + 5 - 4 - 2 </answer> <eos>"
SEARCH = f"{FIRST} check 12 = 8 wrong wait {SECOND} check 8 = 8 right {ANSWER}"


def ids(text: str) -> list[int]:
    return WORDS.tokenizer.encode(text)


def text(tokens) -> str:
    return WORDS.tokenizer.decode(tokens)


def test_the_first_try_is_what_stands_before_the_first_verdict():
    cut, goes_on = edits.first_candidate(WORDS, PROBLEM, ids(SEARCH))
    assert text(cut) == f"{FIRST} </think>" and goes_on
    cut, goes_on = edits.first_candidate(WORDS, PROBLEM, ids(f"{FIRST} check 12 = 8 wrong"))
    assert text(cut) == f"{FIRST} </think>" and goes_on  # one that the limit cut


@pytest.mark.parametrize("reply", [f"{FIRST} {ANSWER}", ANSWER, "check wrong wait", "</think>"])
def test_a_reply_that_has_no_more_than_a_first_try_stays(reply):
    assert edits.first_candidate(WORDS, PROBLEM, ids(reply)) is None


def test_the_first_verdict_says_the_opposite():
    flipped = edits.flipped(WORDS, PROBLEM, ids(SEARCH))
    assert text(flipped) == f"{FIRST} check 12 = 8 right"
    flipped = edits.flipped(WORDS, PROBLEM, ids(f"{SECOND} check 8 = 8 right {ANSWER}"))
    assert text(flipped) == f"{SECOND} check 8 = 8 wrong"
    assert edits.flipped(WORDS, PROBLEM, ids(f"{FIRST} {ANSWER}")) is None


def test_where_thinking_closes():
    tokens = ids(SEARCH)
    assert text(tokens[: edits.stops_at(WORDS, tokens, False)]) == SEARCH.partition(" </think>")[0]
    assert edits.stops_at(WORDS, ids("9 + 5 <eos>"), False) == 3  # where it ends
    assert edits.stops_at(WORDS, ids("9 + 5"), True) is None


def test_injected_attempts_are_wrong_and_end_where_the_verdict_stands():
    seen = set()
    for sample in range(40):
        found = text(edits.injected(WORDS, PROBLEM, 0, sample, seed=3))
        way, _, verdict = found.partition(" check ")
        total = way.split()[-1]
        assert verdict == f"{total} = 8" and total != "8"
        assert way.split()[0::4][0] == "9" and way.split()[2::4] == ["5", "4", "2"]
        seen.add(way)
        assert found == text(edits.injected(WORDS, PROBLEM, 0, sample, seed=3))
    assert len(seen) == 7  # of eight ways one is right


def test_an_attempt_that_the_vocabulary_cannot_write_is_not_injected():
    vocab = [w for w in VOCABULARY if w != "18"]  # 9 + 5 + 4 ...
    words = make_conversation(Tokenizer.words(vocab), "")
    ways = {words.tokenizer.decode(edits.injected(words, PROBLEM, 0, s, 0)) for s in range(40)}
    assert len(ways) == 5 and not any("18" in way.split() for way in ways)
    few = make_conversation(Tokenizer.words([w for w in VOCABULARY if w != "check"]), "")
    assert edits.injected(few, PROBLEM, 0, 0, 0) is None


@pytest.fixture(scope="module")
def deepseek(data_dir):
    folder = data_dir / "tokenizers" / "deepseek_r1"
    return make_conversation(Tokenizer.load(folder), folder, "r1_zero")


MATH = Problem(id="m", kind="math", prompt="?", answer="12")


def of(conversation, reply):
    return conversation.tokenizer.encode(reply)


def test_prose_is_cut_behind_its_first_candidate_and_its_thinking_closed(deepseek):
    thought = "So 3 x 4, the answer is 12. Wait, let me check: 3 + 4 = 7"
    reply = of(deepseek, f"{thought}\n</think>\n\n\\boxed{{12}}")
    cut, goes_on = edits.first_candidate(deepseek, MATH, reply)
    first, _, rest = deepseek.tokenizer.decode(cut).partition("\n</think>")
    assert first.rstrip(".") == "So 3 x 4, the answer is 12" and rest == "\n\n" and goes_on
    at = edits.stops_at(deepseek, reply, False)
    assert deepseek.tokenizer.decode(reply[:at]).rstrip() == thought
    assert deepseek.tokenizer.decode(reply[at:]).lstrip().startswith("</think>")


def test_prose_without_a_thought_ends_at_its_first_candidate(deepseek):
    reply = of(deepseek, "It is \\boxed{12}. Wait, that is wrong: \\boxed{13}.")
    cut, goes_on = edits.first_candidate(deepseek, MATH, reply)
    assert deepseek.tokenizer.decode(cut).startswith("It is \\boxed{12}") and not goes_on
    assert "Wait" not in deepseek.tokenizer.decode(cut)
    assert edits.first_candidate(deepseek, MATH, of(deepseek, "It is \\boxed{12}.")) is None


def test_what_is_forced_is_set_apart_from_what_comes_before(deepseek):
    for before, want in (("so 7.", " Wait"), ("so 7.\n", "Wait")):
        found = edits.forced(deepseek, of(deepseek, before), "Wait")
        assert deepseek.tokenizer.decode(found) == want
    assert text(edits.forced(WORDS, ids("9 + 5"), "wait")) == "wait"


def test_characters_of_tokens_add_up_to_the_text(deepseek):
    reply = "Höhe ≈ 3 🙂 </think> 漢字"
    tokens = of(deepseek, reply)
    found = edits.placed(deepseek, [*tokens, deepseek.tokenizer.eos_id])
    assert found.text == reply and found.ends[-1] == len(reply)
    assert list(found.ends) == sorted(found.ends)
    assert deepseek.tokenizer.decode([tokens[found.token_of(reply.index("<"))]]).strip() in (
        "<", "</", "</think>",
    )  # fmt: skip
