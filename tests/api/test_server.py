"""Whether the server's sockets are reachable from this machine only."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from gunicorn.http import errors

from api.server import Worker, _is_private


@pytest.mark.parametrize(
    ("family", "address", "private"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "127.1.2.3", True),
        (socket.AF_INET, "0.0.0.0", False),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET6, "::", False),
    ],
)
def test_a_loopback_address_is_this_machines_alone(family: socket.AddressFamily, address: str, private: bool) -> None:
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        assert _is_private(listener) is private


def test_a_unix_socket_is_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert _is_private(listener)


class Refusing:
    """The log of a worker of gunicorn, and nothing else of it."""

    def __init__(self) -> None:
        self.logged: list[str] = []
        self.log = self

    def warning(self, text: str, *values: object) -> None:
        self.logged.append(text % values)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequestLine("GET " + "x" * 8000),
        errors.InvalidRequestMethod("x" * 8000),
        errors.InvalidHTTPVersion("x" * 8000),
        errors.InvalidHeader("X: " + "x" * 8000),
        errors.InvalidHeaderName("x" * 8000),
        errors.UnsupportedTransferCoding("x" * 8000),
        errors.InvalidChunkSize(b"x" * 8000),
    ],
)
def test_a_refused_request_costs_few_bytes_of_the_log_however_long_it_is(error: Exception) -> None:
    worker, (ours, theirs) = Refusing(), socket.socketpair()
    with ours, theirs:
        Worker.handle_error(worker, None, ours, None, error)
        sent = theirs.recv(100_000)
    (line,) = worker.logged
    assert len(line) < 250
    assert sent.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501"))
    assert len(sent) < 4000
