"""Requests that mean harm or make no sense: each gets its status and a line that names the field,
and the server answers as before."""

import http.client
import json
import socket

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from serving import ASKED, serving

from r1jax.serve.served import Limits

MESSAGES = [{"role": "user", "content": ASKED}]
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def server():
    with serving(limits=Limits(body=20_000)) as one:
        yield one


def chat(**fields):
    return {"messages": MESSAGES, "max_tokens": 4, **fields}


CHAT = {  # body -> what the error names
    "no messages": ({}, "messages"),
    "messages null": ({"messages": None}, "messages"),
    "messages a string": ({"messages": "hello"}, "messages"),
    "messages empty": ({"messages": []}, "messages"),
    "a message is a number": ({"messages": [1]}, "messages"),
    "a message is null": ({"messages": [None]}, "messages"),
    "no role": ({"messages": [{"content": "use"}]}, "messages"),
    "a role of their own": ({"messages": [{"role": "root", "content": "use"}]}, "messages"),
    "role a list": ({"messages": [{"role": ["user"], "content": "use"}]}, "messages"),
    "content missing": ({"messages": [{"role": "user"}]}, "messages"),
    "content a number": ({"messages": [{"role": "user", "content": 3}]}, "messages"),
    "content an image": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
                }
            ]
        },
        "messages",
    ),
    "content empty": (
        {"messages": [{"role": "user", "content": ""}], "max_tokens": -1},
        "max_tokens",
    ),
    "a word it does not know": (
        {"messages": [{"role": "user", "content": "{{ 7*7 }}"}]},
        "messages",
    ),
    "half a surrogate pair": ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    "NUL": ({"messages": [{"role": "user", "content": "\0"}]}, "messages"),
    "a system prompt without a template": (
        {"messages": [{"role": "system", "content": "use"}, *MESSAGES]},
        "messages",
    ),
    "two turns without a template": ({"messages": MESSAGES * 2}, "messages"),
    "tool_calls a string": (
        {"messages": [{"role": "assistant", "content": "1", "tool_calls": "x"}]},
        "messages[0].tool_calls",
    ),
    "tool call without a function": (
        {"messages": [{"role": "assistant", "content": "1", "tool_calls": [{}]}]},
        "messages[0].tool_calls[0].function",
    ),
    "arguments an object": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": "1",
                    "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
                }
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
    ),
    "model a number": (chat(model=3), "model"),
    "temperature a string": (chat(temperature="hot"), "temperature"),
    "temperature true": (chat(temperature=True), "temperature"),
    "temperature negative": (chat(temperature=-1), "temperature"),
    "temperature huge": (chat(temperature=1e308), "temperature"),
    "temperature beyond floats": (chat(temperature=10**400), "temperature"),
    "top_p 0": (chat(top_p=0), "top_p"),
    "top_p 2": (chat(top_p=2), "top_p"),
    "top_k a half": (chat(top_k=1.5), "top_k"),
    "n 0": (chat(n=0), "n"),
    "n a million": (chat(n=10**6), "n"),
    "n a list": (chat(n=[1]), "n"),
    "max_tokens 0": (chat(max_tokens=0), "max_tokens"),
    "max_tokens negative": (chat(max_tokens=-5), "max_tokens"),
    "max_tokens huge": (chat(max_tokens=10**30), "max_tokens"),
    "max_tokens a fraction": (chat(max_tokens=1.5), "max_tokens"),
    "two budgets of a reply": (chat(max_completion_tokens=9), "max_completion_tokens"),
    "stop a number": (chat(stop=1), "stop"),
    "stop of numbers": (chat(stop=[1, 2]), "stop"),
    "stop of a thousand": (chat(stop=["a"] * 1000), "stop"),
    "a long stop": (chat(stop="a" * 10_000), "stop"),
    "stream a string": (chat(stream="yes"), "stream"),
    "stream_options a list": (chat(stream_options=[]), "stream_options"),
    "seed a string": (chat(seed="x"), "seed"),
    "seed beyond 64 bits": (chat(seed=2**70), "seed"),
    "logit_bias a list": (chat(logit_bias=[1]), "logit_bias"),
    "logit_bias of words": (chat(logit_bias={"use": 1}), "logit_bias"),
    "logit_bias of no token": (chat(logit_bias={"999999": 1}), "logit_bias"),
    "logit_bias a string": (chat(logit_bias={"3": "x"}), "logit_bias.3"),
    "logit_bias of many": (chat(logit_bias={str(i): 1 for i in range(60)}), "logit_bias"),
    "top_logprobs alone": (chat(top_logprobs=3), "top_logprobs"),
    "top_logprobs 1000": (chat(logprobs=True, top_logprobs=1000), "top_logprobs"),
    "logprobs a number": (chat(logprobs=1), "logprobs"),
    "a penalty": (chat(presence_penalty=1), "presence_penalty"),
    "a budget below 0": (chat(thinking_budget=-1), "thinking_budget"),
    "thinking a string": (chat(thinking="on"), "thinking"),
    "an effort of their own": (chat(reasoning_effort="extreme"), "reasoning_effort"),
    "a language of their own": (chat(language="xx"), "language"),
    "response_format a string": (chat(response_format="json"), "response_format"),
    "response_format of no type": (chat(response_format={}), "response_format.type"),
    "a schema that is none": (
        chat(response_format={"type": "json_schema", "json_schema": {"schema": 1}}),
        "response_format.json_schema.schema",
    ),
    "tools a string": (chat(tools="all"), "tools"),
    "a tool without a name": (
        chat(tools=[{"type": "function", "function": {}}]),
        "tools[0].function.name",
    ),
    "a tool with a name of marks": (
        chat(tools=[{"type": "function", "function": {"name": "<｜tool▁sep｜>"}}]),
        "tools[0].function.name",
    ),
    "a choice of no tool": (chat(tool_choice="required"), "tool_choice"),
    "a tool that is not there": (
        chat(tool_choice={"type": "function", "function": {"name": "f"}}),
        "tool_choice",
    ),
    "tools without a template": (
        chat(tools=[{"type": "function", "function": {"name": "f"}}]),
        "tools",
    ),
}
TEXT = {
    "no prompt": ({}, "prompt"),
    "prompt a number": ({"prompt": 1}, "prompt"),
    "prompt empty": ({"prompt": ""}, "prompt"),
    "prompts none": ({"prompt": []}, "prompt"),
    "prompt of both kinds": ({"prompt": ["use", 1]}, "prompt"),
    "a token below 0": ({"prompt": [-1]}, "prompt"),
    "a token past the last": ({"prompt": [10**9]}, "prompt"),
    "a token past 64 bits": ({"prompt": [2**80]}, "prompt"),
    "tokens true": ({"prompt": [True]}, "prompt"),
    "a thousand prompts": ({"prompt": ["use"] * 1000}, "prompt"),
    "max_tokens 0 without echo": ({"prompt": "use", "max_tokens": 0}, "max_tokens"),
    "suffix": ({"prompt": "use", "suffix": "x"}, "suffix"),
    "best_of": ({"prompt": "use", "best_of": 9}, "best_of"),
    "echo a string": ({"prompt": "use", "echo": "x"}, "echo"),
}
RAW = {  # bytes -> what the message says
    "nothing": (b"", "not JSON"),
    "half an object": (b'{"messages": [', "not JSON"),
    "an array": (b"[]", "object, got an array"),
    "a string": (b'"x"', "object, got a string"),
    "null": (b"null", "object, got null"),
    "not UTF-8": (b'{"messages": "\xff\xfe"}', "UTF-8"),
    "NaN": (b'{"temperature": NaN}', "NaN is not JSON"),
    "Infinity": (b'{"temperature": -Infinity}', "-Infinity is not JSON"),
    "nested deeply": (b'{"messages": ' + b"[" * 9000, "nested"),
    "an endless number": (b'{"seed": ' + b"9" * 9000 + b"}", "not JSON"),
}


def works(server) -> None:
    assert server.chat(seed=0, max_tokens=3)["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("name", CHAT)
def test_chat_names_the_field(server, name):
    body, param = CHAT[name]
    data = json.dumps(body).encode()
    response = server.client.post("/v1/chat/completions", content=data, headers=JSON)
    error = response.json()["error"]
    assert response.status_code == 400, response.text
    assert error["param"] == param and error["message"] and error["type"] == "invalid_request_error"
    assert "Traceback" not in response.text and "\n" not in error["message"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("name", TEXT)
def test_text_names_the_field(server, name):
    body, param = TEXT[name]
    error = server.refusal("/v1/completions", body)
    assert error["param"] == param and error["message"]


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_json(server, name):
    data, said = RAW[name]
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        response = server.client.post(path, content=data, headers=JSON)
        assert response.status_code == 400 and said in response.json()["error"]["message"]


def test_a_large_body_is_not_read(server):
    response = server.post("/v1/chat/completions", {"x": "a" * 30_000})
    assert response.status_code == 413 and "20,000" in response.json()["error"]["message"]
    chunks = (b"a" * 1000 for _ in range(100))  # of no known length
    response = server.client.post("/v1/chat/completions", content=chunks, headers=JSON)
    assert response.status_code == 413
    works(server)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "x"])
def test_a_form_of_another_site_is_no_request(server, kind):
    headers = {"Content-Type": kind}
    response = server.client.post("/v1/chat/completions", content=b"{}", headers=headers)
    assert response.status_code == 415


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_another_name_of_this_machine_is_not_answered(server, host):
    for path in ("/", "/v1/models", "/metrics", "/health"):
        assert server.client.get(path, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/v1/models/../../../etc/passwd",
        "/assets/base.safetensors",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/%00",
        "/docs",
        "/v1/chat",
        "/static/x",
    ],
)
def test_no_file_is_read(server, path):
    response = server.client.get(path)
    assert response.status_code in (404, 405) and "error" in response.json()
    assert "root:" not in response.text


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods(server, method):
    response = server.client.request(method, "/v1/chat/completions")
    assert response.status_code == 405 and response.json()["error"]["message"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 50,
        b"A" * 70_000,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",
    ],
)
def test_what_is_no_http(server, data):
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 5) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(5)
        try:
            while sock.recv(65536):
                pass
        except (TimeoutError, ConnectionResetError):
            pass
    works(server)


def test_unknown_fields_and_nulls_are_ignored(server):
    fields = dict.fromkeys(("stop", "seed", "n", "tools", "response_format", "logit_bias"))
    body = {**chat(seed=0), "chat_template": "{{ 7*7 }}", "user": "me", "min_p": 0.1}
    want = server.post("/v1/chat/completions", chat(seed=0)).json()["choices"]
    assert server.post("/v1/chat/completions", body).json()["choices"] == want
    assert server.post("/v1/chat/completions", chat(**fields)).status_code == 200


def test_a_body_that_stops_coming_holds_nobody_up(server):
    port = int(server.url.rsplit(":", 1)[1])
    slow = http.client.HTTPConnection("127.0.0.1", port)
    slow.putrequest("POST", "/v1/chat/completions")
    slow.putheader("Content-Type", "application/json")
    slow.putheader("Content-Length", "500")
    slow.endheaders(b'{"messages"')
    works(server)
    slow.close()


def test_after_all_of_it_nothing_is_left_running(server):
    works(server)
    assert server.metric("num_requests_running") == server.metric("num_requests_waiting") == 0
