"""Several processes on one machine: what they are told, what is shown, and how they end."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import local

ROOT = Path(__file__).parents[1]
HEAD = 'import os, sys, time, signal; rank = int(os.environ["JAX_PROCESS_ID"])\n'


def command(tmp_path, code, *flags, processes=2):
    told = [f"--processes={processes}", f"--logs={tmp_path / 'logs'}", *flags]
    return [sys.executable, "-m", "launch.local", *told, "--", sys.executable, "-c", HEAD + code]


def run(tmp_path, code, *flags, args=(), **more):
    done = subprocess.run(
        [*command(tmp_path, code, *flags, **more), *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def log(tmp_path, rank):
    return (tmp_path / "logs" / f"process_{rank}.log").read_text()


def test_each_has_its_place_and_its_log_and_the_first_the_terminal(tmp_path):
    code = (
        "names = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_NUM_CPU_DEVICES'\n"
        "print(rank, *(os.environ[name] for name in names))\n"
        "print('[Gloo] Rank 0 is connected to 1 peer ranks.')\n"
        "print('told', file=sys.stderr)"
    )
    code, said, errors = run(tmp_path, code, "--devices=4", processes=3)
    assert (code, errors) == (0, "")
    lines = [log(tmp_path, rank).splitlines() for rank in range(3)]
    assert said.splitlines() == lines[0] and lines[0][-1] == "told"
    address = lines[0][0].split()[1]
    assert address.startswith("127.0.0.1:")
    assert [line[0] for line in lines] == [f"{rank} {address} 3 4" for rank in range(3)]
    assert all(len(line) == 2 for line in lines)


def test_the_one_that_dies_is_named_and_the_others_end(tmp_path, monkeypatch):
    # The others do not know of it: they are ended.
    code = "if rank == 1: time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(100)"
    monkeypatch.setattr(local, "ENDING", 1.0)
    started = time.monotonic()
    assert local.launch(
        [sys.executable, "-c", HEAD + code], 3, None, tmp_path / "logs", restarts=0
    ) == 128 + signal.SIGKILL  # fmt: skip
    assert time.monotonic() - started < 90  # and not 100


def test_the_line_names_the_one_that_was_killed_and_not_who_left_with_it(tmp_path):
    code = "time.sleep(0.4) if rank else 0\nos.kill(os.getpid(), 9) if rank else time.sleep(0.5)\n"
    code += "sys.exit(75)"
    code, _, errors = run(tmp_path, code)
    assert code == 137 and errors.startswith("launch: process 1 was ended by SIGKILL after ")


def test_restarts_have_a_limit_and_resume(tmp_path):
    code = "print(sys.argv[1:], flush=True)\nsys.exit(75 if rank else 0)"
    args = ["--resume", "no", "--out=x"]
    code, said, errors = run(tmp_path, code, "--restarts=2", args=args)
    assert code == 75
    assert said.splitlines() == [
        "['--resume', 'no', '--out=x']",
        *["['--out=x', '--resume=auto']"] * 2,
    ]
    assert errors.count("process 1 ended with code 75") == 3
    assert [line for line in errors.splitlines() if "restart" in line] == [
        f"launch: restart {n} of 2, with --resume=auto" for n in (1, 2)
    ]


@pytest.mark.parametrize("code", [0, 2, 130])
def test_what_another_try_does_not_change_is_not_tried_again(tmp_path, code):
    got, said, _ = run(tmp_path, f"print('once'); sys.exit({code})", "--restarts=5")
    assert got == code and said == "once\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_signals_go_to_all_and_nothing_is_started_again(tmp_path, number):
    code = (
        "def end(n, _): print('heard', n, flush=True); sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)\n"
        "print('ready', flush=True)\ntime.sleep(500)"
    )
    # A shell may have it ignored for what runs behind it.
    heard = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", heard, *command(tmp_path, code, "--restarts=3")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 200
    while not all(
        (tmp_path / "logs" / f"process_{rank}.log").exists() and "ready" in log(tmp_path, rank)
        for rank in (0, 1)
    ):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 9 and b"restart" not in errors
    for rank in (0, 1):
        assert log(tmp_path, rank).splitlines() == ["ready", f"heard {int(number)}"]


def test_processes_do_not_outlive_their_launcher(tmp_path):
    code = "print(os.getpid(), flush=True)\ntime.sleep(60)"
    process = subprocess.Popen(command(tmp_path, code), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    until = time.monotonic() + 50
    while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--processes=2"], "expected: python -m launch.local"),
        (["--processes=2", "--"], "no command after --"),
        (["--procs=2", "--", "true"], "--procs=2: no such flag"),
        (["--processes=0", "--", "true"], "--processes=0: expected at least 1"),
        (["--processes=2", "--devices=0", "--", "true"], "--devices=0: expected at least 1"),
        (["--", "nosuchcommand"], "nosuchcommand: no such command"),
        (["--processes=two", "--", "true"], "--processes=two: how many?"),
    ],
)
def test_bad_flags(args, said):
    done = subprocess.run(
        [sys.executable, "-m", "launch.local", *args], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1


def test_what_resumes():
    assert local.resumed(["a", "--resume=yes", "--out=x"]) == ["a", "--out=x", "--resume=auto"]
    by_itself = ["python", "-m", "experiments.distill", "--out=x"]  # goes on, and has no --resume
    assert local.resumed(by_itself) == by_itself
    assert local.resumed(["a", "--resume"]) == ["a", "--resume=auto"]
    assert local.resumed(["a", "--resume", "auto", "b"]) == ["a", "b", "--resume=auto"]


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (["a", "--out=x/y", "--b"], "x/y"),
        (["a", "--out", "x/y", "--b"], "x/y"),
        (["a", "--out=x", "--out", "z"], "z"),
        (["a", "--outer=x"], "runs/local"),
        (["a", "--out"], "runs/local"),
    ],
)
def test_where_the_logs_are(command, out):
    assert local.out_of(command) == out
