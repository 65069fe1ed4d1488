"""Renews a running job's lease in a thread of its own, however long an upload takes, and reads requests to stop it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import structlog
from sqlalchemy.orm import Session

from shared.config import Settings
from shared.db.database import Database
from shared.errors import DatabaseAway, LeaseLost
from shared.jobs import queue
from shared.maintenance import MaintenanceThread

POLL_SECONDS = 0.5  # between two reads of the requests to stop
RETRY_SECONDS = 0.5  # between two tries at a database that is away

log = structlog.get_logger()
T = TypeVar("T")


class LeaseKeeper(MaintenanceThread):
    """Renews every third of the lease, and shows the requests on the row; only a pause request can be withdrawn.

    `lost` is set when the row belongs to another attempt. While the database is away the job goes on, however long that
    takes: nobody else can write either, or if another worker can and has requeued the job, its row says so later.
    `draining`: set when the worker shuts down; then a database that is away for a lease period is not waited for.
    """

    def __init__(
        self, database: Database, lease: queue.Lease, settings: Settings, draining: threading.Event | None = None
    ) -> None:
        super().__init__(f"lease-{lease.job_id}", pause=min(POLL_SECONDS, settings.lease_seconds / 6))
        self.database, self.lease, self.seconds = database, lease, settings.lease_seconds
        self.lost = threading.Event()
        self.cancel_requested, self.pause_requested = threading.Event(), threading.Event()
        self.progress: dict[str, Any] | None = None  # the newest, written with the next renewal
        self.first: Callable[[], None] = lambda: None  # called before each round, also while the database is away
        self.each_round: Callable[[], None] = lambda: None  # called after each renewal and each read of the requests
        self._draining = draining or threading.Event()
        self._failing_from: float | None = None
        self._renewed = time.monotonic()

    def stop(self) -> None:
        """End the thread, if it was started, and all that still waits for the database to be back."""
        self.stopped.set()
        if self.ident is not None:
            self.join()
        self.lost.set()

    def first_wait(self) -> float:
        return self.pause

    def round(self) -> float:
        self.first()
        self._poll()
        self._failing_from = None
        self.each_round()
        return self.pause

    def failed(self, error: Exception) -> float | None:
        """Retry: while the database is away, however long that takes; after any other error for a lease period."""
        if isinstance(error, LeaseLost):
            self._lose()
            return None
        if isinstance(error, DatabaseAway):
            self._failing_from = None
            log.warning("lease not renewed", job_id=self.lease.job_id, error=str(error))
            return self.pause
        log.error("lease keeper failed", job_id=self.lease.job_id, exc_info=error)
        self._failing_from = self._failing_from or time.monotonic()
        if time.monotonic() - self._failing_from > self.seconds:
            self._lose()
            return None
        return self.pause

    def _lose(self) -> None:
        self.lost.set()
        self.first()  # there is no further round

    def is_lost(self) -> bool:
        return self.lost.is_set()

    def read(self, query: Callable[[Session], T]) -> T:
        """The result of `query` in a read transaction, retried while the database is away. Raises LeaseLost."""
        return self._retry(self.database.read, query)

    def write(self, change: Callable[[Session], T]) -> T:
        """The result of `change` in one transaction, retried while the database is away. Raises LeaseLost."""
        return self._retry(self.database.write, change)

    def _retry(self, transaction: Callable[[], AbstractContextManager[Session]], work: Callable[[Session], T]) -> T:
        began = time.monotonic()
        while True:
            try:
                with transaction() as session:
                    return work(session)
            except DatabaseAway:
                if self.lost.wait(RETRY_SECONDS) or self._ends_waiting(began):
                    raise LeaseLost(self.lease.job_id) from None

    @contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Hold a lock that another thread may hold while it waits for the database, which is waited for as `read` and
        `write` do. Raises LeaseLost."""
        began = time.monotonic()
        while not lock.acquire(timeout=RETRY_SECONDS):
            if self.lost.is_set() or self._ends_waiting(began):
                raise LeaseLost(self.lease.job_id)
        try:
            yield
        finally:
            lock.release()

    def _ends_waiting(self, began: float) -> bool:
        """Whether the worker shuts down and the database was waited for long enough."""
        return self._draining.is_set() and time.monotonic() - began > self.seconds

    def _poll(self) -> None:
        progress = self.progress
        asked = time.monotonic()
        if progress is not None or asked - self._renewed >= self.seconds / 3:
            with self.database.write() as session:
                queue.renew(session, self.lease, self.seconds, progress)
            self._renewed = asked
            if self.progress is progress:
                self.progress = None
        with self.database.read() as session:
            requested = queue.requested_stop(session, self.lease)
        if requested == "cancel":
            self.cancel_requested.set()
        elif requested == "pause":
            self.pause_requested.set()
        else:
            self.pause_requested.clear()
