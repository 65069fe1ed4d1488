"""Detects jumps of the database's clock: when it is set forward, every lease looks as if it had run out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

JUMP_SECONDS = 1.0  # what a clock may gain or lose between two checks
SETTLED_SECONDS = 600.0  # without a jump, before rows are deleted by age: nothing needs that sooner

log = structlog.get_logger()


class ClockWatch:
    """Compares the database's clock with this process's monotonic clock.

    Whether it is right when this process starts, nobody knows: leases are renewed every third of their length, so that
    after half of it those of all live workers end by the clock that there is now.
    """

    def __init__(self, lease_seconds: float) -> None:
        self.quiet_seconds = lease_seconds  # after a jump; by then every live worker has renewed its leases
        self.first_seconds = lease_seconds / 2
        self.settled_seconds = SETTLED_SECONDS
        self._settled_from = math.inf
        self._offset: tuple[float, float] | None = None  # database minus monotonic, seconds: (least, most)
        self._trusted_from = 0.0
        self._began: tuple[datetime, float] | None = None  # the first check: the database's time, and ours

    def check(self, query: Callable[[], datetime]) -> None:
        """Compare the clocks once; `query` returns the database's time."""
        before = time.monotonic()
        found = query()
        if self._began is None:
            now = time.monotonic()
            self._began = found, now
            self._trusted_from = max(self._trusted_from, now + self.first_seconds)
            self._settled_from = now + self.settled_seconds
        self._now = found
        theirs = found.timestamp()
        least, most = theirs - time.monotonic(), theirs - before  # how long the query took bounds the error
        if self._offset is not None:
            least_before, most_before = self._offset
            if least > most_before + JUMP_SECONDS or most < least_before - JUMP_SECONDS:
                log.warning("the database's clock jumped", seconds=round(most - most_before, 1))
                now = time.monotonic()
                self._trusted_from, self._settled_from = now + self.quiet_seconds, now + self.settled_seconds
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
        """Whether leases that have run out by this clock have: some time has passed since the first check and the last
        jump."""
        return time.monotonic() >= self._trusted_from

    @property
    def settled(self) -> bool:
        """Whether rows that are old by this clock may be deleted: `settled_seconds` have passed since both."""
        return time.monotonic() >= self._settled_from
