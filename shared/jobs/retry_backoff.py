"""The wait before a lost attempt is tried again, and which losses count towards `max_attempts`."""

from __future__ import annotations

from typing import Literal

# of a loss: the attempt's outcome
Cause = Literal["worker_lost", "trainer_died", "internal_error", "disk_full", "store_unavailable", "database_away"]

OUTAGES: tuple[Cause, ...] = ("disk_full", "store_unavailable", "database_away")  # no fault of the job's: not counted
# outages in a row after which they count: a job that no disk has room for must end
MOST_OUTAGES = 10
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 5.0, 60.0


def backoff_seconds(failures: int, cause: Cause = "worker_lost") -> float:
    """Seconds until the next attempt: 0 after the first loss (most are deploys and evictions), then 5, 10, 20, 40, 60.

    `failures`: lost attempts, or for an outage those that outages have ended in a row. The worker that met it claims no
    job before it is over; the backoff is for the other workers, and is the same, with 1 s after the first.
    """
    if failures <= 1:
        return 1.0 if cause in ("disk_full", "store_unavailable") else 0.0
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** max(failures - 2, 0), LONGEST_BACKOFF_SECONDS)
