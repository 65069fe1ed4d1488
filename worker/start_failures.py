"""Jobs that this worker has claimed and could not start: it has no process, thread, file or memory left for them.

That is no fault of the job's, so the worker hands it back, and claims none for some seconds: it would meet the same
with one queued job after the other, while another worker might run them.
"""

from __future__ import annotations

import errno
import threading
import time

import structlog

from worker.pauses import GrowingPauses

EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)

log = structlog.get_logger()


class StartFailures:
    """Of one worker. Used by the threads of all its slots."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses = GrowingPauses()
        self._until = float("-inf")

    def report(self, detail: str) -> None:
        """Note a job that could not be started: none is claimed for 1 s, then for 2, 4, 8, 15 s."""
        with self._lock:
            self._pauses.failed()
            seconds = self._pauses.next()
            self._until = max(self._until, time.monotonic() + seconds)
        log.warning("no job is claimed for some seconds: one could not be started", seconds=seconds, error=detail)

    @property
    def pausing(self) -> bool:
        """Whether no job is to be claimed now."""
        return time.monotonic() < self._until


def is_exhausted(error: Exception) -> bool:
    """Whether an error says that this process or its host has no thread, process, file or memory left."""
    if isinstance(error, OSError):
        return error.errno in EXHAUSTED
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))
