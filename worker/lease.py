"""Renews a running job's lease in a thread of its own, however long an upload takes, and reads requests to stop it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
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

    `lost` is set when the row belongs to another attempt, or when it could not be renewed in time.
    """

    def __init__(self, database: Database, lease: queue.Lease, settings: Settings) -> None:
        super().__init__(f"lease-{lease.job_id}", pause=min(POLL_SECONDS, settings.lease_seconds / 6))
        self.database, self.lease, self.seconds = database, lease, settings.lease_seconds
        self.lost = threading.Event()
        self.cancel_requested, self.pause_requested = threading.Event(), threading.Event()
        self.progress: dict[str, Any] | None = None  # the newest, written with the next renewal
        self._renewed = time.monotonic()
        self._asked: float | None = None  # start of the query in flight, None if there is none

    def __enter__(self) -> LeaseKeeper:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stopped.set()
        self.join()

    def first_wait(self) -> float:
        return self.pause

    def round(self) -> float:
        self._poll()
        self._asked = None
        return self.pause

    def failed(self, error: Exception) -> float | None:
        """Retry after an error of any kind until the lease would have run out."""
        gone = isinstance(error, LeaseLost)
        if not gone:
            if not isinstance(error, DatabaseAway):
                log.error("lease keeper failed", job_id=self.lease.job_id, exc_info=error)
            log.warning("lease not renewed", job_id=self.lease.job_id, error=str(error))
        if gone or time.monotonic() - self._renewed > self.seconds:
            self.lost.set()
            return None
        self._asked = None
        return self.pause

    def is_lost(self) -> bool:
        """Also true when the database has not responded for one lease period: another worker may own the job by then.

        The period counts from the start of a query, not from the last renewal: a worker process that was suspended
        has no query in flight, queries the row when it is resumed, and may find its lease intact.
        """
        asked = self._asked
        if asked is not None and time.monotonic() - asked > self.seconds:
            self.lost.set()
        return self.lost.is_set()

    def read(self, query: Callable[[Session], T]) -> T:
        """The result of `query` in a read transaction, retried while the database is away. Raises LeaseLost."""
        return self._retry(self.database.read, query)

    def write(self, change: Callable[[Session], T]) -> T:
        """The result of `change` in one transaction, retried while the database is away. Raises LeaseLost."""
        return self._retry(self.database.write, change)

    def _retry(self, transaction: Callable[[], AbstractContextManager[Session]], work: Callable[[Session], T]) -> T:
        while True:
            try:
                with transaction() as session:
                    return work(session)
            except DatabaseAway:
                if self.lost.wait(RETRY_SECONDS) or self.is_lost():
                    raise LeaseLost(self.lease.job_id) from None

    def _poll(self) -> None:
        progress = self.progress
        self._asked = asked = time.monotonic()
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
