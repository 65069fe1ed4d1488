"""Stores a job's checkpoints in a thread of its own: its supervisor keeps listening, however slow the store is."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog

from shared import events
from shared.artifacts import checkpoint_key
from shared.errors import LeaseLost, StoreUnavailable
from shared.jobs import queue
from worker.context import WorkerContext
from worker.lease import LeaseKeeper
from worker.log_buffer import LogBuffer

RETRY_SECONDS = 1.0  # between two tries to store the last checkpoint

log = structlog.get_logger()


class CheckpointUploads:
    """The checkpoints of one attempt, oldest first: one is being stored, and at most one waits.

    Each file is stored, read back, recorded in the table, and only then the oldest is removed. The file in the run
    folder is deleted in any case: as long as it exists, the trainer writes no further checkpoint, except its last one.
    A checkpoint that cannot be stored is left out, with a warning in the job's log, and training continues.
    """

    def __init__(self, context: WorkerContext, keeper: LeaseKeeper, log_buffer: LogBuffer, keep_last: int) -> None:
        self.context, self.keeper, self.log_buffer, self.keep_last = context, keeper, log_buffer, keep_last
        self.error: Exception | None = None  # of gradq itself: the supervisor raises it
        self._waiting: events.CheckpointSaved | None = None
        self._changed = threading.Condition()
        self._busy = self._closed = self._failing = False
        self._retry_until = 0.0
        self._thread: threading.Thread | None = None

    def add(self, event: events.CheckpointSaved) -> None:
        """Store this checkpoint next, in place of one that waits."""
        with self._changed:
            if self._waiting is not None:
                Path(self._waiting.path).unlink(missing_ok=True)
            self._waiting = event
            self._changed.notify_all()
        if self._thread is None:
            name = f"checkpoints-{self.keeper.lease.job_id}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def retry_for(self, seconds: float) -> None:
        """From now on, retry a checkpoint that cannot be stored for this long: the trainer has written its last one."""
        with self._changed:
            self._retry_until = time.monotonic() + seconds
            self._changed.notify_all()

    def done(self, timeout: float) -> bool:
        """Wait for up to `timeout` seconds; returns whether every checkpoint has been stored or left out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and not self._busy, timeout)

    def close(self) -> None:
        """Give up what waits, and wait for the one that is being stored: a store that hangs ends by its timeouts."""
        with self._changed:
            self._closed, self._waiting, self._retry_until = True, None, 0.0
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._store(event)
            except LeaseLost:
                self.keeper.lost.set()
            except Exception as error:
                log.exception("checkpoint not stored", job_id=self.keeper.lease.job_id, step=event.step)
                self.error = error
            finally:
                Path(event.path).unlink(missing_ok=True)  # the run folder needs the room for the next one
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _next(self) -> events.CheckpointSaved | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closed)
            event, self._waiting = self._waiting, None
            self._busy = event is not None
            return event

    def _store(self, event: events.CheckpointSaved) -> None:
        store, lease = self.context.store, self.keeper.lease
        key = checkpoint_key(lease.job_id, lease.attempt, event.step)
        while not self.keeper.is_lost():
            try:
                file = store.put(key, Path(event.path))
                store.check(file)
                break
            except StoreUnavailable as error:
                self.context.storage.report("store_unavailable", error.detail)
                self._tell(event, error)
                if not self._may_retry():
                    return
        else:
            return
        if self._failing:
            self._failing = False
            self.log_buffer.say(f"checkpoints are stored again, from step {event.step}")
        old = self.keeper.write(
            lambda session: queue.add_checkpoint(session, lease, file, event.step, event.epoch, self.keep_last)
        )
        for key in old:
            try:
                store.remove(key)
            except StoreUnavailable as error:
                log.warning("old checkpoint not removed", job_id=lease.job_id, key=key, error=error.detail)
                return  # the end of the attempt removes it

    def _tell(self, event: events.CheckpointSaved, error: StoreUnavailable) -> None:
        """Log the first of a row of checkpoints that cannot be stored."""
        if not self._failing:
            self._failing = True
            self.log_buffer.say(f"the checkpoint at step {event.step} could not be stored: {error}", "warning")

    def _may_retry(self) -> bool:
        """Whether to try again, after a pause."""
        with self._changed:
            if self._retry_until <= time.monotonic():
                return False
            self._changed.wait(RETRY_SECONDS)
            return self._retry_until > time.monotonic()
