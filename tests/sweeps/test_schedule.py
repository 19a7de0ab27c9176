"""Workers that fail, die or are told to stop. What they do is made up here."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from r1jax.sweeps.jobs import Job
from r1jax.sweeps.schedule import run_jobs, worker_environment

# Answers after the first line of a job's file, as the real one does after a run.
WORKER = """
import json, os, signal, sys, time
for line in sys.stdin:
    order = json.loads(line)
    open(order["folder"] + ".pid", "w").write(str(os.getpid()))
    what = order["what"]
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        print("No module named jax", file=sys.stderr)
        sys.exit(3)
    answer = {"state": "finished"}
    if what == "together":
        answer["members"] = order["found"]
    if what == "fail":
        answer = {"state": "failed", "error": "no space left"}
    if what == "wait":
        def stop(*_):
            print(json.dumps({"state": "stopped", "error": "after step 3"}), flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        open(order["folder"] + ".waits", "w").close()
        time.sleep(60)
    time.sleep(0.05)
    print(json.dumps(answer), flush=True)
"""


def jobs(tmp_path, *whats):
    return [
        Job(f"{i}", tmp_path / f"{i}", {"what": what}, 10, configuration="c")
        for i, what in enumerate(whats)
    ]


def run(all_jobs, workers, changed=lambda job: None):
    command = [sys.executable, "-c", WORKER]
    return run_jobs(all_jobs, command, workers, dict(os.environ), changed)


def pids(all_jobs):
    return [job.folder.with_suffix(".pid").read_text() for job in all_jobs]


def test_each_job_is_done_once_by_as_many_workers_as_told(tmp_path):
    all_jobs, seen = jobs(tmp_path, *["do"] * 6), []
    assert run(all_jobs, 2, lambda job: job and seen.append((job.name, job.state))) is None
    assert {job.state for job in all_jobs} == {"finished"}
    assert len(set(pids(all_jobs))) == 2
    for state in ("running", "finished"):
        assert sorted(name for name, s in seen if s == state) == list("012345")


def test_a_job_that_fails_or_kills_its_worker_is_named_and_the_others_finish(tmp_path):
    all_jobs = jobs(tmp_path, "fail", "die", "do", "exit", "do", "do")
    assert run(all_jobs, 2) is None
    assert [(job.state, job.error) for job in all_jobs] == [
        ("failed", "no space left"),
        ("failed", "its process was ended by SIGKILL"),
        ("finished", ""),
        ("failed", "its process was ended by exit code 3: No module named jax"),
        ("finished", ""),
        ("finished", ""),
    ]


def test_members_of_one_program_begin_and_end_with_their_job_each_with_its_own_answer(tmp_path):
    first, second, third = jobs(tmp_path, "together", "", "")
    found = {"state": "failed", "error": "the loss is not finite"}
    first.order["found"] = {str(second.folder): found, str(third.folder): {"state": "finished"}}
    first.riders, second.rides, third.rides = (second, third), True, True
    seen = []
    every = [first, second, third]
    assert run(every, 2, lambda job: job and seen.append((job.name, job.state))) is None
    assert [(job.state, job.error) for job in every] == [
        ("finished", ""), ("failed", "the loss is not finite"), ("finished", "")
    ]  # fmt: skip
    assert seen[:3] == [(name, "running") for name in "012"]

    first, second = jobs(tmp_path, "die", "")
    first.riders, second.rides = (second,), True
    run([first, second], 1)
    assert [job.error for job in (first, second)] == ["its process was ended by SIGKILL"] * 2


def test_more_workers_than_jobs_are_not_started(tmp_path):
    all_jobs = jobs(tmp_path, "do")
    run(all_jobs, 8)
    assert len(set(pids(all_jobs))) == 1


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=lambda by: by.name)
def test_a_signal_stops_what_runs_and_begins_nothing(tmp_path, by):
    all_jobs = jobs(tmp_path, "wait", "wait", "do")
    waits = [job.folder.with_suffix(".waits") for job in all_jobs[:2]]

    def send():
        while not all(path.exists() for path in waits):
            time.sleep(0.01)
        os.kill(os.getpid(), by)

    before = signal.getsignal(by)
    threading.Thread(target=send).start()
    assert run(all_jobs, 2) == by
    assert [(job.state, job.error) for job in all_jobs] == [
        ("stopped", "after step 3"), ("stopped", "after step 3"), ("waiting", ""),
    ]  # fmt: skip
    assert signal.getsignal(by) == before
    for pid in pids(all_jobs[:2]):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_workers_that_share_a_host_compute_with_one_thread(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    assert worker_environment(one_core=False) == dict(os.environ)
    found = worker_environment(one_core=True)
    assert found["XLA_FLAGS"] == "--xla_a=1 --xla_cpu_multi_thread_eigen=false"
    assert found["NPROC"] == "1"
    assert json.dumps(found)  # an environment is text
