"""What a server adds to its engine, and `transformers serve` where it is installed.

    python -m experiments.bench.serving
    python -m experiments.bench.serving --model=DIR --clients=32 --requests=128 --reply=128

The server is a process of its own; its clients are here, as many connections as --clients, which
ask for text of exactly --reply tokens after prompts of --prompt random ones. The engine alone
draws the same requests here while nobody asks the server. They take turns, and medians are
compared. "First token" is what one client alone waits for a streamed one, beside the engine's time
for a reply of one token.
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers

from experiments import cli
from experiments.serve import ServeConfig, engine_of
from r1jax import hub, optim, sharding
from r1jax.architecture import GQAConfig, ModelConfig, RopeConfig
from r1jax.checks import check
from r1jax.sampling.engine import Request

NEVER = -100.0  # an end token's logit bias


@dataclasses.dataclass(frozen=True)
class ServingConfig:
    model: str = ""  # a folder or embedded; empty: random, of Llama's form, --layers of --width
    layers: int = 4
    width: int = 256
    vocab: int = 4096
    clients: int = 32
    requests: int = 128
    prompt: int = 32  # tokens
    reply: int = 128  # tokens
    turns: int = 3

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check(field.name == "model" or value > 0, f"--{field.name} must be positive: {value}")
        check(self.width % 64 == 0, f"--width={self.width} is not a multiple of 64, a head's size")


class Client:
    """One connection that is kept, and no more of HTTP than a server's replies need: so that what
    is measured is the server."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, AsyncIterator[bytes]]:
        """(status, what comes of its body as it comes), which has to be read to its end before
        another call, or the connection closed."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(self.host, self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self._writer.drain()
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), self._body(fields)

    async def _body(self, fields: dict[str, str]) -> AsyncIterator[bytes]:
        if "content-length" in fields:
            yield await self._reader.readexactly(int(fields["content-length"]))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


async def asked(client: Client, body: dict[str, Any]) -> tuple[float, bytes]:
    """(seconds until something of its text came, all that came), of a text that has to succeed."""
    begun, first, came = time.perf_counter(), 0.0, b""
    status, chunks = await client.post("/v1/completions", json.dumps(body).encode())
    async for chunk in chunks:
        first = first or time.perf_counter() - begun
        came += chunk
    check(status == 200, f"the server answers {status}: {came[:300]!r}")
    return first, came


async def load(where: tuple[str, int], bodies: Sequence[dict[str, Any]], clients: int) -> float:
    """Tokens a second of texts that so many clients ask for, each one after another."""
    waiting, tokens = iter(bodies), [0]

    async def one() -> None:
        client = Client(*where)
        for body in waiting:
            _, came = await asked(client, body)
            told = re.findall(rb'"completion_tokens": ?(\d+)', came)
            tokens[0] += int(told[-1]) if told else body["max_tokens"]
        client.close()

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return tokens[0] / (time.perf_counter() - started)


def random_model(cfg: ServingConfig, folder: Path) -> Path:
    """A folder with a model of random weights, whose words are w0 (which ends a text), w1, ..."""
    model = ModelConfig(
        vocab=cfg.vocab,
        d_model=cfg.width,
        layers=cfg.layers,
        dense_layers=cfg.layers,
        dense_ffn=4 * cfg.width,
        attention=GQAConfig(heads=cfg.width // 64, kv_heads=max(1, cfg.width // 128), head_dim=64),
        rope=RopeConfig(interleaved=False),
        context=1024,
        tied_head=True,
        scan_layers=False,
    )
    words = {f"w{i}": i for i in range(cfg.vocab)}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w1"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    named = folder / "words"
    named.mkdir()
    core.save(str(named / "tokenizer.json"))
    says = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w0", "pad_token": "w0"}
    (named / "tokenizer_config.json").write_text(json.dumps(says))
    weights = optim.random_weights(model, sharding.make_mesh("1"), jax.random.key(0))
    ends = {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": 0}
    return hub.save_model(weights, model, folder / "model", named, "float32", special_tokens=ends)


@contextlib.contextmanager
def server(
    model: str, slots: int, *flags: str
) -> Iterator[tuple[tuple[str, int], subprocess.Popen[str]]]:
    """((host, port), a process of its own)"""
    command = [sys.executable, "-m", "experiments.serve", f"--model={model}", "--port=0"]
    command += [f"--slots={slots}", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
            check(found is not None, "the server did not start")
            assert found is not None
            yield (found[1], int(found[2])), process
        finally:
            process.terminate()


@contextlib.contextmanager
def transformers_serve(folder: Path) -> Iterator[tuple[str, int]]:
    """`transformers serve` with continuous batching, in float32 as the others."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--continuous-batching", "--dtype", "float32", "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet) as process:
        try:
            until = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < until:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.2)
            check(process.poll() is None, "transformers serve did not start")
            yield "127.0.0.1", port
        finally:
            process.terminate()


def main(args: list[str]) -> None:
    cfg = cli.parse(ServingConfig, ServingConfig(), args, __doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        model = cfg.model or str(random_model(cfg, Path(folder)))
        ours = compare(cfg, model)
        if cfg.model or importlib.util.find_spec("transformers") is None:
            return
        bodies = [
            {"prompt": " ".join(f"w{token}" for token in prompt), "max_tokens": cfg.reply}
            | {"model": model, "temperature": 1.0, "top_p": 1.0, "seed": i}
            for i, prompt in enumerate(prompts_of(cfg, cfg.vocab, [0]))
        ]
        with transformers_serve(Path(model)) as where:
            rates = [asyncio.run(load(where, bodies, cfg.clients)) for _ in range(2)]
        print(f"  transformers serve     {rates[-1]:8.0f} tokens/s: {ours / rates[-1]:.1f}x less")


def prompts_of(cfg: ServingConfig, vocab: int, ends: Sequence[int]) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return rng.integers(max(ends) + 1, vocab, (cfg.requests, cfg.prompt)).tolist()


def compare(cfg: ServingConfig, model: str) -> float:
    """Prints the server beside its engine. Returns its tokens a second, of whole replies."""
    conversation, engine = engine_of(
        ServeConfig(model=model, slots=cfg.clients, prefix_cache=False, temperature=1.0, top_p=1.0)
    )
    ends = sorted(conversation.tokenizer.end_ids)
    prompts = prompts_of(cfg, engine.model.vocab, ends)
    how = {"model": model, "temperature": 1.0, "top_p": 1.0, "max_tokens": cfg.reply}
    how["logit_bias"] = {str(token): NEVER for token in ends}
    bodies = [{"prompt": prompt, "seed": i, **how} for i, prompt in enumerate(prompts)]
    streamed = [{**body, "stream": True} for body in bodies]

    def draw(count: int, tokens: int) -> float:
        bias = dict.fromkeys(ends, NEVER)
        started = time.perf_counter()
        for i, prompt in enumerate(prompts[:count]):
            engine.submit(Request(prompt, 0, 0, i, max_tokens=tokens, bias=bias))
        while engine.busy:
            engine.step()
        return time.perf_counter() - started

    with server(model, cfg.clients, "--no-prefix-cache", "--queue=4096") as (where, _):
        rates = in_turns(
            {
                "the engine alone": lambda: (
                    cfg.requests * cfg.reply / draw(cfg.requests, cfg.reply)
                ),
                "the server, whole": lambda: asyncio.run(load(where, bodies, cfg.clients)),
                "the server, streamed": lambda: asyncio.run(load(where, streamed, cfg.clients)),
            },
            cfg.turns,
        )
        one = {**streamed[0], "max_tokens": 2}
        waits = in_turns(
            {
                "prefill": lambda: draw(1, 1),
                "first token": lambda: asyncio.run(asked(Client(*where), one))[0],
            },
            5 * cfg.turns,
        )
    print(f"{cfg.clients} clients, {cfg.requests} texts of {cfg.reply} tokens after {cfg.prompt}:")
    for name, rate in rates.items():
        print(f"  {name:22} {rate:8.0f} tokens/s  {rate / rates['the engine alone']:.2f}x")
    wait, prefill = waits["first token"] * 1e3, waits["prefill"] * 1e3
    print(
        f"  one client's first token {wait:.1f} ms, a prefill {prefill:.1f}: {wait / prefill:.1f}x"
    )
    return rates["the server, whole"]


def in_turns(runs: dict[str, Callable[[], float]], turns: int) -> dict[str, float]:
    """Medians of what each tells, after one of each that compiles."""
    told: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns + 1):
        for name, run in runs.items():
            told[name].append(run())
    return {name: statistics.median(some[1:]) for name, some in told.items()}


if __name__ == "__main__":
    cli.run(main)
