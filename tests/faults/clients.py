"""Slow and stalled clients of the API, so many that they would hold every thread if nothing bounded them, or fewer
where nothing does: docs/security.md leaves half-sent requests to a proxy."""

from __future__ import annotations

import socket
from contextlib import suppress
from random import Random
from typing import ClassVar

from faults.fault import Fault
from faults.field import Field
from faults.stream import Stream

SMALL_BUFFER = 4096  # bytes that a client's socket takes in without a reader
FORM = b"multipart/form-data; boundary=b"


class Connections(Fault):
    """`count` connections, of which each sends `request()`; closed at the end."""

    target, longest = "clients", 10.0
    count: ClassVar[int]

    def __init__(self, field: Field, stream: Stream, random: Random) -> None:
        super().__init__(field, stream, random)
        self.ends: list[socket.socket] = []

    def request(self) -> bytes:
        raise NotImplementedError

    def strike(self) -> None:
        request = self.request()
        for _ in range(self.count):
            end = socket.socket()
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            end.setblocking(False)
            end.connect_ex(("127.0.0.1", self.field.port))  # the API may be away
            self.ends.append(end)
        for end in self.ends:
            with suppress(OSError):
                end.setblocking(True)
                end.settimeout(1.0)
                end.sendall(request)

    def mend(self) -> None:
        for end in self.ends:
            end.close()

    def get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


class HalfRequests(Connections):
    """clients send half a request and no more"""

    count = 32

    def request(self) -> bytes:
        return b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "


class HalfBodies(Connections):
    """clients send half a job and no more"""

    count = 24

    def request(self) -> bytes:
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 400\r\n"
        return head + b'\r\n{"architecture": '


class StalledReaders(Connections):
    """clients ask for large files and do not read them"""

    count = 120  # more than the API's threads

    def request(self) -> bytes:
        return self.get(f"/v1/jobs/{self.stream.large}/artifacts.zip")


class SlowReaders(StalledReaders):
    """clients read large files slowly"""

    count = 16

    def look(self) -> None:
        for end in self.ends:
            with suppress(OSError):
                end.setblocking(False)
                end.recv(SMALL_BUFFER)


class SlowUploads(Connections):
    """clients upload slowly"""

    count = 8

    def request(self) -> bytes:
        length = 1 << 20
        head = b"POST /v1/datasets HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="images.npz"\r\n\r\n'
        return head % (FORM, length) + part

    def look(self) -> None:
        for end in self.ends:
            with suppress(OSError):
                end.setblocking(False)
                end.send(bytes(64))
