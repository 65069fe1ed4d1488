"""What one worker process holds: slots, the trainer server, the reconciler; and how it comes by its jobs.

It answers the bell, and it looks at the rows by itself now and then: a bell can be lost, a broker be away for hours.
"""

from __future__ import annotations

import os
import socket
import threading

import structlog

from shared.artifacts import ArtifactStore
from shared.broker import Broker
from shared.config import Settings
from shared.db.database import Database
from shared.db.tables import Job
from shared.errors import DatabaseAway
from shared.jobs import queue
from shared.version import VERSION
from worker.context import WorkerContext
from worker.devices import Slot, SlotPool, find_slots, threads_per_slot
from worker.launcher import Launcher
from worker.reconciler import Reconciler, worker_row
from worker.supervisor import Supervisor

log = structlog.get_logger()


class Runtime:
    def __init__(self, settings: Settings) -> None:
        settings.make_state_dir()
        self.settings = settings
        self.database = Database(settings.database)
        self.pool = SlotPool(find_slots(settings))
        self.draining = threading.Event()
        self.context = WorkerContext(
            settings=settings,
            database=self.database,
            store=ArtifactStore(settings.artifacts),
            launcher=Launcher(),
            threads=threads_per_slot(settings, len(self.pool.slots)),
            draining=self.draining,
        )
        self.row = worker_row(settings, self.pool, socket.gethostname(), os.getpid(), VERSION)
        self.broker = Broker(settings.broker_url)
        self.reconciler = Reconciler(self.context, self.broker, self.pool, self.row, self.look)
        self._answering: list[threading.Thread] = []

    def start(self) -> None:
        """Warm the trainer server up, then let the world know that this worker takes jobs."""
        self.context.launcher.warm_up()
        self.reconciler.start()
        log.info("worker ready", worker=self.row.id, slots=len(self.pool.slots), threads_per_slot=self.context.threads)

    def answer(self) -> None:
        """Run jobs on a free slot until none waits. Returns at once when there is nothing to do."""
        while not self.draining.is_set():
            with self.pool.take() as slot:
                if slot is None or (job := self._claim(slot)) is None:
                    return
                Supervisor(self.context, job, slot).run()

    def _claim(self, slot: Slot) -> Job | None:
        try:
            with self.database.write() as session:
                lease_seconds, limit = self.settings.lease_seconds, self.settings.max_running_jobs
                return queue.claim(session, self.row.id, slot.name, slot.fits, lease_seconds, limit)
        except DatabaseAway as error:
            log.warning("no job claimed", error=str(error))
            return None

    def look(self) -> None:
        """Answer as if the bell had rung, once for each pair of a free slot and a job that waits."""
        free = self.pool.free
        if not free or self.draining.is_set():
            return
        with self.database.read() as session:
            waiting = queue.waiting(session, self.pool.fits, free, self.settings.max_running_jobs)
        self._answering = [thread for thread in self._answering if thread.is_alive()]
        for _ in range(waiting):
            thread = threading.Thread(target=self.answer, name="answer", daemon=True)
            thread.start()
            self._answering.append(thread)

    def drain(self) -> None:
        """Take no more jobs; supervisors have theirs checkpointed and hand them back."""
        log.info("draining", worker=self.row.id)
        self.draining.set()

    def stop(self) -> None:
        """Called when Celery's threads are done; wait for ours. Others are told of what was handed back."""
        for thread in self._answering:
            thread.join()
        self.reconciler.stop()
        self.broker.ring()
        self.database.close()
