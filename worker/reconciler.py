"""The steady hand of a worker: says that it lives, and, when it holds the office, mends what others left.

The leader (one of all workers, by an expiring row) takes back jobs whose lease ran out, rings again for queued jobs
that nobody was told of, and sweeps up. Every worker sweeps the run folders of its own host.
"""

from __future__ import annotations

import shutil
import threading
import time

import structlog

from shared import idempotency, jobs, roster, tallies
from shared.broker import Broker
from shared.config import Settings
from shared.database import Database
from shared.errors import DatabaseAway, LeaseLost, NotFound
from shared.states import JobState
from shared.tables import Worker
from worker.devices import SlotPool, memory

OFFICE = "reconciler"
FORGET_WORKERS_SECONDS = 3600.0

log = structlog.get_logger()


class Reconciler(threading.Thread):
    def __init__(
        self,
        settings: Settings,
        database: Database,
        broker: Broker,
        pool: SlotPool,
        row: Worker,
        draining: threading.Event,
    ) -> None:
        super().__init__(name="reconciler", daemon=True)
        self.settings, self.database, self.broker = settings, database, broker
        self.pool, self.row, self.draining = pool, row, draining
        self.stopped = threading.Event()

    def run(self) -> None:
        while True:
            try:
                self.tick()
            except DatabaseAway as error:
                log.warning("the database is away", error=str(error))
            except Exception:
                log.exception("reconciler tick failed")  # the next one may not; a worker without a pulse is worse
            if self.stopped.wait(self.settings.reconcile_seconds):
                return

    def stop(self) -> None:
        """End the thread and take the worker's row out of the list of the living."""
        self.stopped.set()
        self.join()
        with self.database.write() as session:
            roster.retire(session, self.row.id)

    def tick(self) -> None:
        self.beat()
        self.sweep_runs()
        with self.database.write() as session:
            leads = roster.take_office(session, OFFICE, self.row.id, 3 * self.settings.reconcile_seconds)
        if leads:
            self.take_back_lost_jobs()
            self.ring_for_waiting_jobs()
            self.sweep()

    def beat(self) -> None:
        self.row.free_slots = self.pool.free
        self.row.draining = self.draining.is_set()
        self.row.devices = {**self.pool.describe(), "memory": memory()}
        with self.database.write() as session:
            roster.beat(session, self.row)

    def take_back_lost_jobs(self) -> None:
        with self.database.read() as session:
            expired = jobs.expired_leases(session)
        for lease in expired:
            detail = f"its worker was not heard of for {self.settings.lease_seconds:g} s"
            try:
                with self.database.write() as session:
                    state = jobs.lose(session, lease, detail)
            except LeaseLost:
                continue  # it was not lost after all: its supervisor wrote in between
            log.warning("lease ran out", job_id=lease.job_id, attempt=lease.attempt, state=state.value)

    def ring_for_waiting_jobs(self) -> None:
        """One ring for each pair of a free slot and a waiting job: a bell that was lost costs one tick, no more."""
        with self.database.read() as session:
            waiting = roster.queued_count(session)
            if not waiting:
                return
            workers = roster.live_workers(session, self.settings.lease_seconds)
        free = sum(worker.free_slots for worker in workers if not worker.draining)
        for _ in range(min(free, waiting)):
            if not self.broker.ring():
                return

    def sweep(self) -> None:
        with self.database.write() as session:
            roster.sweep_workers(session, FORGET_WORKERS_SECONDS)
            idempotency.sweep(session)
            tallies.fold(session)
        self.database.checkpoint_wal()

    def sweep_runs(self) -> None:
        """Remove run folders that no running attempt owns: what a killed worker of this host left behind."""
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
    return Worker(
        id=f"{host}-{pid}-{time.time_ns():x}",
        host=host,
        pid=pid,
        slots=len(pool.slots),
        free_slots=pool.free,
        draining=False,
        devices=pool.describe(),
        version=version,
        started_at=jobs.now(),
    )
