"""2,000 requests made at random: of right and wrong fields, types and sizes. No 500, no hang, and
every refusal has its form."""

import concurrent.futures
import json
import random

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from serving import ASKED, serving, wait  # noqa: E402

from r1jax.serve.served import Limits  # noqa: E402

ODD = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3.5,
    1e400,
    10**40,
    "",
    "x",
    "é\ud83d",
    [],
    {},
    [[]],
    [None],
    ["x"],
    {"x": 1},
)
RIGHT = {
    "temperature": (0, 0.6, 1, 2),
    "top_p": (0.1, 1),
    "top_k": (0, 5),
    "n": (1, 2),
    "seed": (1, 2**40, -4),
    "max_tokens": (1, 5, 20),
    "stop": (" +", ["</answer>", "8"]),
    "stream": (True, False),
    "logprobs": (True,),
    "top_logprobs": (2,),
    "logit_bias": ({"3": 5},),
    "thinking_budget": (0, 4),
    "reasoning_effort": ("low", "none"),
    "stream_options": ({"include_usage": True},),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none",),
    "user": ("me",),
    "language": ("en", "zh"),
    "max_completion_tokens": (7,),
    "model": ("tested",),
    "thinking": ({"type": "disabled"},),
    "echo": (True, False),
    "tools": ([],),
    "messages": ([{"role": "user", "content": ASKED}],),
    "prompt": (f"{ASKED} <think>", [4, 5], [ASKED]),
}


def made(rng: random.Random) -> tuple[str, bytes]:
    path = rng.choice(
        ["/v1/chat/completions"] * 4 + ["/v1/completions"] * 2 + ["/tokenize", "/detokenize"]
    )
    names = rng.sample(sorted(RIGHT), rng.randrange(9))
    body = {name: rng.choice(RIGHT[name]) for name in names}
    body.setdefault("max_tokens", 6)
    main = {"/v1/completions": "prompt", "/detokenize": "tokens"}.get(path, "messages")
    body.setdefault(main, rng.choice(RIGHT.get(main, ([1, 2],))))
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        body[rng.choice([*body, *RIGHT])] = rng.choice(ODD)
    if isinstance(body.get("messages"), list) and rng.random() < 0.1:
        body["messages"] = [{"role": rng.choice(["user", "x", 3]), "content": rng.choice(ODD)}]
    data = json.dumps(body).replace("Infinity", "1e999").encode()
    if rng.random() < 0.05:  # cut, or with a byte changed
        at = rng.randrange(len(data))
        data = (
            data[:at]
            if rng.random() < 0.5
            else data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        )
    return path, data


def fuzz(count: int) -> dict[int, int]:
    rng = random.Random(0)
    requests = [made(rng) for _ in range(count)]
    seen: dict[int, int] = {}
    with serving(limits=Limits(queue=1000)) as server:

        def ask(request) -> int:
            path, data = request
            headers = {"Content-Type": "application/json"}
            with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
                response = client.post(path, content=data, headers=headers)
            if response.status_code != 200:
                error = response.json()["error"]
                assert set(error) == {"message", "type", "param", "code"} and error["message"]
            elif "event-stream" in response.headers["content-type"]:
                assert response.text.endswith("data: [DONE]\n\n") and '"error"' not in response.text
            else:
                response.json()
            return response.status_code

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for request, status in zip(requests, pool.map(ask, requests), strict=True):
                assert status in (200, 400, 404), request
                seen[status] = seen.get(status, 0) + 1
        wait(
            lambda: (
                server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0
            )
        )
        assert server.chat(seed=0)["choices"][0]["message"]["content"].startswith("<answer>")
    return seen


def test_requests_at_random():
    seen = fuzz(150)
    assert seen[200] > 40 and seen[400] > 40


@pytest.mark.slow
def test_2000_requests_at_random():
    seen = fuzz(2000)
    print(seen)
    assert seen[200] > 500 and seen[400] > 500
