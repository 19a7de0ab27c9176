"""One run at a time in a folder."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from r1jax.checks import InputError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds FOLDER/lock, which says whose it is. Raises InputError if another run holds it.

    The kernel gives it back when the process ends, however it ends: a kill leaves the file and not
    the lock. Between hosts that share a folder it holds as far as their file system says: Linux
    makes it a lock of the server on NFS, unless that is mounted with `nolock` or `local_lock`,
    where each host knows its own runs only. Where there are no locks at all, nothing is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(f"{folder}: a run is under way in it: {holder}") from None
        except OSError:
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
