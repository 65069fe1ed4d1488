"""gunicorn's configuration file: `gunicorn -c python:api.server`.

Requests that gunicorn itself refuses, as malformed or too long, are answered with a problem as well. Connections are
spread evenly over the processes, or one would run out of places for held requests while another has free ones.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from typing import Any

import fsspec
from sqlalchemy.exc import SQLAlchemyError

from api.access.auth import EXTENSION as AUTH
from api.access.auth import AccessPolicy
from api.connections.worker import Worker
from api.monitoring import request_counts
from api.waiting.long_polling import EXTENSION as LONG_POLLS
from api.waiting.long_polling import LongPolls
from shared import lean_imports
from shared.config import Settings
from shared.db.schema_check import require_schema
from shared.errors import ConfigurationError, DatabaseAway
from shared.loopback import is_loopback_address

# what gunicorn reads
__all__ = [
    "child_exit",
    "forwarder_headers",
    "limit_request_line",
    "on_exit",
    "on_starting",
    "post_worker_init",
    "pre_fork",
    "when_ready",
    "worker_class",
    "worker_exit",
]

forwarder_headers = ""  # of no proxy: SCRIPT_NAME and PATH_INFO would replace the path that was checked
limit_request_line = 8190  # gunicorn's maximum: a filter with several labels is long


MOST_FILES = 8192  # open files of one process

# How long a thread may hold the interpreter while others wait for it; Python's default is 0.005. With a hundred threads
# that compute, a request that needs the interpreter three times for a moment would wait over a second.
SWITCH_SECONDS = 0.0005

# New objects until a collection, and collections until one of the older objects; Python's defaults are 700 and 10. A
# request leaves almost nothing that only a collection frees, and they took 3 % of its time.
COLLECT_AFTER = (10_000, 20, 20)


def on_starting(server: Any) -> None:
    """Import and make the app before the first fork, or each process would do it by itself, and import Celery at its
    first submit.

    After the folder of the request counts is made, since the app imports prometheus_client.
    """
    server.ignores_hangups = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as under nohup
    _require_schema(server)
    _raise_limit_of_files()
    request_counts.on_starting(server)
    import celery.app.base  # noqa: F401

    import api.app  # noqa: F401

    _make_app(server)
    lean_imports.end()  # the processes share this memory while no collection writes to it


def _make_app(server: Any) -> None:
    """Make the app, which all processes then share: one of its own would take 19 MB of each. Not with a store over the
    network, whose library starts a thread, which a forked process does not have. After an error, each process tries it
    itself and reports it."""
    before = set(threading.enumerate())
    with contextlib.suppress(Exception):
        if fsspec.utils.get_protocol(Settings.from_env().artifacts) == "file":
            server.app.wsgi()
    for thread in set(threading.enumerate()) - before:
        thread.join(1)  # the counters of requests have timers of 10 ms, which would be lost in a forked process


def when_ready(server: Any) -> None:
    """SIGHUP, which a terminal that is closed sends, stops the API as SIGTERM does, unless it was ignored from the
    start. gunicorn would start its processes again: with the same settings, which are in the environment."""

    def stop(_signal: int, frame: Any) -> None:
        server.signal(signal.SIGTERM, frame)

    signal.signal(signal.SIGHUP, signal.SIG_IGN if server.ignores_hangups else stop)


def _raise_limit_of_files() -> None:
    """Allow as many open files as the system lets this process have, up to MOST_FILES: often it begins with 1024, or
    256, which are fewer than the connections that it may have."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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


worker_class = Worker


def pre_fork(server: Any, worker: Worker) -> None:
    worker.take_number({other.number for other in server.WORKERS.values()})


def child_exit(server: Any, worker: Worker) -> None:
    worker.leave_number()
    request_counts.child_exit(server, worker)


def post_worker_init(worker: Worker) -> None:
    """Set in the app whether it listens on loopback addresses only, and when its process shuts down. Held requests end
    then: SIGTERM sets `alive` to False, and gunicorn waits for them."""
    extensions = worker.app.callable.extensions
    access_policy: AccessPolicy = extensions[AUTH]
    access_policy.on_loopback = all(_is_private(listener) for listener in worker.sockets)
    long_polls: LongPolls = extensions[LONG_POLLS]
    long_polls.notifier.stopping = lambda: not worker.alive
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # a full collection looks at what requests have left, not at every module, for some 50 ms
    gc.set_threshold(*COLLECT_AFTER)


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
