"""Claims jobs for the slots of one worker, and gives back those whose claim got no answer.

If the connection to the database breaks during the commit, nobody knows whether the claim was made. If it was, the job
would run on nobody until its lease expires, and the attempt would count.
"""

from __future__ import annotations

import threading
import time

import structlog

from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import LeaseLost
from shared.jobs import queue
from shared.jobs.queue import Lease
from worker.devices import Slot

log = structlog.get_logger()


class Claims:
    def __init__(self, database: Database, worker: str, lease_seconds: float, running_limit: int | None) -> None:
        """`running_limit`: how many jobs one owner may have running; None: any number."""
        self.database, self.worker = database, worker
        self.lease_seconds, self.running_limit = lease_seconds, running_limit
        self._unanswered: dict[Lease, float] = {}  # and the monotonic time of the claim
        self._lock = threading.Lock()

    def claim(self, slot: Slot) -> Job | None:
        """The job that this slot runs next, with a lease; None if none is queued. Raises DatabaseAway."""
        self.give_back()
        lease = None
        try:
            with self.database.write() as session:
                limit = self.running_limit
                job = queue.claim(session, self.worker, slot.name, slot.fits, self.lease_seconds, limit)
                if job is not None:
                    lease = queue.lease_of(job)
        except Exception:
            if lease is not None:
                self._unanswered[lease] = time.monotonic()
            raise
        return job

    def give_back(self) -> None:
        """Release the jobs whose claims got no answer and were made; the attempts do not count. Raises DatabaseAway.

        A claim that is not found may still be made, as long as PostgreSQL commits for a connection that is gone. It is
        looked for again until a lease has passed.
        """
        with self._lock:
            for lease, claimed_at in list(self._unanswered.items()):
                try:
                    with self.database.write() as session:
                        queue.release(session, lease, "requeued: the database did not answer when it was claimed")
                except LeaseLost:
                    if time.monotonic() - claimed_at < self.lease_seconds:
                        continue
                else:
                    log.info("job given back, whose claim got no answer", job_id=lease.job_id)
                del self._unanswered[lease]
