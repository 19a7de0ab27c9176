"""Short runs on two processes, ended at random moments in every way, go on as if they never had
been: no more steps are lost than the cadence allows, and nothing hangs.

R1JAX_KILLS says how many times (default 8).
"""

import os
import random
import shutil
import signal
import time

import pytest
import tiny_run
from two_processes import R1_ZERO, finish, start

from r1jax.metrics import read_jsonl
from r1jax.peers import LOST_PEER

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("R1JAX_KILLS", "8"))
EVERY, STEPS = 2, 24
# What is done, and to whom; the last three twice in a row, in a save, and at the start.
WAYS = ("kill 0", "kill 1", "kill all", "term 0", "term 1", "twice", "save", "start")
FINE = (0, LOST_PEER, 2, 1, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT)


def saved(out):
    found = (out / "checkpoints").glob("*")
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def logged(out):
    path = out / "metrics.jsonl"
    return max((row["step"] for row in read_jsonl(path)), default=-1) if path.exists() else -1


def strike(both, out, way, rng):
    """At a random moment; returns how far the run then was: (logged step, saved step)."""
    before, until = saved(out), time.monotonic() + 120
    if way != "start":
        while all(p.poll() is None for p in both) and saved(out) == before:
            assert time.monotonic() < until
            time.sleep(0.01)
    if way == "save":
        while all(p.poll() is None for p in both) and not any(out.glob("checkpoints/*-tmp*")):
            time.sleep(0.001)
    else:
        time.sleep(rng.uniform(0, 6 if way == "start" else 1.5))
    how, _, whom = way.partition(" ")
    number = signal.SIGTERM if how in ("term", "twice") else signal.SIGKILL
    struck = both if whom == "all" else [both[int(whom or rng.randrange(2))]]
    for process in struck:
        process.send_signal(number)
    if how == "twice":  # a second one, while what was done is saved
        time.sleep(0.2)
        rng.choice(both).send_signal(signal.SIGKILL)
    return logged(out), saved(out)


def test_random_kills(tmp_path):
    rng = random.Random(os.environ.get("R1JAX_KILLS_SEED", "1"))
    config = tiny_run.inputs(
        tmp_path, mesh="4x2", steps=STEPS, checkpoint_every=EVERY, evaluate_every=5
    )
    cache, whole, out = (tmp_path / name for name in ("cache", "whole", "run"))
    args = [f"--config={config}", "--resume=auto"]
    finish(start(R1_ZERO, [*args, f"--out={whole}"], cache))
    finished = 0
    for number in range(KILLS):
        way = WAYS[number % len(WAYS)]
        # One that is killed before it has come is not lost: the other waits for it so long.
        both = start(R1_ZERO, [*args, f"--out={out}"], cache, R1JAX_START_SECONDS="20")
        at, kept = strike(both, out, way, rng)
        began = time.monotonic()
        try:
            codes = [process.wait(timeout=40) for process in both]
        finally:
            for process in both:
                process.kill()
                process.communicate()
        took, kept = time.monotonic() - began, max(kept, saved(out))
        print(f"{number:3} {way:9} at step {at:2}, saved {kept:2}: {codes} after {took:.1f} s")
        assert set(codes) <= set(FINE)
        assert at + 1 - kept <= 2 * EVERY, "more is lost than one cadence, and one in the making"
        if all(code == 0 for code in codes) and saved(out) == STEPS:
            finished += 1
            shutil.rmtree(out)  # it ended before: another one
    finish(start(R1_ZERO, [*args, f"--out={out}"], cache))
    for part in (".", "process_1"):
        assert tiny_run.metrics(out / part) == tiny_run.metrics(whole / part)
        samples = [read_jsonl(one / part / "samples.jsonl") for one in (out, whole)]
        assert samples[0] == samples[1]
    assert finished < KILLS
