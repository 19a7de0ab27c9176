"""Chat with the embedded model: what is told, and that it is what the engine draws elsewhere."""

import concurrent.futures

import jax
import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from serving import ASKED, joined, serving

from r1jax.base import EMBEDDED, load_weights
from r1jax.config import SamplingConfig
from r1jax.data.countdown import VOCABULARY
from r1jax.data.tokenizer import Tokenizer
from r1jax.published import tiny
from r1jax.sampling.engine import Engine, Request
from r1jax.sharding import make_mesh

WORDS = Tokenizer.words(VOCABULARY)
MESSAGES = [{"role": "user", "content": ASKED}]


@pytest.fixture(scope="module")
def server():
    with serving() as one:
        yield one


def drawn(asked: list[tuple[str, int, int]]) -> list[str]:
    """What a rollout's engine draws, of (question, seed, sample)."""
    cfg = SamplingConfig(0.6, 0, 0.95, max_prompt=16, max_tokens=160, slots=32, refill=32)
    engine = Engine(tiny(), cfg, make_mesh("1"), sorted(WORDS.end_ids))
    tokens: dict[int, list[int]] = {}
    with engine.loaded(load_weights(EMBEDDED, tiny())):
        for question, seed, sample in asked:
            request = Request(WORDS.encode(f"{question} <think>"), 0, sample)
            tokens[engine.submit(request, jax.random.key(seed))] = []
        while engine.busy:
            for event in engine.step():
                tokens[event.id] += event.tokens.tolist()
    return [WORDS.decode([t for t in one if t not in WORDS.end_ids]) for one in tokens.values()]


def whole(choice: dict) -> str:
    """A reply's text as the model wrote it."""
    m = choice["message"]
    return f"{m['reasoning_content'].strip()} </think> {m['content']}"


def test_a_reply_is_told_in_its_parts(server):
    reply = server.chat(seed=0, max_tokens=160)
    (choice,) = reply["choices"]
    assert set(choice["message"]) == {
        "role",
        "content",
        "reasoning_content",
        "reasoning",
        "refusal",
    }
    assert choice["message"]["content"].startswith("<answer> 9 ")
    assert choice["message"]["reasoning"] == choice["message"]["reasoning_content"]
    assert choice["finish_reason"] == "stop" and reply["object"] == "chat.completion"
    usage, thought = reply["usage"], choice["message"]["reasoning_content"].split()
    assert usage["prompt_tokens"] == 9
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len(thought) + 1  # </think>
    answer = choice["message"]["content"].split()
    assert usage["completion_tokens"] == len(thought) + 1 + len(answer) + 1  # <eos>
    assert usage["total_tokens"] == 9 + usage["completion_tokens"]


def test_the_same_seed_draws_what_a_rollout_draws(server):
    want = drawn([(ASKED, seed, 0) for seed in range(6)])
    alone = [whole(server.chat(seed=s, max_tokens=160)["choices"][0]) for s in range(6)]
    assert alone == want and len(set(want)) > 3


def test_under_load_too_each_in_its_own_stream(server):
    questions = [
        f"use 9 {a} {b} 2 to make {t}" for a in (8, 7) for b in (5, 4) for t in range(4, 12)
    ]
    want = drawn([(question, seed, 0) for seed, question in enumerate(questions)])

    def ask(seed: int) -> str:
        messages = [{"role": "user", "content": questions[seed]}]
        body = {"messages": messages, "seed": seed, "max_tokens": 160}
        found = joined(server.stream("/v1/chat/completions", body))
        return f"{found['reasoning_content'].strip()} </think> {found['content']}"

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        got = list(pool.map(ask, range(32)))
    assert got == want and len(set(got)) > 12


def test_n_replies_are_those_of_as_many_samples(server):
    reply = server.chat(seed=3, n=4, max_tokens=160)
    assert [c["index"] for c in reply["choices"]] == [0, 1, 2, 3]
    assert [whole(c) for c in reply["choices"]] == drawn(
        [(ASKED, 3, sample) for sample in range(4)]
    )
    one = server.chat(seed=3, max_tokens=160)["usage"]
    assert reply["usage"]["prompt_tokens"] == one["prompt_tokens"]
    assert reply["usage"]["completion_tokens"] > 3 * one["completion_tokens"] / 2


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_comes_to_the_reply(server, seed):
    body = {"messages": MESSAGES, "seed": seed, "n": 2, "max_tokens": 40}
    chunks = server.stream(
        "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}}
    )
    reply = server.post("/v1/chat/completions", body).json()
    for i in range(2):
        found, message = joined(chunks, i), reply["choices"][i]["message"]
        assert found["content"] == (message["content"] or "")
        assert found["reasoning_content"] == message["reasoning_content"]
        assert found["finish"] == reply["choices"][i]["finish_reason"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1
    assert all(c["usage"] is None for c in chunks[:-1]) and chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == reply["usage"]["completion_tokens"]


def test_cut_while_thinking_is_never_an_empty_answer(server):
    before = server.metric("cut_while_thinking_total")
    reply = server.chat(seed=0, max_tokens=5)
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "length" and choice["message"]["content"] is None
    assert len(choice["message"]["reasoning_content"].split()) == 5
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
    assert server.metric("cut_while_thinking_total") == before + 1


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_budget": 6},
        {"thinking": {"type": "enabled", "budget_tokens": 6}},
        {"reasoning_effort": "low", "max_tokens": 30},
    ],
)
def test_a_budget_closes_the_thought_and_the_answer_comes(server, fields):
    free = server.chat(seed=1, max_tokens=160)["choices"][0]["message"]
    before = server.metric("thoughts_closed_by_budget_total")
    reply = server.chat(seed=1, **fields)
    message = reply["choices"][0]["message"]
    thought = message["reasoning_content"].split()
    assert len(thought) == 6 and thought == free["reasoning_content"].split()[:6]
    assert message["content"].startswith("<answer>")
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 7
    assert server.metric("thoughts_closed_by_budget_total") == before + 1


def test_no_thought_at_all(server):
    message = server.chat(seed=1, thinking={"type": "disabled"})["choices"][0]["message"]
    assert not message["reasoning_content"].strip() and message["content"]


def test_a_language_alone(server):
    """Its words are all English, so nothing is forbidden."""
    a, b = server.chat(seed=2, max_tokens=160), server.chat(seed=2, max_tokens=160, language="en")
    assert a["choices"] == b["choices"] and a["choices"][0]["script_switches"] == 0


def test_a_budget_that_is_not_reached_changes_nothing(server):
    a, b = (
        server.chat(seed=2, max_tokens=160),
        server.chat(seed=2, max_tokens=160, thinking_budget=100),
    )
    assert a["choices"] == b["choices"]


def test_overflow_says_both_numbers(server):
    error = server.refusal("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 300})
    assert error["code"] == "context_length_exceeded" and error["param"] == "max_tokens"
    assert "256" in error["message"] and "309" in error["message"]
    long = [{"role": "user", "content": "use 9 " * 200 + "to make 3"}]
    error = server.refusal("/v1/chat/completions", {"messages": long})
    assert error["code"] == "context_length_exceeded" and error["param"] == "messages"
    assert "256" in error["message"] and "404" in error["message"]


def test_a_stop_string_ends_the_answer_and_no_thought(server):
    free = server.chat(seed=0, max_tokens=160)["choices"][0]["message"]
    before, _, _ = free["content"].partition(" +")
    assert " +" in free["reasoning_content"] and " +" in free["content"]
    for stop in (" +", [" nothing", " +"]):
        reply = server.chat(seed=0, max_tokens=160, stop=stop)["choices"][0]
        assert reply["message"]["content"] == before and reply["finish_reason"] == "stop"
        assert reply["message"]["reasoning_content"] == free["reasoning_content"]
    chunks = server.stream("/v1/chat/completions", {"messages": MESSAGES, "seed": 0, "stop": " +"})
    assert joined(chunks)["content"] == before


def test_logprobs_are_the_models_own(server):
    reply = server.chat(seed=0, max_tokens=160, logprobs=True, top_logprobs=3, temperature=1.5)
    choice = reply["choices"][0]
    told = choice["logprobs"]["content"]
    assert "".join(t["token"] for t in told).strip() == choice["message"]["content"]
    thought = choice["logprobs"]["reasoning_content"]
    assert len(thought) == reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
    # One forward of the whole says the same.
    text = f"{ASKED} <think> {whole(choice)}"
    body = {"prompt": text, "echo": True, "max_tokens": 0, "logprobs": 3}
    scored = server.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    want = scored["token_logprobs"][9:]
    np.testing.assert_allclose([t["logprob"] for t in thought + told], want, atol=1e-3)
    best = [{o["token"]: o["logprob"] for o in t["top_logprobs"]} for t in thought + told]
    for a, b in zip(best, scored["top_logprobs"][9:], strict=True):
        assert a == pytest.approx(b, abs=1e-3)


def test_logit_bias_and_greedy(server):
    token = str(WORDS.encode("-")[0])
    reply = server.chat(seed=0, temperature=0, logit_bias={token: -100}, max_tokens=160)
    assert " - " not in whole(reply["choices"][0])
    assert server.chat(temperature=0)["choices"] == server.chat(temperature=0)["choices"]


def test_what_it_says_of_itself(server):
    models = server.client.get("/v1/models").json()
    assert models["data"][0]["id"] == "tested" and models["data"][0]["max_model_len"] == 256
    assert server.client.get("/v1/models/tested").json() == models["data"][0]
    assert server.client.get("/v1/models/other").status_code == 404
    assert server.client.get("/health").json() == {"status": "ok"}
    assert server.client.get("/version").json()["version"]
    ids = server.post("/tokenize", {"prompt": ASKED}).json()
    assert ids["tokens"] == WORDS.encode(ASKED) and ids["count"] == 8
    asked = server.post("/tokenize", {"messages": MESSAGES}).json()["tokens"]
    assert asked == WORDS.encode(f"{ASKED} <think>")
    assert server.post("/detokenize", {"tokens": ids["tokens"]}).json()["prompt"] == ASKED


def test_metrics_count_what_was_told(server):
    names = "prompt_tokens_total", "generation_tokens_total"
    before = [server.metric(name) for name in names]
    usage = server.chat(seed=5, max_tokens=160)["usage"]
    after = [server.metric(name) for name in names]
    assert after[0] - before[0] == usage["prompt_tokens"]
    assert after[1] - before[1] == usage["completion_tokens"]
    assert server.metric("request_success_total", finished_reason="stop") > 0
    assert server.metric("time_to_first_token_seconds_count") > 10
    assert server.metric("num_requests_running") == server.metric("num_requests_waiting") == 0


def test_a_prompt_seen_before_is_found_in_the_cache(server):
    question = "use 9 8 6 1 to make 4"
    first, again = (server.chat(question, seed=s, max_tokens=160) for s in (11, 11))
    assert first["choices"][0]["message"] == again["choices"][0]["message"]
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] <= 1
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 8
    assert again["usage"]["prompt_cache_miss_tokens"] == 1


def test_what_its_words_cannot_write_is_refused(server):
    pytest.importorskip("llguidance")
    body = {"messages": MESSAGES, "response_format": {"type": "json_object"}}
    said = server.refusal("/v1/chat/completions", body)["message"]
    assert said.endswith("the words that this model knows cannot write it")
