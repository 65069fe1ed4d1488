"""What one owner with a `submit` token can try against a service: one small class each.

Each `strike` is a burst that is bounded in bytes, and is repeated until the time is over. What it sends is small where
that shows the growth; the limits of the service, not of this file, decide what happens. Refusals are expected.
"""

from __future__ import annotations

import io
import json
import socket
import threading
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import numpy as np
from support.images import npz, picture

CONNECTIONS = 300
RATE_PAUSE_SECONDS = 0.05  # between two refused requests


@dataclass
class Cost:
    """What one kind of abuse has sent and received."""

    requests: int = 0
    sent: int = 0
    received: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


class Abuse:
    """One kind. `target` is a finished job of the same owner."""

    name: ClassVar[str]

    def __init__(self, url: str, token: str, target: str) -> None:
        self.url, self.token, self.target = url, token, target
        self.cost = Cost()
        self.over = threading.Event()
        self.prepare()

    def prepare(self) -> None:
        """Make what every strike sends."""

    def strike(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        """Strike until `over`; errors of connections are counted, since the service may close them."""
        with httpx2.Client(base_url=self.url, timeout=30, headers={"Authorization": f"Bearer {self.token}"}) as http:
            self.http = http
            while not self.over.is_set():
                try:
                    self.strike()
                except (httpx2.HTTPError, OSError) as error:
                    self.cost.statuses[type(error).__name__] += 1
                    self.over.wait(RATE_PAUSE_SECONDS)

    def call(self, method: str, path: str, content: bytes = b"", **options: Any) -> httpx2.Response:
        response = self.http.request(method, path, content=content or None, **options)
        self.cost.requests += 1
        self.cost.sent += len(content)
        self.cost.received += len(response.content)
        self.cost.statuses[str(response.status_code)] += 1
        if response.status_code in (429, 503):
            self.over.wait(RATE_PAUSE_SECONDS)
        return response

    def post(self, path: str, content: bytes, media_type: str = "application/json", **headers: str) -> httpx2.Response:
        return self.call("POST", path, content, headers={"Content-Type": media_type, **headers})

    def connect(self, sent: bytes) -> socket.socket:
        """A connection with a small receive buffer, on which `sent` was sent and nothing is read."""
        where = urlsplit(self.url)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(5)
        connection.connect((where.hostname, where.port))
        connection.sendall(sent)
        self.cost.requests += 1
        self.cost.sent += len(sent)
        return connection

    def head(self, method: str, path: str, *headers: str) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self.token}", *headers]
        return ("\r\n".join(lines) + "\r\n").encode()


class HeldConnections(Abuse):
    """Opens CONNECTIONS, keeps them for `seconds`, and begins again; a closed one is replaced."""

    seconds: ClassVar[float] = 8.0

    def opening(self) -> bytes:
        raise NotImplementedError

    def tend(self, connections: list[socket.socket]) -> None:
        """Called once per second."""

    def strike(self) -> None:
        connections: list[socket.socket] = []
        try:
            while len(connections) < CONNECTIONS and not self.over.is_set():
                connections.append(self.connect(self.opening()))
            until = time.monotonic() + self.seconds
            while time.monotonic() < until and not self.over.wait(1.0):
                self.tend(connections)
            for connection in connections:
                connection.setblocking(False)
                self.cost.statuses[status_of(connection)] += 1
        finally:
            for connection in connections:
                connection.close()


def status_of(connection: socket.socket) -> str:
    try:
        return connection.recv(12)[9:].decode(errors="replace") or "closed"
    except BlockingIOError:
        return "silent"
    except OSError:
        return "reset"


class HalfSent(HeldConnections):
    """requests whose head never ends; they need no token"""

    name = "half-sent"

    def opening(self) -> bytes:
        return b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


class Unclosed(HeldConnections):
    """requests that are answered, on connections that the client does not close"""

    name = "unclosed"
    seconds = 2.0

    def opening(self) -> bytes:
        return b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class SlowBodies(HeldConnections):
    """uploads of one byte per second"""

    name = "slow-bodies"

    def opening(self) -> bytes:
        kind = "Content-Type: multipart/form-data; boundary=b"
        return self.head("POST", "/v1/datasets", kind, "Content-Length: 9000000") + b"\r\n--b\r\n"

    def tend(self, connections: list[socket.socket]) -> None:
        for connection in connections:
            try:
                self.cost.sent += connection.send(b"x")
            except OSError:
                self.cost.statuses["cut"] += 1


class StalledDownloads(HeldConnections):
    """downloads that are not read"""

    name = "stalled-downloads"

    def opening(self) -> bytes:
        return self.head("GET", f"/v1/jobs/{self.target}/artifacts.zip") + b"\r\n"


class Streams(HeldConnections):
    """event streams that are not read"""

    name = "streams"

    def opening(self) -> bytes:
        return self.head("GET", "/v1/jobs?limit=100", "Accept: text/event-stream") + b"\r\n"


class Predictions(Abuse):
    """predictions with as many numbers as a body may hold"""

    name = "predictions"

    def prepare(self) -> None:
        image = [[0.5] * 8] * 8
        self.body = json.dumps({"images": [image] * 3000}).encode()

    def strike(self) -> None:
        self.post(f"/v1/jobs/{self.target}/predict", self.body)


class DeepZips(Abuse):
    """archives with images below thousands of folders"""

    name = "deep-zips"

    def prepare(self) -> None:
        packed = io.BytesIO()
        image = picture(np.zeros((4, 4), np.uint8))
        with zipfile.ZipFile(packed, "w") as archive:
            for number in range(12):
                archive.writestr("a/" * 2000 + f"{number % 2}/{number}.png", image)
        self.file = packed.getvalue()

    def strike(self) -> None:
        body = form(self.file, "deep.zip")
        self.post("/v1/datasets", body, "multipart/form-data; boundary=b")


class DuplicateKeys(Abuse):
    """an object with thousands of keys, the last one twice"""

    name = "duplicate-keys"

    def prepare(self) -> None:
        keys = [f'"k{number}":0' for number in range(20_000)]
        self.body = ("{" + ",".join([*keys, keys[-1]]) + "}").encode()

    def strike(self) -> None:
        self.post("/v1/jobs", self.body)


class ErrorFloods(Abuse):
    """specs with thousands of wrong fields, each of which is an error in the answer"""

    name = "error-floods"

    def prepare(self) -> None:
        self.body = json.dumps({f"wrong_{number}": "x" * 40 for number in range(8000)}).encode()

    def strike(self) -> None:
        self.post("/v1/jobs", self.body)


class KeptAnswers(Abuse):
    """calls that change nothing, each with a new Idempotency-Key"""

    name = "kept-answers"

    def strike(self) -> None:
        key = {"Idempotency-Key": uuid4().hex}
        self.post("/v1/jobs?dry_run=true", b"{}", **key)
        images = json.dumps({"images": [[[0.5] * 8] * 8] * 200}).encode()
        self.post(f"/v1/jobs/{self.target}/predict", images, **{"Idempotency-Key": uuid4().hex})


class Uploads(Abuse):
    """datasets that are all different, 4 MB each"""

    name = "uploads"

    def prepare(self) -> None:
        self.random = np.random.default_rng()

    def strike(self) -> None:
        images = self.random.integers(0, 256, (5000, 28, 28), dtype=np.uint8)
        file = npz(x=images, y=np.arange(5000) % 10)
        self.post("/v1/datasets", form(file, "many.npz"), "multipart/form-data; boundary=b")


class Jobs(Abuse):
    """jobs with the highest priority, that take every slot"""

    name = "jobs"

    def strike(self) -> None:
        spec = {"dataset": "digits", "architecture": "linear", "epochs": 200, "priority": 100}
        self.post("/v1/jobs", json.dumps(spec).encode())


class LargeLogs(Abuse):
    """jobs with a line of the log per step, and a checkpoint at every opportunity"""

    name = "large-logs"

    def strike(self) -> None:
        spec = {
            "dataset": "digits",
            "architecture": "linear",
            "batch_size": 1,
            "epochs": 100,
            "checkpoint": {"every_seconds": 1e-9, "keep_last": 100},
        }
        if self.post("/v1/jobs", json.dumps(spec).encode()).status_code == 422:
            spec["checkpoint"] = {"every_seconds": 1, "keep_last": 100}
            self.post("/v1/jobs", json.dumps(spec).encode())
        self.over.wait(1.0)


class RefusedCalls(Abuse):
    """calls that the token's scope does not allow, each of which is recorded"""

    name = "refused-calls"

    def strike(self) -> None:
        self.call("GET", "/v1/audit")
        self.call("GET", "/v1/jobs/" + "x" * 4000)


class WideReads(Abuse):
    """the largest pages of lists, logs and curves"""

    name = "wide-reads"

    def strike(self) -> None:
        self.call("GET", "/v1/jobs?limit=100")
        self.call("GET", f"/v1/jobs/{self.target}/events?limit=1000")
        self.call("GET", f"/v1/jobs/{self.target}/metrics?max_points=1000000")


def form(file: bytes, name: str) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + file + b"\r\n--b--\r\n"


KINDS: dict[str, type[Abuse]] = {
    kind.name: kind
    for kind in (
        *(HalfSent, Unclosed, SlowBodies, StalledDownloads, Streams),
        *(Predictions, DeepZips, DuplicateKeys, ErrorFloods, KeptAnswers),
        *(Uploads, Jobs, LargeLogs, RefusedCalls, WideReads),
    )
}
