"""Draws the pictures of finished jobs, while this worker and its queue have nothing else to do.

The API draws those that a client asks for before that (api/jobs/files.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil
import structlog

from shared.errors import DatabaseAway, StoreUnavailable
from shared.jobs import queue
from shared.maintenance import MaintenanceThread
from shared.pictures import undrawn
from worker.context import WorkerContext
from worker.devices import SlotPool

TICK_SECONDS = 0.25  # between two looks at the slots
REST_SECONDS = 0.5  # after a job's end: the next one may be on its way

log = structlog.get_logger()


class PictureDrawing(MaintenanceThread):
    """`may_work`: whether the worker may use the database and the store now. Another worker's jobs are found once per
    round of the reconciler, this one's when they have ended."""

    def __init__(self, context: WorkerContext, pool: SlotPool, may_work: Callable[[], bool]) -> None:
        super().__init__("picture-drawing", pause=context.settings.reconcile_seconds)
        self.context, self.pool, self.may_work = context, pool, may_work
        self.running_limit = context.settings.max_running_jobs
        self._ended = threading.Event()
        self._ended_at = self._looked_at = float("-inf")
        self._failed: list[str] = []  # jobs whose pictures cannot be drawn, since the start of this process
        pool.on_free.append(self._note_end)

    def _note_end(self) -> None:
        self._ended_at = time.monotonic()
        self._ended.set()

    def round(self) -> float:
        now = time.monotonic()
        is_due = self._ended.is_set() or now - self._looked_at >= self.pause
        if is_due and self._is_idle() and now - self._ended_at >= REST_SECONDS:
            self._ended.clear()
            self._looked_at = now
            while self._is_idle() and not self.stopped.is_set() and self._draw_one():
                pass
        return TICK_SECONDS

    def failed(self, error: Exception) -> float:
        """The next round may succeed."""
        if isinstance(error, StoreUnavailable | DatabaseAway | OSError | EOFError | RuntimeError | psutil.Error):
            log.warning("pictures are drawn later", error=f"{type(error).__name__}: {error}")
        else:
            log.error("drawing of pictures failed", exc_info=error)
        return self.pause

    def stop(self) -> None:
        self.stopped.set()

    def _is_idle(self) -> bool:
        return self.pool.free == len(self.pool.slots) and self.may_work()

    def _draw_one(self) -> bool:
        """Draw the pictures of one job. Returns False if no job needs any, or a job waits for this worker."""
        context = self.context
        with context.database.read() as session:
            row = undrawn.one_of_the_newest(session, self._failed)
            if row is None or queue.waiting(session, self.pool.fits, 1, self.running_limit):
                return False
        try:
            undrawn.draw_and_store(context.database, context.store, row, context.launcher.draw)
        except undrawn.NoDrawing as error:
            self._failed.append(row.job_id)
            log.error("pictures of a job cannot be drawn", job_id=row.job_id, error=str(error))
        return True
