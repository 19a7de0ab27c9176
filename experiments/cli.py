"""What every command shares: typed flags over a complete configuration, and one-line errors."""

import ctypes
import io
import itertools
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Protocol, TypeVar

import jax
import rich.console
import tyro

from r1jax.config import InputError
from r1jax.config_file import load_config
from r1jax.run import Stopped

Config = TypeVar("Config")

# A preset decides which kind of attention a model has; flags change its numbers.
_FLAGS = (tyro.conf.AvoidSubcommands,)


class _Run(Protocol):
    """The configuration of something that leaves a folder."""

    @property
    def out(self) -> str: ...


Run = TypeVar("Run", bound=_Run)


def parse(kind: type[Config], default: Config, args: Sequence[str], about: str) -> Config:
    """`default` with the flags in `args`. Raises InputError for a flag that is not one."""
    args = ["--resume=yes" if arg == "--resume" else arg for arg in args]
    if {"-h", "--help"} & set(args):
        return tyro.cli(kind, default=default, args=args, description=about, config=_FLAGS)
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            return tyro.cli(kind, default=default, args=args, description=about, config=_FLAGS)
    except SystemExit:
        raise InputError(_message(said.getvalue())) from None


def _message(box: str) -> str:
    """The message inside tyro's frame, as one line."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # the first is a title
    parts = [list(part) for rule, part in itertools.groupby(lines, _is_rule) if not rule]
    return " ".join(" ".join(parts[0]).split()) if parts else "bad flags"


def _is_rule(line: str) -> bool:
    return not line.strip("─╰╯-")


def take(args: list[str], flag: str) -> str | None:
    """Removes `--flag=value` (or `--flag value`) from args and returns its value."""
    for i, arg in enumerate(args):
        if arg.startswith(f"{flag}="):
            return args.pop(i).split("=", 1)[1]
        if arg == flag and i + 1 < len(args):
            args.pop(i)
            return args.pop(i)
    return None


def reject(args: Sequence[str], about: str) -> None:
    """Ends the program with `about` for --help, and raises InputError if other flags are left that
    nobody took."""
    if {"-h", "--help"} & set(args):
        print(about.strip())
        sys.exit(0)
    if args:
        raise InputError(f"Unrecognized options: {' '.join(args)}")


def starting_config(presets: dict[str, Callable[[], Run]], preset: str, args: list[str]) -> Run:
    """The configuration that flags change: --config=FILE over --preset=NAME or `preset`.

    With --resume, it is the one that the run in --out was started with.
    """
    path, name = take(args, "--config"), take(args, "--preset")
    if name is not None and name not in presets:
        raise InputError(f"--preset={name}: expected one of {', '.join(presets)}")
    default = presets[name or preset]()
    if path:
        return load_config(type(default), path, default)
    if resumes(args) and not name:
        saved = Path(take(list(args), "--out") or default.out) / "config.json"
        if saved.exists():
            return load_config(type(default), saved)
    return default


def resumes(args: Sequence[str]) -> bool:
    return "--resume" in args or any(f"--resume={how}" in args for how in ("yes", "auto"))


def run(main: Callable[[list[str]], None]) -> None:
    """Runs main(sys.argv[1:]); bad input ends as one line on stderr and exit code 2."""
    keep_memory()
    args = sys.argv[1:]
    if "--distributed" in args:  # one process a host: JAX finds the others from SLURM, GKE or TPU
        args.remove("--distributed")
        jax.distributed.initialize()
    try:
        main(args)
    except (InputError, OSError) as error:
        message = " ".join(str(error).split())
        console = rich.console.Console(stderr=True, soft_wrap=True, emoji=False)
        console.print(f"error: {message}", markup=False, highlight=False)
        sys.exit(2)
    except Stopped as stopped:
        print(stopped)
        sys.exit(130 if stopped.by == signal.SIGINT else 0)
    except KeyboardInterrupt:
        sys.exit(130)


def keep_memory() -> None:
    """Tells glibc to keep freed memory instead of returning it to the system after every step:
    XLA:CPU allocates its buffers anew each time, and page faults took a quarter of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return
    m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8
    for option, value in (
        (m_arena_max, 1),
        (m_mmap_max, 0),
        (m_trim_threshold, 2**31 - 1),
        (m_top_pad, 2**28),
    ):
        mallopt(option, value)
