"""The Celery app and its settings. `python -m worker` runs it."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import celery.apps.worker
import structlog
from celery import Celery, signals
from kombu.asynchronous import get_event_loop

from shared import lean_imports, logs
from shared.broker import QUEUE
from shared.config import Settings
from shared.errors import GradqError
from worker import startup, transport
from worker.launcher import Launcher

if TYPE_CHECKING:
    from worker.runtime import Runtime

POLL_SECONDS = 0.25  # longest wait of Redis for a message; a worker that stops must wait for the end of the last one

# a wrong setting, a schema of another version, a folder that cannot be written, a store whose library is not installed
OPERATORS_ERRORS = (GradqError, OSError, ImportError)

log = structlog.get_logger()


def create_app(settings: Settings) -> Celery:
    """The Celery app. Early acknowledgement: a message is a doorbell only, jobs are in the database. One thread for
    tasks, which start the threads that run jobs; worker/transport.py leaves messages to idle workers."""
    transport.register()
    app = Celery("gradq", broker=settings.broker_url, include=["worker.tasks"])
    app.conf.update(
        task_default_queue=QUEUE,
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        worker_pool="threads",
        worker_concurrency=1,
        worker_consumer="worker.consumer:Consumer",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,  # nothing controls a worker through the broker
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # those with late acknowledgement; there are none
        worker_enable_prefetch_count_reduction=False,
        broker_connection_retry_on_startup=True,  # worker/consumer.py has the pauses between the tries
        broker_transport_options={
            "ack_emulation": False,  # a message that is lost costs at most a poll; so no keys `unacked*` in Redis
            "socket_timeout": 5,  # of a response that has begun, in the thread that also handles signals
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "polling_interval": POLL_SECONDS,
        },
    )
    app.Worker = app.subclass_with_self(Worker)
    return app


class Worker(celery.apps.worker.Worker):
    """Celery's worker, of which every end drains the jobs first, and which a SIGHUP stops as a SIGTERM does."""

    def install_platform_tweaks(self, worker: Any) -> None:
        """A terminal that is closed sends SIGHUP, which would end the process at once; without a terminal Celery would
        start another program in its place. A SIGHUP that was ignored from the start, as under nohup, stays ignored."""
        before = signal.getsignal(signal.SIGHUP)
        super().install_platform_tweaks(worker)
        signal.signal(signal.SIGHUP, before if before == signal.SIG_IGN else signal.getsignal(signal.SIGTERM))
        startup.reached(startup.Step.HANDLES_SIGNALS)

    def stop(self, *arguments: Any, **named: Any) -> None:
        _drain()
        super().stop(*arguments, **named)

    def terminate(self, in_sighandler: bool = False) -> None:
        """Called instead of `stop` after SIGQUIT and the like. Celery's would not wait for the jobs, nor send
        `worker_shutdown`; a stop takes little longer than the grace period of the jobs."""
        self.stop(in_sighandler)


settings = Settings.from_env()
app = create_app(settings)
_runtimes: list[Runtime] = []  # one, from celeryd_init to worker_shutdown


def runtime() -> Runtime:
    return _runtimes[0]


@contextlib.contextmanager
def _errors_end_the_process() -> Iterator[None]:
    """End the process with exit code 1 after an error, with one line if the operator can correct it.

    Celery logs exceptions of its signals' receivers and continues, with a worker that is not registered.
    """
    try:
        yield
    except OPERATORS_ERRORS as error:
        log.error("worker not started", error=f"{error}" or type(error).__name__)
        raise SystemExit(1) from None
    except Exception as error:
        log.exception("worker not started")
        raise SystemExit(1) from error


def _say(text: str, stream: Any = None) -> None:
    """Celery's own writes its banner and "Warm shutdown" with os.write(), the latter in the handler of SIGTERM: with a
    pipe that is full and not read the worker would never stop."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(f"{text}\n")


@signals.celeryd_init.connect
def _begin(conf: Any, **_: Any) -> None:
    logs.configure(settings.log_level, settings.secrets)
    celery.apps.worker.safe_say = _say
    with _errors_end_the_process():
        launcher = Launcher()
        launcher.begin()  # it imports torch while this process imports the rest
        from worker.runtime import Runtime

        _runtimes.append(Runtime(settings, launcher))
        transport.Channel.takes_messages = staticmethod(runtime().takes_jobs)
        runtime().pool.on_free.append(_wake_up)


@signals.celeryd_after_setup.connect
def _start(**_: Any) -> None:
    """Before the broker is connected: the worker polls the database, so it runs jobs also without a broker."""
    with _errors_end_the_process():
        runtime().start()
    lean_imports.end()


@signals.worker_ready.connect
def _let_polls_end(**_: Any) -> None:
    """Let a signal, or a slot that has become free, end the event loop's poll: a SIGTERM and the next message would
    wait for it up to a second. Python resumes a poll that a signal interrupts. Called again after each reconnection,
    with a new loop or one without its readers."""
    if (hub := get_event_loop()) is not None:
        read, write = _wake_up_pipe()
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        hub.add_reader(read, os.read, read, 4096)


def _wake_up() -> None:
    with contextlib.suppress(BlockingIOError):  # the pipe is full: the loop will wake up
        os.write(_wake_up_pipe()[1], b"\0")


@functools.cache
def _wake_up_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


@signals.worker_shutting_down.connect
def _drain(**_: Any) -> None:
    """Called before anything waits for the threads that run jobs; after a failed start too, without a runtime."""
    for started in _runtimes:
        started.drain()


@signals.worker_shutdown.connect
def _end(**_: Any) -> None:
    """Called after a failed start too, when there may be no runtime."""
    for started in _runtimes:
        started.stop()
