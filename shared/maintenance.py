"""Threads that a process needs for as long as it lives: each either goes on after an error, or ends its process."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod

import structlog

EXIT_CODE = 70  # EX_SOFTWARE; gunicorn, `gradq up` and Docker start the process again

log = structlog.get_logger()


class MaintenanceThread(threading.Thread):
    """Calls `round` again and again until `stopped` is set. `pause`: seconds after a round that raised.

    An error in a round is handed to `failed`. If that raises too, the process ends with EXIT_CODE: it would go on
    without the thread, and look alive.
    """

    def __init__(self, name: str, pause: float) -> None:
        super().__init__(name=name, daemon=True)
        self.pause = pause
        self.stopped = threading.Event()

    @abstractmethod
    def round(self) -> float | None:
        """One round. Returns the seconds until the next; None ends the thread."""

    def failed(self, error: Exception) -> float | None:
        """Called with what a round raised. Returns as `round` does."""
        log.error("a round of maintenance failed", thread=self.name, exc_info=error)
        return self.pause

    def first_wait(self) -> float:
        """Seconds until the first round."""
        return 0.0

    def run(self) -> None:
        try:
            wait: float | None = self.first_wait()
            while wait is not None and not self.stopped.wait(wait):
                try:
                    wait = self.round()
                except Exception as error:
                    wait = self.failed(error)
        except BaseException:
            end_process(self.name)


def end_process(thread: str) -> None:
    """End this process at once, with EXIT_CODE. Trainers notice it and end as well; their jobs resume elsewhere."""
    try:
        log.critical("a maintenance thread ended; so does this process", thread=thread, exc_info=True)
    finally:
        os._exit(EXIT_CODE)
