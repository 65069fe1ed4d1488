"""Sends a request byte by byte, since a client library would correct it, and reads the response."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field, replace
from http.client import HTTPException, HTTPResponse
from typing import Any, Literal
from urllib.parse import urlsplit

JSON, PROBLEM = "application/json", "application/problem+json"
SECONDS = 60.0
PIECE = 5_000  # bytes per chunk

Framing = Literal["length", "chunked", "bad chunks", "cut", "says less", "says more"]
FRAMINGS: tuple[Framing, ...] = ("length", "chunked", "bad chunks", "cut", "says less", "says more")


@dataclass(frozen=True)
class Answer:
    status: int
    media_type: str
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Message:
    """A POST, or another change. `framing`: how the length of the body is declared, correctly or not."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    framing: Framing = "length"
    method: str = "POST"

    def with_headers(self, **headers: str) -> Message:
        return replace(self, headers={**self.headers, **headers})

    def send(self, url: str) -> Answer | None:
        """The response; None if the service closed the connection without one, as it may for an incomplete request."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        with socket.create_connection((parts.hostname, parts.port), timeout=SECONDS) as connection:
            try:
                connection.sendall(self._head())
                connection.sendall(self._content())
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before it was sent completely; there is a response
            return _read(connection)

    def __str__(self) -> str:
        head, content = self._head(), self.body
        shown = repr(content if len(content) <= 2000 else content[:2000] + b"...")
        return f"{head!r} {self.framing}, {len(content)} bytes: {shown}"

    def _head(self) -> bytes:
        said = {"says less": len(self.body) // 2, "says more": len(self.body) + 1000}.get(self.framing, len(self.body))
        length = "Transfer-Encoding: chunked" if "chunk" in self.framing else f"Content-Length: {said}"
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: localhost", "Connection: close", length]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    def _content(self) -> bytes:
        if self.framing == "cut":
            return self.body[: len(self.body) // 2]
        if "chunk" not in self.framing:
            return self.body
        pieces = [self.body[start : start + PIECE] for start in range(0, len(self.body), PIECE)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return chunks + (b"0\r\n\r\n" if self.framing == "chunked" else b"zz\r\nno chunk\r\n")


def _read(connection: socket.socket) -> Answer | None:
    response = HTTPResponse(connection, method="POST")
    try:
        response.begin()
        body = response.read()
    except (HTTPException, OSError):
        return None
    return Answer(response.status, response.headers.get_content_type(), body)
