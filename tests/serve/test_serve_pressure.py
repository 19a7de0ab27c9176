"""Queues, deadlines, keys, clients that leave or do not read, and an end that loses nobody."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from serving import ASKED, serving, wait  # noqa: E402

from experiments.serve import ServeConfig, engine_of  # noqa: E402
from r1jax.serve.served import Limits, Manner  # noqa: E402

MESSAGES = [{"role": "user", "content": ASKED}]
BODY = {"messages": MESSAGES, "max_tokens": 160, "seed": 0}


@pytest.fixture(scope="module")
def engine():
    return engine_of(ServeConfig(slots=2, prefix_cache=False))


@pytest.fixture
def slow(engine, monkeypatch):
    """An engine whose bursts take a while; `.go` lets it run freely again."""
    conversation, one = engine
    gate = threading.Event()
    step = one.step

    def waits(steps):
        gate.wait(0.15)
        return step(1)

    monkeypatch.setattr(one, "step", waits)
    one.clear()
    yield {"conversation": conversation, "engine": one, "gate": gate}
    gate.set()


def start(server, pool, count, **fields):
    return [
        pool.submit(server.post, "/v1/chat/completions", {**BODY, **fields}) for _ in range(count)
    ]


def test_a_full_queue_is_a_429_that_says_when_to_try_again(slow):
    gate = slow.pop("gate")
    with (
        serving(**slow, limits=Limits(queue=3)) as server,
        concurrent.futures.ThreadPoolExecutor(9) as pool,
    ):
        taken = start(server, pool, 5)
        wait(lambda: server.app.worker.running + server.app.worker.waiting == 5)
        refused = server.post("/v1/chat/completions", BODY)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert server.post("/v1/chat/completions", {**BODY, "n": 2}).status_code == 429
        wait(lambda: server.metric("num_requests_running") == 2)
        assert server.metric("num_requests_waiting") == 3
        assert server.metric("request_refused_total", status="429") == 2
        gate.set()
        assert {f.result().status_code for f in taken} == {200}
        assert server.post("/v1/chat/completions", BODY).status_code == 200


def test_past_its_deadline_a_request_ends_and_frees_its_slot(slow):
    gate = slow.pop("gate")
    with serving(**slow, limits=Limits(deadline=1.0)) as server:
        begun = time.monotonic()
        response = server.post("/v1/chat/completions", BODY)
        assert response.status_code == 504 and time.monotonic() - begun < 20  # a whole one: 24 s
        assert response.json()["error"]["code"] == "deadline_exceeded"
        with server.client.stream(
            "POST", "/v1/chat/completions", json={**BODY, "stream": True}
        ) as r:
            lines = [line for line in r.iter_lines() if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        wait(lambda: server.app.worker.running == 0)
        wait(lambda: not slow["engine"].busy)
        gate.set()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(slow, stream):
    gate = slow.pop("gate")
    with serving(**slow) as server:
        url = server.url.removeprefix("http://").split(":")
        body = json.dumps({**BODY, "stream": stream}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Length: {len(body)}\r\n"
        with socket.create_connection((url[0], int(url[1]))) as sock:
            sock.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            wait(lambda: server.app.worker.running == 1)
        wait(lambda: not server.app.worker.running)
        wait(lambda: not slow["engine"].busy)
        assert server.metric("request_abandoned_total") == 1
        gate.set()


def test_who_does_not_read_holds_nobody_up(engine):
    """And loses nothing: it may read later."""
    conversation, one = engine
    one.clear()
    with (
        serving(conversation=conversation, engine=one) as server,
        server.client.stream(
            "POST", "/v1/chat/completions", json={**BODY, "n": 2, "stream": True}
        ) as r,
    ):
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as other:
            for _ in range(3):
                assert other.post("/v1/chat/completions", json=BODY).status_code == 200
        assert [line for line in r.iter_lines() if line][-1] == "data: [DONE]"


def test_an_engine_that_fails_tells_all_and_goes_on(slow, monkeypatch):
    gate, one = slow.pop("gate"), slow["engine"]
    gate.set()
    step, failures = one.step, [True]

    def fails(steps):
        if failures:
            failures.pop()
            raise RuntimeError("out of memory, say")
        return step(steps)

    monkeypatch.setattr(one, "step", fails)
    with serving(**slow) as server:
        response = server.post("/v1/chat/completions", BODY)
        assert response.status_code == 500 and "memory" not in response.text
        assert server.post("/v1/chat/completions", BODY).status_code == 200
        failures += [True] * 3
        for _ in range(3):
            assert server.post("/v1/chat/completions", BODY).status_code == 500
        assert server.client.get("/health").status_code == 503
        assert server.post("/v1/chat/completions", BODY).status_code == 503


def test_a_key(engine):
    conversation, one = engine
    one.clear()
    with serving(conversation=conversation, engine=one, manner=Manner(key="s3cret-é")) as server:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            for method, path in (
                ("GET", "/v1/models"),
                ("POST", "/v1/chat/completions"),
                ("POST", "/tokenize"),
            ):
                r = server.client.request(method, path, headers=given)
                assert r.status_code == 401 and r.json()["error"]["code"] == "invalid_api_key"
        right = {"Authorization": "Bearer s3cret-é".encode()}
        assert server.client.get("/v1/models", headers=right).status_code == 200
        assert server.client.get("/health").status_code == server.client.get("/").status_code == 200


def test_sigterm_finishes_what_was_accepted(tmp_path):
    """By the command itself, which also says where it is and that nothing was lost."""
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    command = [sys.executable, "-m", "experiments.serve", "--port=0", "--slots=2"]
    accepted = threading.Semaphore(0)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            url = re.search(r"http://127.0.0.1:\d+", process.stdout.readline())[0]
            with (
                httpx.Client(base_url=url, timeout=120, trust_env=False) as client,
                concurrent.futures.ThreadPoolExecutor(6) as pool,
            ):

                def ask(seed):
                    body = {**BODY, "seed": seed, "n": 4, "logit_bias": {"2": -100}, "stream": True}
                    with client.stream("POST", "/v1/chat/completions", json=body) as r:
                        accepted.release()
                        return r.status_code, [line for line in r.iter_lines() if line][-1]

                asked = [pool.submit(ask, seed) for seed in range(6)]
                assert all(accepted.acquire(timeout=120) for _ in asked)
                process.send_signal(signal.SIGTERM)
                assert {f.result() for f in asked} == {(200, "data: [DONE]")}
                assert process.wait(60) == 0
                with pytest.raises(httpx.ConnectError):
                    client.get("/health")
            assert process.stdout.read() == "served: all accepted requests have ended\n"
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--port=99999"], "--port must lie between 0 and 65535"),
        (["--slots=0"], "--slots must be positive"),
        (["--model=/nowhere"], "no such directory"),
        (["--context=4096"], "--context=4096: the model's is 256"),
        (["--language=xx"], "language 'xx' is not known"),
        (["--model="], "the model's name is empty"),
        (["--key-file=/dev/null"], "the file is empty"),
        (["--key-file=/nowhere"], "--key-file=/nowhere: No such file"),
        (["--host=256.1.1.1"], "--host=256.1.1.1 --port=8000"),
    ],
)
def test_bad_flags_are_one_clear_line(flags, said):
    from experiments import serve
    from r1jax.checks import InputError

    with pytest.raises(InputError, match=re.escape(said)):
        serve.main(flags)
