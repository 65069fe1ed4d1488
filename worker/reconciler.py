"""Worker maintenance loop: heartbeat, poll for queued jobs and, on the leader, requeue jobs whose lease expired.

The leader (one of all workers, by a row that expires) also deletes rows that are no longer needed. Every worker polls
the database for queued jobs, with or without a doorbell message, and removes abandoned run folders of its own host.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable

import structlog

from shared import audit, idempotency, workers
from shared.broker import Broker
from shared.config import Settings
from shared.db.tables import Worker
from shared.errors import DatabaseAway, LeaseLost, NotFound
from shared.jobs import counters, joblog, jobs, queue, stored_bytes
from shared.jobs.queue import Lease
from shared.jobs.states import JobState
from worker import leadership
from worker.clock_jumps import ClockWatch
from worker.context import WorkerContext
from worker.devices import SlotPool, memory
from worker.orphaned_files import remove_orphaned_files

LEADER_ROLE = "reconciler"
FORGET_WORKERS_SECONDS = 3600.0
SHORTEST_WAIT_SECONDS = 0.05

log = structlog.get_logger()


class Reconciler(threading.Thread):
    """The maintenance thread. `poll`: claims and runs queued jobs on the worker's free slots, in threads of its own."""

    def __init__(
        self, context: WorkerContext, broker: Broker, pool: SlotPool, row: Worker, poll: Callable[[], None]
    ) -> None:
        super().__init__(name="reconciler", daemon=True)
        self.context, self.settings, self.database = context, context.settings, context.database
        self.broker, self.pool, self.row, self.poll = broker, pool, row, poll
        self.clock = ClockWatch(quiet_seconds=self.settings.lease_seconds)
        self.stopped = threading.Event()

    def run(self) -> None:
        wait = 0.0
        while not self.stopped.wait(wait):
            wait = self.settings.reconcile_seconds
            try:
                wait = self.tick()
            except DatabaseAway as error:
                log.warning("the database is away", error=str(error))
            except Exception:
                # the next round may succeed; without heartbeats the worker would count as gone
                log.exception("reconciler tick failed")

    def stop(self) -> None:
        """End the thread and remove the worker's row from the registered workers."""
        self.stopped.set()
        self.join()
        with contextlib.suppress(DatabaseAway), self.database.write() as session:
            workers.deregister(session, self.row.id)

    def tick(self) -> float:
        """One round. Returns the seconds until the next."""
        self.heartbeat()
        self.remove_abandoned_runs()
        with self.database.write() as session:
            leads = leadership.acquire_leadership(
                session, LEADER_ROLE, self.row.id, 3 * self.settings.reconcile_seconds
            )
        expired = self.expired_leases()
        if leads:
            self.requeue(expired)
            self.delete_old_rows()
        self.poll()
        return self.seconds_to_next() if leads else self.settings.reconcile_seconds

    def heartbeat(self) -> None:
        """Write this worker's row: time, free slots, memory of its devices."""
        self.row.free_slots = self.pool.free
        self.row.draining = self.context.draining.is_set()
        self.row.devices = {**self.pool.describe(), "memory": memory()}
        with self.database.write() as session:
            workers.heartbeat(session, self.row)

    def expired_leases(self) -> list[Lease]:
        """Leases that ran out; empty while the database's clock is not trusted. It is checked after the query."""
        with self.database.read() as session:
            expired = queue.expired_leases(session, self.settings.lease_seconds)
            self.clock.check(lambda: workers.clock(session))
        return expired if self.clock.steady else []

    def requeue(self, expired: list[Lease]) -> None:
        """Requeue or end the jobs of these leases, and remove the files that their attempts left behind."""
        for lease in expired:
            detail = f"its worker did not renew the lease for {self.settings.lease_seconds:g} s"
            try:
                with self.database.write() as session:
                    state = queue.mark_lost(session, lease, detail)
            except LeaseLost:
                continue  # its supervisor ended the attempt in between
            log.warning("lease ran out", job_id=lease.job_id, attempt=lease.attempt, state=state.value)
            remove_orphaned_files(self.context.store, self.database, lease.job_id, lease.attempt)
            if state is JobState.QUEUED:
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
        with self.database.write() as session:
            workers.sweep_workers(session, FORGET_WORKERS_SECONDS)
            idempotency.sweep(session)
            audit.sweep(session, self.settings.audit_days)
            counters.fold(session)
            stored_bytes.fold(session)
        self.database.checkpoint_wal()

    def remove_abandoned_runs(self) -> None:
        """Remove the run folders on this host that belong to no running attempt: a killed worker leaves them behind."""
        for folder in self.settings.runs_dir.glob("*"):
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
