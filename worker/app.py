"""The Celery app and its settings. `python -m worker` runs it."""

from __future__ import annotations

import functools
import os
import signal
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery, signals
from kombu.asynchronous import get_event_loop

from shared import logs
from shared.broker import QUEUE
from shared.config import Settings
from worker.launcher import Launcher

if TYPE_CHECKING:
    from worker.runtime import Runtime

POLL_SECONDS = 0.25  # longest wait of Redis for a message; a worker that stops must wait for the end of the last one

log = structlog.get_logger()


def create_app(settings: Settings) -> Celery:
    """The Celery app. Early acknowledgement, no prefetch: a message is a doorbell only, jobs are in the database."""
    app = Celery("gradq", broker=settings.broker_url, include=["worker.tasks"])
    app.conf.update(
        task_default_queue=QUEUE,
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        worker_disable_prefetch=True,  # a busy worker leaves the message to an idle one
        worker_pool="threads",
        worker_consumer="worker.consumer:Consumer",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,  # nothing controls a worker through the broker
        worker_send_task_events=False,
        broker_connection_max_retries=None,  # no limit: by default the worker ends after 100
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "polling_interval": POLL_SECONDS,
        },
    )
    return app


settings = Settings.from_env()
app = create_app(settings)
_runtimes: list[Runtime] = []  # one, from celeryd_init to worker_shutdown


def runtime() -> Runtime:
    return _runtimes[0]


@signals.celeryd_init.connect
def _begin(conf: Any, **_: Any) -> None:
    logs.configure(settings.log_level, settings.secrets)
    launcher = Launcher()
    launcher.begin()  # it imports torch while this process imports the rest
    from worker.runtime import Runtime

    _runtimes.append(Runtime(settings, launcher))
    conf.worker_concurrency = len(runtime().pool.slots)


@signals.celeryd_after_setup.connect
def _start(**_: Any) -> None:
    """Before the broker is connected: the worker polls the database, so it runs jobs also without a broker."""
    try:
        runtime().start()
    except Exception as error:  # Celery would log it and continue, with a worker that is not registered
        log.exception("worker not started")
        raise SystemExit(1) from error


@signals.worker_ready.connect
def _end_polls_at_signals(**_: Any) -> None:
    """Let a signal end the event loop's poll: Python resumes an interrupted one, so that a SIGTERM would have to wait
    up to a second for the loop. Called again after each reconnection, with a new loop or one without its readers."""
    if (hub := get_event_loop()) is not None:
        read, write = _wake_up_pipe()
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        hub.add_reader(read, os.read, read, 4096)


@functools.cache
def _wake_up_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    runtime().drain()


@signals.worker_shutdown.connect
def _end(**_: Any) -> None:
    runtime().stop()
