"""Where a process finds the others of its pod, and how it joins them.

A place is found from, in this order:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID    told, as launch.local tells it
    SLURM_STEP_NUM_TASKS and what else srun sets                  more than one task in the step
    TPU_WORKER_HOSTNAMES, MEGASCALE_*                             a slice on GKE, or several
    the metadata server                                           a TPU VM, as JAX asks it

JAX finds the last by itself. The others are read here, since JAX waits 300 s without a word for a
name that does not resolve, gives a process that is alone on its host one GPU of eight, and needs
leave to read pods on GKE.
"""

import dataclasses
import glob
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from r1jax import peers, processes, rollcall
from r1jax.checks import InputError, check

PORT = 8476  # of the coordinator, where no one says another; JAX's own on TPUs
REGISTER = 60  # seconds that JAX has for those that have come
TPUS = ("/dev/accel*", "/dev/vfio/[0-9]*")


@dataclass(frozen=True)
class Place:
    """`found` in: what said it. coordinator: host:port of process 0. local: which of this host's
    GPUs are this process's, None for all that it sees."""

    found: str
    coordinator: str
    count: int
    index: int
    local: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Patience:
    """Seconds. name: until the coordinator's name must resolve (on Kubernetes, where names come
    with their pods, as long as `join`). join: until all processes must be there;
    R1JAX_START_SECONDS says another. heartbeat: after which JAX ends a pod that has lost one, if
    `peers` has not before it."""

    name: float = 5
    join: int = dataclasses.field(
        default_factory=lambda: _number(os.environ, "R1JAX_START_SECONDS", 300)
    )
    heartbeat: int = 60


def find(env: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place among several; None where nothing says that there are. Raises
    InputError for a place that is told by halves."""
    return _told(env) or _slurm(env) or _gke_tpu(env)


def join(place: Place, patience: Patience | None = None) -> None:
    """Joins the others. Raises InputError, one line, if the coordinator's name does not resolve;
    ends the process with such a line, exit code peers.LOST_PEER, if not all come in time."""
    patience = patience or Patience()
    kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    resolve(place.coordinator, patience.join if kubernetes else patience.name)
    where = f"{place.coordinator} ({place.found})"
    try:
        rollcall.call(place.coordinator, place.count, place.index, patience.join)
    except rollcall.Absent as absent:
        print(f"error: {where}: {absent}", file=sys.stderr, flush=True)
        sys.exit(peers.LOST_PEER)
    _initialize(
        dataclasses.replace(patience, join=min(patience.join, REGISTER)),
        f"{where}: process {place.index} of {place.count}",
        coordinator_address=place.coordinator,
        num_processes=place.count,
        process_id=place.index,
        local_device_ids=place.local,
        cluster_detection_method="deactivate",
    )
    processes.joined(place.count, place.index, place.coordinator)


def join_tpu_vm(patience: Patience | None = None) -> bool:
    """Joins the other hosts of a TPU VM, which JAX finds by the metadata server. False where this
    is none."""
    if not any(glob.glob(pattern) for pattern in TPUS):
        return False
    _initialize(patience or Patience(), "the hosts of this TPU VM")
    processes.joined(jax.process_count(), jax.process_index())
    return True


def resolve(coordinator: str, seconds: float) -> None:
    """Raises InputError if host:port has no address within `seconds`."""
    host, colon, port = coordinator.rpartition(":")
    check(bool(host and colon) and port.isdigit(), f"{coordinator}: expected HOST:PORT")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            return
        except socket.gaierror as error:
            if time.monotonic() > until:
                raise InputError(
                    f"the coordinator's name {host} does not resolve here on "
                    f"{socket.gethostname()}: {error.strerror}"
                ) from None
        time.sleep(0.5)


def _initialize(patience: Patience, where: str, **how) -> None:
    before = signal.getsignal(signal.SIGTERM)
    late = f"{where}: not all came within {patience.join} s"

    def aborted() -> None:
        os.write(2, f"error: {late}\n".encode())
        os._exit(peers.LOST_PEER)

    try:
        with peers.at_abort(aborted):  # which is what JAX does then
            jax.distributed.initialize(
                initialization_timeout=patience.join,
                heartbeat_timeout_seconds=patience.heartbeat,
                **how,
            )
    except (RuntimeError, ValueError) as error:  # JaxRuntimeError is one
        raise InputError(f"{late}: {' '.join(str(error).split())}") from error
    # JAX now catches SIGTERM and does nothing with it. Until a run listens, it ends the process.
    signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _told(env: Mapping[str, str]) -> Place | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if env.get(name)]
    if not given:
        return None
    for name in names:
        check(name in given, f"{name} is not set, beside {' and '.join(given)}")
    count, index = (_number(env, name) for name in names[1:])
    check(index < count, f"JAX_PROCESS_ID={index} must be less than JAX_NUM_PROCESSES={count}")
    return Place("JAX_COORDINATOR_ADDRESS", env[names[0]], count, index) if count > 1 else None


def _slurm(env: Mapping[str, str]) -> Place | None:
    if "SLURM_STEP_NODELIST" not in env or _number(env, "SLURM_STEP_NUM_TASKS", 1) < 2:
        return None
    host = first_host(env["SLURM_STEP_NODELIST"])
    # The same for all tasks of a step, and another for another job on the same host.
    port = env.get("JAX_COORDINATOR_PORT") or 61440 + _number(env, "SLURM_JOB_ID") % 4096
    return Place(
        "SLURM",
        f"{host}:{port}",
        _number(env, "SLURM_STEP_NUM_TASKS"),
        _number(env, "SLURM_PROCID"),
        _local_gpus(env),
    )


def first_host(nodes: str) -> str:
    """Of SLURM's list: n1 of "n1", "n1,m2", "n[1-3,7],m2"; n08-ib of "n[08-11]-ib"."""
    match = re.fullmatch(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?(?:,.*)?", nodes)
    check(match is not None, f"SLURM_STEP_NODELIST={nodes}: expected names of nodes")
    assert match is not None
    return match[1] + (match[2] or "") + (match[3] or "")


def _local_gpus(env: Mapping[str, str]) -> tuple[int, ...] | None:
    """One GPU a task where a host has several tasks, unless SLURM shows each its own already
    (--gpus-per-task, --gpu-bind)."""
    seen = env.get("CUDA_VISIBLE_DEVICES")
    gpus = len(seen.split(",")) if seen else len(glob.glob("/dev/nvidia[0-9]*"))
    # "2(x3),1": tasks of the first, second, ... node.
    counts = [
        int(one)
        for one, times in re.findall(
            r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", "1")
        )
        for _ in range(int(times or 1))
    ]
    here = counts[min(_number(env, "SLURM_NODEID", 0), len(counts) - 1)]
    return (_number(env, "SLURM_LOCALID", 0),) if here > 1 and gpus > 1 else None


def _gke_tpu(env: Mapping[str, str]) -> Place | None:
    hosts = [host for host in env.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    slices = _number(env, "MEGASCALE_NUM_SLICES", 1)
    count = len(hosts) * slices
    if count < 2:
        return None
    first = env.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    index = _number(env, "TPU_WORKER_ID") + _number(env, "MEGASCALE_SLICE_ID", 0) * len(hosts)
    check(index < count, f"TPU_WORKER_ID={env['TPU_WORKER_ID']}: there are {count} hosts")
    port = env.get("JAX_COORDINATOR_PORT") or PORT
    return Place("TPU_WORKER_HOSTNAMES", f"{first.split(':')[0]}:{port}", count, index)


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = env.get(name)
    if value is None and default is not None:
        return default
    check(value is not None and value.isdigit(), f"{name}={value}: expected a number")
    assert value is not None
    return int(value)
