"""A layer of experts multiplies what it must, as the TPU compiler has it (`launch.moe_layer`)."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("libtpu")

V3 = "--model=deepseek-v3"


def said(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "launch.moe_layer", *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def check(*args: str) -> None:
    text = said(*args)
    found = re.search(r": ([\d.]+) of ideal .* of (\d+) grouped products", text)
    assert found, text
    # Of 12 products of full rematerialisation (3 forward, again, and 6 backward) XLA leaves out the
    # one whose result is not needed again.
    assert int(found[2]) % 11 == 0, text
    assert 0.9 < float(found[1]) <= 1.15, text


@pytest.mark.slow
def test_a_small_layer():
    check("--model=deepseek-v2-lite", "--topology=v5p:2x2x1", "--mesh=1x4", "--tokens=1024")


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [4096, 32_768])
@pytest.mark.parametrize("travel", ["ring", "all_to_all"])
@pytest.mark.parametrize("topology, mesh", [("v5p:2x2x2", "1x8"), ("v5p:2x4x4", "1x32")])
def test_the_671b(topology, mesh, travel, tokens):
    check(
        V3, f"--topology={topology}", f"--mesh={mesh}", f"--travel={travel}", f"--tokens={tokens}"
    )


def test_a_wrong_model_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "launch.moe_layer", "--model=none"], capture_output=True, text=True
    )
    assert done.returncode and "--model=none: one of deepseek-v3" in done.stderr
