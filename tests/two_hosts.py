"""Two virtual hosts of one machine, each with a network of its own, and a wire between them that
can be cut. Needs root, and a kernel with namespaces of networks."""

import os
import shutil
import subprocess
from pathlib import Path

NAMES = ("n1", "n2")
NOBODY = "02:00:00:00:00:99"  # an address that no host has: what is sent there is lost


class Hosts:
    """A context manager. `folder`: for the hosts' own /etc/hosts. Raises CalledProcessError."""

    def __init__(self, folder: Path):
        self._spaces = [f"r1jax-{os.getpid()}-{name}" for name in NAMES]
        self._addresses = ["10.213.77.1", "10.213.77.2"]
        self._known = folder / "hosts"
        lines = [f"{at} {name}" for at, name in zip(self._addresses, NAMES, strict=True)]
        self._known.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def __enter__(self) -> "Hosts":
        try:
            for space in self._spaces:
                self._ip("netns", "add", space)
            one, two = self._spaces
            ends = ["type", "veth", "peer", "name", "wire", "netns", two]
            self._ip("-n", one, "link", "add", "wire", *ends)
            for space, address in zip(self._spaces, self._addresses, strict=True):
                self._ip("-n", space, "addr", "add", f"{address}/24", "dev", "wire")
                for device in ("lo", "wire"):
                    self._ip("-n", space, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for space in self._spaces:  # with their ends of the wire
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def coordinator(self, port: int) -> str:
        return f"{NAMES[0]}:{port}"

    def through(self) -> list[list[str]]:
        """For each host the command that becomes, on it, what is behind it."""
        own = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'
        there = ["unshare", "--mount", "--uts", "--propagation", "private", "bash", "-c", own]
        return [
            ["nsenter", f"--net=/run/netns/{space}", *there, str(self._known), name]
            for space, name in zip(self._spaces, NAMES, strict=True)
        ]

    def cut(self) -> None:
        """What either sends is lost without a word, as behind a switch that has failed."""
        for space, other in zip(self._spaces, reversed(self._addresses), strict=True):
            nobody = ["lladdr", NOBODY, "dev", "wire", "nud", "permanent"]
            self._ip("-n", space, "neigh", "replace", other, *nobody)

    def mend(self) -> None:
        for space, other in zip(self._spaces, reversed(self._addresses), strict=True):
            self._ip("-n", space, "neigh", "del", other, "dev", "wire")

    @staticmethod
    def _ip(*command: str) -> None:
        subprocess.run(["ip", *command], check=True, capture_output=True)


def available() -> str:
    """Why there are none here; "" if there can be."""
    absent = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    return f"no {absent[0]}" if absent else "" if os.geteuid() == 0 else "needs root"
