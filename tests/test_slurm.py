"""The sbatch files of launch/slurm on a real cluster of two virtual nodes: whatever happens to a
job, it ends with the metrics of the one that nothing happened to, bit for bit."""

import contextlib
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
HELD = Path(__file__).parent / "held"
STEPS, AT = 8, 5  # and the step that one waits in for what a test does to it


class Job:
    """`experiments.r1_zero` on both nodes. held: its first start waits in step AT for a signal."""

    def __init__(self, lab, folder, config, out, *flags, held=False, sbatch=("--time=30",)):
        self.lab, self.folder, self.out = lab, folder, out
        env = environment(folder) | ({"R1JAX_TEST_HOLD": str(AT)} if held else {})
        self.number = lab.submit(
            *sbatch, JOB, "python", "-m", "experiments.r1_zero", f"--config={config}",
            f"--out={out}", *flags, cwd=folder, **env,
        )  # fmt: skip

    def logged(self):
        path = self.out / "process_1" / "metrics.jsonl"
        return len(read_jsonl(path)) if path.exists() else 0

    def waits(self):
        """Until both processes are in step AT, with the checkpoint before it."""

        def ready():
            assert self.lab.state(self.number) in ("PENDING", "RUNNING"), self.log()
            saved = self.out / "checkpoints" / str(AT - AT % 2)
            return self.logged() == AT and saved.exists()

        self.lab.until(ready, 400)
        return self

    def ended(self, restarts=0, seconds=600):
        """Its last state, after so many restarts at least. It has ended once SLURM says so and the
        script does: in the midst of a requeue SLURM alone may say it of a job that goes on."""
        busy = time.monotonic()  # when something of it was last seen, or might have been

        def state():
            nonlocal busy
            now = self.lab.state(self.number)
            if now != "PENDING" or not self.lab.rests(self.number):
                busy = time.monotonic()
            elif time.monotonic() - busy > 3:
                # SLURM waits for two minutes after a requeue, so that no kill of the last start
                # hits the next one, which has its number: where nothing of it is left none can.
                # Nodes know by the second what is over, and refuse what begins in the same one.
                with contextlib.suppress(AssertionError):  # it may have begun meanwhile
                    self.lab("scontrol", "update", f"JobId={self.number}", "StartTime=now")
                busy = time.monotonic()
            final = now in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
            said = [line for line in self.log().splitlines() if line.startswith("job: ")]
            return final and said and said[-1].startswith("job: ended with code") and now

        found = self.lab.until(state, seconds)
        assert self.restarts() >= restarts, self.log()
        return found

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
        "PYTHONPATH": f"{HELD}:{ROOT}",
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if why := available():
        pytest.skip(why)
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.__enter__()
    except AssertionError as error:  # a container without mount namespaces, for one
        lab.close()
        pytest.skip(f"no cluster comes up: {error}"[:300])
    with contextlib.closing(lab):
        yield lab


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    changes = dict(mesh="2x2", steps=STEPS, checkpoint_every=2, evaluate_every=100)
    return tiny_run.inputs(tmp_path_factory.getbasetemp(), **changes)


@pytest.fixture(scope="module")
def whole(lab, config, tmp_path_factory):
    """Undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = Job(lab, folder, config, folder / "run")
    assert job.ended() == "COMPLETED" and job.restarts() == 0, job.log()
    told = json.loads((job.out / "run.json").read_text())
    assert told["processes"] == 2 and told["devices"] == "4 x cpu"
    assert "held-out accuracy" in job.log() and "job: ended with code 0" in job.log()
    assert (folder / f"r1jax-{job.number}.0-1.log").read_text()  # the other's is kept
    return job


@pytest.fixture
def job(lab, config, whole, tmp_path):
    """Another, in step AT."""
    return Job(lab, tmp_path, config, tmp_path / "run", held=True).waits()


def assert_same(job, whole):
    for part in (".", "process_1"):
        assert tiny_run.metrics(job.out / part) == tiny_run.metrics(whole.out / part)
        samples = [read_jsonl(one.out / part / "samples.jsonl") for one in (job, whole)]
        assert samples[0] == samples[1]
    assert json.loads((job.out / "run.json").read_text())["status"] == "finished"


def test_requeued(lab, job, whole):
    lab("scontrol", "requeue", str(job.number))
    assert job.ended(restarts=1) == "COMPLETED", job.log()
    assert "resumed from step" in job.log()
    assert_same(job, whole)


def test_its_time_is_over(lab, config, whole, tmp_path):
    """As SLURM finds out itself: up to a minute before the 2 that --signal asks for."""
    limit = ("--time=30", "--signal=B:USR1@120")
    job = Job(lab, tmp_path, config, tmp_path / "run", held=True, sbatch=limit).waits()
    minutes = lab.minutes(job.number)
    lab("scontrol", "update", f"JobId={job.number}", f"TimeLimit={minutes + 3}")
    lab.until(lambda: "job: the time limit; back into the queue" in job.log(), 400)
    lab.until(lambda: lab.state(job.number) == "PENDING", 60)
    lab("scontrol", "update", f"JobId={job.number}", "TimeLimit=30")
    assert job.ended(restarts=1) == "COMPLETED", job.log()
    assert_same(job, whole)


def test_asked_to_stop_it_stops_and_goes_on_when_submitted_again(lab, job, config, whole):
    lab("scancel", "--signal=TERM", f"{job.number}.0")
    assert job.ended() == "COMPLETED", job.log()
    assert f"stopped by SIGTERM after step {AT + 1} of {STEPS}" in job.log()
    assert json.loads((job.out / "run.json").read_text())["status"] == "stopped"
    again = Job(lab, job.folder, config, job.out)
    assert again.ended() == "COMPLETED", again.log()
    assert_same(again, whole)


@pytest.mark.parametrize("which", [0, -1])
def test_a_process_is_killed(job, whole, which):
    os.kill(job.pids()[which], signal.SIGKILL)
    began = time.monotonic()
    job.lab.until(lambda: "back into the queue" in job.log(), 200)
    print(f"noticed after {time.monotonic() - began:.1f} s")
    assert job.ended(restarts=1) == "COMPLETED", job.log()
    assert_same(job, whole)


def test_a_node_goes_down(lab, job, whole):
    lab("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    try:
        lab.until(lambda: job.restarts() == 1 and lab.state(job.number) == "PENDING", 200)
    finally:
        lab("scontrol", "update", "NodeName=n2", "State=RESUME")
    assert job.ended(restarts=1) == "COMPLETED", job.log()
    assert_same(job, whole)


def test_four_tasks_lose_one(lab, config, whole, tmp_path):
    """Two on each node; to rounding, since sums are of other parts."""
    four = ("--time=30", "--ntasks-per-node=2")
    job = Job(lab, tmp_path, config, tmp_path / "run", held=True, sbatch=four).waits()
    pids = job.pids()
    assert len(pids) == 4
    os.kill(pids[2], signal.SIGKILL)
    assert job.ended(restarts=1) == "COMPLETED", job.log()
    told = json.loads((job.out / "run.json").read_text())
    assert told["processes"] == 4 and told["devices"] == "4 x cpu"
    texts = [
        [(r["step"], r["split"], r["text"]) for r in read_jsonl(one.out / "samples.jsonl")]
        for one in (job, whole)
    ]
    assert texts[0] == texts[1]
    tiny_run.assert_same_metrics(job.out, whole.out)


def test_bad_input_is_not_tried_again(lab, config, tmp_path):
    job = Job(lab, tmp_path, config, tmp_path / "run", "--optim.lr=fast")
    assert job.ended() == "FAILED"
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
    tiny_run.inputs(folder, steps=8, checkpoint_every=2, evaluate_every=100)
    (folder / "grid.toml").write_text(GRID)
    out = folder / "out"
    flags = ["--array=1-2", "--cpus-per-task=1", "--time=30", SWEEP]
    flags += [f"--grid={folder / 'grid.toml'}", f"--out={out}", "--workers=1"]
    held = {"R1JAX_TEST_HOLD": "5", "R1JAX_TEST_HOLD_TASK": "2"}
    first = lab.submit(*flags, cwd=folder, **environment(folder), **held)
    one, killed = f"{first}_1", f"{first}_2"
    done = ("COMPLETED", "FAILED", "CANCELLED")

    def told():
        return {p.parent: json.loads(p.read_text()) for p in out.glob("*/run.json")}

    def finished():
        return {folder for folder, run in told().items() if run["status"] == "finished"}

    def begun():  # the other's are done, and it has saved some of its own
        running = [folder for folder, run in told().items() if run["status"] == "running"]
        return lab.state(one) in done and any((f / "checkpoints/4").exists() for f in running)

    lab.until(begun, 600)
    lab("scancel", "--signal=KILL", killed)
    lab.until(lambda: lab.state(killed) in done, 200)
    assert lab.state(one) == "COMPLETED" and lab.state(killed) != "COMPLETED"
    before = finished()
    assert len(before) == 2
    stamps = {folder: (folder / "metrics.jsonl").stat().st_mtime_ns for folder in before}
    again = lab.submit(*flags, cwd=folder, **environment(folder))
    lab.until(lambda: all(lab.state(f"{again}_{i}") in done for i in (1, 2)), 600)
    assert [lab.state(f"{again}_{i}") for i in (1, 2)] == ["COMPLETED"] * 2
    assert len(finished()) == 4
    for folder, stamp in stamps.items():
        assert (folder / "metrics.jsonl").stat().st_mtime_ns == stamp  # not done again
