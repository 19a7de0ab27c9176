"""A program in two processes of a few emulated devices each, as one mesh."""

import socket
import subprocess
import sys
from pathlib import Path

import tiny_run

BEGINNING = """
import sys
import jax
address, rank, devices = sys.argv[1:4]
del sys.argv[1:4]
jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(rank))
"""
R1_ZERO = """
from experiments import cli, r1_zero
cli.run(r1_zero.main)
"""


def start(code: str, args: list[str], cache: Path, devices: int = 4) -> list[subprocess.Popen]:
    """Both, started: `code` runs in each with `args` in sys.argv[1:], and `rank` "0" or "1"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", BEGINNING + code, address, rank, str(devices), *args],
            env=tiny_run.environment(cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]


def finish(both: list[subprocess.Popen], code: int = 0) -> list[tuple[str, str]]:
    """(stdout, stderr) of each, which must end with `code`."""
    try:
        said = [process.communicate(timeout=240) for process in both]
    finally:
        for process in both:
            process.kill()  # one that the other waits for would go on for ever
    assert [process.returncode for process in both] == [code, code], said
    return said
