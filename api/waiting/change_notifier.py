"""Who waits for which job. One thread a process asks the database for all of them, and wakes those whom it concerns."""

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

LOOK_SECONDS = 0.1
LISTEN_SECONDS = 1.0  # between two looks whether the clients are still there
AWAY_SECONDS = 1.0  # the pause after a look that failed
LEISURE = 4  # a look that took long is followed by a pause of so many times that: a fifth of a core at most

log = structlog.get_logger()

Concerns = Callable[[Fingerprint | None], bool]  # None: the job is gone


class Waiter:
    """Somebody who sleeps until a look concerns him."""

    def __init__(self, concerns: Concerns, client: socket.socket | None) -> None:
        self.concerns, self.client = concerns, client
        self.woken = threading.Event()


class Watcher:
    """Asks nothing while nobody waits. Its thread starts with the first who does."""

    def __init__(self, database: Database, live_within_seconds: float) -> None:
        self.database, self.live_within_seconds = database, live_within_seconds
        self.stopping: Callable[[], bool] = lambda: False  # whether this process ends; the server knows
        self._waiters: dict[str, set[Waiter]] = {}
        self._changed = threading.Condition()
        self._listen_at = 0.0
        self._thread: threading.Thread | None = None

    def wait(self, job_id: str, concerns: Concerns, seconds: float, client: socket.socket | None = None) -> bool:
        """Sleep until a look at the job `concerns`, its client hangs up, the database is away, this process ends, or
        time is over: False."""
        if self.stopping():
            return True
        waiter = Waiter(concerns, client)
        with self._changed:
            self._waiters.setdefault(job_id, set()).add(waiter)
            self._changed.notify()
            self._begin()
        try:
            return waiter.woken.wait(seconds)
        finally:
            with self._changed:
                self._waiters[job_id].discard(waiter)
                if not self._waiters[job_id]:
                    del self._waiters[job_id]

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiters)
            began = time.monotonic()
            if began >= self._listen_at:
                self._listen()
                self._listen_at = began + LISTEN_SECONDS
            pause = LOOK_SECONDS
            if self.stopping() or not self._look():
                self._wake_all()
                pause = AWAY_SECONDS
            time.sleep(max(pause, LEISURE * (time.monotonic() - began)))

    def _look(self) -> bool:
        """False: the database did not answer. Whoever waits is to ask it himself, and tell his client."""
        with self._changed:
            asked = list(self._waiters)
        try:
            with self.database.read() as session:
                seen = fingerprints_of(session, asked, self.live_within_seconds)
        except DatabaseAway as error:
            log.warning("the watcher sees nothing", error=error.detail)
            return False
        except Exception:  # this thread must outlive whatever happens here: nobody else would wake those who wait
            log.exception("the watcher sees nothing")
            return False
        for job_id in asked:
            self._tell(job_id, seen.get(job_id))
        return True

    def _tell(self, job_id: str, look: Fingerprint | None) -> None:
        with self._changed:
            waiters = list(self._waiters.get(job_id, ()))
        for waiter in waiters:
            if waiter.concerns(look):
                waiter.woken.set()

    def _listen(self) -> None:
        """Let those go whose clients have hung up."""
        waiters = self._all()
        gone = disconnects.gone_among(waiter.client for waiter in waiters if waiter.client is not None)
        for waiter in waiters:
            if waiter.client in gone:
                waiter.woken.set()

    def _wake_all(self) -> None:
        for waiter in self._all():
            waiter.woken.set()

    def _all(self) -> list[Waiter]:
        with self._changed:
            return [waiter for those in self._waiters.values() for waiter in those]
