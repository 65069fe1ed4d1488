"""Whether the database's clock can be trusted: one that was set forward makes every lease look as if it had run out."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import structlog

JUMP_SECONDS = 1.0  # what a clock may gain or lose between two looks

log = structlog.get_logger()


class ClockWatch:
    """Holds the database's clock against this process's own, which only runs."""

    def __init__(self, quiet_seconds: float) -> None:
        self.quiet_seconds = quiet_seconds  # after a jump; by then every worker that lives has renewed its leases
        self._ahead: tuple[float, float] | None = None  # of our own by at least, at most
        self._trusted_from = 0.0

    def look(self, ask: Callable[[], datetime]) -> None:
        before = time.monotonic()
        theirs = ask().timestamp()
        least, most = theirs - time.monotonic(), theirs - before  # the answer may have been long under way
        if self._ahead is not None:
            at_least, at_most = self._ahead
            if least > at_most + JUMP_SECONDS or most < at_least - JUMP_SECONDS:
                log.warning("the database's clock jumped", seconds=round(most - at_most, 1))
                self._trusted_from = time.monotonic() + self.quiet_seconds
        self._ahead = least, most

    @property
    def steady(self) -> bool:
        return time.monotonic() >= self._trusted_from
