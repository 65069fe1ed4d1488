"""Worker maintenance loop: heartbeat, poll for queued jobs and, on the leader, requeue jobs whose lease expired.

The leader (one of all workers, by a row that expires) also deletes rows that are no longer needed. Every worker polls
the database for queued jobs, with or without a doorbell message, and removes abandoned run folders of its own host.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from shared import audit, heartbeat, idempotency, workers
from shared.broker import Broker
from shared.config import Settings
from shared.db.schema_check import SchemaCheck
from shared.db.tables import Worker
from shared.errors import DatabaseAway, LeaseLost, NotFound
from shared.jobs import counters, joblog, jobs, queue, stored_bytes
from shared.jobs.queue import Lease
from shared.jobs.retry_backoff import Cause
from shared.jobs.states import JobState
from shared.maintenance import MaintenanceThread
from shared.spec.job_spec import KINDS
from worker import leadership, startup
from worker.broker_state import STATE
from worker.clock_jumps import ClockWatch
from worker.context import WorkerContext
from worker.devices import SlotPool, memory
from worker.freezes import FreezeWatch

LEADER_ROLE = "reconciler"
FORGET_WORKERS_SECONDS = 3600.0
COUNT_AUDIT_SECONDS = 3600.0  # between two counts of the audit log, which read it all
SHORTEST_WAIT_SECONDS = 0.05
SHORTEST_FREEZE = 0.6  # of a lease: they are renewed when a third has passed, so that longer freezes let one run out

log = structlog.get_logger()


class Reconciler(MaintenanceThread):
    """The maintenance thread. `poll`: claims and runs queued jobs on the worker's free slots, in threads of its own."""

    def __init__(
        self, context: WorkerContext, broker: Broker, pool: SlotPool, row: Worker, poll: Callable[[], None]
    ) -> None:
        super().__init__("reconciler", pause=context.settings.reconcile_seconds)
        self.context, self.settings, self.database = context, context.settings, context.database
        self.broker, self.pool, self.row, self.poll = broker, pool, row, poll
        self.clock = ClockWatch(self.settings.lease_seconds)
        self.freezes = FreezeWatch(SHORTEST_FREEZE * self.settings.lease_seconds)
        self.schema = SchemaCheck(self.database)
        self._mismatch: str | None = None
        self.schema_fits = False  # known from the first round on; until then the worker claims no job
        self.leads = False
        self._away = False  # whether the database was, in the last round, or one of the two was frozen
        self._wait = 0.0  # seconds until this round, as planned
        self._outage_ended: datetime | None = None  # on the database's clock
        self._audit_count_due = 0.0  # time.monotonic()

    def first_wait(self) -> float:
        self.freezes.step()  # the worker has started other things since this was made
        return 0.0

    def round(self) -> float:
        """One round, with a heartbeat for this host, also while the database is away. Returns the seconds until the
        next."""
        heartbeat.beat(",".join(self.pool.describe()["kinds"]))
        self.watch(planned=self._wait)
        self._wait = self.pause  # unless the round ends
        self._wait = self.tick()
        return self._wait

    def failed(self, error: Exception) -> float:
        """The next round may succeed; without heartbeats the worker would count as gone."""
        if isinstance(error, DatabaseAway):
            self._away, self.leads = True, False
            log.warning("the database is away", error=str(error))
        else:
            log.error("reconciler tick failed", exc_info=error)
        return self.pause

    def stop(self) -> None:
        """End the thread and remove the worker's row from the registered workers."""
        self.stopped.set()
        self.join()
        # SQLAlchemyError: the database is at another revision
        with contextlib.suppress(DatabaseAway, SQLAlchemyError), self.database.write() as session:
            workers.deregister(session, self.row.id)

    def tick(self) -> float:
        """One round. Returns the seconds until the next."""
        if not self.check_schema():
            self.leads = False
            with contextlib.suppress(SQLAlchemyError):  # the other revision may have other columns
                self.heartbeat()
            return self.settings.reconcile_seconds
        self.heartbeat()
        self.watch()
        self.remove_abandoned_runs()
        self.watch()
        with self.database.write() as session:
            self.leads = leadership.acquire_leadership(
                session, LEADER_ROLE, self.row.id, 3 * self.settings.reconcile_seconds
            )
        self.watch()
        expired = self.expired_leases()
        if self.leads:
            self.requeue(expired)
            self.delete_old_rows()
            self.watch()
        self.poll()
        return self.seconds_to_next() if self.leads else self.settings.reconcile_seconds

    def check_schema(self) -> bool:
        """Whether the database has the schema of this version; logs a change. Raises DatabaseAway.

        While it has another, running jobs continue, and this worker claims none and does no maintenance.
        """
        before, mismatch = self.schema_fits, self.schema.mismatch()
        self.schema_fits = mismatch is None
        if mismatch is not None and (before or mismatch != self._mismatch):
            log.error("no jobs are taken", error=mismatch)
        elif mismatch is None and self._mismatch is not None:
            log.info("jobs are taken again: the database has this version's schema")
        self._mismatch = mismatch
        return self.schema_fits

    def heartbeat(self) -> None:
        """Write this worker's row: time, free slots, memory of its devices."""
        self.row.free_slots = self.pool.free
        self.row.draining = self.context.draining.is_set() or not self.schema_fits
        self.row.outage = self.context.storage.outage
        self.row.devices = workers.described(self.pool.describe(), memory(), STATE.describe(), sorted(KINDS))
        with self.database.write() as session:
            workers.heartbeat(session, self.row)
        startup.reached(startup.Step.REGISTERED)

    def watch(self, planned: float = 0.0) -> None:
        """Called after each step: remember that it took as long as only a freeze does, of this process or of a database
        that kept the connection open. `planned`: seconds of it that were a wait."""
        if self.freezes.step(planned):
            log.warning("a step of the reconciler was frozen", seconds=self.freezes.seconds)
            self._away = True

    def note_outage(self) -> None:
        """The database is back: leave workers a lease period to renew theirs, which all look as if they had run out."""
        with self.database.read() as session:
            self._outage_ended = workers.clock(session)
        self.clock.distrust()
        self._away = False

    def expired_leases(self) -> dict[Lease, datetime]:
        """Leases that ran out, and when; none while the database's clock is not trusted, or after an outage. Both are
        checked after the query, which may itself have been frozen."""
        with self.database.read() as session:
            expired = queue.expired_leases(session, self.settings.lease_seconds)
            self.clock.check(lambda: workers.clock(session))
        self.watch()
        if self._away:
            self.note_outage()
        return expired if self.clock.steady else {}

    def requeue(self, expired: dict[Lease, datetime]) -> None:
        """Requeue or end the jobs of these leases.

        A lease that ran out while the database was away is no fault of its job's, and costs it no attempt.
        """
        queued = False
        for lease, until in expired.items():
            cause: Cause = "worker_lost"
            detail = f"its worker did not renew the lease for {self.settings.lease_seconds:g} s"
            if self._outage_ended is not None and until <= self._outage_ended:
                cause, detail = "database_away", "its lease ran out while the database was away"
            try:
                with self.database.write() as session:
                    state = queue.mark_expired(session, lease, self.settings.lease_seconds, detail, cause)
            except LeaseLost:
                continue  # its supervisor ended the attempt or renewed the lease in between, or is about to
            finally:
                self.watch()
            log.warning("lease ran out", job_id=lease.job_id, attempt=lease.attempt, state=state.value)
            self.context.lost_attempts.put((lease.job_id, lease.attempt))  # a store may take minutes
            queued = queued or state is JobState.QUEUED
        if queued:  # one message, since a broker that hangs takes a moment for each; workers also poll
            self.broker.ring()

    def seconds_to_next(self) -> float:
        """The length of a round, or less when a lease runs out before its end."""
        with self.database.read() as session:
            expiry, now = queue.next_expiry(session), workers.clock(session)
        longest = self.settings.reconcile_seconds
        if expiry is None or expiry < now:  # in the past: the clock is not trusted
            return longest
        return min(longest, (expiry - now).total_seconds() + SHORTEST_WAIT_SECONDS)

    def delete_old_rows(self) -> None:
        """Delete what is old by a clock that has not jumped for minutes: one that is a year ahead for a moment, perhaps
        when this worker starts, deletes nothing."""
        now = self.clock.latest_plausible()
        with self.database.write() as session:
            self.database.allow_long_statements(session)  # after a change of GRADQ_AUDIT_DAYS there are many
            if now is not None and self.clock.settled:
                workers.sweep_workers(session, now - timedelta(seconds=FORGET_WORKERS_SECONDS))
                idempotency.sweep(session, now)
                audit.sweep(session, self.settings.audit_days, now)
            counters.fold(session)
            stored_bytes.fold(session)
            if is_due := time.monotonic() >= self._audit_count_due:
                stored_bytes.recount(session, ("audit",))
        if is_due:
            self._audit_count_due = time.monotonic() + COUNT_AUDIT_SECONDS
        self.database.checkpoint_wal()

    def remove_abandoned_runs(self) -> None:
        """Remove the run folders on this host that belong to no running attempt: a killed worker leaves them behind."""
        for folder in self.settings.runs_dir.glob("[!.]*"):
            if folder.name in self.context.running:
                continue  # its supervisor, of this process, removes it
            job_id, _, attempt = folder.name.rpartition("-")
            try:
                with self.database.read() as session:
                    job = jobs.get(session, job_id)
                owned = job.state == JobState.RUNNING and str(job.attempt) == attempt
            except NotFound:
                owned = False
            if not owned:
                shutil.rmtree(folder, ignore_errors=True)


def worker_row(settings: Settings, pool: SlotPool, host: str, pid: int, version: str) -> Worker:
    """The row of a worker that starts now, with an id of its own."""
    return Worker(
        id=f"{host}-{pid}-{time.time_ns():x}",
        host=host,
        pid=pid,
        slots=len(pool.slots),
        free_slots=pool.free,
        draining=False,
        devices=pool.describe(),
        version=version,
        started_at=joblog.now(),
    )
