"""Keeps a running job's lease alive from a thread of its own, however long an upload takes; hears wishes on the way."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import structlog

from shared.config import Settings
from shared.db.database import Database
from shared.errors import DatabaseAway, LeaseLost
from shared.jobs import queue

LOOK_SECONDS = 0.5  # between two looks for a wish

log = structlog.get_logger()


class LeaseKeeper(threading.Thread):
    """Renews every third of the lease. `lost`: the row is another's, or we could not renew it in time."""

    def __init__(self, database: Database, lease: queue.Lease, settings: Settings) -> None:
        super().__init__(name=f"lease-{lease.job_id}", daemon=True)
        self.database, self.lease, self.seconds = database, lease, settings.lease_seconds
        self.lost, self.cancelled, self.paused = threading.Event(), threading.Event(), threading.Event()
        self.progress: dict[str, Any] | None = None  # the newest one is written with the next renewal
        self._done = threading.Event()
        self._renewed = time.monotonic()
        self._asked: float | None = None  # since when the database owes us an answer

    def __enter__(self) -> LeaseKeeper:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(min(LOOK_SECONDS, self.seconds / 6)):
            try:
                self._look()
            except LeaseLost:
                self.lost.set()
                return
            except Exception as error:  # whatever it was: a lease that nobody renews is lost
                if not isinstance(error, DatabaseAway):
                    log.exception("lease keeper failed", job_id=self.lease.job_id)
                log.warning("lease not renewed", job_id=self.lease.job_id, error=str(error))
                if time.monotonic() - self._renewed > self.seconds:
                    self.lost.set()
                    return
            self._asked = None

    def is_lost(self) -> bool:
        """Also true when the database has not said a word for the length of a lease: by then another may own the job.

        A worker that was stopped all the while has not asked; it asks when it wakes up, and may find its lease intact.
        """
        asked = self._asked
        if asked is not None and time.monotonic() - asked > self.seconds:
            self.lost.set()
        return self.lost.is_set()

    def _look(self) -> None:
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
            self.cancelled.set()
        elif requested == "pause":
            self.paused.set()
        else:
            self.paused.clear()  # this wish can be taken back
