"""Notifies waiting requests of changes of their jobs: one thread per process polls the database for all of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import structlog

from api.waiting import disconnects
from api.waiting.job_fingerprint import Fingerprint, fingerprints_of
from shared.db.database import Database
from shared.errors import DatabaseAway
from shared.maintenance import MaintenanceThread

POLL_SECONDS = 0.1
DISCONNECT_CHECK_SECONDS = 1.0  # between two checks for clients that have disconnected
ERROR_PAUSE_SECONDS = 1.0  # after a poll that failed
IDLE_FACTOR = 4  # the pause after a poll is at least 4 times its duration, so the thread uses a fifth of a core at most

log = structlog.get_logger()

Predicate = Callable[[Fingerprint | None], bool]  # whether to wake up for this fingerprint; None: the job is deleted


class Waiter:
    """A request that sleeps until its predicate holds."""

    def __init__(self, predicate: Predicate, client: socket.socket | None) -> None:
        self.predicate, self.client = predicate, client
        self.woken = threading.Event()


class ChangeNotifier:
    """Polls only while there are waiters. The thread starts with the first one."""

    def __init__(self, database: Database, live_within_seconds: float) -> None:
        self.database, self.live_within_seconds = database, live_within_seconds
        self.stopping: Callable[[], bool] = lambda: False  # whether this process is shutting down; set by the server
        self._waiters: dict[str, set[Waiter]] = {}
        self._changed = threading.Condition()
        self._check_clients_at = 0.0
        self._thread: PollThread | None = None

    def wait(self, job_id: str, predicate: Predicate, seconds: float, client: socket.socket | None = None) -> bool:
        """Sleep until `predicate` holds for the job's fingerprint. Returns False after `seconds`; True also when the
        client disconnects, the database is unreachable, the thread cannot be started or the process shuts down."""
        if self.stopping():
            return True
        waiter = Waiter(predicate, client)
        try:
            with self._changed:
                polled = self._start_thread()
                self._waiters.setdefault(job_id, set()).add(waiter)
                self._changed.notify()
            if not polled:  # the request queries by itself, after a pause
                waiter.woken.wait(min(seconds, ERROR_PAUSE_SECONDS))
                return True
            return waiter.woken.wait(seconds)
        finally:
            with self._changed:
                waiters = self._waiters.get(job_id, set())
                waiters.discard(waiter)
                if not waiters:
                    self._waiters.pop(job_id, None)

    def _start_thread(self) -> bool:
        """Returns whether the thread runs; if the system starts no further one, the next waiter tries again."""
        if self._thread is None:
            thread = PollThread(self)
            try:
                thread.start()
            except RuntimeError as error:
                log.error("cannot poll for changes of jobs", error=str(error))
                return False
            self._thread = thread
        return True

    def round(self) -> float:
        """Wait for a waiter, and notify those whose jobs have changed. Returns the seconds until the next round."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiters)
        began = time.monotonic()
        if began >= self._check_clients_at:
            self._check_clients_at = began + DISCONNECT_CHECK_SECONDS
            self._wake_disconnected()
        pause = POLL_SECONDS
        if self.stopping() or not self._poll():
            self.wake_all()
            pause = ERROR_PAUSE_SECONDS
        return max(pause, IDLE_FACTOR * (time.monotonic() - began))

    def _poll(self) -> bool:
        """Notify the waiters of all jobs. False if the query failed: each request then queries by itself and returns
        the error to its client."""
        with self._changed:
            job_ids = list(self._waiters)
        try:
            with self.database.read() as session:
                fingerprints = fingerprints_of(session, job_ids, self.live_within_seconds)
        except DatabaseAway as error:
            log.warning("cannot poll for changes of jobs", error=error.detail)
            return False
        for job_id in job_ids:
            self._notify(job_id, fingerprints.get(job_id))
        return True

    def _notify(self, job_id: str, fingerprint: Fingerprint | None) -> None:
        with self._changed:
            waiters = list(self._waiters.get(job_id, ()))
        for waiter in waiters:
            if waiter.predicate(fingerprint):
                waiter.woken.set()

    def _wake_disconnected(self) -> None:
        """Wake the waiters whose clients have closed the connection."""
        waiters = self._all_waiters()
        gone = disconnects.gone_among(waiter.client for waiter in waiters if waiter.client is not None)
        for waiter in waiters:
            if waiter.client in gone:
                waiter.woken.set()

    def wake_all(self) -> None:
        for waiter in self._all_waiters():
            waiter.woken.set()

    def _all_waiters(self) -> list[Waiter]:
        with self._changed:
            return [waiter for of_job in self._waiters.values() for waiter in of_job]


class PollThread(MaintenanceThread):
    """The notifier's thread. No other one wakes the waiters, so after any error they query by themselves."""

    def __init__(self, notifier: ChangeNotifier) -> None:
        super().__init__("change-notifier", pause=ERROR_PAUSE_SECONDS)
        self.notifier = notifier

    def round(self) -> float:
        return self.notifier.round()

    def failed(self, error: Exception) -> float:
        log.error("cannot poll for changes of jobs", exc_info=error)
        self.notifier.wake_all()
        return self.pause
