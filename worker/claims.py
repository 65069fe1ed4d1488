"""Claims jobs for the slots of one worker, each at most once, also if the commit of a claim gets no answer.

Whether such a claim was committed is unknown. If it was, the job runs on nobody until its lease expires, and the
attempt counts. So the next claim for that slot looks for it first, and continues with it.
"""

from __future__ import annotations

import threading

from sqlalchemy.orm import Session

from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import DatabaseAway, LeaseLost
from shared.jobs import queue
from shared.jobs.queue import Lease
from worker.devices import Slot


class Claims:
    def __init__(self, database: Database, worker: str, lease_seconds: float, running_limit: int | None) -> None:
        """`running_limit`: how many jobs one owner may have running; None: any number."""
        self.database, self.worker = database, worker
        self.lease_seconds, self.running_limit = lease_seconds, running_limit
        self._unanswered: list[tuple[Slot, Lease]] = []
        self._lock = threading.Lock()

    @property
    def unanswered(self) -> int:
        """How many claims may have been committed and are not looked for yet."""
        return len(self._unanswered)

    def claim(self, slot: Slot) -> Job | None:
        """The job that this slot runs next, with a lease; None if none is queued. Raises DatabaseAway."""
        lease = self._take(slot)
        try:
            with self.database.write() as session:
                job = self._renewed(session, lease)
                if job is None:
                    lease = None
                    limit = self.running_limit
                    job = queue.claim(session, self.worker, slot.name, slot.fits, self.lease_seconds, limit)
                if job is not None:
                    lease = queue.lease_of(job)
        except DatabaseAway:
            if lease is not None:
                with self._lock:
                    self._unanswered.append((slot, lease))
            raise
        return job

    def _renewed(self, session: Session, lease: Lease | None) -> Job | None:
        """The job of a claim that was committed, if it was and no other worker has it now."""
        if lease is None:
            return None
        try:
            queue.renew(session, lease, self.lease_seconds)
        except LeaseLost:
            return None
        return session.get(Job, lease.job_id)

    def _take(self, slot: Slot) -> Lease | None:
        with self._lock:
            for found in self._unanswered:
                if found[0] == slot:
                    self._unanswered.remove(found)
                    return found[1]
        return None
