"""200 clients at once, 2,000 requests: some leave, some are malformed, one reads slowly. None is
lost or mixed up, memory stays flat, and SIGTERM finishes what was accepted."""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from experiments.bench.serving import Client, server

CLIENTS, REQUESTS, DISTINCT = 200, 2000, 200
THOUGHT_AND_ANSWER = ("reasoning_content", "content")
MALFORMED = (b"{", b'{"messages": 3}', b'{"max_tokens": "x"}', b"\xff", b'{"prompt": ""}', b"[]")


def body(i: int) -> bytes:
    rng = random.Random(i)
    numbers = " ".join(map(str, rng.sample(range(1, 10), 4)))
    messages = [{"role": "user", "content": f"use {numbers} to make {rng.randrange(5, 20)}"}]
    fields = {"messages": messages, "seed": i, "temperature": 1.0, "top_p": 1.0}
    return json.dumps({**fields, "stream": i % 2 == 0, "max_tokens": 150}).encode()


async def said(client: Client, data: bytes) -> tuple[int, str, str]:
    """(status, thought, answer), whether it is streamed or not."""
    status, chunks = await client.post("/v1/chat/completions", data)
    came = b"".join([chunk async for chunk in chunks])
    if status != 200:
        assert json.loads(came)["error"]["message"]
        return status, "", ""
    return status, *texts(came)


def texts(came: bytes) -> tuple[str, str]:
    """(thought, answer)"""
    if came.startswith(b"data: "):
        events = [e.removeprefix("data: ") for e in came.decode().split("\n\n") if e[:1] == "d"]
        assert events[-1] == "[DONE]" and not any('"error"' in e for e in events)
        parts = [c["delta"] for e in events[:-1] for c in json.loads(e)["choices"]]
    else:
        parts = [c["message"] for c in json.loads(came)["choices"]]
    thought, answer = ("".join(p.get(k) or "" for p in parts) for k in THOUGHT_AND_ANSWER)
    return thought, answer


async def leaves(where: tuple[str, int], data: bytes) -> None:
    """After the first of it, or before."""
    client = Client(*where)
    task = asyncio.create_task(client.post("/v1/chat/completions", data))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(task, random.random() / 10)
    client.close()


async def reads_slowly(where: tuple[str, int], until: asyncio.Event) -> int:
    """A kilobyte a second of all that it asks for, its window as small as it can be."""
    reader, writer = await asyncio.open_connection(*where, limit=1024)
    ask = json.dumps({**json.loads(body(0)), "stream": True, "n": 8}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ask)}\r\n\r\n"
    writer.write(head.encode() + ask)
    got = 0
    while not until.is_set():
        got += len(await reader.read(64))
        await asyncio.sleep(0.06)
    writer.close()
    return got


async def under_load(where: tuple[str, int], want: list[tuple]) -> dict[str, int]:
    rng, seen = random.Random(0), {"right": 0, "left": 0, "malformed": 0, "refused": 0}
    waiting = iter(range(REQUESTS))
    done = asyncio.Event()
    slow = asyncio.create_task(reads_slowly(where, done))

    async def one() -> None:
        client = Client(*where)
        for i in waiting:
            kind = rng.random()
            if kind < 0.05:
                status, *_ = await said(client, rng.choice(MALFORMED))
                assert status == 400
                seen["malformed"] += 1
            elif kind < 0.15:
                await leaves(where, body(i % DISTINCT))
                seen["left"] += 1
            else:
                while (got := await said(client, body(i % DISTINCT)))[0] == 429:
                    seen["refused"] += 1
                    await asyncio.sleep(0.2)
                assert got == want[i % DISTINCT], i
                seen["right"] += 1
        client.close()

    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    done.set()
    assert await slow > 0
    return seen


def rss(process: subprocess.Popen) -> int:
    """MB"""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_200_clients():
    async def alone(where) -> list[tuple]:
        client = Client(*where)
        return [await said(client, body(i)) for i in range(DISTINCT)]

    async def the_end(where, want, process) -> None:
        """SIGTERM while 64 are on their way, half of them waiting."""
        clients = [Client(*where) for _ in range(64)]
        sent = [i for i in range(DISTINCT) if i % 2 == 0][:64]  # streamed: a status is acceptance
        begun = await asyncio.gather(
            *(c.post("/v1/chat/completions", body(i)) for c, i in zip(clients, sent, strict=True))
        )
        assert {status for status, _ in begun} == {200}
        process.send_signal(signal.SIGTERM)
        for i, (_, chunks) in zip(sent, begun, strict=True):
            assert texts(b"".join([chunk async for chunk in chunks])) == want[i][1:]

    with server("embedded", 32, "--queue=160") as (where, process):
        want = asyncio.run(alone(where))
        assert len(set(want)) > DISTINCT / 2 and {status for status, *_ in want} == {200}
        asyncio.run(under_load(where, want))
        before = rss(process)
        seen = asyncio.run(under_load(where, want))
        after = rss(process)
        print(seen, f"{before} -> {after} MB")
        assert sum(seen[k] for k in ("right", "left", "malformed")) == REQUESTS
        assert after < before * 1.05 + 10
        asyncio.run(the_end(where, want, process))
        assert process.wait(120) == 0
