"""Stores a job's checkpoints in the attempt's transfer thread, so that its supervisor is not blocked."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from shared import events
from shared.artifacts import checkpoint_key
from shared.db.tables import CheckpointRow, Job
from shared.disks import disk_error, disk_is_unusable, disk_outage
from shared.errors import LeaseLost, StoreUnavailable
from shared.jobs import jobs, queue, stored_bytes
from worker.context import WorkerContext
from worker.lease import LeaseKeeper
from worker.log_buffer import LogBuffer
from worker.transfer_thread import TransferThread

RETRY_SECONDS = 1.0  # between two tries to store the last checkpoint

log = structlog.get_logger()


class CheckpointUploads:
    """The checkpoints of one attempt, oldest first: one is being stored, and at most one waits.

    Each file is stored, read back, recorded in the table, and only then the oldest is removed. The file in the run
    folder is deleted in any case: as long as it exists, the trainer writes no further checkpoint, except its last one.
    A checkpoint that cannot be stored is left out, with a warning in the job's log, and training continues. If the
    owner may store no more, the newest checkpoint replaces the others.
    """

    def __init__(
        self, context: WorkerContext, keeper: LeaseKeeper, log_buffer: LogBuffer, job: Job, transfers: TransferThread
    ) -> None:
        self.context, self.keeper, self.log_buffer, self.owner = context, keeper, log_buffer, job.owner
        self.transfers = transfers
        # kinds without checkpoints have no such field
        self.keep_last: int = job.spec.get("checkpoint", {}).get("keep_last", 1)
        self.error: Exception | None = None  # of gradq itself: the supervisor raises it
        self._waiting: events.CheckpointSaved | None = None
        self._changed = threading.Condition()
        self._busy = self._failing = self._closed = False
        self._retry_until = 0.0

    def add(self, event: events.CheckpointSaved) -> None:
        """Store this checkpoint next, in place of one that waits."""
        with self._changed:
            replaced, self._waiting = self._waiting, event
            self._changed.notify_all()
        if replaced is not None:
            _remove(replaced)  # the call that was to store it will store this one
        else:
            self.transfers.submit(self._store_next)

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
        """Give up what waits, retry nothing, and report nothing more: the run folder is about to be removed."""
        with self._changed:
            self._closed, self._waiting, self._retry_until = True, None, 0.0
            self._changed.notify_all()

    def _store_next(self) -> None:
        with self._changed:
            event, self._waiting = self._waiting, None
            self._busy = event is not None
        if event is None:  # it was given up
            return
        try:
            self._store(event)
        except LeaseLost:
            self.keeper.lost.set()
        except Exception as error:
            if self._closed:
                log.info("checkpoint given up", job_id=self.keeper.lease.job_id, step=event.step, error=str(error))
            elif isinstance(error, OSError) and disk_is_unusable(error):  # the run folder's; the store's are not
                why = disk_outage(disk_error(error, event.path))
                self.context.storage.report("disk_full", why)
                self._tell(event, why)
            else:
                log.exception("checkpoint not stored", job_id=self.keeper.lease.job_id, step=event.step)
                self.error = error
        finally:
            _remove(event)  # the run folder needs the room for the next one
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _store(self, event: events.CheckpointSaved) -> None:
        store, lease = self.context.store, self.keeper.lease
        key = checkpoint_key(lease.job_id, lease.attempt, event.step)
        keep = self._number_to_keep(event.step, Path(event.path).stat().st_size)
        if not keep:
            return
        while not self.keeper.is_lost():
            try:
                file = store.put(key, Path(event.path))
                store.check(file)
                break
            except StoreUnavailable as error:
                if self._closed:
                    raise
                self.context.storage.report("store_unavailable", error.detail)
                self._tell(event, error)
                if not self._may_retry():
                    return
        else:
            return
        if self._failing:
            self._failing = False
            self.log_buffer.say(f"checkpoints are stored again, from step {event.step}")
        lines = self.log_buffer.thinned(queue.checkpoint_line(event.step, event.epoch))
        old = self.keeper.write(
            lambda session: queue.add_checkpoint(session, lease, file, event.step, event.epoch, keep, lines)
        )
        for key in old:
            try:
                store.remove(key)
            except StoreUnavailable as error:
                log.warning("old checkpoint not removed", job_id=lease.job_id, key=key, error=error.detail)
                return  # the end of the attempt removes it

    def _number_to_keep(self, step: int, size_bytes: int) -> int:
        """How many checkpoints the job may have with the new one, of `size_bytes`: as many as its spec says, or the new
        one alone if the owner may not store more, or 0 if there is none that it could replace."""
        limit = self.context.settings.owner_bytes
        if limit is None:
            return self.keep_last

        def ask(session: Session) -> tuple[int, int]:
            used = sum(stored_bytes.used_by(session, self.owner).values())
            return used, jobs.bytes_of(session, CheckpointRow, self.keeper.lease.job_id)

        used, own = self.keeper.read(ask)
        if used + size_bytes <= limit:
            return self.keep_last
        why = "its owner may store no more (GRADQ_MAX_OWNER_BYTES)"
        if used - own + size_bytes <= limit or size_bytes <= own:
            if self.keep_last > 1:
                self.log_buffer.say(f"the checkpoint at step {step} replaces the others: {why}", "warning")
            return 1
        self.log_buffer.say(f"the checkpoint at step {step} is not stored: {why}", "warning")
        return 0

    def _tell(self, event: events.CheckpointSaved, error: StoreUnavailable | str) -> None:
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
            return self._waiting is None and self._retry_until > time.monotonic()


def _remove(event: events.CheckpointSaved) -> None:
    """Delete the file in the run folder, whose disk may have become read-only."""
    with suppress(OSError):
        Path(event.path).unlink(missing_ok=True)
