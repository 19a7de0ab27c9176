"""Who has come, on threads in the place of processes."""

import socket
import threading

import pytest
from two_processes import free_port

from r1jax import rollcall
from r1jax.checks import InputError


class Pod:
    """Calls the roll as each of `here`, of `count`. said: what each was told, "" if all came."""

    def __init__(self, count, here, seconds=60.0, port=None):
        self.port, self.said = port or free_port(), {}
        self.count, self.seconds = count, seconds
        self.threads = [threading.Thread(target=self.call, args=(index,)) for index in here]
        for thread in self.threads:
            thread.start()

    def call(self, index):
        try:
            rollcall.call(f"127.0.0.1:{self.port}", self.count, index, self.seconds)
            self.said[index] = ""
        except (rollcall.Absent, InputError) as error:
            self.said[index] = str(error)

    def join(self):
        for thread in self.threads:
            thread.join()
        return self.said


@pytest.fixture
def answers(monkeypatch):
    """As JAX does then: its service listens."""
    listen, held = rollcall._listen, []

    def then_serves(address, *how):
        listen(address, *how)
        held.append(rollcall._server(address))

    monkeypatch.setattr(rollcall, "_listen", then_serves)
    yield
    for server in held:
        server.close()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_all_come_in_any_order(answers, order):
    assert Pod(4, order).join() == dict.fromkeys(order, "")


def test_those_that_are_missing_are_named_in_all_others():
    said = Pod(8, (0, 2, 7), seconds=1).join()
    host = socket.gethostname()
    expected = (
        f"processes 1, 3-6 have not come within 1 s, of 8; here: 0 on {host}, 2 on {host}, "
        f"7 on {host}"
    )
    assert said == dict.fromkeys((0, 2, 7), expected)


def test_the_first_is_missing():
    port = free_port()
    said = Pod(3, (1, 2), seconds=1, port=port).join()
    expected = f"process 0 has not come within 1 s: 127.0.0.1:{port}: Connection refused"
    assert said == dict.fromkeys((1, 2), expected)


def connected(port):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            pass


def test_one_that_has_gone_again_is_not_waited_for():
    pod = Pod(4, (0,))
    with connected(pod.port) as second, connected(pod.port) as third:
        second.sendall(b'{"process": 1, "host": "n2"}')
        third.sendall(b'{"process": 2, "host": "n3"}')
        third.shutdown(socket.SHUT_WR)
        assert second.recv(100) == b"process 2 on n3 had come and is gone\n"
    pod.join()
    assert pod.said == {0: "process 2 on n3 had come and is gone"}


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b'{"process": 9, "host": ""}', b"[]"])
def test_what_is_no_process_of_the_pod_is_not_counted(answers, noise):
    pod = Pod(2, (0,))
    with connected(pod.port) as other:
        other.sendall(noise)
        other.recv(1)  # it is hung up on
        late = Pod(2, (1,), port=pod.port)
        assert late.join() == {1: ""}
    assert pod.join() == {0: ""}


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]
        said = Pod(2, (0,), port=port).join()[0]
    assert said.startswith(f"process 0 cannot listen at port {port} of ") and "in use" in said
