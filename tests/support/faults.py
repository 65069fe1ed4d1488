"""Services that fail on demand, on real sockets: a server with scripted responses, proxies that cut connections."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request as received."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")


Step = Callable[[Asked], bytes] | bytes  # the bytes sent in response; then the connection is closed


@dataclass
class FaultyServer:
    """One step per request, in order; the last one repeats. An empty response cuts the connection."""

    steps: list[Step]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def take(self, asked: Asked) -> bytes:
        self.asked.append(asked)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step if isinstance(step, bytes) else step(asked)


@contextmanager
def faulty(*steps: Step) -> Iterator[FaultyServer]:
    """A server at `url` that responds by `steps`."""
    served = FaultyServer(list(steps))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            understood = self.raw_requestline and self.parse_request()
            self.close_connection = True
            if not understood:
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                answer = served.take(Asked(self.command, url.path, dict(parse_qsl(url.query)), headers, body))
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- answers ----------------------------------------------------------------------------------------------------------

CUT = b""


def answers(body: Any, status: int = 200, **headers: str) -> bytes:
    """A whole response: bytes as they are, anything else as JSON. `Retry_After="1"` is the header Retry-After."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return (
        f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content
    )


def problem(status: int, code: str, detail: str = "no", errors: Any = None, **headers: str) -> bytes:
    body = {
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": "r1",
        "state": "queued",
        "allowed": ["cancel"],
    }
    return answers(body | ({"errors": errors} if errors else {}), status, **headers)


def cut(answer: bytes, body_bytes: int) -> bytes:
    """The response, cut after `body_bytes` bytes of its body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n" + body[:body_bytes]


def stream(*events: dict[str, Any], end: str | None = "succeeded", chunked: bool = True) -> bytes:
    """A response of server-sent events; without `end` it breaks off after the last one."""
    text = "retry: 1000\n\n: hello\n\n"
    text += "".join(f"id: {row['seq']}\nevent: {row['type']}\ndata: {json.dumps(row)}\n\n" for row in events)
    text += f'event: end\ndata: {{"status": "{end}"}}\n\n' if end else "id: 99\nevent: metr"
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    if not chunked:
        return f"{head}\r\n{text}".encode()
    last = "0\r\n\r\n" if end else ""
    return f"{head}Transfer-Encoding: chunked\r\n\r\n{len(text.encode()):x}\r\n{text}\r\n{last}".encode()


# --- a proxy ----------------------------------------------------------------------------------------------------------


@dataclass
class CuttingProxy:
    """Forwards requests to `upstream`. The response to a new Idempotency-Key is dropped, the others are forwarded."""

    upstream: tuple[str, int]
    url: str = ""
    cuts: int = 0
    _seen: set[bytes] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, near: socket.socket) -> None:
        """Handle one connection with one request."""
        with near, socket.create_connection(self.upstream) as far:
            request = _read_message(near)
            far.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
            answer = _read_all(far)  # the request has taken effect by now
            if not self._is_to_be_cut(request):
                near.sendall(answer)

    def _is_to_be_cut(self, request: bytes) -> bool:
        head = request.partition(b"\r\n\r\n")[0].lower()
        key = next((line for line in head.split(b"\r\n") if line.startswith(b"idempotency-key:")), None)
        with self._lock:
            if key is None or key in self._seen:
                return False
            self._seen.add(key)
            self.cuts += 1
            return True


@dataclass
class ShakyProxy:
    """Forwards bytes both ways, and disconnects after `draw()` bytes from upstream."""

    upstream: tuple[str, int]
    draw: Callable[[], int]
    url: str = ""
    cuts: int = 0

    def serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(self.upstream) as far:
            upward = threading.Thread(target=_forward, args=(near, far))
            upward.start()
            if not _forward(far, near, self.draw()):
                self.cuts += 1
            for end in (near, far):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            upward.join()


def _forward(source: socket.socket, target: socket.socket, most: int = 1 << 40) -> bool:
    """Forward up to `most` bytes. False if they were cut at the limit."""
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece[:most])
            most -= len(piece)
            if most <= 0:
                return False
        target.shutdown(socket.SHUT_WR)
    return True


def shaky(url: str, draw: Callable[[], int]) -> AbstractContextManager[ShakyProxy]:
    return _listening(ShakyProxy(_address(url), draw))


def cutting(url: str) -> AbstractContextManager[CuttingProxy]:
    return _listening(CuttingProxy(_address(url)))


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


P = TypeVar("P", CuttingProxy, ShakyProxy)


@contextmanager
def _listening(proxy: P) -> Iterator[P]:
    listener = socket.create_server(("127.0.0.1", 0))
    proxy.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    serving: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            serving.append(threading.Thread(target=proxy.serve, args=(near,)))
            serving[-1].start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for one in [thread, *serving]:
            one.join()


def _read_message(connection: socket.socket) -> bytes:
    """A request with its body, read by its Content-Length."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += connection.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def _read_all(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found
