"""Short runs on two processes, ended at random moments in every way, go on as if they never had
been: what each end leaves is, bit for bit, what the undisturbed run had at that step; no more steps
are lost than the cadence allows; and nothing hangs.

R1JAX_KILLS says how many times (10, each way once), R1JAX_KILLS_SEED where. The table is printed:

    R1JAX_KILLS=100 pytest -s -n0 -m slow tests/test_pod_kills.py
"""

import collections
import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_run
from two_processes import R1_ZERO, start

from r1jax import manifest
from r1jax.metrics import read_jsonl
from r1jax.peers import LOST_PEER

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("R1JAX_KILLS", "10"))
SEED = os.environ.get("R1JAX_KILLS_SEED", "1")
EVERY, STEPS = 2, 40
COMES = 20  # seconds that a process waits for one that was killed before it had come
HANGS = 600  # seconds; those that ends take are in the table
WAYS = {
    "one": "SIGKILL to either process, between two checkpoints",
    "all": "SIGKILL to both",
    "save": "SIGKILL to either, while a checkpoint is written",
    "start": "SIGKILL to either, before the first step",
    "again": "SIGKILL to either, after a restart and before its first checkpoint",
    "term": "SIGTERM to either",
    "term, term": "SIGTERM to either, then to both in the save that follows",
    "term, kill": "SIGTERM to either, then SIGKILL to either in that save",
    "stop": "SIGSTOP to either, until the other has ended, then SIGCONT",
    "full": "the disk fills",
}
KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT)


class Pod:
    """Both processes of a run in `out`, and what they say."""

    def __init__(self, args, cache, out: Path, said: Path):
        self.out, self.said = out, said
        said.mkdir(parents=True, exist_ok=True)
        self.files = [(said / str(rank)).open("w") for rank in range(2)]
        args = [*args, f"--out={out}"]
        self.both = start(
            R1_ZERO, args, cache, devices=1, to=self.files, R1JAX_START_SECONDS=str(COMES)
        )

    def text(self, rank: int) -> str:
        return (self.said / str(rank)).read_text()

    def runs(self) -> bool:
        return all(process.poll() is None for process in self.both)

    def until(self, ready, pause=0.01) -> None:
        end = time.monotonic() + HANGS
        while self.runs() and not ready():
            assert time.monotonic() < end, self.text(0) + self.text(1)
            time.sleep(pause)

    def send(self, number: int, *ranks: int) -> None:
        for rank in ranks:
            self.both[rank].send_signal(number)

    def ended(self) -> list[int]:
        try:
            return [process.wait(timeout=HANGS) for process in self.both]
        except subprocess.TimeoutExpired:
            pytest.fail(f"hangs: {self.text(0)} {self.text(1)}")

    def close(self) -> None:
        for process, file in zip(self.both, self.files, strict=True):
            process.kill()
            process.wait()
            file.close()


def saved(out: Path) -> int:
    """The newest checkpoint that is whole."""
    folders = [path for path in out.glob("checkpoints/*") if path.name.isdigit()]
    whole = [int(path.name) for path in folders if manifest.damage(path)[0] == "whole"]
    return max(whole, default=0)


def begun(out: Path) -> int:
    """The newest step that a checkpoint was begun of."""
    names = [path.name.partition(".")[0] for path in out.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def logged(out: Path) -> int:
    """Steps that metrics.jsonl has."""
    path = out / "metrics.jsonl"
    return max((row["step"] for row in read_jsonl(path)), default=-1) + 1 if path.exists() else 0


def state(out: Path, step: int):
    """Every array, and the note, as they are on the disk."""
    folder = out / "checkpoints" / str(step)
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder / "state").item_metadata.tree
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found = reader.restore(folder / "state", restore_args=how)
    return found, (folder / "note" / "metadata").read_text()


class Disk:
    """A file system of its own, small enough to fill; without the right to mount one, a folder."""

    SIZE = 24 * 2**20

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        how = ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE}", "tmpfs", str(folder)]
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(how, capture_output=True)
        self.small = folder.is_mount()

    def fill(self) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def free(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.small:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


class Struck(NamedTuple):
    """What a run had at the last look before it was struck."""

    steps: int
    begun: int


def strike(pod: Pod, way: str, disk: Disk, rng: random.Random) -> Struck:
    """Waits for its moment, which a run that ends before does not see."""
    before, one = begun(pod.out), rng.randrange(2)
    if way == "start":
        time.sleep(rng.uniform(0, 12))
    elif way == "again":
        pod.until(lambda: "resumed from step" in pod.text(0) or (not before and logged(pod.out)))
        time.sleep(rng.uniform(0, 0.5))
    else:
        pod.until(lambda: saved(pod.out) > before)
        time.sleep(rng.uniform(0, 1.0))
    if way == "save":
        pod.until(lambda: any(pod.out.glob("checkpoints/*-tmp*")), pause=0.001)
        time.sleep(rng.choice((0, 0, rng.uniform(0, 0.1))))
    seen = Struck(logged(pod.out), begun(pod.out))
    if way == "all":
        pod.send(signal.SIGKILL, 0, 1)
    elif way.startswith("term"):
        pod.send(signal.SIGTERM, one)
        if way != "term":
            at = seen.begun
            pod.until(lambda: begun(pod.out) > at, pause=0.001)
            time.sleep(rng.uniform(0, 0.1))
            how = (signal.SIGTERM, 0, 1) if way == "term, term" else (signal.SIGKILL, one)
            pod.send(*how)
    elif way == "stop":
        pod.send(signal.SIGSTOP, one)
        pod.until(lambda: False)
        pod.send(signal.SIGCONT, one)
    elif way == "full":
        disk.fill()
    else:
        pod.send(signal.SIGKILL, one)
    return seen


def assert_as(out: Path, whole: Path, wholes: dict) -> int:
    """What `out` holds is what `whole` had then, bit for bit; its newest step."""
    step = saved(out)
    if step:
        if step not in wholes:
            wholes[step] = state(whole, step)
        jax.tree.map(np.testing.assert_array_equal, state(out, step), wholes[step])
    for part in (".", "process_1"):
        if (out / part / "metrics.jsonl").exists():
            rows, want = (tiny_run.metrics(one / part) for one in (out, whole))
            assert [row for row in rows if row["step"] < step] == want[:step]
            got, wanted = (read_jsonl(one / part / "samples.jsonl") for one in (out, whole))
            assert [r for r in got if r["step"] < step] == [r for r in wanted if r["step"] < step]
    return step


def test_random_ends(tmp_path, disk):
    rng, ways = random.Random(SEED), [way for way in WAYS if way != "full" or disk.small]
    order = [ways[i % len(ways)] for i in range(KILLS)]
    rng.shuffle(order)
    changes = dict(mesh="2x1", steps=STEPS, checkpoint_every=EVERY, evaluate_every=10)
    config, whole = tiny_run.inputs(tmp_path, **changes), tmp_path / "whole"
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", tmp_path / "cache"))
    args, out = [f"--config={config}", "--resume=auto"], disk.folder / "run"
    # Which saves after every step, since SIGTERM may end the others after any.
    keep_all = ["--checkpoint-every=1", f"--checkpoint-keep={STEPS}"]
    ends_well(Pod([*args, *keep_all], cache, whole, tmp_path / "said"))
    table, wholes = collections.defaultdict(list), {}
    finished, number = 0, 0
    while number < KILLS:
        way = order[number]
        pod = Pod(args, cache, out, tmp_path / "said")
        try:
            seen = strike(pod, way, disk, rng)
            began = time.monotonic()
            codes = pod.ended()
        finally:
            pod.close()
        took = time.monotonic() - began
        disk.free()
        step = assert_as(out, whole, wholes)
        if codes == [0, 0] and step == STEPS:  # it had ended before: another one
            assert_all_same(out, whole)
            finished += 1
            shutil.rmtree(out)
            continue
        lost = max(seen.steps, logged(out)) - step
        last = [pod.text(rank).splitlines()[-1:] for rank in range(2)]
        print(
            f"{number:3} {way:10} {codes} in {took:4.1f} s, {step}, {lost} lost {last}", flush=True
        )
        assert all(code in (0, 2, LOST_PEER, 130, *KILLED) for code in codes), last
        # One cadence, and one more where the newest checkpoint was in the making.
        assert lost <= (0 if way == "term" else 2 * EVERY)
        table[way].append((lost, took))
        number += 1
    ends_well(Pod(args, cache, out, tmp_path / "said"))
    assert_all_same(out, whole)
    print(f"\n{KILLS} ends over {finished + 1} runs of {STEPS} steps, a checkpoint every {EVERY}")
    print("| what | times | steps lost, most (mean) | seconds until all had ended, median (most) |")
    for way in ways:
        if rows := table[way]:
            lost, took = zip(*rows, strict=True)
            print(
                f"| {WAYS[way]} | {len(rows)} | {max(lost)} ({np.mean(lost):.1f}) | "
                f"{np.median(took):.1f} ({max(took):.1f}) |"
            )


def ends_well(pod: Pod) -> None:
    try:
        assert pod.ended() == [0, 0], pod.text(0)
    finally:
        pod.close()


def assert_all_same(out: Path, whole: Path) -> None:
    assert saved(out) == STEPS
    for part in (".", "process_1"):
        assert tiny_run.metrics(out / part) == tiny_run.metrics(whole / part)
        samples = [read_jsonl(one / part / "samples.jsonl") for one in (out, whole)]
        assert samples[0] == samples[1]
