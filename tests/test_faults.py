"""Two processes of one run: one dies, stalls, hangs, differs, or gives up, or the disk does, and
all end, which is said, or go on as if nothing had been. Ends at random moments: test_pod_kills."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny_run
import two_hosts
from two_processes import R1_ZERO, finish, free_port, start

from r1jax.peers import LOST_PEER

pytestmark = pytest.mark.slow
WITHIN = 30.0  # seconds
STEPS = 30


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    changes = dict(mesh="4x2", steps=4000, checkpoint_every=3, evaluate_every=5000)
    return tiny_run.inputs(tmp_path_factory.mktemp("inputs"), **changes)


def begun(config, cache, out, *flags, before="", **how):
    """Both, after their first checkpoint."""
    args = [f"--config={config}", f"--out={out}", *flags]
    both = start(before + R1_ZERO, args, cache, **how)
    until = time.monotonic() + 600
    while not (out / "checkpoints" / "3").exists():
        assert all(process.poll() is None for process in both), finish(both, code=None)
        assert time.monotonic() < until
        time.sleep(0.05)
    return both


def ends(process):
    """(exit code, last line of stderr) of a process that must end in time."""
    _, errors = process.communicate(timeout=WITHIN)
    return process.returncode, errors.splitlines()[-1]


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=lambda n: n.name)
def test_a_lost_process_is_named_and_the_other_ends(config, cache, tmp_path, how, lost):
    both = begun(config, cache, tmp_path / "run")
    began = time.monotonic()
    try:
        both[lost].send_signal(how)
        code, line = ends(both[1 - lost])
    finally:
        both[lost].kill()
    print(f"process {lost} {how.name}: {time.monotonic() - began:.1f} s; {line}")
    assert code == LOST_PEER and re.match(rf"error: process {lost}\b.* is lost", line)


def ended_as(out, whole):
    """Both processes have the metrics of the undisturbed run, bit for bit, to its last step."""
    for part in (".", "process_1"):
        assert tiny_run.metrics(out / part) == tiny_run.metrics(whole / part)


@pytest.fixture(scope="module")
def whole(config, cache, tmp_path_factory):
    """Undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(R1_ZERO, [f"--config={config}", f"--out={out}", f"--steps={STEPS}"], cache))
    return out


def goes_on(config, cache, out, whole):
    args = [f"--config={config}", f"--out={out}", f"--steps={STEPS}", "--resume=auto"]
    finish(start(R1_ZERO, args, cache))
    ended_as(out, whole)


def test_a_stall_that_ends_in_time_costs_nothing_else(config, cache, tmp_path, whole):
    """As of a network, or of a host that swaps."""
    out = tmp_path / "run"
    both = begun(config, cache, out, f"--steps={STEPS}")
    for process in (both[1], both[0]):
        process.send_signal(signal.SIGSTOP)
        time.sleep(5)
        process.send_signal(signal.SIGCONT)
    finish(both)
    ended_as(out, whole)


@pytest.fixture
def hosts(tmp_path):
    if why := two_hosts.available():
        pytest.skip(why)
    hosts = two_hosts.Hosts(tmp_path)
    try:
        hosts.__enter__()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no networks of one's own: {error.stderr}")
    yield hosts
    hosts.__exit__()


def begun_on(hosts, config, cache, out, *flags):
    told = {"JAX_COORDINATOR_ADDRESS": hosts.coordinator(free_port())}
    return begun(config, cache, out, *flags, through=hosts.through(), **told)


def test_a_network_that_stalls_costs_nothing_else(hosts, config, cache, tmp_path, whole):
    out = tmp_path / "run"
    both = begun_on(hosts, config, cache, out, f"--steps={STEPS}")
    for _ in range(2):
        hosts.cut()
        time.sleep(5)
        hosts.mend()
        time.sleep(2)
    finish(both)
    ended_as(out, whole)


def test_a_network_that_is_gone_ends_both_which_name_each_other(
    hosts, config, cache, tmp_path, whole
):
    out = tmp_path / "run"
    both = begun_on(hosts, config, cache, out)
    began = time.monotonic()
    hosts.cut()
    lines = [ends(process) for process in both]
    print(f"the network: {time.monotonic() - began:.1f} s; {lines}")
    assert [code for code, _ in lines] == [LOST_PEER] * 2
    assert lines[0][1].startswith("error: process 1 on n2 is lost: nothing heard for ")
    assert lines[1][1].startswith("error: process 0, which holds the pod together, is lost")
    goes_on(config, cache, out, whole)


LATE = """
if rank == "1":
    import time, datetime
    now, away = time.time, 36 * 3600
    time.time = lambda: now() + away
    time.time_ns = lambda: int(1e9 * (now() + away))
"""
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@pytest.mark.parametrize(
    "how",
    [
        "in Python",
        pytest.param(
            "in all",
            marks=pytest.mark.skipif(not FAKETIME.exists(), reason="no faketime: apt-get install"),
        ),
    ],
)
def test_clocks_that_differ_change_nothing(config, cache, tmp_path, whole, how):
    """One is a day and a half ahead of the other, and then behind it."""
    out = tmp_path / "run"
    told = [{}, {}]
    if how == "in all":
        for rank, offset in enumerate(("+0", "+36h")):
            faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset}
            told[rank] = faked | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    code = R1_ZERO if how == "in all" else LATE + R1_ZERO
    args = [f"--config={config}", f"--out={out}", "--resume=auto"]
    finish(start(code, [*args, "--steps=6"], cache, each=told))
    goes_on(config, cache, out, whole)


@pytest.fixture
def may_mount(tmp_path):
    there = tmp_path / "mount"
    there.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", there], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount")
    subprocess.run(["umount", there], check=True)


@pytest.mark.usefixtures("may_mount")
def test_a_disk_that_has_become_read_only_is_said_by_both(config, cache, tmp_path, whole):
    out = tmp_path / "run"
    both = begun(config, cache, out, f"--steps={STEPS}")
    there = out / "checkpoints"
    began = time.monotonic()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", there], check=True)
    try:
        lines = [ends(process) for process in both]
    finally:
        subprocess.run(["umount", "--lazy", there], check=True)
    print(f"read-only: {time.monotonic() - began:.1f} s; {lines}")
    assert [code for code, _ in lines] == [2, 2]
    assert all("Read-only file system" in line for _, line in lines)
    goes_on(config, cache, out, whole)


HANGS = """
from r1jax import flight
flight.FLOOR = 4.0
if rank == "1":
    import time
    from r1jax.rl import loop
    rollout = loop.Trainer.rollout
    def stuck_here(self, weights, step, position):
        if step == 6:
            time.sleep(1000)
        return rollout(self, weights, step, position)
    loop.Trainer.rollout = stuck_here
"""


def test_a_hung_process_is_ended_by_the_watchdog_with_its_stack_on_disk(config, cache, tmp_path):
    out = tmp_path / "run"
    both = begun(config, cache, out, "--hang-minutes=0.15", before=HANGS)
    lines = [ends(process) for process in both]
    for code, line in lines:
        assert code == LOST_PEER and "step 6 has taken" in line and "it hangs" in line, lines
        assert "process 1 on " in line
    path = out / "process_1" / "flight_late_step_6.txt"
    record = path.read_text()
    assert "stuck_here" in record and "GiB now" in record and "median" in record
    assert (out / "flight_late_step_6.txt").exists()


def test_a_flight_record_is_written_when_asked_for(config, cache, tmp_path):
    out = tmp_path / "run"
    both = begun(config, cache, out)
    both[1].send_signal(signal.SIGUSR1)
    until = time.monotonic() + 20
    while not (found := list((out / "process_1").glob("flight_asked_step_*.txt"))):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert all(process.poll() is None for process in both)
    both[0].send_signal(signal.SIGTERM)
    finish(both)
    assert "Current thread" in found[0].read_text() and "Thread 0x" in found[0].read_text()


OTHERWISE = """
if rank == "1":
    import sys
    sys.argv.append("--optim.lr=0.5")
"""


def test_processes_that_differ_name_host_and_field(config, cache, tmp_path):
    args = [f"--config={config}", f"--out={tmp_path / 'run'}"]
    for _, errors in finish(start(OTHERWISE + R1_ZERO, args, cache), code=2):
        line = errors.splitlines()[-1]
        assert re.match(r"error: process 1 on \S+ has --optim.lr 0.5, process 0 on \S+ has", line)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


OLDER = """
if rank == "1":
    import dataclasses
    from r1jax.rl import loop
    fit = loop.fit_prompts
    def older(task, *how):
        task, said = fit(task, *how)
        first = dataclasses.replace(task.heldout[0], id="another")
        return dataclasses.replace(task, heldout=[first, *task.heldout[1:]]), said
    loop.fit_prompts = older
"""


def test_processes_that_read_other_data_say_so(config, cache, tmp_path):
    """One host's copy of a file is older."""
    args = [f"--config={config}", f"--out={tmp_path / 'run'}"]
    for _, errors in finish(start(OLDER + R1_ZERO, args, cache), code=2):
        assert re.match(r"error: process 1 on \S+ has data hash \w+, ", errors.splitlines()[-1])


def test_devices_are_emulated_without_being_told(config, cache, tmp_path):
    """Each process its part of the mesh."""
    args = [f"--config={config}", f"--out={tmp_path / 'run'}", "--steps=1"]
    finish(start(R1_ZERO, args, cache, devices=0))
    told = (tmp_path / "run" / "run.json").read_text()
    assert '"devices": "8 x cpu"' in told and '"processes": 2' in told


def test_devices_that_are_too_few_are_counted_by_process(config, cache, tmp_path):
    args = [f"--config={config}", f"--out={tmp_path / 'run'}"]
    before = 'import jax; jax.config.update("jax_num_cpu_devices", 5 if rank == "1" else 4)'
    for _, errors in finish(start(before + R1_ZERO, args, cache), code=2):
        line = errors.splitlines()[-1]
        assert "needs 8 devices, but there are 9 (cpu: 4 of process 0, 5 of process 1)" in line


GIVES_UP = """
if rank == "1":
    from r1jax.rl import loop
    from r1jax.checks import InputError
    update = loop.Trainer.update
    def refuses(self, state, rollout, seen=[]):
        seen.append(0)
        if len(seen) > 5:
            raise InputError("this disk is read-only")
        return update(self, state, rollout)
    loop.Trainer.update = refuses
"""


def test_one_that_gives_up_says_why_in_both(config, cache, tmp_path):
    both = begun(config, cache, tmp_path / "run", before=GIVES_UP)
    (code, line), (own_code, own_line) = map(ends, both)
    assert (code, own_code) == (2, 2) and own_line == "error: this disk is read-only"
    assert re.match(r"error: process 1 on \S+: this disk is read-only", line)


def test_ctrl_c_twice_in_one_ends_both(config, cache, tmp_path):
    both = begun(config, cache, tmp_path / "run")
    both[1].send_signal(signal.SIGSTOP)  # so that the step does not end
    both[0].send_signal(signal.SIGINT)
    time.sleep(0.5)
    both[0].send_signal(signal.SIGINT)
    both[1].send_signal(signal.SIGCONT)
    codes = [process.wait(timeout=WITHIN) for process in both]
    finish(both, code=None)
    assert codes == [130, 130]
