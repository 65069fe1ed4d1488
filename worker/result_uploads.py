"""Stores the files of a job that has ended, in the attempt's transfer thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shared.artifacts import StoredFile, artifact_key
from shared.db.tables import Job
from shared.errors import LeaseLost, StoreUnavailable
from worker.attempt_outcome import Interrupted, StopReason
from worker.context import WorkerContext
from worker.lease import LeaseKeeper
from worker.log_buffer import LogBuffer
from worker.transfer_thread import TransferThread, is_done

RETRY_SECONDS = 1.0  # between two tries to store a result
TICK_SECONDS = 0.25  # between two looks at requests to stop
HURRY_SECONDS = 1.0  # for each result that is being stored when the job is asked to stop


class ResultUploads:
    """The training is done, and its results must not be lost: each is tried until the store takes it.

    A store that works takes the results of a job that is asked to stop, in HURRY_SECONDS each, and all of them in the
    grace period. `stop_reason` says whether it is; the job's `max_seconds` do not count.
    """

    def __init__(
        self,
        context: WorkerContext,
        keeper: LeaseKeeper,
        log_buffer: LogBuffer,
        job: Job,
        transfers: TransferThread,
        stop_reason: Callable[[], StopReason | None],
    ) -> None:
        self.context, self.keeper, self.log_buffer, self.job = context, keeper, log_buffer, job
        self.transfers, self.stop_reason = transfers, stop_reason
        self._asked_at: float | None = None  # monotonic; when the job was seen to be asked to stop

    def store(self, folder: Path) -> list[StoredFile]:
        """Store all files in the folder; returns their records. Raises LeaseLost, and Interrupted if the job is asked
        to stop and the store is not available, or slow."""
        return [self._store(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []

    def _store(self, path: Path) -> StoredFile:
        key, told = artifact_key(self.job.id, self.job.attempt, path.name), False
        while True:
            began = time.monotonic()
            self._heed_stop(began)
            try:
                stored = self.transfers.submit(partial(self.context.store.put, key, path))
                while not is_done(stored, TICK_SECONDS):
                    self._heed_stop(began)
                return stored.result()
            except StoreUnavailable as error:
                self.context.storage.report("store_unavailable", error.detail)
                if not told:
                    told = True
                    self.log_buffer.say(f"the results are ready and wait for the artifact store: {error}", "warning")
            self.keeper.lost.wait(RETRY_SECONDS)
            if reason := self._stop_reason():
                raise Interrupted(reason)

    def _heed_stop(self, began: float) -> None:
        """Between two looks at a file that is being stored since `began`. Raises Interrupted, LeaseLost."""
        reason, now = self._stop_reason(), time.monotonic()
        if reason is None:
            self._asked_at = None
            return
        self._asked_at = self._asked_at or now
        late = now - max(began, self._asked_at) > HURRY_SECONDS
        if late or now - self._asked_at > self.context.settings.grace_seconds:
            raise Interrupted(reason)

    def _stop_reason(self) -> StopReason | None:
        """Raises LeaseLost."""
        if (reason := self.stop_reason()) is StopReason.LOST:
            raise LeaseLost(self.job.id)
        return reason
