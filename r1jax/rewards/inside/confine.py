"""Limits that a process of the sandbox puts on itself before it reads a line of the program."""

import os
import resource
import sys


def confine(uid: int, cpu_s: int, memory: int, processes: int, file_bytes: int) -> None:
    """Gives up root for `uid`, then lowers what the kernel allows for good; 0 leaves one as it is.

    memory, file_bytes: bytes. A thread counts as a process.
    """
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_bytes,
        # After the change of user, whose processes are what is counted.
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_NOFILE: 64,
    }
    for kind, value in limits.items():
        if value:
            # Soft and hard at once: reaching the CPU limit kills, with no signal to ignore.
            resource.setrlimit(kind, (value, value))
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(kind, (0, 0))


def new_main(name: str) -> dict:
    """The namespace of a fresh module that stands in for the one a program would run as."""
    module = type(sys)(name)
    sys.modules[name] = module
    # `site` would define these; loading it costs 10 ms.
    builtins = sys.modules["builtins"].__dict__
    builtins["exit"] = builtins["quit"] = sys.exit
    sys.argv = ["program.py"]
    sys.path.pop(0)  # the folder of these files
    sys.set_int_max_str_digits(0)  # contests print large integers; time is limited anyway
    return module.__dict__


def silence(*fds: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(null, fd)
