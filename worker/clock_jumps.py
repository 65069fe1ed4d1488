"""Detects jumps of the database's clock: when it is set forward, every lease looks as if it had run out."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

JUMP_SECONDS = 1.0  # what a clock may gain or lose between two checks

log = structlog.get_logger()


class ClockWatch:
    """Compares the database's clock with this process's monotonic clock."""

    def __init__(self, quiet_seconds: float) -> None:
        self.quiet_seconds = quiet_seconds  # after a jump; by then every live worker has renewed its leases
        self._offset: tuple[float, float] | None = None  # database minus monotonic, seconds: (least, most)
        self._trusted_from = 0.0
        self._began: tuple[datetime, float] | None = None  # the first check: the database's time, and ours

    def check(self, query: Callable[[], datetime]) -> None:
        """Compare the clocks once; `query` returns the database's time."""
        before = time.monotonic()
        found = query()
        self._began = self._began or (found, time.monotonic())
        self._now = found
        theirs = found.timestamp()
        least, most = theirs - time.monotonic(), theirs - before  # how long the query took bounds the error
        if self._offset is not None:
            least_before, most_before = self._offset
            if least > most_before + JUMP_SECONDS or most < least_before - JUMP_SECONDS:
                log.warning("the database's clock jumped", seconds=round(most - most_before, 1))
                self._trusted_from = time.monotonic() + self.quiet_seconds
        self._offset = least, most

    def distrust(self) -> None:
        """Trust no lease's end for `quiet_seconds` from now: workers could not renew them."""
        self._trusted_from = time.monotonic() + self.quiet_seconds

    def latest_plausible(self) -> datetime | None:
        """The database's time at the last check, but no later than the time that has passed since the first check
        allows; None before the first. What is old by this time is old, whatever the clock was set to meanwhile."""
        if self._began is None:
            return None
        first, at = self._began
        return min(self._now, first + timedelta(seconds=time.monotonic() - at + JUMP_SECONDS))

    @property
    def steady(self) -> bool:
        """Whether `quiet_seconds` have passed since the last jump."""
        return time.monotonic() >= self._trusted_from
