"""Whether the server's sockets are reachable from this machine only; how it starts and refuses requests."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from gunicorn.http import errors

from api import server
from api.app import create_app
from api.server import Worker, _is_private
from shared.config import Settings


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


class Gunicorn:
    """What `_make_app` needs of gunicorn's parent process."""

    def __init__(self, error: Exception | None = None) -> None:
        self.app, self.error, self.made = self, error, 0

    def wsgi(self) -> object:
        self.made += 1
        if self.error is not None:
            raise self.error
        return create_app(Settings.from_env())


@pytest.mark.parametrize(("store", "made"), [("", 1), ("file:///tmp/none", 1), ("memory://x", 0), ("s3://bucket", 0)])
def test_the_app_is_made_before_the_fork_unless_its_store_has_threads(
    store: str, made: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("GRADQ_ALLOW_ANONYMOUS", "true")
    monkeypatch.setenv("GRADQ_ARTIFACTS_URL", store)
    gunicorn, before = Gunicorn(), set(threading.enumerate())
    server._make_app(gunicorn)
    assert gunicorn.made == made
    assert set(threading.enumerate()) <= before


def test_an_app_that_cannot_be_made_is_left_to_the_processes_which_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path))
    gunicorn = Gunicorn(ValueError("a setting is wrong"))
    server._make_app(gunicorn)
    assert gunicorn.made == 1


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
