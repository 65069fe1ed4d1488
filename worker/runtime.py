"""One worker process: its slots, trainer server and reconciler, and how it claims jobs.

A doorbell message makes it claim jobs at once. The reconciler polls the database as well, since messages can be lost
and the broker can be away for hours. Either way jobs run in threads of the runtime's own, one per slot at most.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

import structlog

from shared.artifacts import ArtifactStore
from shared.broker import Broker
from shared.config import Settings
from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import DatabaseAway, SchemaMismatch
from shared.jobs import queue
from shared.version import VERSION
from worker.claims import Claims
from worker.context import WorkerContext
from worker.devices import Slot, SlotPool, find_slots, threads_per_slot
from worker.launcher import Launcher
from worker.picture_drawing import PictureDrawing
from worker.reconciler import Reconciler, worker_row
from worker.storage_watch import StorageProber
from worker.store_sweep import StoreSweep
from worker.supervisor import Supervisor

log = structlog.get_logger()


class Runtime:
    def __init__(self, settings: Settings, launcher: Launcher) -> None:
        settings.make_state_dir()
        self.settings = settings
        self.database = Database(settings.database)
        self.pool = SlotPool(find_slots(settings))
        self.draining = threading.Event()
        self.context = WorkerContext(
            settings=settings,
            database=self.database,
            store=ArtifactStore(settings.artifacts),
            launcher=launcher,
            threads=threads_per_slot(settings, len(self.pool.slots)),
            draining=self.draining,
        )
        self.row = worker_row(settings, self.pool, socket.gethostname(), os.getpid(), VERSION)
        self.claims = Claims(self.database, self.row.id, settings.lease_seconds, settings.max_running_jobs)
        self.broker = Broker(settings.broker_url)
        self.prober = StorageProber(self.context.storage, self._poll_again)
        self.reconciler = Reconciler(self.context, self.broker, self.pool, self.row, self.poll)
        self.sweep = StoreSweep(
            self.database,
            self.context.store,
            self.context.lost_attempts,
            lambda: self.reconciler.leads,
            settings.reconcile_seconds,
            settings.sweep_seconds,
        )
        self.drawing = PictureDrawing(self.context, self.pool, self._may_claim)
        self._starting = threading.Lock()
        self._drains = False
        self._threads: list[threading.Thread] = []  # that run jobs

    def start(self) -> None:
        """Warm up the trainer server, then register the worker and start polling.

        Raises RuntimeError if the server does not start, and SchemaMismatch if the database has the schema of another
        version. While the database is away, the worker starts, and checks the schema before it claims a job.
        """
        try:
            self.reconciler.schema.check(fresh=True)
        except SchemaMismatch:
            raise
        except DatabaseAway as error:
            log.warning("the database is away", error=error.detail)
        self.context.launcher.warm_up()
        self.prober.start()
        self.reconciler.start()
        self.sweep.start()
        self.drawing.start()
        log.info("worker ready", worker=self.row.id, slots=len(self.pool.slots), threads_per_slot=self.context.threads)

    def answer_doorbell(self) -> None:
        """Run queued jobs in a thread, until none is left. A message that came too late, since all slots have been
        taken or no job may be claimed meanwhile, is sent again: it may be for another worker, or for later."""
        if not self.takes_jobs() or not self._start_threads(1):
            self.broker.ring()

    def takes_jobs(self) -> bool:
        """Whether a doorbell message would have a free slot and could claim a job: until then it is left to others."""
        return self.pool.free > 0 and self._may_claim()

    def run_queued_jobs(self) -> None:
        """Claim and run jobs on a free slot until none is queued. Returns at once without a free slot or a job, and
        while the store or the disk takes no files, the database has the schema of another version, or one could not be
        started."""
        while self._may_claim():
            with self.pool.take() as slot:
                if slot is None or (job := self._claim(slot)) is None:
                    return
                Supervisor(self.context, job, slot).run()

    def _may_claim(self) -> bool:
        context = self.context
        return (
            self.reconciler.schema_fits
            and not self.draining.is_set()
            and context.storage.outage is None
            and not context.start_failures.pausing
        )

    def _claim(self, slot: Slot) -> Job | None:
        try:
            return self.claims.claim(slot)
        except DatabaseAway as error:
            log.warning("no job claimed", error=str(error))
            return None

    def poll(self) -> None:
        """Start a thread that runs jobs, once per pair of a free slot and a queued job. Raises DatabaseAway."""
        self.claims.give_back()
        free = self.pool.free
        if not free or not self._may_claim():
            return
        with self.database.read() as session:
            waiting = queue.waiting(session, self.pool.fits, free, self.settings.max_running_jobs)
        self._start_threads(waiting)

    def _start_threads(self, number: int) -> bool:
        """Start threads that run jobs. Returns False if the worker stops: `stop` would not know of them."""
        with self._starting:
            if self.draining.is_set():
                return False
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            for _ in range(number):
                thread = threading.Thread(target=self.run_queued_jobs, name="jobs", daemon=True)
                thread.start()
                self._threads.append(thread)
            return True

    def _poll_again(self) -> None:
        """Run what has waited for the store, without waiting for the next round."""
        try:
            self.poll()
        except DatabaseAway as error:
            log.warning("no job claimed", error=str(error))

    def drain(self) -> None:
        """Take no more jobs. Supervisors stop theirs at a checkpoint and release them."""
        if self._drains:  # a second signal, perhaps while the first one's handler holds the lock of the event
            return
        self._drains = True
        if self.reconciler.ident is not None:  # it was started
            log.info("draining", worker=self.row.id)
        self.draining.set()

    def stop(self) -> None:
        """Drain: wait for the threads that run jobs, deregister, and notify workers of released jobs."""
        self.drain()
        with self._starting:
            threads = self._threads
        for thread in threads:
            thread.join()
        self.prober.stop()
        self.sweep.stop()
        self.drawing.stop()
        with suppress(DatabaseAway):
            self.claims.give_back()
        if self.reconciler.ident is not None:  # it was started
            self.reconciler.stop()
            self.broker.ring()
        self.database.close()
