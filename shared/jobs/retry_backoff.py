"""The wait before a lost attempt is tried again."""

from __future__ import annotations

from typing import Literal

Cause = Literal["worker_lost", "trainer_died", "disk_full", "internal_error"]  # of a loss: the attempt's outcome

FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 5.0, 60.0


def backoff_seconds(failures: int, cause: Cause = "worker_lost") -> float:
    """Seconds until the next attempt: 0 after the first loss (most are deploys and evictions), then 5, 10, 20, 40, 60.

    After `disk_full` the first backoff is 5 s too, since a full disk rarely has room a moment later.
    """
    if failures <= 1 and cause != "disk_full":
        return 0.0
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** max(failures - 2, 0), LONGEST_BACKOFF_SECONDS)
