"""A program in two processes (or more) of a few emulated devices each, as one mesh."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import tiny_run

# A program that joins the other itself, and the command that does.
JOINED = """
import sys
import jax
from r1jax import start
start.join(start.find())
"""
R1_ZERO = """
from experiments import cli, r1_zero
cli.run(r1_zero.main, trains=True)
"""
RANK = """
import os
rank = os.environ["JAX_PROCESS_ID"]
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(
    code: str,
    args: list[str],
    cache: Path,
    devices: int = 4,
    count: int = 2,
    to: Sequence[IO[str]] = (),
    each: Sequence[dict[str, str]] = (),
    through: Sequence[Sequence[str]] = (),
    **environment: str,
) -> list[subprocess.Popen]:
    """All, started: `code` runs in each with `args` in sys.argv[1:], and `rank` "0", "1", ...
    devices: emulated in each; 0: as many as the program says. to: a file for what each says.
    each, environment: what is in the environment of each, and of all. through: a command for each
    that becomes what is behind it."""
    address = f"127.0.0.1:{free_port()}"
    common = tiny_run.environment(cache) | {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        **({"JAX_NUM_CPU_DEVICES": str(devices)} if devices else {}),
    }
    own = each or [{}] * count
    return [
        subprocess.Popen(
            [*(through[rank] if through else ()), sys.executable, "-c", RANK + code, *args],
            env=common | {"JAX_PROCESS_ID": str(rank)} | environment | own[rank],
            stdout=to[rank] if to else subprocess.PIPE,
            stderr=subprocess.STDOUT if to else subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(both: list[subprocess.Popen], code: int | None = 0) -> list[tuple[str, str]]:
    """(stdout, stderr) of each, which must end with `code` (None: with any)."""
    try:
        said = [process.communicate(timeout=600) for process in both]
    finally:
        for process in both:
            process.kill()  # one that the other waits for would go on for ever
    assert code is None or [process.returncode for process in both] == [code] * len(both), said
    return said
