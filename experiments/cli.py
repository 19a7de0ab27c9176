"""What every command shares: typed flags over a complete configuration, and one-line errors."""

import ctypes
import dataclasses
import glob
import io
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_type_hints

import jax
import rich.console
import tyro

from experiments import leave
from experiments.errors import is_of_a_collective, one_line, quiet_when_full
from r1jax import peers, start
from r1jax.base import user_cache
from r1jax.checks import InputError, check, near, nearest
from r1jax.config import Resume
from r1jax.config_file import load_config
from r1jax.run import Stopped, preset_of, program
from r1jax.stored import Unreachable

Config = TypeVar("Config")

# Of NVIDIA, AMD, and TPUs of either driver.
ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")

# A preset decides which kind of attention a model has; flags change its numbers.
_FLAGS = (tyro.conf.AvoidSubcommands,)


class _Run(Protocol):
    """The configuration of something that leaves a folder."""

    @property
    def out(self) -> str: ...


Run = TypeVar("Run", bound=_Run)


# A command's own flags, which are no field of its configuration: (what they take, "" for a switch;
# what --help says of them).
Flags = Mapping[str, tuple[str, str]]

DISTRIBUTED: Flags = {
    "distributed": (
        "",
        "this is one process of several, or ends: by default that is found out from SLURM, GKE, a "
        "TPU VM or JAX_COORDINATOR_ADDRESS",
    ),
    "no-distributed": ("", "this process is alone, whatever the host says"),
}


def parse(
    kind: type[Config], default: Config, args: Sequence[str], about: str, flags: Flags | None = None
) -> Config:
    """`default` with the flags in `args`. about: the command's docstring; flags: those that were
    taken from `args` before, which --help lists too. Raises InputError for a flag that is not one.
    """
    args = _spelled(_whole_resume(args), default)
    flags = {**(flags or {}), **(DISTRIBUTED if hasattr(default, "mesh") else {})}
    command = _command(kind, default, flags)
    if {"-h", "--help"} & set(args):
        # A switch is listed as what changes it; its other form is understood all the same.
        config = (*_FLAGS, tyro.conf.FlagCreatePairsOff)
        tyro.cli(command, prog=program(), args=["--help"], description=about, config=config)
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            return tyro.cli(command, args=args, config=_FLAGS).configuration
    except InputError as error:
        raise InputError(_as_flags(str(error), default, args)) from error
    except SystemExit:
        message = _as_flags(_message(said.getvalue()), default, args)
        known = [*_names(default, "--"), *(f"--{name}" for name in flags)]
        raise InputError(message + _hint(message, known)) from None


def _command(kind: type[Config], default: Config, flags: Flags) -> Any:
    """A dataclass of the flags and of the configuration, whose fields are flags themselves."""
    fields: list[Any] = []
    for name, (takes, about) in flags.items():
        arg = tyro.conf.arg(name=name, help=about, metavar=takes or None, help_behavior_hint="")
        own: Any = Annotated[str, arg] if takes else tyro.conf.FlagCreatePairsOff[bool]
        own = own if takes else Annotated[own, arg]
        fields.append((f"{name.replace('-', '_')}_", own, "" if takes else False))  # `from_`
    whole = Annotated[kind, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    return dataclasses.make_dataclass("Command", [*fields, ("configuration", whole, default)])


def _names(configuration: Any, prefix: str) -> Iterator[str]:
    """The flags of a configuration."""
    for field in dataclasses.fields(configuration):
        name, value = prefix + field.name.replace("_", "-"), getattr(configuration, field.name)
        yield from _names(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]


def _groups(configuration: Any, prefix: str = "--") -> Iterator[tuple[str, str, Any]]:
    """(type, prefix of its flags, value) of a configuration and of those inside."""
    yield type(configuration).__name__, prefix, configuration
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        if dataclasses.is_dataclass(value):
            yield from _groups(value, f"{prefix}{field.name.replace('_', '-')}.")


def _spelled(args: Sequence[str], default: Any) -> list[str]:
    """Switches as they are understood, from --name=true and --name=false; None from none."""
    kinds: dict[str, Any] = {}
    for _, prefix, group in _groups(default):
        of_type = get_type_hints(type(group))
        kinds |= {f"{prefix}{name.replace('_', '-')}": kind for name, kind in of_type.items()}
    found = []
    for arg in args:
        name, given, value = arg.partition("=")
        kind, value = kinds.get(name), value.lower()
        if kind is bool and given:
            check(value in ("true", "false"), f"{arg}: expected true or false")
            group, dot, last = name.removeprefix("--").rpartition(".")
            arg = name if value == "true" else f"--{group}{dot}no-{last}"
        elif value in ("true", "false") and bool in get_args(kind):
            arg = f"{name}={value.capitalize()}"
        elif value == "none" and type(None) in get_args(kind):
            arg = f"{name}=None"
        found.append(arg)
    return found


def _as_flags(message: str, default: Any, args: Sequence[str]) -> str:
    """Fields by their flags: --rl.kl-coef for RLConfig.kl_coef; of several groups of one type, by
    the flag that was given."""
    flags: dict[str, list[str]] = {}
    for kind, prefix, _ in _groups(default):
        flags.setdefault(kind, []).append(prefix)

    def flag(found: re.Match[str]) -> str:
        kind, field = found.groups()
        named = [prefix + field.replace("_", "-") for prefix in flags.get(kind, ())]
        given = [name for name in named if any(arg.split("=")[0] == name for arg in args)]
        return [*named, *given][-1] if len(named) == 1 or given else found[0]

    return re.sub(r"\b(\w+Config)\.([a-z]\w*)", flag, message)


def _as_given(message: str) -> str:
    """The same of what a command makes of flags that are its own."""
    given = [arg.split("=")[0] for arg in sys.argv[1:] if arg.startswith("--")]

    def flag(found: re.Match[str]) -> str:
        field = found[1].replace("_", "-")
        named = [name for name in given if re.split(r"--|\.", name)[-1] == field]
        return named[-1] if named else found[0]

    return re.sub(r"\b\w+Config\.([a-z]\w*)", flag, message)


def _message(box: str) -> str:
    """The message inside tyro's frame, as one line."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # the first is a title
    parts = [list(part) for rule, part in itertools.groupby(lines, _is_rule) if not rule]
    message = " ".join(" ".join(parts[0]).split()) if parts else "bad flags"
    return re.sub(r"^Error parsing configuration[.\w-]*: ", "", message).rstrip(".")


def _is_rule(line: str) -> bool:
    return not line.strip("─╰╯-")


def _hint(message: str, known: Sequence[str]) -> str:
    """ ": did you mean ...?" for flags and choices that are near to one there is, else ""."""
    choice = re.match(r"invalid choice '(.*?)' for", message)
    if choice:
        return near(choice[1], re.findall(r"'([^']+)'", message.partition("one of")[2]))
    if not message.startswith("Unrecognized"):
        return ""
    meant: list[str] = []
    for wrong in re.findall(r"--[\w.-]+", message):
        # --lr is the end of --optim.lr.
        ends = [name for name in known if name.rpartition(".")[2] == wrong[2:]]
        meant += ends or [f"--{name}" for name in nearest(wrong[2:], [name[2:] for name in known])]
    return f": did you mean {' or '.join(meant)}?" if meant else ""


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

    With --resume, --config=FILE goes over what the run in --out was started with, and --preset must
    be the one that it was made from, so that a command with --resume behind it goes on.
    """
    path, name = take(args, "--config"), take(args, "--preset")
    if name is not None and name not in presets:
        raise InputError(f"--preset={name}: expected one of {', '.join(presets)}")
    default = presets[name or preset]()
    folder = Path(take(list(args), "--out") or default.out)
    if resumes(args) and (folder / "config.json").exists():
        before = preset_of(folder)
        check(
            name is None or before is None or name == before,
            f"--preset={name}: {folder} was started with {before or 'no --preset'}, and goes on "
            "with its own configuration: leave it out, or change fields by flags or --config",
        )
        default = load_config(type(default), folder / "config.json")
    return load_config(type(default), path, default) if path else default


def file_to_write(path: Path, flag: str = "--out") -> Path:
    """`path`, looked at before the work begins. Raises InputError if no file can be there."""
    check(path.parent.is_dir(), f"{flag}={path}: no such folder")
    check(not path.is_dir(), f"{flag}={path}: a folder, not a file")
    return path


def new_file(path: Path, flag: str = "--out") -> Path:
    """As `file_to_write`, of one that is not there yet."""
    file_to_write(path, flag)
    check(not path.exists(), f"{path} is there already: remove it, or give another {flag}=FILE")
    return path


def resumes(args: Sequence[str]) -> bool:
    return any(f"--resume={how}" in _whole_resume(args) for how in ("yes", "auto"))


def _whole_resume(args: Sequence[str]) -> list[str]:
    """`--resume` and `--resume auto` as `--resume=yes` and `--resume=auto`."""
    found: list[str] = []
    for arg in args:
        if found and found[-1] == "--resume" and arg in get_args(Resume):
            found[-1] = f"--resume={arg}"
        else:
            found.append(arg)
    return ["--resume=yes" if arg == "--resume" else arg for arg in found]


def starting_flags(presets: Mapping[str, Callable[[], object]]) -> Flags:
    """What `starting_config` takes, for --help: the presets with a line each."""
    width = max(map(len, presets))
    listed = [f"{name:{width}}  {_headline(make)}" for name, make in presets.items()]
    return {
        "preset": (
            "NAME",
            "\n".join(("a complete configuration, of which flags change fields:", *listed)),
        ),
        "config": (
            "FILE",
            "a .yaml or .json of fields that take the place of the preset's; a run's config.json "
            "has them all",
        ),
    }


def _headline(make: Callable[[], object]) -> str:
    """How a function's docstring begins, up to where it pauses."""
    text = " ".join((make.__doc__ or "").split())
    return re.split(r"(?<=[^.]{3})[.:,] | \(\[", text)[0].rstrip(".")


def run(main: Callable[[list[str]], None], trains: bool = False) -> None:
    """Runs main(sys.argv[1:]); bad input ends as one line on stderr and exit code 2, and so does a
    full disk. trains: whether to look if this is one process of several. Of those, one that fails
    tells the others, and all end."""
    if computes_on_cpu():
        keep_memory()
    keep_programs()
    quiet_when_full()
    args = sys.argv[1:]
    try:
        if signal.getsignal(signal.SIGINT) is leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        join_others(args, trains)
        main(args)
        sys.stdout.flush()
        return _leave("", 0)
    except BrokenPipeError:  # the reader (`| head`) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave("nobody reads what it prints", 141)
    except Stopped as stopped:
        print(stopped)
        code = 130 if stopped.by == signal.SIGINT else 0
        _leave(str(stopped) if stopped.at_once else "", code)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        _leave("stopped by Ctrl-C", 130)
    except Exception as error:
        others = peers.current()
        if others and is_of_a_collective(error):  # because another is gone?
            others.await_verdict()
        message = one_line(error)
        if message is None:
            if not others:
                raise
            traceback.print_exc()
            _leave(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", 1)
        console = rich.console.Console(stderr=True, soft_wrap=True, emoji=False)
        console.print("error:", _as_given(message or ""), markup=False, highlight=False)
        _leave(message or "", peers.LOST_PEER if isinstance(error, Unreachable) else 2)


def join_others(args: list[str], look: bool) -> None:
    """Takes --distributed and --no-distributed from args, and joins the other processes of a pod.
    look: whether to, where neither flag is given. Raises InputError if it cannot."""
    told = {name: f"--{name}" in args for name in DISTRIBUTED}
    args[:] = [arg for arg in args if arg.removeprefix("--") not in DISTRIBUTED]
    check(not all(told.values()), "--distributed and --no-distributed: give one")
    if told["no-distributed"] or not (look or told["distributed"]):
        return
    place = start.find()
    if place is not None:
        start.join(place)
    elif not start.join_tpu_vm():
        check(
            not told["distributed"],
            "--distributed: nothing here says where the other processes are: neither "
            "JAX_COORDINATOR_ADDRESS nor SLURM (srun with several tasks), GKE or a TPU VM",
        )
    peers.watch()


def _leave(failed: str, code: int) -> None:
    """Ends the program; with code 0 it returns. failed: why, if the others must end for it."""
    if others := peers.current():
        if failed:
            others.leave_failed(failed, code)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # JAX's own end would wait for the others
        others.leave()
        jax.distributed.shutdown()
    if code:
        sys.exit(code)


def keep_programs() -> None:
    """Keeps what XLA compiles under the user's cache, so that the next start need not; or where
    JAX_COMPILATION_CACHE_DIR says (empty: nowhere)."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "programs"))
        jax.config.update("jax_compilation_cache_max_size", 2**32)  # bytes; the oldest go first
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def keep_memory() -> None:
    """Tells glibc to keep freed memory instead of returning it to the system after every step:
    XLA:CPU allocates its buffers anew each time, and page faults took a quarter of a step. It has
    to be told before XLA starts its threads, each of which takes a heap of its own."""
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


def computes_on_cpu() -> bool:
    """Whether JAX will find no accelerator here; to ask JAX would start XLA's threads."""
    wanted = jax.config.jax_platforms  # type: ignore[attr-defined]
    return wanted == "cpu" or not any(glob.glob(pattern) for pattern in ACCELERATORS)
