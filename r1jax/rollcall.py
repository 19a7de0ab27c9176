"""Who has come, before JAX waits for all: where one does not, all others end with its name.

JAX's own wait ends in C++, which knows how many are missing and not which. So process 0 first
listens itself, at the coordinator's address: the others say who they are, and stay connected until
all have come. Then JAX takes the address.
"""

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

from r1jax.checks import InputError

GO = "all are here"
LONGEST = 1000  # bytes of what one says
ANSWERS = 30.0  # seconds that JAX has to listen, once all have come


class Absent(Exception):
    """A line that says who."""


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def of(cls, coordinator: str) -> "Address":
        host, _, port = coordinator.rpartition(":")
        return cls(host.strip("[]"), int(port))


def call(coordinator: str, count: int, index: int, seconds: float) -> None:
    """Returns when all have come. Raises Absent in all that have if one does not within `seconds`,
    or has gone again; InputError if process 0 cannot listen."""
    address = Address.of(coordinator)
    if index == 0:
        _listen(address, count, seconds)
    else:
        _answer(address, index, seconds)


class _Roll:
    """Of process 0: who has come to `server`, by connection: (index, host)."""

    def __init__(self, server: socket.socket, count: int):
        self._server, self._count = server, count
        self.come: dict[socket.socket, tuple[int, str]] = {}
        self.gone = ""
        self._poll = selectors.DefaultSelector()
        self._poll.register(server, selectors.EVENT_READ)

    def hear(self, seconds: float) -> bool:
        """Who comes and goes, until one does; False if none has within `seconds`."""
        events = self._poll.select(seconds)
        for key, _ in events:
            if key.fileobj is self._server:
                peer, _ = self._server.accept()
                peer.settimeout(2)
                self._poll.register(peer, selectors.EVENT_READ)
            else:
                self._read(key.fileobj)  # type: ignore[arg-type]
        return bool(events)

    def _read(self, peer: socket.socket) -> None:
        told = _told(peer)
        if told is not None and 0 < told[0] < self._count and peer not in self.come:
            self.come[peer] = told
            return
        self._poll.unregister(peer)  # it has closed, or is no process of this pod
        peer.close()
        if left := self.come.pop(peer, None):
            self.gone = f"process {left[0]} on {left[1]} had come and is gone"

    def all_here(self) -> bool:
        return len({index for index, _ in self.come.values()}) == self._count - 1

    def missing(self, seconds: float) -> str:
        """Which have not come, and who has."""
        here = {0: socket.gethostname()} | dict(self.come.values())
        absent = [index for index in range(self._count) if index not in here]
        which = f"process{'es' * (len(absent) > 1)} {', '.join(_ranges(absent))}"
        has = "has" if len(absent) == 1 else "have"
        whose = ", ".join(f"{index} on {here[index]}" for index in sorted(here)[:8])
        return f"{which} {has} not come within {seconds:.0f} s, of {self._count}; here: {whose}"

    def tell(self, verdict: str) -> None:
        for peer in self.come:
            with contextlib.suppress(OSError), peer:
                peer.sendall(f"{verdict}\n".encode()[:LONGEST])
                peer.recv(1)  # it closes first, so that the port is free at once


def _listen(address: Address, count: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    with _server(address) as server:
        roll, verdict = _Roll(server, count), GO
        while not roll.all_here():
            roll.hear(0.2)
            late = time.monotonic() > until
            if late or roll.gone:
                while roll.hear(0.2):  # who is at the door is told, too
                    pass
                verdict = roll.gone or roll.missing(seconds)
                break
        roll.tell(verdict)
    if verdict != GO:
        raise Absent(verdict)


def _server(address: Address) -> socket.socket:
    for family in (socket.AF_INET6, socket.AF_INET):
        try:
            dual = family == socket.AF_INET6
            return socket.create_server(("", address.port), family=family, dualstack_ipv6=dual)
        except OSError as error:
            if family == socket.AF_INET:  # of a host without IPv6
                raise InputError(
                    f"process 0 cannot listen at port {address.port} of {socket.gethostname()}: "
                    f"{error.strerror}; another, for all: JAX_COORDINATOR_PORT or "
                    "JAX_COORDINATOR_ADDRESS"
                ) from None
    raise AssertionError


def _told(peer: socket.socket) -> tuple[int, str] | None:
    try:
        told = json.loads(peer.recv(LONGEST))
        return int(told["process"]), str(told["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _ranges(numbers: list[int]) -> Iterator[str]:
    """1, 2, 3, 7 as 1-3, 7."""
    start = 0
    for i, number in enumerate(numbers):
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            yield str(number) if i == start else f"{numbers[start]}-{number}"
            start = i + 1


def _answer(address: Address, index: int, seconds: float) -> None:
    with _reached(address, seconds, f"process 0 has not come within {seconds:.0f} s") as first:
        first.sendall(json.dumps({"process": index, "host": socket.gethostname()}).encode())
        first.settimeout(seconds + 10)  # it may have come last, and waits so long itself
        try:
            verdict = first.recv(LONGEST).decode().strip()
        except OSError:
            verdict = ""
    if verdict != GO:
        raise Absent(verdict or "process 0 had come and is gone")
    _reached(address, ANSWERS, "process 0 had come and is gone").close()


def _reached(address: Address, seconds: float, absent: str) -> socket.socket:
    until = time.monotonic() + seconds
    while True:
        try:
            found = socket.create_connection(address, 5)
            if found.getsockname() != found.getpeername():
                return found
            found.close()  # where nothing listens yet, TCP may connect a port with itself
        except OSError as error:
            if time.monotonic() > until:
                why = error.strerror or str(error)
                raise Absent(f"{absent}: {address.host}:{address.port}: {why}") from None
        time.sleep(0.1)
