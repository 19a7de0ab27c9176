"""Where a process finds the others, and what it says if it cannot."""

import json
import os
import socket
import subprocess
import sys

import pytest
import tiny_run
from two_processes import JOINED, finish
from two_processes import start as start_all

from experiments import cli
from r1jax import processes, start
from r1jax.checks import InputError
from r1jax.start import Place

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "n[07-09],m1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "2",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "j-0.s,j-1.s", "TPU_WORKER_ID": "1"}
SLICES = {
    "MEGASCALE_NUM_SLICES": "3",
    "MEGASCALE_SLICE_ID": "2",
    "MEGASCALE_COORDINATOR_ADDRESS": "job-0.set:8080",
}
TOLD = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, None),
        (TOLD, Place("JAX_COORDINATOR_ADDRESS", "h:1", 2, 1)),
        (TOLD | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (SLURM, Place("SLURM", "n07:61441", 4, 2)),
        (SLURM | {"JAX_COORDINATOR_PORT": "7"}, Place("SLURM", "n07:7", 4, 2)),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell, or a member of an array
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # sbatch's own
        (SLURM | TOLD, Place("JAX_COORDINATOR_ADDRESS", "h:1", 2, 1)),
        (GKE, Place("TPU_WORKER_HOSTNAMES", "j-0.s:8476", 2, 1)),
        (GKE | SLICES, Place("TPU_WORKER_HOSTNAMES", "job-0.set:8476", 6, 5)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ],
)
def test_where_the_others_are(env, place):
    assert start.find(env) == place


@pytest.mark.parametrize(
    ("gpus", "per_node", "node", "local", "mine"),
    [
        ("0,1,2,3,4,5,6,7", "1(x4)", "3", "0", None),  # one process drives all of its host
        ("0,1,2,3", "4(x2)", "1", "3", (3,)),  # each sees all: it takes its own
        ("2", "4(x2)", "0", "2", None),  # bound by SLURM already
        ("0,1", "2,1", "1", "0", None),
        ("0,1", "2,1", "0", "1", (1,)),
    ],
)
def test_which_gpus_are_a_processs_own(gpus, per_node, node, local, mine):
    env = SLURM | {
        "CUDA_VISIBLE_DEVICES": gpus,
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_NODEID": node,
        "SLURM_LOCALID": local,
    }
    place = start.find(env)
    assert place is not None and place.local == mine


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,m2", "n1"),
        ("n[1-3,7],m2", "n1"),
        ("n[007,009]", "n007"),
        ("gpu-a-[08-11]-ib,x", "gpu-a-08-ib"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert start.first_host(nodes) == first


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"JAX_PROCESS_ID": "1"}, "JAX_COORDINATOR_ADDRESS is not set, beside JAX_PROCESS_ID"),
        (TOLD | {"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2 must be less than JAX_NUM_PROCESSES=2"),
        (TOLD | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID=one: expected a number"),
        (GKE | {"TPU_WORKER_ID": "9"}, "TPU_WORKER_ID=9: there are 2 hosts"),
    ],
)
def test_half_a_place_is_refused(env, said):
    with pytest.raises(InputError, match=said):
        start.find(env)


def test_a_name_that_does_not_resolve_is_one_line_within_ten_seconds(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    clock = [0.0]
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", unknown)
        patched.setattr(start.time, "monotonic", lambda: clock[0])
        patched.setattr(start.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
        with pytest.raises(InputError, match="the coordinator's name no-such-host"):
            start.resolve("no-such-host.invalid:1234", start.Patience().name)
    assert 5 <= clock[0] < 10
    done = subprocess.run(
        [sys.executable, "-m", "experiments.r1_zero", f"--out={tmp_path / 'run'}"],
        env=tiny_run.environment(tmp_path)
        | TOLD
        | {"JAX_COORDINATOR_ADDRESS": "no-such-host.invalid:1234"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the coordinator's name no-such-host.invalid does not re")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def joins(monkeypatch):
    found = []
    monkeypatch.setattr(start, "join", found.append)
    monkeypatch.setattr(start, "join_tpu_vm", lambda: False)
    return found


def test_the_flag_forces_and_forbids(joins, monkeypatch):
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    args = ["--a"]
    cli.join_others(args, look=True)
    assert not joins and args == ["--a"]
    with pytest.raises(InputError, match="nothing here says where the other processes are"):
        cli.join_others(["--distributed"], look=True)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    cli.join_others([], look=False)  # of a command that is for one process
    assert not joins
    cli.join_others(["--no-distributed"], look=True)
    assert not joins
    args = ["--distributed", "--b"]
    cli.join_others(args, look=False)
    assert len(joins) == 1 and args == ["--b"]
    cli.join_others([], look=True)
    assert len(joins) == 2
    with pytest.raises(InputError, match="give one"):
        cli.join_others(["--distributed", "--no-distributed"], look=True)


def test_a_tpu_vm_is_jaxs_to_find(monkeypatch, tmp_path):
    (tmp_path / "accel0").touch()
    called = []
    monkeypatch.setattr(start, "TPUS", (str(tmp_path / "accel*"),))
    monkeypatch.setattr(start.jax.distributed, "initialize", lambda **how: called.append(how))
    monkeypatch.setattr(processes, "joined", lambda *place: called.append(place))
    assert start.join_tpu_vm() and called[1] == (1, 0)
    assert set(called[0]) == {"initialization_timeout", "heartbeat_timeout_seconds"}
    monkeypatch.setattr(start, "TPUS", (str(tmp_path / "none*"),))
    assert not start.join_tpu_vm()


class Keys(dict):
    """As JAX's store of keys, where all are there."""

    key_value_set = dict.__setitem__

    def blocking_key_value_get(self, key, milliseconds):
        return self[key]


FIELDS = {"version": "r1jax 1", "code": "ab", "--seed": 0, "data hash": "cd", "devices": "4 x cpu"}


@pytest.mark.parametrize("name", FIELDS)
def test_what_differs_is_one_line_that_names_the_host_and_the_field(name, monkeypatch):
    keys = Keys()
    monkeypatch.setattr(processes, "store", lambda: keys)
    monkeypatch.setattr(processes, "_count", 3)
    monkeypatch.setattr(processes, "_exchanges", iter([7, 8]))
    for number, theirs in ((7, FIELDS), (8, FIELDS | {name: "other"})):
        keys[f"r1jax/same/{number}/1"] = json.dumps({"host": "n2", "fields": FIELDS})
        keys[f"r1jax/same/{number}/2"] = json.dumps({"host": "n3", "fields": theirs})
    processes.check_same(FIELDS)
    with pytest.raises(InputError) as caught:
        processes.check_same(FIELDS)
    said = f"process 2 on n3 has {name} other, process 0 on {socket.gethostname()} has "
    assert str(caught.value) == f"{said}{FIELDS[name]}: all must run the same"


DIES = 'if rank == "2": raise SystemExit(3)\n'


def test_one_that_dies_before_it_has_come_is_named_by_the_others(tmp_path):
    pod = start_all(DIES + JOINED, [], tmp_path, count=3, R1JAX_START_SECONDS="5")
    told = finish(pod, code=None)
    assert [process.returncode for process in pod] == [75, 75, 3]
    for _, errors in told[:2]:
        assert "process 2 has not come within 5 s, of 3; here: 0 on " in errors
        assert errors.count("\n") == 1


def test_others_that_do_not_come_are_one_line(tmp_path):
    code = "from r1jax import start; start.join(start.find(), start.Patience(join=3))"
    env = os.environ | TOLD | {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:9", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    told = done.stderr.splitlines()[-1]
    assert done.returncode == 75
    assert told.startswith(
        "error: 127.0.0.1:9 (JAX_COORDINATOR_ADDRESS): process 0 has not come with"
    )
    assert done.stderr.count("\n") == 1
