"""Whether this worker receives doorbell messages, as its row reports it to the API, `gradq doctor` and /metrics."""

from __future__ import annotations

import threading
import time
from typing import Any

import structlog

from shared.broker import explain

LOG_SECONDS = 5.0  # a line about rejected messages at most this often: another program may send any number of them

log = structlog.get_logger()


class BrokerState:
    """`ok` from the first response of the broker to a request for a message until its next error.

    Counts since the start of the process: `errors` are those of the broker and of the connection to it, `rejected` are
    elements of the queue that were not doorbell messages.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ok = False
        self._detail: str | None = "not connected yet"
        self._errors = self._rejected = 0
        self._next_line = 0.0

    def responded(self) -> None:
        if self._ok:
            return
        with self._lock:
            self._ok, self._detail = True, None
        log.info("doorbell messages are received")

    def failed(self, error: BaseException) -> None:
        """Count an error, and log it if it is another than the last."""
        detail = explain(error)
        with self._lock:
            known = not self._ok and detail == self._detail
            self._ok, self._detail = False, detail
            self._errors += 1
        if not known:
            log.warning("no doorbell messages; queued jobs are found by polling the database", error=detail)

    def rejected(self, error: BaseException) -> None:
        """Count and log an element of the queue that was taken out and dropped."""
        with self._lock:
            self._rejected += 1
            total, now = self._rejected, time.monotonic()
            if now < self._next_line:
                return
            self._next_line = now + LOG_SECONDS
        log.warning("message rejected", error=f"{type(error).__name__}: {error}"[:300], rejected=total)

    def describe(self) -> dict[str, Any]:
        with self._lock:
            return {"ok": self._ok, "detail": self._detail, "errors": self._errors, "rejected": self._rejected}


STATE = BrokerState()  # a worker process has one broker
