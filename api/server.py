"""How gunicorn serves the app: its configuration file, `gunicorn -c python:api.server`.

What gunicorn refuses by itself, as no HTTP or as too long, is a problem like any other. Connections are spread evenly,
or one process would run out of places for held requests while another has them free.
"""

from __future__ import annotations

import json
import mmap
import socket
import time
import uuid
from http import HTTPStatus
from itertools import count
from typing import Any

from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from api.access.auth import EXTENSION as AUTH
from api.access.auth import AccessPolicy
from api.http.errors import PROBLEM
from api.http.security_headers import HEADERS
from api.monitoring.request_counts import child_exit, on_exit, on_starting
from api.waiting.long_polling import EXTENSION as HELD
from api.waiting.long_polling import LongPolls
from shared.loopback import is_loopback_address

# what gunicorn reads
__all__ = [
    "child_exit",
    "limit_request_line",
    "on_exit",
    "on_starting",
    "post_worker_init",
    "pre_fork",
    "worker_class",
]

limit_request_line = 8190  # gunicorn's most: a filter by a few labels is long

MOST_PROCESSES = 1024
HEAD_START_SECONDS = 0.001  # what a process gives to the others for each connection that it has more than they
MOST_SECONDS = 0.02

REFUSALS: dict[type[errors.ParseException], HTTPStatus] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}
OURS = (
    errors.InvalidResponseHeader,
    errors.InvalidResponseHeaderName,
    errors.ConfigurationProblem,
)  # no client's fault

_connections = memoryview(mmap.mmap(-1, 4 * MOST_PROCESSES)).cast("i")  # of each process; all of them share these pages


class Worker(ThreadWorker):
    """Lets processes that hold fewer connections take the next one."""

    number: int  # its place among the processes, given before the fork

    def notify(self) -> None:
        """Called once a turn of the loop."""
        super().notify()
        _connections[self.number] = self.nr_conns

    def accept(self, listener: Any) -> None:
        if (more := self.nr_conns - min(_connections[: self.cfg.workers])) > 0:
            time.sleep(min(more * HEAD_START_SECONDS, MOST_SECONDS))
        super().accept(listener)
        _connections[self.number] = self.nr_conns

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Called for what never reaches the app."""
        if not isinstance(exc, errors.ParseException) or isinstance(exc, OURS):
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("refused: %s", exc)
        util.write_nonblock(client, refusal(REFUSALS.get(type(exc), HTTPStatus.BAD_REQUEST), str(exc)[:200]))


def refusal(status: HTTPStatus, detail: str) -> bytes:
    """A whole answer, after which the connection is closed."""
    code, request_id = status.phrase.lower().replace(" ", "_").replace("-", "_"), uuid.uuid4().hex
    body = {
        "type": f"/problems/{code.replace('_', '-')}",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
        "instance": "",  # the line that would name it could not be read
        "request_id": request_id,
    }
    content = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Connection: close",
        f"Content-Type: {PROBLEM}",
        f"Content-Length: {len(content)}",
        f"X-Request-Id: {request_id}",
        *(f"{name}: {value}" for name, value in HEADERS.items()),
    )
    return "\r\n".join([*head, "", ""]).encode() + content


worker_class = Worker


def pre_fork(server: Any, worker: Worker) -> None:
    taken = {other.number for other in server.WORKERS.values()}
    worker.number = next(number for number in count() if number not in taken)
    _connections[worker.number] = 0


def post_worker_init(worker: Worker) -> None:
    """What the app cannot know by itself: who can reach it, and when its process ends. Held requests end with that:
    SIGTERM makes `alive` false, and gunicorn then waits for them."""
    extensions = worker.app.callable.extensions
    access_policy: AccessPolicy = extensions[AUTH]
    access_policy.on_loopback = all(_is_private(listener) for listener in worker.sockets)
    held: LongPolls = extensions[HELD]
    held.watcher.stopping = lambda: not worker.alive


def _is_private(listener: Any) -> bool:
    """Whether this machine alone can reach the socket, whoever has bound it."""
    if listener.family == socket.AF_UNIX:
        return True
    return listener.family in (socket.AF_INET, socket.AF_INET6) and is_loopback_address(listener.getsockname()[0])
