"""Celery's consumer, accepting doorbell messages only; anything else is rejected without stopping the worker.

Celery itself rejects messages that are not JSON and unknown tasks. JSON of an unexpected shape would end its worker
and return to the queue, where it would end the next one; or it would occupy a slot for good. Only a client with the
broker's password could send such a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer

from shared.broker import DOORBELL

log = structlog.get_logger()


class Consumer(CeleryConsumer):
    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        handle = super().create_task_handler(*arguments, **options)

        def receive(message: Any) -> Any:
            try:
                check_message(message)
                return handle(message)
            except self.connection_errors:
                raise  # the broker failed, not the message
            except Exception as error:
                log.warning("message rejected", error=f"{type(error).__name__}: {error}"[:300])
                return message.reject_log_error(log, self.connection_errors)

        return receive


def check_message(message: Any) -> None:
    """Raises if it is not a doorbell message: ContentDisallowed if not JSON, ValueError, or an error of decoding."""
    arguments, named, _ = message.payload
    headers = message.headers
    if headers["task"] != DOORBELL or arguments or named or headers.get("eta") or headers.get("expires"):
        raise ValueError("not a doorbell message")
