"""Celery's consumer, for a broker that may fail in any way: it connects again, and the worker continues without it.

It accepts doorbell messages only. Messages of an unexpected shape would occupy a slot for good, or be counted as being
processed, until no more are delivered. Only a client with the broker's password could send such a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown

from shared.broker import DOORBELL
from worker.broker_state import STATE

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
SIGNAL_SECONDS = 0.1  # how often a pause looks for a signal to stop


class Consumer(CeleryConsumer):
    """Restarts itself after every error, with pauses from 0.25 to 5 s."""

    pause_seconds = FIRST_PAUSE_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Celery restarts the consumer after these, and ends the worker after all others. None is a reason to end:
        # this process runs jobs, and finds queued ones without the broker.
        self.connection_errors = (Exception,)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect once: `start` of the base class repeats it, with the pauses below."""
        conn.ensure_connection(max_retries=1, interval_start=0, callback=maybe_shutdown)
        self.first_connection_attempt = False
        return conn

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        self._pause(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        self._pause(exc)

    def _pause(self, error: Exception) -> None:
        """Wait before the next try, twice as long as the last time unless the broker has worked in between."""
        if STATE.describe()["ok"]:
            self.pause_seconds = FIRST_PAUSE_SECONDS
        STATE.failed(error)
        until = time.monotonic() + self.pause_seconds
        self.pause_seconds = min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)
        while (left := until - time.monotonic()) > 0:
            maybe_shutdown()
            time.sleep(min(left, SIGNAL_SECONDS))

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        handle = super().create_task_handler(*arguments, **options)

        def receive(message: Any) -> Any:
            try:
                check_message(message)
                return handle(message)
            except Exception as error:
                return reject(message, error)

        return receive

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        reject(message, exc)


def reject(message: Any, error: Exception) -> None:
    """Drop the message, so that the next one is delivered."""
    STATE.rejected(error)
    if not message.acknowledged:
        message.reject()


def check_message(message: Any) -> None:
    """Raises if it is not a doorbell message: ContentDisallowed if not JSON, ValueError, or an error of decoding."""
    arguments, named, _ = message.payload
    headers = message.headers
    if headers["task"] != DOORBELL or arguments or named or headers.get("eta") or headers.get("expires"):
        raise ValueError("not a doorbell message")
