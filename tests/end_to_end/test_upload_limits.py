"""The limit of an upload holds while it streams: a service behind gunicorn, spoken to over a socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.service import Service

LIMIT = 4_000_000
TAKEN_BYTES = 64 << 20  # of a refused body at most, with what lies in the kernel's buffers on both sides
GROWTH_BYTES = 48 << 20
HEAD = b"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\n'
PIECE = bytes(1 << 18)
CHUNK = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("limited"), {"GRADQ_MAX_UPLOAD_BYTES": str(LIMIT)}).start(workers=0)
    yield service
    service.close()


class Disk:
    """The most that lay in the folder of uploads while it was watched."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.most = folder, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Disk:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(0.002):
            self.most = max(self.most, used(self.folder))


def used(folder: Path) -> int:
    """Bytes of the files below `folder`. Files and folders may go while it looks: os.walk passes over them."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def connect(service: Service) -> socket.socket:
    parts = urlsplit(str(service.http.base_url))
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def memory(service: Service) -> int:
    (server,) = [part for part in service.parts if part.log.name == "api.log"]
    return sum(process.memory_info().rss for process in server.handle.children())


def pour(connection: socket.socket, piece: bytes, most: int) -> int:
    """Send until the other end wants no more; the bytes that went."""
    sent = 0
    with suppress(OSError):
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def answer_of(connection: socket.socket) -> bytes:
    answer = b""
    with suppress(OSError):
        while piece := connection.recv(65_536):
            answer += piece
    return answer


def test_a_length_over_the_limit_is_refused_before_a_byte_of_the_body_is_sent(limited: Service) -> None:
    with connect(limited) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000000\r\n\r\n")
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"GRADQ_MAX_UPLOAD_BYTES" in answer
    assert used(limited.state / "uploads") == 0


def test_a_body_in_chunks_without_end_is_read_no_further_than_it_takes_to_refuse_it(limited: Service) -> None:
    before = memory(limited)
    with Disk(limited.state / "uploads") as disk, connect(limited) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(PART), PART))
        sent = pour(connection, CHUNK, 4 * TAKEN_BYTES)
        answer = answer_of(connection)
    assert sent < TAKEN_BYTES
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")  # a reset may overtake what was sent before it
    assert disk.most <= LIMIT + len(PIECE)
    assert used(limited.state / "uploads") == 0
    assert memory(limited) - before < GROWTH_BYTES
    assert " 413 " in limited.log_of("api") or '"status": 413' in limited.log_of("api")


@pytest.mark.parametrize("said", [LIMIT // 2, 100])
def test_a_length_that_is_not_true_gets_no_more_read_than_it_says(limited: Service, said: int) -> None:
    with Disk(limited.state / "uploads") as disk, connect(limited) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % said + PART)
        pour(connection, PIECE, 4 * LIMIT)
        answer = answer_of(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert disk.most <= said
    assert used(limited.state / "uploads") == 0


def test_two_lengths_or_a_length_beside_chunks_are_no_request(limited: Service) -> None:
    for lies in (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"):
        with connect(limited) as connection:
            connection.sendall(HEAD + lies + b"\r\n" + b"0\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert answer_of(connection).startswith(b"HTTP/1.1 400 ")


def test_a_refusal_of_the_server_itself_tells_browsers_the_same_and_names_no_version(limited: Service) -> None:
    from api.http.security_headers import HEADERS

    with connect(limited) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
        refused = answer_of(connection)
    shown = limited.http.get("/v1/jobs").headers
    assert refused.startswith(b"HTTP/1.1 400 ")
    for name, value in HEADERS.items():
        assert f"{name}: {value}".encode() in refused
        assert shown[name] == value
    assert not any(sign.isdigit() for sign in shown.get("Server", ""))
    assert b"Server: gunicorn/" not in refused
