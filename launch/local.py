"""Runs a command in several processes on this machine, as on the hosts of a pod.

    python -m launch.local --processes=2 --devices=4 -- python -m experiments.r1_zero --mesh=4x2
    python -m launch.local --processes=4 --restarts=3 -- python -m experiments.sft --mesh=8x1 ...

--devices=N emulates N CPU devices in each process; without it each has what it finds. Process 0
writes to the terminal, and each keeps its log, --logs=FOLDER/process_N.log (default: logs in the
command's --out, or runs/local). If one process dies, the others end too, and this says which it
was. --restarts=N starts all again up to N times after that, with --resume=auto where a command does
not go on by itself; bad input (exit code 2) and Ctrl-C are not tried again. SIGTERM and Ctrl-C go
to all.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

from r1jax.checks import InputError, check

FINAL = (0, 2, 130)  # exit codes that another try does not change
ENDING = 25.0  # seconds that processes have to end after one has died, then are ended
PAUSE = 2.0  # before a restart
GO_ON = ("experiments.distill", "experiments.evaluate", "experiments.rejection_sample")
NOISE = b"[Gloo] Rank "  # of each connection, from C++


class Pod:
    """The processes of one start. `logs`: the folder of their logs."""

    def __init__(self, command: Sequence[str], count: int, devices: int | None, logs: Path):
        self.started = time.monotonic()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        common = {"JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": str(count)}
        if devices is not None:
            common |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        self.processes: list[subprocess.Popen] = []
        self._readers: list[threading.Thread] = []
        logs.mkdir(parents=True, exist_ok=True)
        for rank in range(count):
            process = subprocess.Popen(
                command,
                env=os.environ | common | {"JAX_PROCESS_ID": str(rank), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C comes to all once, from here
                preexec_fn=_die_with_parent,
            )
            self.processes.append(process)
            assert process.stdout is not None
            shown = sys.stdout.buffer if rank == 0 else None
            reader = threading.Thread(
                target=_copy, args=(process.stdout, logs / f"process_{rank}.log", shown)
            )
            reader.start()
            self._readers.append(reader)

    def send(self, number: int) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def wait(self, asked: Sequence[int] = ()) -> int:
        """Until all have ended; the exit code of the one that ended badly first, 0 if none did,
        which is said where no signal had `asked` for it."""
        first, until = None, None
        while any(process.poll() is None for process in self.processes):
            time.sleep(0.05)
            failed = [i for i, p in enumerate(self.processes) if p.poll() not in (None, 0)]
            if failed and first is None:
                first, until = failed[0], time.monotonic() + ENDING
            if until is not None and time.monotonic() > until:
                self.send(signal.SIGTERM if time.monotonic() < until + 2 else signal.SIGKILL)
                time.sleep(0.5)
        for reader in self._readers:
            reader.join()
        codes = [process.returncode for process in self.processes]
        if not any(codes):
            return 0
        # A signal's death is a cause; that another lost it, or gave up with it, follows from one.
        killed = [i for i, code in enumerate(codes) if code < 0]
        index = killed[0] if killed and first not in killed else first
        index = next(i for i, code in enumerate(codes) if code) if index is None else index
        if not asked:
            took = time.monotonic() - self.started
            say(f"process {index} {_how(codes[index])} after {took:.0f} s")
        return codes[index]


def say(line: str) -> None:
    print(f"launch: {line}", file=sys.stderr, flush=True)


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _copy(source: IO[bytes], log: Path, shown: IO[bytes] | None) -> None:
    with log.open("ab") as file:
        for line in source:
            if line.startswith(NOISE):
                continue
            file.write(line)
            file.flush()
            if shown is not None:
                with contextlib.suppress(OSError):  # nobody reads: the log has it
                    shown.write(line)
                    shown.flush()


def resumed(command: Sequence[str]) -> list[str]:
    """The command with --resume=auto in place of what it says of --resume."""
    if any(module in command for module in GO_ON):
        return list(command)
    kept: list[str] = []
    for arg in command:
        before = kept[-1] if kept else ""
        if before == "--resume" and arg in ("yes", "no", "auto"):
            continue
        kept.append(arg)
    return [arg for arg in kept if arg.split("=")[0] != "--resume"] + ["--resume=auto"]


def out_of(command: Sequence[str]) -> str:
    """Its --out=FOLDER or --out FOLDER, the last one as the command reads it."""
    found = "runs/local"
    for arg, after in zip(command, [*command[1:], ""], strict=True):
        name, sign, value = arg.partition("=")
        if name == "--out":
            found = value if sign else after
    return found or "runs/local"


def launch(
    command: Sequence[str], count: int, devices: int | None, logs: Path, restarts: int
) -> int:
    """Runs the command until it ends well, or has been tried often enough; its exit code."""
    heard: list[int] = []
    pods: list[Pod] = []

    def hear(number: int, _frame) -> None:
        heard.append(number)
        if pods:
            pods[-1].send(number)

    before = {n: signal.signal(n, hear) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        for attempt in range(restarts + 1):
            pods.append(Pod(command, count, devices, logs))
            if heard:  # while they were started
                pods[-1].send(heard[-1])
            code = pods[-1].wait(heard)
            if code in FINAL or heard:
                break
            if attempt < restarts:
                say(f"restart {attempt + 1} of {restarts}, with --resume=auto")
                command = resumed(command)
                time.sleep(PAUSE)
        return 128 - code if code < 0 else code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(args: list[str]) -> int:
    check("--" in args, "expected: python -m launch.local --processes=N [--devices=N] -- COMMAND")
    cut = args.index("--")
    own, command = args[:cut], args[cut + 1 :]
    check(bool(command), "no command after --")
    flags = {"processes": "2", "devices": "", "restarts": "0", "logs": ""}
    for arg in own:
        name, sign, value = arg.removeprefix("--").partition("=")
        check(arg.startswith("--") and bool(sign) and name in flags, f"{arg}: no such flag")
        flags[name] = value
    count, devices, restarts = (
        _number(flags, name) for name in ("processes", "devices", "restarts")
    )
    check(bool(count), "--processes=0: expected at least 1")
    check(devices != 0, "--devices=0: expected at least 1")
    check(shutil.which(command[0]) is not None, f"{command[0]}: no such command")
    logs = Path(flags["logs"] or Path(out_of(command)) / "logs")
    return launch(command, count or 1, devices, logs, restarts or 0)


def _number(flags: dict[str, str], name: str) -> int | None:
    value = flags[name]
    check(value.isdigit() or (not value and name == "devices"), f"--{name}={value}: how many?")
    return int(value) if value else None


def run() -> NoReturn:
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        sys.exit(0)
    try:
        sys.exit(main(args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
