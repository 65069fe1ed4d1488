"""gunicorn's configuration file: `gunicorn -c python:api.server`.

Requests that gunicorn itself refuses, as malformed or too long, are answered with a problem as well. Connections are
spread evenly over the processes, or one would run out of places for held requests while another has free ones.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
import time
import uuid
from http import HTTPStatus
from itertools import count
from typing import Any

from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker
from sqlalchemy.exc import SQLAlchemyError

from api.access.auth import EXTENSION as AUTH
from api.access.auth import AccessPolicy
from api.http.errors import PROBLEM
from api.http.security_headers import HEADERS
from api.monitoring import request_counts
from api.monitoring.request_counts import child_exit
from api.waiting.long_polling import EXTENSION as LONG_POLLS
from api.waiting.long_polling import LongPolls
from shared.config import Settings
from shared.db.schema_check import require_schema
from shared.errors import ConfigurationError, DatabaseAway
from shared.logs import LONGEST_PATH
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
    "worker_exit",
]

limit_request_line = 8190  # gunicorn's maximum: a filter with several labels is long

MAX_PROCESSES = 1024
# delay of accept() per connection that a process has more than the process with the fewest
HEAD_START_SECONDS = 0.001
MAX_DELAY_SECONDS = 0.02

REFUSALS: dict[type[errors.ParseException], HTTPStatus] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}
# not caused by the request
SERVER_ERRORS = (
    errors.InvalidResponseHeader,
    errors.InvalidResponseHeaderName,
    errors.ConfigurationProblem,
)

# number of connections per process, in memory shared by all processes
_connections = memoryview(mmap.mmap(-1, 4 * MAX_PROCESSES)).cast("i")


def on_starting(server: Any) -> None:
    """Import the app before the first fork, or each process would import it by itself, and Celery at its first submit.

    After the folder of the request counts is made, since the app imports prometheus_client.
    """
    _require_schema(server)
    request_counts.on_starting(server)
    import celery.app.base  # noqa: F401

    import api.app  # noqa: F401


def _require_schema(server: Any) -> None:
    """End this process with one line unless the database has the schema of this version. While it is away, the API
    starts, and checks it when it is asked whether it is ready."""
    try:
        require_schema(Settings.from_env().database)
    except ConfigurationError as error:
        server.log.error("API not started: %s", error.detail)
        raise SystemExit(1) from None
    except (DatabaseAway, SQLAlchemyError) as error:
        server.log.warning("the schema is not checked: %s", error)


class Worker(ThreadWorker):
    """Lets processes with fewer connections accept the next one."""

    number: int  # index in `_connections`, set before the fork

    def notify(self) -> None:
        """Called once per iteration of the worker's loop."""
        super().notify()
        _connections[self.number] = self.nr_conns

    def accept(self, listener: Any) -> None:
        if (more := self.nr_conns - min(_connections[: self.cfg.workers])) > 0:
            time.sleep(min(more * HEAD_START_SECONDS, MAX_DELAY_SECONDS))
        super().accept(listener)
        _connections[self.number] = self.nr_conns

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Called for requests that do not reach the app."""
        if not isinstance(exc, errors.ParseException) or isinstance(exc, SERVER_ERRORS):
            super().handle_error(req, client, addr, exc)
            return
        why = str(exc)[:LONGEST_PATH]  # it has the refused line or header
        self.log.warning("request refused: %s", why)
        util.write_nonblock(client, refusal(REFUSALS.get(type(exc), HTTPStatus.BAD_REQUEST), why))


def refusal(status: HTTPStatus, detail: str) -> bytes:
    """The bytes of a complete response with a problem; the connection is closed after it."""
    code, request_id = status.phrase.lower().replace(" ", "_").replace("-", "_"), uuid.uuid4().hex
    body = {
        "type": f"/problems/{code.replace('_', '-')}",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
        "instance": "",  # the path is unknown: the request line could not be parsed
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
    """Set in the app whether it listens on loopback addresses only, and when its process shuts down. Held requests end
    then: SIGTERM sets `alive` to False, and gunicorn waits for them."""
    extensions = worker.app.callable.extensions
    access_policy: AccessPolicy = extensions[AUTH]
    access_policy.on_loopback = all(_is_private(listener) for listener in worker.sockets)
    long_polls: LongPolls = extensions[LONG_POLLS]
    long_polls.notifier.stopping = lambda: not worker.alive


def _is_private(listener: Any) -> bool:
    """Whether the socket is reachable from this machine only, also if another process has bound it."""
    if listener.family == socket.AF_UNIX:
        return True
    return listener.family in (socket.AF_INET, socket.AF_INET6) and is_loopback_address(listener.getsockname()[0])


def worker_exit(server: Any, worker: Worker) -> None:
    """Called when a process ends, after its last response."""
    if isinstance(error := sys.exception(), SystemExit) and not error.code:
        end_at_once()


def on_exit(server: Any) -> None:
    """Called when gunicorn ends, after its processes."""
    request_counts.on_exit(server)
    if isinstance(sys.exception(), StopIteration | KeyboardInterrupt):  # a signal, not a failure with an exit code
        end_at_once()


def end_at_once() -> None:
    """End this process without unloading what it has imported: on a busy machine that takes more seconds than
    `gradq up` waits before it kills a part."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
