"""A command in two processes of four emulated devices each, as one mesh of eight."""

import socket
import subprocess
import sys
from pathlib import Path

import tiny_run

PROCESS = """
import sys
import jax
address, rank, prelude = sys.argv[1:4]
del sys.argv[1:4]
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(rank))
from experiments import cli, r1_zero
exec(prelude)
cli.run(r1_zero.main)
"""


def start(args: list[str], cache: Path, prelude: str = "") -> list[subprocess.Popen]:
    """Both, started. `prelude` is run in each before the command; `rank` is "0" or "1"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, rank, prelude, *args],
            env=tiny_run.environment(cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]


def finish(both: list[subprocess.Popen], code: int = 0) -> list[tuple[str, str]]:
    """(stdout, stderr) of each, which must end with `code`."""
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [code, code], said
    return said
