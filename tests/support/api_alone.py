"""`gradq api` alone, without a worker or a broker, and connections to it whose bytes the test chooses."""

from __future__ import annotations

import socket
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx2
from support.service import GRADQ, Part, Service, listening_url
from support.waiting import wait_for


class Api:
    """`gradq api` alone, without a worker."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.service = Service(folder, environment)
        self.service.migrate()
        self.connections: list[socket.socket] = []
        self.part = Part([*GRADQ, "api", "--port", "0", *arguments], self.service.env, folder / "api.log")
        self.url = wait_for(lambda: listening_url(self.part), 30, "the API's port")
        self.http = httpx2.Client(base_url=self.url, timeout=20)
        wait_for(self.answers, 30, "the API")

    def answers(self) -> bool:
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    def ask(self, path: str, *headers: str) -> socket.socket:
        """Send a request and return the connection without reading from it."""
        where = urlsplit(self.url)
        connection = socket.create_connection((where.hostname, where.port), timeout=20)
        self.connections.append(connection)
        connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())
        return connection

    def stream(self, path: str) -> socket.socket:
        return self.ask(path, "Accept: text/event-stream")

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        """A connection on which nothing is sent. `receive_buffer`: bytes that the kernel takes without a `recv`."""
        where = urlsplit(self.url)
        connection = socket.socket()
        self.connections.append(connection)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect((where.hostname, where.port))
        return connection

    def close(self) -> None:
        self.http.close()
        for connection in self.connections:
            connection.close()
        self.part.stop()


def head_of(connection: socket.socket) -> str:
    """Wait for the status line and the headers of a response."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = connection.recv(1)
        assert more, "the connection was closed"
        got += more
    return got.decode()


def answer(connection: socket.socket) -> HTTPResponse:
    """Wait for the head of a response. Nothing after the response is read: what follows may be the next one."""
    exact: Any = SimpleNamespace(makefile=lambda mode: connection.makefile(mode, buffering=1))
    found = HTTPResponse(exact)
    found.begin()
    return found
