"""Celery's consumer, which takes bells and nothing else: what is none is thrown away, and the next bell is heard.

Celery refuses what is not JSON and tasks that it does not know. JSON of another shape than it expects ends its worker,
and goes back into the queue for the next one to end; or it keeps a place that is then missing. Only who has the
broker's password could send such a thing.
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
                raise  # the broker's fault, and not the message's
            except Exception as error:
                log.warning("message refused", error=f"{type(error).__name__}: {error}"[:300])
                return message.reject_log_error(log, self.connection_errors)

        return receive


def check_message(message: Any) -> None:
    """Raises whatever reading it raises, ContentDisallowed for all but JSON, or ValueError."""
    arguments, named, _ = message.payload
    headers = message.headers
    if headers["task"] != DOORBELL or arguments or named or headers.get("eta") or headers.get("expires"):
        raise ValueError("this is no bell")
