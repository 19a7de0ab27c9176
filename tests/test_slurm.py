"""The sbatch files of launch/slurm on a real cluster of two virtual nodes: whatever happens to a
job, it ends with the metrics of the one that nothing happened to, bit for bit."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import tiny_run
from slurm_lab import Lab, available

from r1jax.metrics import read_jsonl

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[1]
JOB, SWEEP = (str(ROOT / "launch" / "slurm" / f"{name}.sbatch") for name in ("job", "sweep"))
STEPS = 14


class Job:
    """`experiments.r1_zero` on both nodes."""

    def __init__(self, lab, folder, config, out, *flags):
        self.lab, self.folder, self.out = lab, folder, out
        self.number = lab.submit(
            "--time=10", JOB, "python", "-m", "experiments.r1_zero", f"--config={config}",
            f"--out={out}", *flags, cwd=folder, **environment(folder),
        )  # fmt: skip

    def saved(self):
        found = (self.out / "checkpoints").glob("*")
        return max((int(path.name) for path in found if path.name.isdigit()), default=0)

    def trains(self, step=4):
        """Until it has a checkpoint of this step or a later one."""

        def ready():
            assert self.lab.state(self.number) in ("PENDING", "RUNNING"), self.log()
            return self.saved() >= step

        self.lab.until(ready, 200)
        return self

    def ended(self, seconds=300):
        seen, waits = [], []

        def state():
            now = self.lab.state(self.number)
            waits[:] = [*waits, now] if now == "PENDING" else []
            if len(waits) == 20:
                # After a requeue SLURM waits for two minutes, until what the job was allowed is
                # surely forgotten: a few seconds do.
                self.lab("scontrol", "update", f"JobId={self.number}", "StartTime=now")
            # In the midst of a requeue a job may look as if it had failed.
            final = now in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
            seen[:] = [*seen, now] if final else []
            return len(seen) > 20 and now

        return self.lab.until(state, seconds)

    def log(self):
        return "".join(p.read_text() for p in self.folder.glob(f"r1jax-{self.number}.log"))

    def restarts(self):
        return int(self.lab.job(self.number)["Restarts"])

    def pids(self):
        """Of its tasks."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            mine = b"experiments.r1_zero" in words and f"--out={self.out}".encode() in words
            if mine and words[0].endswith(b"python"):
                found.append(int(path.parent.name))
        return sorted(found)


def environment(folder):
    return tiny_run.environment(folder.parent / "cache") | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if why := available():
        pytest.skip(why)
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    changes = dict(mesh="4x2", steps=STEPS, checkpoint_every=2, evaluate_every=100)
    return tiny_run.inputs(tmp_path_factory.getbasetemp(), **changes)


@pytest.fixture(scope="module")
def whole(lab, config, tmp_path_factory):
    """Undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = Job(lab, folder, config, folder / "run")
    assert job.ended() == "COMPLETED" and job.restarts() == 0, job.log()
    told = json.loads((job.out / "run.json").read_text())
    assert told["processes"] == 2 and told["devices"] == "8 x cpu"
    assert "held-out accuracy" in job.log() and "job: ended with code 0" in job.log()
    assert (folder / f"r1jax-{job.number}.0-1.log").read_text()  # the other's is kept
    return job


@pytest.fixture
def job(lab, config, whole, tmp_path):
    """Another, with its first checkpoints."""
    return Job(lab, tmp_path, config, tmp_path / "run").trains()


def assert_same(job, whole):
    for part in (".", "process_1"):
        assert tiny_run.metrics(job.out / part) == tiny_run.metrics(whole.out / part)
        samples = [read_jsonl(one.out / part / "samples.jsonl") for one in (job, whole)]
        assert samples[0] == samples[1]
    assert json.loads((job.out / "run.json").read_text())["status"] == "finished"


def test_requeued(lab, job, whole):
    lab("scontrol", "requeue", str(job.number))
    assert job.ended() == "COMPLETED", job.log()
    assert job.restarts() == 1 and "resumed from step" in job.log()
    assert_same(job, whole)


def test_its_time_is_over(lab, job, whole):
    """As SLURM says it at --signal=B:USR1@300."""
    lab("scancel", "--batch", "--signal=USR1", str(job.number))
    assert job.ended() == "COMPLETED", job.log()
    assert job.restarts() == 1 and "job: the time limit; back into the queue" in job.log()
    assert_same(job, whole)


def test_asked_to_stop_it_stops_and_goes_on_when_submitted_again(lab, job, config, whole):
    lab("scancel", "--signal=TERM", f"{job.number}.0")
    assert job.ended() == "COMPLETED" and job.restarts() == 0, job.log()
    assert "stopped by SIGTERM after step" in job.log()
    assert json.loads((job.out / "run.json").read_text())["status"] == "stopped"
    again = Job(lab, job.folder, config, job.out)
    assert again.ended() == "COMPLETED", again.log()
    assert_same(again, whole)


@pytest.mark.parametrize("which", [0, -1])
def test_a_process_is_killed(job, whole, which):
    os.kill(job.pids()[which], signal.SIGKILL)
    began = time.monotonic()
    job.lab.until(lambda: "back into the queue" in job.log(), 40)
    print(f"noticed after {time.monotonic() - began:.1f} s")
    assert job.ended() == "COMPLETED" and job.restarts() == 1, job.log()
    assert_same(job, whole)


def test_a_node_goes_down(lab, job, whole):
    lab("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    lab.until(lambda: lab.state(job.number) != "RUNNING", 60)
    lab("scontrol", "update", "NodeName=n2", "State=RESUME")
    assert job.ended() == "COMPLETED", job.log()
    assert job.restarts() == 1
    assert_same(job, whole)


def test_bad_input_is_not_tried_again(lab, config, tmp_path):
    job = Job(lab, tmp_path, config, tmp_path / "run", "--optim.lr=fast")
    assert job.ended() == "FAILED" and job.restarts() == 0
    assert lab.job(job.number)["ExitCode"] == "2:0" and "error: " in job.log()


GRID = """
config = "config.json"
seeds = 2
controls = []
[[configuration]]
name = "as it is"
rl.kl-coef = 0.0
[[configuration]]
name = "other"
rl.kl-coef = 0.1
"""


def test_an_array_with_a_killed_task_completes_when_submitted_again(lab, tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    tiny_run.inputs(folder, steps=12, checkpoint_every=3, evaluate_every=100)
    (folder / "grid.toml").write_text(GRID)
    out = folder / "out"
    flags = ["--array=1-2", "--cpus-per-task=1", "--time=10", SWEEP]
    flags += [f"--grid={folder / 'grid.toml'}", f"--out={out}", "--workers=1"]
    first = lab.submit(*flags, cwd=folder, **environment(folder))
    killed = f"{first}_2"

    def begun():
        return lab.state(killed) == "RUNNING" and len(list(out.glob("*/checkpoints/3"))) > 0

    lab.until(begun, 120)
    lab("scancel", "--signal=KILL", killed)
    done = ("COMPLETED", "FAILED", "CANCELLED")
    lab.until(lambda: all(lab.state(f"{first}_{i}") in done for i in (1, 2)), 200)
    assert lab.state(f"{first}_1") == "COMPLETED" and lab.state(killed) != "COMPLETED"

    def finished():
        told = {p.parent: json.loads(p.read_text()) for p in out.glob("*/run.json")}
        return {folder: run for folder, run in told.items() if run["status"] == "finished"}

    before = finished()
    assert 2 <= len(before) < 4
    stamps = {folder: (folder / "metrics.jsonl").stat().st_mtime_ns for folder in before}
    again = lab.submit(*flags, cwd=folder, **environment(folder))
    lab.until(lambda: all(lab.state(f"{again}_{i}") in done for i in (1, 2)), 200)
    assert [lab.state(f"{again}_{i}") for i in (1, 2)] == ["COMPLETED"] * 2
    assert len(finished()) == 4
    for folder, stamp in stamps.items():
        assert (folder / "metrics.jsonl").stat().st_mtime_ns == stamp  # not done again
