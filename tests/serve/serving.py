"""A server in a thread of the test, on a port of its own, and words to speak to it."""

import contextlib
import dataclasses
import json
import socket
import threading
import time
from pathlib import Path

import httpx
import uvicorn

from experiments.serve import ServeConfig, engine_of
from r1jax.serve.app import App
from r1jax.serve.served import Limits, Manner, Served

ASKED = "use 9 6 5 4 to make 14"


@dataclasses.dataclass
class Server:
    url: str
    app: App
    client: httpx.Client

    def post(self, path: str, body, **more) -> httpx.Response:
        return self.client.post(path, json=body, **more)

    def chat(self, text: str = ASKED, **fields) -> dict:
        body = {"messages": [{"role": "user", "content": text}], **fields}
        response = self.post("/v1/chat/completions", body)
        assert response.status_code == 200, response.text
        return response.json()

    def refusal(self, path: str, body, status: int = 400) -> dict:
        response = self.post(path, body)
        assert response.status_code == status, response.text
        return response.json()["error"]

    def stream(self, path: str, body) -> list[dict]:
        """The chunks, which have to end in [DONE]."""
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            return events(response.iter_lines())

    def metric(self, name: str, **labels: str) -> float:
        want = {"model_name": self.app.served.name, **labels}
        text = ",".join(f'{k}="{v}"' for k, v in sorted(want.items()))
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"r1jax:{name}{{{text}}}"):
                return float(line.split()[-1])
        return 0.0


def events(lines) -> list[dict]:
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(one) for one in data[:-1]]


def joined(chunks: list[dict], index: int = 0) -> dict:
    """What the deltas of one choice come to."""
    found = {"reasoning_content": "", "content": "", "finish": None, "calls": []}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            for name in ("reasoning_content", "content"):
                found[name] += delta.get(name) or ""
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    found["calls"].append([call["function"]["name"], ""])
                found["calls"][call["index"]][1] += call["function"]["arguments"]
            found["finish"] = choice["finish_reason"] or found["finish"]
    return found


@contextlib.contextmanager
def serving(engine=None, conversation=None, manner=Manner(), limits=Limits(), **cfg):  # noqa: B008
    if engine is None:
        conversation, engine = engine_of(ServeConfig(**{"slots": 8, **cfg}))
    app = App(Served("tested", conversation, engine, manner), limits, loopback=True)
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app.asgi(), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            wait(lambda: server.started)
            yield Server(url, app, client)
    finally:
        server.should_exit = True
        thread.join()


def wait(until, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def chatty(folder: Path, to: Path, template: str) -> Path:
    """A copy of a model's folder with a chat template, which it was not trained on."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    (to / "chat_template.jinja").write_text(template)
    return to
