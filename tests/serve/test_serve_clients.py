"""The official client and litellm, which validate what they read."""

import json

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from serving import ASKED, serving

MESSAGES = [{"role": "user", "content": ASKED}]


@pytest.fixture(scope="module")
def server():
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def openai(server):
    module = pytest.importorskip("openai")
    import httpx

    http = httpx.Client(trust_env=False)
    return module.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", http_client=http, max_retries=0
    )


def test_openai_chat(openai):
    reply = openai.chat.completions.create(
        model="tested", messages=MESSAGES, seed=0, n=2, logprobs=True, top_logprobs=2
    )
    message = reply.choices[0].message
    assert message.content.startswith("<answer>") and "=" in message.reasoning_content
    assert reply.usage.completion_tokens_details.reasoning_tokens > 5
    assert reply.usage.prompt_tokens_details.cached_tokens >= 0
    assert len(reply.choices[1].logprobs.content[0].top_logprobs) == 2
    assert reply.model_dump_json()


def test_openai_stream(openai):
    whole = openai.chat.completions.create(model="tested", messages=MESSAGES, seed=1)
    stream = openai.chat.completions.create(
        model="tested",
        messages=MESSAGES,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    content = thought = ""
    for chunk in stream:
        if chunk.choices:
            delta = chunk.choices[0].delta
            content += delta.content or ""
            thought += getattr(delta, "reasoning_content", None) or ""
            assert getattr(delta, "reasoning", None) == getattr(delta, "reasoning_content", None)
    assert content == whole.choices[0].message.content
    assert thought == whole.choices[0].message.reasoning_content
    assert chunk.usage.total_tokens == whole.usage.total_tokens


def test_openai_text_models_and_errors(openai):
    import openai as module

    text = openai.completions.create(
        model="tested", prompt=f"{ASKED} <think>", max_tokens=5, logprobs=2, echo=True
    )
    assert (
        text.choices[0].text.startswith(ASKED)
        and text.choices[0].logprobs.token_logprobs[0] is None
    )
    assert [m.id for m in openai.models.list()] == ["tested"]
    with pytest.raises(module.NotFoundError) as error:
        openai.chat.completions.create(model="gpt", messages=MESSAGES)
    assert error.value.code == "model_not_found"
    with pytest.raises(module.BadRequestError) as error:
        openai.chat.completions.create(model="tested", messages=MESSAGES, max_tokens=10**6)
    assert error.value.code == "context_length_exceeded" and error.value.param == "max_tokens"


def test_openai_leaves_a_stream(openai, server):
    from serving import wait

    with openai.chat.completions.create(model="tested", messages=MESSAGES, stream=True) as stream:
        next(iter(stream))
    wait(lambda: server.app.worker.running == 0)


@pytest.mark.parametrize("provider", ["hosted_vllm", "deepseek", "openai"])
def test_litellm(server, provider, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    litellm = pytest.importorskip("litellm")
    where = {"api_base": f"{server.url}/v1", "api_key": "none", "model": f"{provider}/tested"}
    reply = litellm.completion(messages=MESSAGES, seed=0, **where)
    message = reply.choices[0].message
    assert message.content.startswith("<answer>") and "=" in message.reasoning_content
    chunks = list(litellm.completion(messages=MESSAGES, seed=0, stream=True, **where))
    thought = "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks)
    content = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert thought == message.reasoning_content and content == message.content
    json.dumps(reply.model_dump(), default=str)
